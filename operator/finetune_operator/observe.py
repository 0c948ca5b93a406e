"""Observing: from the store to what decisions are made on."""

import logging
from functools import lru_cache, partial
from typing import Any, Final

from pydantic import ValidationError

from finetune_api.defaults import DefaultsByNamespace, apply_defaults
from finetune_api.names import LABEL_ATTEMPT, LABEL_QUEUE_NAME
from finetune_api.report import JobReference
from finetune_api.resource import SpecInvalid, parse_spec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from finetune_operator.desired.grace import compute_grace_seconds
from finetune_operator.desired.job import queue_of
from finetune_operator.fit import Fit, FitBook
from finetune_operator.kube.store import Store
from finetune_operator.kueue.workloads import WorkloadBook
from finetune_operator.nodes import NodeBook
from finetune_operator.objects import Object, controller_uid_of, is_over, label_of, name_of, namespace_of, parse_time, uid_of
from finetune_operator.observation import Observation, Refusal
from finetune_operator.recent import Recent

SPECS_KEPT: Final = 1_000
"""Parsed specifications to remember. One is read several times while its run starts and hardly ever after, and is larger than all else."""

STATUSES_KEPT: Final = 64
"""Parsed statuses to remember: a pass observes its run more than once, and few passes are under way at a time."""
NAMESPACES_KEPT: Final = 1_000
"""Namespaces whose defaults by the platform are remembered."""

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
        self._defaults_of = lru_cache(NAMESPACES_KEPT)((defaults or DefaultsByNamespace()).of)
        self._fits = FitBook(nodes, estimates=not simulated_gpus)
        self._follows_kueue = follows_kueue
        self._store = store
        self._workloads = workloads or WorkloadBook()
        self._default_queue = default_queue
        self._grace_seconds = grace_seconds
        self._simulated_gpus = simulated_gpus
        self._specs: Recent[str, Parsed] = Recent(SPECS_KEPT)
        self._completed: Recent[str, FineTuneJobSpec] = Recent(SPECS_KEPT)
        self._statuses: Recent[str, FineTuneJobStatus] = Recent(STATUSES_KEPT)

    def observe(self, uid: str, refusal: Refusal | None = None) -> Observation | None:
        """Return what is known of the FineTuneJob with this UID, or None where it doesn't exist any more."""
        body = self._store.finetunejob(uid)
        if body is None:
            self._specs.forget(uid)
            self._statuses.forget(uid)
            self._completed.forget(uid)
            self._fits.forget(uid)
            return None
        metadata = body["metadata"]
        namespace = namespace_of(body)
        generation = metadata["generation"]
        spec, faults, is_newer = self._specs.get(uid, generation, lambda: _read_spec(body.get("spec", {})))
        jobs = sorted((job for job in self._store.jobs_of(uid) if namespace_of(job) == namespace), key=_attempt_of)
        job = jobs[-1] if jobs else None
        status = self._statuses.get(uid, metadata["resourceVersion"], lambda: parse_status(body.get("status", {})))
        pods = self._pods_of(uid, job) if job is not None else ()
        defaults = status.defaults
        if defaults is None and status.attempt is None and job is None:
            defaults = self._defaults_of(namespace)
        if spec is not None and defaults is not None:
            # What was recorded, and what is, are each the same for as long as this process lives.
            spec = self._completed.get(uid, (generation, status.defaults is not None), partial(apply_defaults, spec, defaults))
        settled = spec is not None and (spec.suspend or any(pod["spec"].get("nodeName") and not is_over(pod) for pod in pods))
        fit = self._fits.judge(uid, generation, spec, status, settled=settled) if spec is not None else Fit()
        return Observation(
            ref=JobReference(namespace=namespace, name=name_of(body), uid=uid),
            generation=generation,
            deleting="deletionTimestamp" in metadata,
            spec=spec,
            faults=faults,
            is_newer=is_newer,
            status=status,
            stored_status=body.get("status", {}),
            body=body,
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
            misfit=fit.misfit,
            need=fit.need,
            shortage=fit.shortage,
            nodes_known=fit.nodes_known,
            is_new=self._store.is_born_since(uid),
            simulated_gpus=self._simulated_gpus,
        )

    def _pods_of(self, uid: str, job: Object) -> tuple[Object, ...]:
        """Return the Job's pods, oldest first. A label alone makes no pod ours: the Job must control it."""
        pods = [pod for pod in self._store.pods_of(uid) if controller_uid_of(pod) == uid_of(job)]
        return tuple(sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], name_of(pod))))

    def _leftovers_of(self, uid: str, namespace: str, job: Object | None) -> tuple[Object, ...]:
        """Return what may still train for the run beside ``job``. Here the label decides: the Job that vouched for a pod may be gone."""
        alive = [pod for pod in self._store.pods_of(uid) if namespace_of(pod) == namespace and not is_over(pod)]
        return tuple(pod for pod in alive if job is None or controller_uid_of(pod) != uid_of(job))


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
