"""Observing a sweep: from the store to what decisions are made on."""

import logging

from pydantic import ValidationError

from finetune_api.names import LABEL_SUSPENDED_BY_SWEEP
from finetune_api.report import JobReference
from finetune_api.resource import Fault, SpecInvalid
from finetune_api.status import ConditionType, FineTuneJobStatus, Phase
from finetune_api.sweep import FineTuneSweepSpec, FineTuneSweepStatus, parse_sweep_spec
from finetune_api.sweep.trials import check_trials
from finetune_operator.kube.client import FINETUNESWEEPS
from finetune_operator.kube.store import Store
from finetune_operator.objects import Object, label_of, name_of, namespace_of, uid_of
from finetune_operator.observe import parse_status
from finetune_operator.sweeps.observation import SweepObservation, TrialJob

log = logging.getLogger(__name__)


class SweepObserver:
    """Reads the store and parses what it finds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parsed: dict[tuple[str, int], tuple[FineTuneSweepSpec | None, tuple[str, ...]]] = {}

    def observe(self, uid: str) -> SweepObservation | None:
        """Return what is known of the FineTuneSweep with this UID, or None where it doesn't exist any more."""
        body = self._store.find(FINETUNESWEEPS, uid)
        if body is None:
            self._parsed = {key: parsed for key, parsed in self._parsed.items() if key[0] != uid}
            return None
        spec, faults = self._parse(body)
        jobs = (job for job in self._store.trials_of(uid) if namespace_of(job) == namespace_of(body))
        return SweepObservation(
            ref=JobReference(namespace=namespace_of(body), name=name_of(body), uid=uid),
            generation=body["metadata"]["generation"],
            deleting="deletionTimestamp" in body["metadata"],
            spec=spec,
            faults=faults,
            status=_parse_sweep_status(body.get("status", {})),
            stored_status=body.get("status", {}),
            body=body,
            jobs={name_of(job): _read_trial(job, spec) for job in jobs},
        )

    def _parse(self, body: Object) -> tuple[FineTuneSweepSpec | None, tuple[str, ...]]:
        key = (uid_of(body), int(body["metadata"]["generation"]))
        if key not in self._parsed:
            try:
                spec = parse_sweep_spec(body.get("spec", {}))
                check_trials(spec, name_of(body))
            except SpecInvalid as error:
                self._parsed[key] = (None, _bound(error.details))
            else:
                self._parsed[key] = (spec, ())
        return self._parsed[key]


def _bound(faults: tuple[Fault, ...]) -> tuple[str, ...]:
    return tuple(str(fault) for fault in faults[:20])


def _read_trial(job: Object, spec: FineTuneSweepSpec | None) -> TrialJob:
    status: FineTuneJobStatus = parse_status(job.get("status", {}))
    phase = status.phase or Phase.PENDING
    value: float | None = None
    if phase is Phase.SUCCEEDED and spec is not None and status.metrics is not None:
        value = status.metrics.eval_loss if spec.objective.metric == "evalLoss" else status.metrics.loss
    return TrialJob(
        name=name_of(job),
        uid=uid_of(job),
        phase=phase,
        suspended=bool(job.get("spec", {}).get("suspend", False)),
        suspended_by_sweep=label_of(job, LABEL_SUSPENDED_BY_SWEEP) is not None,
        value=value,
        artifact=status.artifacts[0] if status.artifacts else None,
        reason=_find_reason(status) if phase is Phase.FAILED else None,
    )


def _find_reason(status: FineTuneJobStatus) -> str | None:
    return next((condition.reason for condition in status.conditions if condition.type == ConditionType.SUCCEEDED), None)


def _parse_sweep_status(status: Object) -> FineTuneSweepStatus:
    """Read a stored status; a part that can't be read (another release's, say) counts as absent rather than stopping everything."""
    try:
        return FineTuneSweepStatus.model_validate(status)
    except ValidationError as error:
        unreadable = {str(fault["loc"][0]) for fault in error.errors()}
        log.warning("ignoring unreadable parts of a sweep's status: %s", ", ".join(sorted(unreadable)))
        return FineTuneSweepStatus.model_validate({key: value for key, value in status.items() if key not in unreadable})
