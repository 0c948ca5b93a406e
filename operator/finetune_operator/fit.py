"""Whether a run fits the cluster: what it needs of a GPU beside what the nodes have."""

from dataclasses import dataclass, replace
from typing import Final

from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import ConditionType, FineTuneJobStatus
from finetune_operator.capacity import LargestGpu, Request, Verdict
from finetune_operator.memory import MemoryNeed, compute_need, describe_shortage
from finetune_operator.nodes import NodeBook
from finetune_operator.recent import Recent

RUNS_KEPT: Final = 1_000
"""Runs whose needs, and what the nodes mean for them, are remembered."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What is known of how a run fits the cluster."""

    need: MemoryNeed | None = None
    """What it needs of a GPU; None of a run without GPUs, and where nothing is known of its model."""
    misfit: str | None = None
    """Why no node could take a pod of it."""
    shortage: str | None = None
    """That the largest GPU has less than it needs, and what would help."""
    nodes_known: bool = False


class FitBook:
    """Knows how runs fit the cluster.

    :param nodes: what the nodes could take; None where nobody asks.
    :param estimates: needs of GPUs are estimated. They are not where GPUs are simulated.
    """

    def __init__(self, nodes: NodeBook | None, *, estimates: bool) -> None:
        self._nodes = nodes
        self._estimates = estimates
        self._needs: Recent[str, MemoryNeed | None] = Recent(RUNS_KEPT)
        self._judged: Recent[str, Verdict] = Recent(RUNS_KEPT)
        """What the nodes meant for a run when they were last asked."""
        self._shortages: Recent[tuple[str, LargestGpu], str] = Recent(RUNS_KEPT)

    def forget(self, uid: str) -> None:
        """Take note that the run is gone."""
        self._needs.forget(uid)
        self._judged.forget(uid)

    def judge(self, uid: str, generation: int, spec: FineTuneJobSpec, status: FineTuneJobStatus, *, settled: bool) -> Fit:
        """Return how the run fits the cluster.

        :param settled: it needs no node now.
        """
        need = self._need_of(uid, generation, spec, status)
        said = next((each.message for each in status.conditions if each.type == ConditionType.ACCEPTED), "")
        if need is not None and need.is_told and settled and not said:
            need = None  # its first attempt is under way, and status has the figure: the words can wait for the next change of phase
        verdict = self._ask(uid, generation, spec, status, need, said, settled=settled)
        if verdict is None:
            return Fit(need)
        shortage = self._describe_shortage(spec, verdict.too_small) if need is not None and verdict.too_small is not None else None
        return Fit(need, verdict.misfit, shortage, nodes_known=True)

    def _need_of(self, uid: str, generation: int, spec: FineTuneJobSpec, status: FineTuneJobStatus) -> MemoryNeed | None:
        """Return what the run needs of a GPU. Estimated once for each version of a run: it is read far more often."""
        if not self._estimates:
            return None
        told = status.metrics.gpu_memory_estimate_bytes if status.metrics is not None else None
        return self._needs.get(uid, (generation, told), lambda: compute_need(spec, status.metrics))

    def _describe_shortage(self, spec: FineTuneJobSpec, largest: LargestGpu) -> str:
        """Return what is missing, and what would help: found out once for all runs that are alike, since it takes milliseconds."""
        like = "".join(part.model_dump_json() for part in (spec.model, spec.method, spec.training, spec.evaluation, spec.resources))
        return self._shortages.get((like, largest), None, lambda: describe_shortage(spec, largest))

    def _ask(
        self,
        uid: str,
        generation: int,
        spec: FineTuneJobSpec,
        status: FineTuneJobStatus,
        need: MemoryNeed | None,
        said: str,
        *,
        settled: bool,
    ) -> Verdict | None:
        """Return what the nodes mean for the run: as long as it needs one, and once where it is known what memory it needs.

        :param said: what `Accepted` says.
        """
        if self._nodes is None or (status.phase is not None and status.phase.is_terminal):
            return None
        if settled and need is None:
            return None
        if settled and (judged := self._judged.find(uid, generation)) is not None:
            return replace(judged, misfit=None)
        request = Request(spec.resources, spec.pod.node_selector, need.size_bytes if need is not None else None)
        says_more = need is not None and said not in ("", need.words)
        verdict = self._nodes.judge(uid, request, says_more=says_more, once=settled)
        if verdict is None:
            return None
        self._judged.put(uid, generation, verdict)
        return replace(verdict, misfit=None) if settled else verdict
