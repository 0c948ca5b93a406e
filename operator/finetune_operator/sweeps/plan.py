"""Which trials to make and which to suspend. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_api.artifact import Artifact
from finetune_api.status import Phase
from finetune_api.sweep.spec import FineTuneSweepSpec
from finetune_api.sweep.status import TrialStatus
from finetune_api.sweep.trials import Trial, compute_first_trials, compute_promoted_trials, rank
from finetune_operator.sweeps.observation import SweepObservation, TrialJob


@dataclass(frozen=True, slots=True)
class TrialView:
    """A trial and what has become of it."""

    trial: Trial
    name: str
    """Name of its FineTuneJob."""
    phase: Phase | None
    """None where it has not been made, or its FineTuneJob is gone before it ended."""
    value: float | None
    """The objective, where it ended with a result."""
    artifact: Artifact | None
    reason: str | None = None
    """Why it failed, where it has."""

    @property
    def is_over(self) -> bool:
        """True of a trial that has ended."""
        return self.phase is not None and self.phase.is_terminal


@dataclass(frozen=True, slots=True)
class MakeTrial:
    """Create the FineTuneJob of ``trial``."""

    trial: Trial


@dataclass(frozen=True, slots=True)
class SetSuspension:
    """Suspend the FineTuneJob of a trial, or let it go on."""

    name: str
    uid: str
    suspend: bool


Action = MakeTrial | SetSuspension


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What to do now."""

    actions: tuple[Action, ...]
    complete: bool
    """No trial is on its way, and none will follow."""


def compute_views(observation: SweepObservation, spec: FineTuneSweepSpec) -> list[TrialView]:
    """Return the trials of every round that is known, in the order of their making.

    A round is known once the one before it has ended. What a trial ended with is remembered in status, so that its FineTuneJob may
    be deleted.
    """
    recorded = {trial.name: trial for trial in observation.status.trials if trial.phase.is_terminal}
    views: list[TrialView] = []
    trials, rung = compute_first_trials(spec), 0
    while trials:
        round_views = [_view(trial, observation, recorded) for trial in trials]
        views += round_views
        if not all(view.is_over for view in round_views):
            break
        values = {view.trial.index: view.value for view in round_views if view.value is not None}
        trials, rung = compute_promoted_trials(spec, rung, values), rung + 1
    return views


def compute_sweep_plan(observation: SweepObservation, spec: FineTuneSweepSpec, views: Sequence[TrialView]) -> SweepPlan:
    """Return what to do now."""
    failed = sum(view.phase is Phase.FAILED for view in views)
    active = sum(view.phase is not None and not view.is_over for view in views)
    missing = [view for view in views if view.phase is None]
    given_up = failed > spec.max_failed_trials
    room = 0 if spec.suspend or given_up else max(0, spec.parallelism - active)
    made = [MakeTrial(view.trial) for view in missing[:room]]
    suspensions = list(_compute_suspensions(spec, observation))
    return SweepPlan((*made, *suspensions), complete=not active and (given_up or not missing))


def find_best(spec: FineTuneSweepSpec, views: Sequence[TrialView]) -> TrialView | None:
    """Return the best trial of the last round that has a result: trials of different lengths can't be compared."""
    ended = [(view.trial.rung, view.value, view) for view in views if view.value is not None]
    if not ended:
        return None
    last = max(rung for rung, _, _ in ended)
    candidates = [(value, view) for rung, value, view in ended if rung == last]
    return min(candidates, key=lambda candidate: rank(spec, candidate[0], candidate[1].trial.index))[1]


def _view(trial: Trial, observation: SweepObservation, recorded: dict[str, TrialStatus]) -> TrialView:
    name = trial.build_name(observation.ref.name)
    job = observation.jobs.get(name)
    if job is not None:
        return TrialView(trial, name, job.phase, job.value, job.artifact, job.reason)
    if (record := recorded.get(name)) is not None:
        best = observation.status.best
        artifact = best.artifact if best is not None and best.name == name else None
        return TrialView(trial, name, record.phase, record.value, artifact, record.reason)
    return TrialView(trial, name, None, None, None)


def _compute_suspensions(spec: FineTuneSweepSpec, observation: SweepObservation) -> Iterator[SetSuspension]:
    """Suspend what runs; let go on only what the sweep itself has suspended, and leave alone what a person has."""
    for job in observation.jobs.values():
        if job.phase.is_terminal:
            continue
        if spec.suspend and not job.suspended:
            yield SetSuspension(job.name, job.uid, suspend=True)
        if not spec.suspend and _may_resume(job):
            yield SetSuspension(job.name, job.uid, suspend=False)


def _may_resume(job: TrialJob) -> bool:
    return job.suspended and job.suspended_by_sweep
