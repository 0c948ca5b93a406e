"""From a sweep's specification to its trials. Pure: the same specification gives the same trials, in any process and on any machine."""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from finetune_api.resource import Fault, SpecInvalid, parse_spec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.sweep.spec import FineTuneSweepSpec, ParameterSpec, RangeSpec, SearchSpec
from finetune_api.uri import join_uri

_HASH_STEPS: Final = 2**53
"""A uniform number is made of so many bits: those that a float holds exactly."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination of parameters, trained for one share of the full length."""

    index: int
    """Number of the combination, from 0."""
    rung: int
    """Round of successive halving, from 0; always 0 in other searches."""
    parameters: Mapping[str, Any]
    """Value of each parameter, by its path."""
    share: float = 1.0
    """Share of the template's training length."""

    def build_name(self, sweep: str) -> str:
        """Return the name of the trial's FineTuneJob: `<sweep>-<index>`, and from the second round on `-r<rung>` after it."""
        return f"{sweep}-{self.index}" + (f"-r{self.rung}" if self.rung else "")


def count_rungs(search: SearchSpec) -> int:
    """Return in how many rounds the trials are narrowed down to one; 1 where they aren't."""
    if search.type != "successive-halving":
        return 1
    trials, rungs = search.trials or 1, 1
    while trials >= search.reduction:
        trials, rungs = trials // search.reduction, rungs + 1
    return rungs


def count_trials(sweep: FineTuneSweepSpec) -> int:
    """Return how many FineTuneJobs the sweep makes when nothing fails."""
    first = len(compute_combinations(sweep))
    return sum(max(1, first // sweep.search.reduction**rung) for rung in range(count_rungs(sweep.search)))


def compute_combinations(sweep: FineTuneSweepSpec) -> list[dict[str, Any]]:
    """Return the combinations of the parameters, in their order.

    Where every parameter has a list of values, none is drawn twice, and no more than there are.
    """
    grid = [parameter.values for parameter in sweep.parameters]
    paths = [parameter.path for parameter in sweep.parameters]
    seed, wanted = sweep.search.seed, sweep.search.trials
    if wanted is None:
        return [dict(zip(paths, values, strict=True)) for values in itertools.product(*(values or () for values in grid))]
    if all(values is not None for values in grid):
        size = math.prod(len(values or ()) for values in grid)
        # The first numbers of a shuffled deck; a deck of any size is dealt without being laid out.
        return [_pick_from_grid(sweep.parameters, place) for place in _deal(size, min(wanted, size), seed)]
    return [{p.path: _draw(p, _uniform(seed, str(index), p.path)) for p in sweep.parameters} for index in range(wanted)]


def compute_first_trials(sweep: FineTuneSweepSpec) -> list[Trial]:
    """Return the trials that the sweep begins with."""
    share = _share(sweep.search, 0)
    return [Trial(index, 0, parameters, share) for index, parameters in enumerate(compute_combinations(sweep))]


def compute_promoted_trials(sweep: FineTuneSweepSpec, rung: int, values: Mapping[int, float]) -> list[Trial]:
    """Return the trials of the round after ``rung``, none after the last.

    :param values: the objective of each trial of ``rung`` that succeeded, by its index. Ties go to the lower index.
    """
    if rung + 1 >= count_rungs(sweep.search) or not values:
        return []
    first = compute_first_trials(sweep)
    kept = max(1, len(first) // sweep.search.reduction ** (rung + 1))
    best = sorted(values, key=lambda index: rank(sweep, values[index], index))[:kept]
    return [Trial(index, rung + 1, first[index].parameters, _share(sweep.search, rung + 1)) for index in sorted(best)]


def rank(sweep: FineTuneSweepSpec, value: float, index: int) -> tuple[float, int]:
    """Return a key by which better trials come first."""
    return (value if sweep.objective.goal == "minimize" else -value, index)


def build_trial_spec(sweep: FineTuneSweepSpec, trial: Trial, sweep_name: str) -> FineTuneJobSpec:
    """Return the specification of the trial's FineTuneJob, in which nothing is set but what the template and the parameters say.

    :raises SpecInvalid: the combination makes no valid one; the faults name its fields.
    """
    whole = sweep.template.spec
    # What the template says and no default beside it, so that the trial's manifest shows what it is about.
    spec: dict[str, Any] = whole.model_dump(mode="json", exclude_unset=True)
    written_out = whole.model_dump(mode="json")
    for path, value in trial.parameters.items():
        _put(spec, written_out, path.split("."), value)
    if trial.share < 1:
        training = spec.setdefault("training", {})
        if whole.training.max_steps is not None:
            training["maxSteps"] = max(1, math.ceil(whole.training.max_steps * trial.share))
        else:
            training["epochs"] = whole.training.epochs * trial.share
    spec["output"]["uri"] = join_uri(spec["output"]["uri"], trial.build_name(sweep_name))
    spec["suspend"] = sweep.suspend
    return parse_spec(spec)


def check_trials(sweep: FineTuneSweepSpec, sweep_name: str) -> None:
    """Hold every combination that the sweep begins with to the rules of a FineTuneJob.

    :raises SpecInvalid: each fault once, with the first combination that has it.
    """
    faults: dict[str, Fault] = {}
    for trial in compute_first_trials(sweep):
        try:
            build_trial_spec(sweep, trial, sweep_name)
        except SpecInvalid as error:
            for fault in error.details:
                words = ", ".join(f"{path}={value}" for path, value in trial.parameters.items())
                faults.setdefault(str(fault), Fault(("spec", "parameters"), f"the combination {words}: {fault}"))
    if faults:
        raise SpecInvalid(list(faults.values())[:20])


def _share(search: SearchSpec, rung: int) -> float:
    return float(search.reduction) ** -(count_rungs(search) - 1 - rung)


def _put(spec: dict[str, Any], whole: Mapping[str, Any], path: Sequence[str], value: object) -> None:
    """Set a field of ``spec``, which is ``whole`` but for defaults."""
    for name in path[:-1]:
        below = whole.get(name)
        if below is not None and not isinstance(below, Mapping):
            raise SpecInvalid([Fault(("spec", *path), "is not a field of a FineTuneJob")])
        whole = below or {}
        if spec.get(name) is None:
            spec[name] = {}
        spec = spec[name]
    spec[path[-1]] = value


def _pick_from_grid(parameters: Sequence[ParameterSpec], place: int) -> dict[str, Any]:
    combination: dict[str, Any] = {}
    for parameter in reversed(parameters):
        values = parameter.values or []
        place, digit = divmod(place, len(values))
        combination[parameter.path] = values[digit]
    return {parameter.path: combination[parameter.path] for parameter in parameters}


def _deal(size: int, count: int, seed: int) -> list[int]:
    """Return ``count`` different numbers below ``size``, drawn at random (Fisher and Yates, with a sparse deck)."""
    deck: dict[int, int] = {}
    dealt = []
    for position in range(count):
        other = position + int(_uniform(seed, "deal", str(position)) * (size - position))
        dealt.append(deck.get(other, other))
        deck[other] = deck.get(position, position)
    return dealt


def _draw(parameter: ParameterSpec, uniform: float) -> object:
    if parameter.values is not None:
        return parameter.values[int(uniform * len(parameter.values))]
    bounds = parameter.range
    assert bounds is not None  # noqa: S101  # a rule of the parameter
    return _draw_integer(bounds, uniform) if bounds.integer else _scale(bounds.min, bounds.max, bounds.scale, uniform)


def _draw_integer(bounds: RangeSpec, uniform: float) -> int:
    least, greatest = math.ceil(bounds.min), math.floor(bounds.max)
    # Each whole number owns the unit above it, so that the greatest is drawn as well as the least.
    return min(greatest, int(_scale(least, greatest + 1, bounds.scale, uniform)))


def _scale(least: float, greatest: float, scale: str, uniform: float) -> float:
    if scale == "log":
        value = math.exp(math.log(least) + uniform * (math.log(greatest) - math.log(least)))
    else:
        value = least + uniform * (greatest - least)
    # Six digits: what status and a person read is what is trained with.
    return min(greatest, max(least, float(f"{value:.6g}")))


def _uniform(seed: int, *names: str) -> float:
    """Return a number in [0, 1) that follows from ``seed`` and ``names`` alone."""
    digest = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / _HASH_STEPS
