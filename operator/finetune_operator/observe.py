"""Observing: from the store to what decisions are made on."""

import logging
from collections import OrderedDict
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError

from finetune_api.defaults import DefaultsByNamespace, RecordedDefaults, apply_defaults
from finetune_api.names import LABEL_ATTEMPT, LABEL_QUEUE_NAME
from finetune_api.report import JobReference
from finetune_api.resource import SpecInvalid, parse_spec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import ConditionType, FineTuneJobStatus
from finetune_operator.capacity import LargestGpu, Request, Verdict
from finetune_operator.desired.grace import compute_grace_seconds
from finetune_operator.desired.job import queue_of
from finetune_operator.kube.store import Store
from finetune_operator.kueue.workloads import WorkloadBook
from finetune_operator.memory import MemoryNeed, compute_need, describe_shortage
from finetune_operator.nodes import NodeBook
from finetune_operator.objects import Object, controller_uid_of, is_over, label_of, name_of, namespace_of, parse_time, uid_of
from finetune_operator.observation import Observation, Refusal

SPECS_KEPT: Final = 1_000
"""Parsed specifications to remember. One is read several times while its run starts and hardly ever after, and is larger than all else."""

log = logging.getLogger(__name__)


Parsed = tuple[FineTuneJobSpec | None, tuple[str, ...], bool]
"""A specification, or None with its faults and whether they are those of another release only."""


class Observer:
    """Reads the store and parses what it finds."""

    def __init__(
        self,
        store: Store,
        *,
        simulated_gpus: bool,
        workloads: WorkloadBook | None = None,
        default_queue: str = "",
        grace_seconds: int = 300,
        follows_kueue: bool = True,
        nodes: NodeBook | None = None,
        defaults: DefaultsByNamespace | None = None,
    ) -> None:
        self._defaults = defaults or DefaultsByNamespace()
        self._completed: OrderedDict[str, tuple[tuple[int, bool], FineTuneJobSpec]] = OrderedDict()
        self._nodes = nodes
        self._follows_kueue = follows_kueue
        self._store = store
        self._workloads = workloads or WorkloadBook()
        self._default_queue = default_queue
        self._grace_seconds = grace_seconds
        self._simulated_gpus = simulated_gpus
        self._specs: OrderedDict[str, tuple[int, Parsed]] = OrderedDict()
        self._needs: OrderedDict[str, tuple[tuple[int, int | None], MemoryNeed | None]] = OrderedDict()
        self._judged: OrderedDict[str, tuple[int, Verdict]] = OrderedDict()
        """By run: the generation that was held against the nodes last, and what they meant."""
        self._shortages: OrderedDict[tuple[str, LargestGpu], str] = OrderedDict()

    def observe(self, uid: str, refusal: Refusal | None = None) -> Observation | None:
        """Return what is known of the FineTuneJob with this UID, or None where it doesn't exist any more."""
        body = self._store.finetunejob(uid)
        if body is None:
            self._specs.pop(uid, None)
            self._completed.pop(uid, None)
            self._needs.pop(uid, None)
            self._judged.pop(uid, None)
            return None
        metadata = body["metadata"]
        namespace = namespace_of(body)
        spec, faults, is_newer = self._parse(uid, metadata["generation"], body.get("spec", {}))
        jobs = sorted((job for job in self._store.jobs_of(uid) if namespace_of(job) == namespace), key=_attempt_of)
        job = jobs[-1] if jobs else None
        status = parse_status(body.get("status", {}))
        pods = self._pods_of(uid, job) if job is not None else ()
        defaults = status.defaults
        if defaults is None and status.attempt is None and job is None:
            defaults = self._defaults.of(namespace)
        if spec is not None and defaults is not None:
            spec = self._complete(uid, (metadata["generation"], status.defaults is not None), spec, defaults)
        said = next((each.message for each in status.conditions if each.type == ConditionType.ACCEPTED), "")
        settled = spec is not None and (spec.suspend or any(pod["spec"].get("nodeName") and not is_over(pod) for pod in pods))
        need = self._need_of(uid, metadata["generation"], spec, status)
        if need is not None and need.is_told and settled and not said:
            need = None  # its first attempt is under way, and status has the figure: the words can wait for the next change of phase
        verdict = self._judge(uid, metadata["generation"], spec, status, need, said, settled=settled)
        return Observation(
            ref=JobReference(namespace=namespace, name=name_of(body), uid=uid),
            generation=metadata["generation"],
            deleting="deletionTimestamp" in metadata,
            spec=spec,
            faults=faults,
            is_newer=is_newer,
            status=status,
            stored_status=body.get("status", {}),
            version=metadata["resourceVersion"],
            job=job,
            attempt=_attempt_of(job) if job is not None else None,
            old_jobs=tuple(jobs[:-1]),
            pods=pods,
            leftovers=self._leftovers_of(uid, namespace, job),
            warning=self._store.warning_of(uid_of(job)) if job is not None else None,
            workload=self._workloads.of_job(uid_of(job)) if job is not None else None,
            kueue=self._workloads.resource is not None or not self._follows_kueue,
            queue_name=(label_of(job, LABEL_QUEUE_NAME) if job is not None else None) or queue_of(spec, self._default_queue),
            position=self._workloads.position_of(uid_of(job)) if job is not None else None,
            grace_seconds=compute_grace_seconds(spec, status.metrics, self._grace_seconds) if spec is not None else None,
            created=parse_time(metadata.get("creationTimestamp")),
            refusal=refusal,
            defaults=defaults,
            misfit=verdict.misfit if verdict is not None else None,
            need=need,
            shortage=self._describe_shortage(spec, need, verdict),
            nodes_known=verdict is not None,
            is_new=self._store.is_born_since(uid),
            simulated_gpus=self._simulated_gpus,
        )

    def _complete(self, uid: str, key: tuple[int, bool], spec: FineTuneJobSpec, defaults: RecordedDefaults) -> FineTuneJobSpec:
        """Return the specification with ``defaults``, which are the same for the same key as long as this process lives."""
        known = self._completed.get(uid)
        if known is None or known[0] != key:
            known = self._completed[uid] = (key, apply_defaults(spec, defaults))
            if len(self._completed) > SPECS_KEPT:
                self._completed.popitem(last=False)
        return known[1]

    def _pods_of(self, uid: str, job: Object) -> tuple[Object, ...]:
        """Return the Job's pods, oldest first. A label alone makes no pod ours: the Job must control it."""
        pods = [pod for pod in self._store.pods_of(uid) if controller_uid_of(pod) == uid_of(job)]
        return tuple(sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], name_of(pod))))

    def _need_of(self, uid: str, generation: int, spec: FineTuneJobSpec | None, status: FineTuneJobStatus) -> MemoryNeed | None:
        """Return what the run needs of a GPU. Estimated once for each version of a run: it is read far more often."""
        if spec is None or self._simulated_gpus:
            return None
        key = (generation, status.metrics.gpu_memory_estimate_bytes if status.metrics is not None else None)
        known = self._needs.get(uid)
        if known is None or known[0] != key:
            known = self._needs[uid] = (key, compute_need(spec, status.metrics))
            if len(self._needs) > SPECS_KEPT:
                self._needs.popitem(last=False)
        return known[1]

    def _describe_shortage(self, spec: FineTuneJobSpec | None, need: MemoryNeed | None, verdict: Verdict | None) -> str | None:
        """Return what is missing, and what would help: found out once for all runs that are alike, since it takes milliseconds."""
        if spec is None or need is None or verdict is None or verdict.too_small is None:
            return None
        like = "".join(part.model_dump_json() for part in (spec.model, spec.method, spec.training, spec.evaluation))
        key = (like, verdict.too_small)
        if key not in self._shortages:
            self._shortages[key] = describe_shortage(spec, verdict.too_small)
            if len(self._shortages) > SPECS_KEPT:
                self._shortages.popitem(last=False)
        return self._shortages[key]

    def _judge(
        self,
        uid: str,
        generation: int,
        spec: FineTuneJobSpec | None,
        status: FineTuneJobStatus,
        need: MemoryNeed | None,
        said: str,
        *,
        settled: bool,
    ) -> Verdict | None:
        """Return what the nodes mean for the run: as long as it needs one, and once where it is known what memory it needs.

        :param said: what `Accepted` says.
        :param settled: it needs no node now.
        """
        if self._nodes is None or spec is None or (status.phase is not None and status.phase.is_terminal):
            return None
        if settled and need is None:
            return None
        judged = self._judged.get(uid)
        if settled and judged is not None and judged[0] == generation:
            return replace(judged[1], misfit=None)
        request = Request(spec.resources, spec.pod.node_selector, need.size_bytes if need is not None else None)
        says_more = need is not None and said not in ("", need.words)
        verdict = self._nodes.judge(uid, request, says_more=says_more, once=settled)
        if verdict is None:
            return None
        self._judged[uid] = (generation, verdict)
        if len(self._judged) > SPECS_KEPT:
            self._judged.popitem(last=False)
        return replace(verdict, misfit=None) if settled else verdict

    def _leftovers_of(self, uid: str, namespace: str, job: Object | None) -> tuple[Object, ...]:
        """Return what may still train for the run beside ``job``. Here the label decides: the Job that vouched for a pod may be gone."""
        alive = [pod for pod in self._store.pods_of(uid) if namespace_of(pod) == namespace and not is_over(pod)]
        return tuple(pod for pod in alive if job is None or controller_uid_of(pod) != uid_of(job))

    def _parse(self, uid: str, generation: int, spec: Any) -> Parsed:  # noqa: ANN401
        known = self._specs.get(uid)
        if known is None or known[0] != generation:
            known = self._specs[uid] = (generation, _read_spec(spec))
            if len(self._specs) > SPECS_KEPT:
                self._specs.popitem(last=False)
        return known[1]


def _read_spec(spec: Any) -> Parsed:  # noqa: ANN401
    try:
        return parse_spec(spec), (), False
    except SpecInvalid as error:
        return None, tuple(error.faults), error.is_newer


def parse_status(status: Object) -> FineTuneJobStatus:
    """Read a stored status; a part that can't be read (another release's, say) counts as absent rather than stopping everything."""
    try:
        return FineTuneJobStatus.model_validate(status)
    except ValidationError as error:
        unreadable = {str(fault["loc"][0]) for fault in error.errors()}
        log.warning("ignoring unreadable parts of a status: %s", ", ".join(sorted(unreadable)))
        return FineTuneJobStatus.model_validate({key: value for key, value in status.items() if key not in unreadable})


def _attempt_of(job: Object) -> int:
    label = label_of(job, LABEL_ATTEMPT) or ""
    return int(label) if label.isdecimal() else 0
