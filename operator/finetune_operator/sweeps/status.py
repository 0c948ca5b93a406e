"""The status that an observation of a sweep calls for. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from finetune_api.reasons import Reason
from finetune_api.status import ConditionType, Phase
from finetune_api.sweep.spec import FineTuneSweepSpec
from finetune_api.sweep.status import BestTrial, FineTuneSweepStatus, SweepPhase, TrialCounts, TrialStatus
from finetune_api.sweep.trials import count_trials
from finetune_operator.status.conditions import State, build_conditions
from finetune_operator.sweeps.observation import SweepObservation
from finetune_operator.sweeps.plan import TrialView, find_best

_NAMED: Final = 5
"""Failed trials that a message names."""


def compute_refused_status(observation: SweepObservation, now: datetime) -> FineTuneSweepStatus:
    """Return the status of a sweep whose specification can't be carried out."""
    message = "; ".join(observation.faults)
    states: list[State] = [
        (ConditionType.ACCEPTED, False, Reason.VALIDATION_FAILED, message),
        (ConditionType.SUCCEEDED, False, Reason.VALIDATION_FAILED, message),
        (ConditionType.RECONCILING, False, Reason.FAILED, ""),
        (ConditionType.STALLED, True, Reason.VALIDATION_FAILED, message),
    ]
    return _with_conditions(observation, SweepPhase.FAILED, states, now).model_copy(update={"completion_time": now})


def compute_sweep_status(
    observation: SweepObservation, spec: FineTuneSweepSpec, views: Sequence[TrialView], now: datetime, *, complete: bool
) -> FineTuneSweepStatus:
    """Return the new status. A terminal phase is never left, and nothing of it changes."""
    counts = _count(spec, views)
    best = find_best(spec, views)
    if complete:
        phase, succeeded, reason, message = _conclude(spec, counts, best, views)
    elif observation.obstacle is not None:
        phase, succeeded, reason, message = SweepPhase.PENDING, None, Reason.NAME_TAKEN, observation.obstacle
    elif spec.suspend:
        phase, succeeded, reason, message = SweepPhase.SUSPENDED, None, Reason.SUSPENDED, ""
    else:
        done = counts.succeeded + counts.failed
        phase = SweepPhase.RUNNING if counts.active or done else SweepPhase.PENDING
        succeeded, reason, message = (
            None,
            Reason.SEARCHING,
            f"{done} of {counts.total} trials have ended, {counts.active} are on their way.",
        )
    stalled = succeeded is False or observation.obstacle is not None
    states: list[State] = [
        (ConditionType.ACCEPTED, True, Reason.VALID, ""),
        (ConditionType.SUCCEEDED, succeeded, reason, message),
        (ConditionType.RECONCILING, not complete and not stalled and not spec.suspend, reason, ""),
        (ConditionType.STALLED, stalled, reason, message if stalled else ""),
    ]
    status = _with_conditions(observation, phase, states, now)
    shown = [view for view in views if view.phase is not None]
    return status.model_copy(
        update={
            "counts": counts,
            "best": _show_best(best, observation.status.best),
            "trials": [_show(view) for view in shown],
            "start_time": observation.status.start_time or (now if shown else None),
            "completion_time": now if complete else None,
        }
    )


def _conclude(
    spec: FineTuneSweepSpec, counts: TrialCounts, best: TrialView | None, views: Sequence[TrialView]
) -> tuple[SweepPhase, bool, Reason, str]:
    if counts.failed > spec.max_failed_trials:
        message = f"{counts.failed} trials failed, and maxFailedTrials is {spec.max_failed_trials}: {_name_failures(views)}."
        return SweepPhase.FAILED, False, Reason.TOO_MANY_FAILED_TRIALS, message
    if best is None:
        message = f"No trial ended with {spec.objective.metric} in its metrics, so that none is the best."
        return SweepPhase.FAILED, False, Reason.OBJECTIVE_MISSING, message
    values = ", ".join(f"{path} {show_value(value)}" for path, value in best.trial.parameters.items())
    message = f"{best.name} is the best of {counts.succeeded} trials: {spec.objective.metric} {best.value:.5g} with {values}."
    if counts.failed:
        message += f" {counts.failed} failed: {_name_failures(views)}."
    return SweepPhase.SUCCEEDED, True, Reason.SEARCH_COMPLETED, message


def _name_failures(views: Sequence[TrialView]) -> str:
    failed = [f"{view.name} ({view.reason or 'reason not known'})" for view in views if view.phase is Phase.FAILED]
    return ", ".join(failed[:_NAMED]) + (f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else "")


def _count(spec: FineTuneSweepSpec, views: Sequence[TrialView]) -> TrialCounts:
    return TrialCounts(
        total=count_trials(spec),
        active=sum(view.phase is not None and not view.is_over for view in views),
        succeeded=sum(view.phase is Phase.SUCCEEDED for view in views),
        failed=sum(view.phase is Phase.FAILED for view in views),
    )


def _show(view: TrialView) -> TrialStatus:
    # While a trial is on its way, its own status tells where it stands: copied here, each of its steps would cost a write.
    phase = view.phase if view.is_over and view.phase is not None else Phase.RUNNING
    return TrialStatus(
        name=view.name, parameters=_show_parameters(view), rung=view.trial.rung, phase=phase, value=view.value, reason=view.reason
    )


def _show_best(best: TrialView | None, known: BestTrial | None) -> BestTrial | None:
    if best is None or best.value is None:
        return None
    artifact = best.artifact or (known.artifact if known is not None and known.name == best.name else None)
    return BestTrial(name=best.name, parameters=_show_parameters(best), value=best.value, artifact=artifact)


def _show_parameters(view: TrialView) -> dict[str, str]:
    return {path: show_value(value) for path, value in view.trial.parameters.items()}


def show_value(value: object) -> str:
    """Return a parameter's value as status shows it: text as it is, the rest as in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _with_conditions(observation: SweepObservation, phase: SweepPhase, states: list[State], now: datetime) -> FineTuneSweepStatus:
    conditions = build_conditions(observation.status.conditions, states, generation=observation.generation, now=now)
    return observation.status.model_copy(update={"observed_generation": observation.generation, "phase": phase, "conditions": conditions})
