"""The figures of the page on curves, from curves that are made up."""

from pathlib import Path

import pytest

from benchmarks.curves.contenders import CONTENDERS, REFERENCE, build_config
from benchmarks.curves.figures import Seed, compare, measure_seeds
from benchmarks.curves.plot import draw
from finetune_api.trainer_config import TrainerConfig


def build_seed(last: float, worse: float) -> Seed:
    """Every contender begins ``worse`` than the reference does, is worse by as much after two steps, and as good as it at the end."""
    reference = [(0, 5.0), (2, 4.0), (4, last)]
    return {name: reference if name == REFERENCE else [(0, 5.0 + worse), (2, 4.0 + worse), (4, last)] for name in CONTENDERS}


def test_the_reference_is_not_apart_from_itself() -> None:
    figures = compare([build_seed(3.0, 0.1)])[REFERENCE]
    assert (figures.first, figures.last) == (5.0, 3.0)
    assert (figures.fell, figures.apart, figures.farthest) == (1.0, 0.0, 0.0)


def test_distances_are_shares_of_the_references_loss_after_the_first_step() -> None:
    figures = compare([build_seed(3.0, 0.2), build_seed(3.0, 0.4)])["nf4, doubleQuant"]
    assert figures.first == pytest.approx(5.3)
    assert figures.fell == pytest.approx(2.3 / 2.0)
    assert figures.apart == pytest.approx((0.05 + 0 + 0.1 + 0) / 4)
    assert figures.farthest == pytest.approx(0.1)


def test_seeds_are_compared_by_the_reference() -> None:
    assert measure_seeds([build_seed(3.0, 0.2), build_seed(3.3, 0.4)]) == pytest.approx((0 + 0.1) / 2)


def test_every_contender_has_a_line_and_a_name() -> None:
    picture = draw(build_seed(3.0, 0.1), "Held-out loss")
    assert all(f">{name}</text>" in picture for name in CONTENDERS)
    assert picture.count("<polyline") == 2 * len(CONTENDERS)


@pytest.mark.parametrize("name", CONTENDERS)
def test_contenders_differ_in_the_base_alone(name: str, tmp_path: Path) -> None:
    own, reference = (TrainerConfig.model_validate(build_config(tmp_path, each, 1, 4, 2)) for each in (name, REFERENCE))
    assert own.training == reference.training
    assert own.method.adapter == reference.method.adapter
    assert (own.method.quantization == reference.method.quantization) == (name == REFERENCE)
