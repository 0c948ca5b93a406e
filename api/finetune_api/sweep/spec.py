"""What a sweep tries: a template, the parameters that vary, how they are searched, and what makes one run better than another."""

import math
from typing import Annotated, Final, Literal, Self

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from finetune_api.base import ApiModel
from finetune_api.rules import Obeys, Rule, UniqueBy
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.placement import LABEL_DOMAIN_RULE, LabelKey, LabelValue

MAX_TRIALS: Final = 256
"""Most trials of a sweep: so many fit in its status."""
SWEEP_MUTABLE_FIELDS: Final = frozenset({"suspend", "parallelism", "maxFailedTrials"})
"""Fields of the spec that may change after creation, by path below it."""

_BUDGET_PATHS: Final = ("training.epochs", "training.maxSteps")
"""What successive halving itself sets."""


class _AnyScalar:
    """Annotation of a JSON text, number or truth value: a choice of types that a structural schema can't say."""

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        # One choice after the other, exact types only: true is no 1, and 1 stays whole.
        return core_schema.union_schema(
            [
                core_schema.bool_schema(strict=True),
                core_schema.int_schema(strict=True),
                core_schema.float_schema(strict=True, allow_inf_nan=False),
                core_schema.str_schema(strict=True, max_length=1024),
            ],
            mode="left_to_right",
            custom_error_type="scalar",
            custom_error_message="must be text, a number, true or false",
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"x-kubernetes-preserve-unknown-fields": True}


Scalar = Annotated[bool | int | float | str, _AnyScalar()]
ParameterPath = Annotated[str, Field(min_length=1, max_length=128, pattern="^(model|dataset|method|training)([.][a-z][A-Za-z0-9]*)+$")]


class RangeSpec(ApiModel):
    """Numbers from `min` to `max`, drawn at random."""

    rules = (
        Rule(
            cel="self.min < self.max",
            holds=lambda bounds: bounds.min < bounds.max,
            message="min must be less than max",
            field="min",
        ),
        Rule(
            cel="self.scale != 'log' || self.min > 0.0",
            holds=lambda bounds: bounds.scale != "log" or bounds.min > 0,
            message="min must be greater than 0 on a log scale",
            field="min",
        ),
        Rule(
            cel="!self.integer || self.max - self.min >= 1.0",
            holds=lambda bounds: not bounds.integer or bounds.max - bounds.min >= 1,
            message="between min and max must be a whole number: let them differ by 1 or more",
            field="max",
        ),
    )

    min: float
    """Least value."""
    max: float
    """Greatest value."""
    scale: Literal["linear", "log"] = "linear"
    """`log` draws each order of magnitude as often as another, which suits learning rates."""
    integer: bool = False
    """Draw whole numbers only."""


class ParameterSpec(ApiModel):
    """One field of the template that varies from trial to trial."""

    rules = (
        Rule(
            cel=None,  # values of any type are invisible to CEL
            holds=lambda parameter: (parameter.values is None) != (parameter.range is None),
            message="give either values or range",
            field="values",
            json_schema={"oneOf": [{"required": ["values"]}, {"required": ["range"]}]},
        ),
    )

    path: ParameterPath
    """The field, by its path below the template's `spec`: `training.learningRate`, `method.adapter.r`."""
    values: Annotated[list[Scalar], Field(min_length=1, max_length=64)] | None = None
    """Values to try."""
    range: RangeSpec | None = None
    """Numbers to draw from, for `random` and `successive-halving`."""


class SearchSpec(ApiModel):
    """Which combinations of the parameters are tried."""

    rules = (
        Rule(
            cel="self.type == 'grid' || has(self.trials)",
            holds=lambda search: search.type == "grid" or search.trials is not None,
            message="trials must be given for random and successive-halving: the number of combinations to draw",
            field="trials",
        ),
        Rule(
            cel="self.type != 'grid' || !has(self.trials)",
            holds=lambda search: search.type != "grid" or search.trials is None,
            message="a grid tries every combination; remove trials, or use the type random",
            field="trials",
        ),
    )

    type: Literal["grid", "random", "successive-halving"] = "grid"
    """`grid`: every combination of `values`. `random`: so many combinations drawn by `seed` (Bergstra and Bengio, JMLR 13).
    `successive-halving`: so many drawn combinations are trained shortly, and the best of them anew for longer, until the last ones
    are trained in full (arXiv 1502.07943)."""
    trials: Annotated[int, Field(ge=1, le=MAX_TRIALS)] | None = None
    """Combinations to draw."""
    reduction: Annotated[int, Field(ge=2, le=8)] = 3
    """Successive halving keeps one trial of this many in each round, and trains it this many times as long in the next."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42
    """Seed of what is drawn. The same seed draws the same combinations."""


class ObjectiveSpec(ApiModel):
    """What makes one trial better than another."""

    metric: Literal["evalLoss", "loss"] = "evalLoss"
    """Field of the runs' `status.metrics`, as it is at their end."""
    goal: Literal["minimize", "maximize"] = "minimize"
    """Whether less or more of it is better."""


class TemplateSpec(ApiModel):
    """The FineTuneJob that each trial is made from."""

    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32), Obeys(LABEL_DOMAIN_RULE)] = Field(default_factory=dict)
    """Labels of the FineTuneJobs."""
    spec: FineTuneJobSpec
    """Their specification. Each writes its results under a folder of its own below `output.uri`."""


def _is_evaluated(sweep: "FineTuneSweepSpec") -> bool:
    dataset = sweep.template.spec.dataset
    return sweep.objective.metric != "evalLoss" or dataset.eval is not None or dataset.resolved_eval_fraction > 0


def _count_grid(sweep: "FineTuneSweepSpec") -> int:
    return math.prod(len(parameter.values or ()) for parameter in sweep.parameters)


class FineTuneSweepSpec(ApiModel):
    """Many runs of one template with different parameters."""

    rules = (
        Rule(
            cel="self.objective.metric != 'evalLoss' || has(self.template.spec.dataset.eval) "
            "|| !has(self.template.spec.dataset.evalFraction) || self.template.spec.dataset.evalFraction > 0.0",
            holds=_is_evaluated,
            message="objective.metric evalLoss needs held-out data; set template.spec.dataset.evalFraction or eval, or use the metric loss",
            field="objective.metric",
        ),
        Rule(
            cel="self.search.type != 'grid' || self.parameters.all(parameter, !has(parameter.range))",
            holds=lambda sweep: sweep.search.type != "grid" or all(parameter.range is None for parameter in sweep.parameters),
            message="a grid needs values for every parameter; give values in place of range, or use the type random",
            field="search.type",
        ),
        Rule(
            cel=f"self.search.type != 'successive-halving' || self.parameters.all(parameter, !(parameter.path in {list(_BUDGET_PATHS)}))",
            holds=lambda sweep: sweep.search.type != "successive-halving" or not any(p.path in _BUDGET_PATHS for p in sweep.parameters),
            message="successive halving sets training.epochs and training.maxSteps itself; remove them from parameters",
            field="parameters",
        ),
    )

    template: TemplateSpec
    """What every trial has in common."""
    parameters: Annotated[list[ParameterSpec], Field(min_length=1, max_length=16), UniqueBy("path")]
    """What varies."""
    search: SearchSpec = Field(default_factory=SearchSpec)
    """Which combinations are tried."""
    objective: ObjectiveSpec = Field(default_factory=ObjectiveSpec)
    """What makes one trial better than another."""
    parallelism: Annotated[int, Field(ge=1, le=64)] = 2
    """Trials that may be on their way at the same time. Each is a FineTuneJob that queues like any other."""
    max_failed_trials: Annotated[int, Field(ge=0, le=MAX_TRIALS)] = 3
    """Failed trials to get over; with one more, no further trials are started and the sweep fails."""
    suspend: bool = False
    """Suspend every trial and start no more; `false` lets them go on."""

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        """Hold the grid to its bound. CEL can't: it has no product over a list."""
        if self.search.type == "grid" and _count_grid(self) > MAX_TRIALS:
            raise ValueError(
                f"the grid has {_count_grid(self)} combinations, and at most {MAX_TRIALS} are possible; use the type random with trials"
            )
        return self
