"""From a sweep's specification to its trials."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.resource import SpecInvalid
from finetune_api.sweep import FineTuneSweepSpec, compute_first_trials, compute_promoted_trials, parse_sweep_manifest, parse_sweep_spec
from finetune_api.sweep.trials import build_trial_spec, check_trials, compute_combinations, count_rungs, count_trials
from tests.support.manifests import Manifest, build_sweep_manifest, merge

LOG_RATE = {"path": "training.learningRate", "range": {"min": 1e-5, "max": 1e-3, "scale": "log"}}


def build_sweep(patch: Manifest | None = None) -> FineTuneSweepSpec:
    return parse_sweep_spec(merge(build_sweep_manifest()["spec"], patch or {}))


def find_faults(patch: Manifest) -> list[str]:
    with pytest.raises(SpecInvalid) as caught:
        build_sweep(patch)
    return caught.value.faults


def test_a_grid_has_every_combination_once_in_the_order_of_the_lists() -> None:
    assert compute_combinations(build_sweep()) == [
        {"training.learningRate": rate, "method.adapter.r": rank} for rate in (1e-4, 2e-4) for rank in (8, 16)
    ]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_lists_are_drawn_from_without_repetition(seed: int, wanted: int) -> None:
    parameters = [{"path": "method.adapter.r", "values": list(range(1, 8))}, {"path": "training.packing", "values": [True, False]}]
    sweep = build_sweep({"parameters": parameters, "search": {"type": "random", "trials": wanted, "seed": seed}})
    drawn = [tuple(combination.values()) for combination in compute_combinations(sweep)]
    assert len(set(drawn)) == len(drawn) == min(wanted, 14)


@given(st.integers(0, 2**32 - 1))
def test_more_trials_begin_with_those_of_fewer(seed: int) -> None:
    def draw(count: int) -> list[dict[str, Any]]:
        return compute_combinations(build_sweep({"parameters": [LOG_RATE], "search": {"type": "random", "trials": count, "seed": seed}}))

    assert draw(20)[:7] == draw(7)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["linear", "log"]), st.booleans())
def test_a_range_is_never_left(seed: int, scale: str, integer: bool) -> None:
    bounds = {"min": 2.5, "max": 9.5, "scale": scale, "integer": integer}
    parameter = {"path": "training.gradientAccumulationSteps", "range": bounds}
    sweep = build_sweep({"parameters": [parameter], "search": {"type": "random", "trials": 20, "seed": seed}})
    values = [combination["training.gradientAccumulationSteps"] for combination in compute_combinations(sweep)]
    assert all(2.5 <= value <= 9.5 for value in values)
    assert all(isinstance(value, int if integer else float) for value in values)


def test_whole_numbers_are_drawn_up_to_both_ends() -> None:
    parameter = {"path": "method.adapter.r", "range": {"min": 1, "max": 4, "integer": True}}
    sweep = build_sweep({"parameters": [parameter], "search": {"type": "random", "trials": 200}})
    assert {combination["method.adapter.r"] for combination in compute_combinations(sweep)} == {1, 2, 3, 4}


def test_a_log_scale_draws_each_order_of_magnitude_alike() -> None:
    sweep = build_sweep({"parameters": [LOG_RATE], "search": {"type": "random", "trials": 256}})
    low = sum(combination["training.learningRate"] < 1e-4 for combination in compute_combinations(sweep))
    assert 100 < low < 156


def test_a_trial_is_the_template_with_its_parameters_and_a_folder_of_its_own() -> None:
    sweep = build_sweep({"suspend": True})
    spec = build_trial_spec(sweep, compute_first_trials(sweep)[3], "sweep")
    assert (spec.training.learning_rate, spec.method.adapter.r) == (2e-4, 16)
    assert spec.output.uri == "s3://team-a/adapters/support-bot/sweep-3"
    assert spec.suspend


HALVING = {"type": "successive-halving", "trials": 9, "reduction": 3}


def test_halving_narrows_nine_to_one_and_trains_thrice_as_long_each_time() -> None:
    sweep = build_sweep({"parameters": [LOG_RATE], "search": HALVING, "template": {"spec": {"training": {"epochs": 9}}}})
    assert (count_rungs(sweep.search), count_trials(sweep)) == (3, 9 + 3 + 1)
    first = compute_first_trials(sweep)
    second = compute_promoted_trials(sweep, 0, {index: float(index % 5) for index in range(9)})
    third = compute_promoted_trials(sweep, 1, {trial.index: trial.index for trial in second})
    assert [trial.index for trial in second] == [0, 1, 5]
    assert [(trial.index, trial.build_name("sweep")) for trial in third] == [(0, "sweep-0-r2")]
    assert compute_promoted_trials(sweep, 2, {0: 1.0}) == []
    epochs = [build_trial_spec(sweep, trial, "sweep").training.epochs for trial in (first[0], second[0], third[0])]
    assert epochs == pytest.approx([1, 3, 9])
    assert second[0].parameters == first[0].parameters


def test_halving_shortens_steps_where_steps_are_given() -> None:
    sweep = build_sweep({"parameters": [LOG_RATE], "search": HALVING, "template": {"spec": {"training": {"maxSteps": 100}}}})
    assert build_trial_spec(sweep, compute_first_trials(sweep)[0], "sweep").training.max_steps == 12


def test_a_goal_of_more_promotes_the_greatest() -> None:
    sweep = build_sweep({"parameters": [LOG_RATE], "search": HALVING, "objective": {"goal": "maximize"}})
    promoted = compute_promoted_trials(sweep, 0, {index: float(index) for index in range(9)})
    assert [trial.index for trial in promoted] == [6, 7, 8]


def test_a_round_in_which_all_failed_is_the_last() -> None:
    assert compute_promoted_trials(build_sweep({"parameters": [LOG_RATE], "search": HALVING}), 0, {}) == []


@pytest.mark.parametrize(
    ("patch", "field", "words"),
    [
        ({"search": {"type": "random"}}, "spec.search.trials", "must be given for random"),
        ({"search": {"trials": 3}}, "spec.search.trials", "a grid tries every combination"),
        ({"parameters": [LOG_RATE]}, "spec.search.type", "a grid needs values"),
        ({"parameters": [{"path": "output.uri", "values": ["s3://b/c"]}]}, "spec.parameters[0].path", "pattern"),
        ({"parameters": [{"path": "training.seed"}]}, "spec.parameters[0].values", "either values or range"),
        ({"parameters": [{"path": "training.seed", "values": [[1]]}]}, "spec.parameters[0].values[0]", "must be text, a number"),
        ({"parameters": [{"path": "training.seed", "values": list(range(17))}, {"path": "method.adapter.r", "values": list(range(1, 17))}]},
         "spec", "272 combinations"),
        ({"parameters": [{"path": "training.seed", "values": [1]}] * 2}, "spec.parameters", "the same path twice"),
        ({"parameters": [{"path": "training.epochs", "values": [1]}], "search": HALVING}, "spec.parameters", "sets training.epochs"),
        ({"template": {"spec": {"dataset": {"evalFraction": 0}}}}, "spec.objective.metric", "needs held-out data"),
        ({"parameters": [{"path": "training.seed", "range": {"min": 2, "max": 2}}]}, "spec.parameters[0].range.min", "less than max"),
        ({"template": {"spec": {"trainig": {}}}}, "spec.template.spec.trainig", "unknown field"),
    ],
)  # fmt: skip
def test_a_wrong_sweep_is_refused_by_the_field(patch: Manifest, field: str, words: str) -> None:
    assert any(fault.startswith(f"{field}: ") and words in fault for fault in find_faults(patch)), find_faults(patch)


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ({"path": "training.learningRat", "values": [1]}, "training.learningRat: unknown field"),
        ({"path": "training.learningRate", "values": [2.0]}, "training.learningRate: "),
        ({"path": "training.learningRate.value", "values": [2.0]}, "is not a field"),
        ({"path": "method.quantization.type", "values": ["nf5"]}, "method.quantization.type: "),
    ],
)
def test_a_combination_that_makes_no_run_is_named(parameter: Manifest, words: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        check_trials(build_sweep({"parameters": [parameter]}), "sweep")
    assert words in str(caught.value)
    assert f"{parameter['path']}={parameter['values'][0]}" in str(caught.value)


def test_a_name_leaves_room_for_the_trials() -> None:
    assert parse_sweep_manifest(build_sweep_manifest("s" * 54)).metadata["name"] == "s" * 54
    with pytest.raises(SpecInvalid, match=r"metadata\.name: must have at most 54 characters"):
        parse_sweep_manifest(build_sweep_manifest("s" * 55))
