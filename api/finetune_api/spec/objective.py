"""What is learnt, and the settings that only one objective has."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.rules import Rule, UniqueBy
from finetune_api.spec.source import DatasetFormat, ModelSpec

Objective = Literal["sft", "pretrain", "dpo", "orpo", "kto", "reward", "distill", "grpo"]

_CONVERSATIONS: Final = ("messages", "prompt-completion", "instruction", "sharegpt")
OBJECTIVE_FORMATS: Final[dict[Objective, tuple[DatasetFormat, ...]]] = {
    "sft": (*_CONVERSATIONS, "text"),
    "pretrain": ("text",),
    "dpo": ("preference",),
    "orpo": ("preference",),
    "kto": ("unpaired-preference", "preference"),
    "reward": ("preference",),
    "distill": (*_CONVERSATIONS, "text"),
    "grpo": ("prompt",),
}
"""Formats of rows that each objective can learn from."""
PACKING_OBJECTIVES: Final[tuple[Objective, ...]] = ("sft", "pretrain", "distill")
"""Objectives whose examples can be packed."""
LIKELIHOOD_OBJECTIVES: Final[tuple[Objective, ...]] = ("sft", "pretrain")
"""Objectives whose loss is a mean negative log-likelihood, of which a perplexity can be told."""

_Beta = Annotated[float, Field(gt=0, le=10)]


class DpoSpec(ApiModel):
    """Direct preference optimisation (arXiv 2305.18290). The reference model is the base with the adapter off: it takes no memory."""

    beta: _Beta = 0.1
    """How strongly the tuned model is held to the reference model: higher is closer."""
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    """`sigmoid`: DPO's own; `hinge`: SLiC (arXiv 2305.10425); `ipo`: arXiv 2310.12036; `robust`: for labels that are wrong now and
    then (arXiv 2403.00409)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs whose order is taken to be wrong. Used by `robust`."""

    rules = (
        Rule(
            cel="self.labelSmoothing == 0.0 || self.loss == 'robust'",
            holds=lambda dpo: dpo.label_smoothing == 0 or dpo.loss == "robust",
            message="labelSmoothing is for the loss robust; set loss to robust, or remove it",
            field="labelSmoothing",
        ),
    )


class OrpoSpec(ApiModel):
    """Odds-ratio preference optimisation (arXiv 2403.07691): fine-tuning and preference in one, without a reference model."""

    beta: _Beta = 0.1
    """Weight of the preference beside the likelihood of the chosen answers."""


class KtoSpec(ApiModel):
    """Kahneman-Tversky optimisation (arXiv 2402.01306): answers that are good or bad, not in pairs."""

    beta: _Beta = 0.1
    """How strongly the tuned model is held to the reference model: higher is closer."""
    desirable_weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Weight of good answers; where they are fewer, raise it so that weight times number is about equal on both sides."""
    undesirable_weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Weight of bad answers."""


class RewardSpec(ApiModel):
    """Reward modelling: a score that is higher for the chosen answer of each pair."""

    center_coefficient: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Pulls the mean of the scores towards 0 (arXiv 2312.09244); 0.01 is usual, 0 turns it off."""


class DistillSpec(ApiModel):
    """Distillation: the model learns the teacher's probabilities of each learnt token of the data."""

    teacher: ModelSpec
    """The teacher: a causal language model with the same tokenizer. It is held in the precision that `quantization` says."""
    beta: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Divergence: 0 is the forward Kullback-Leibler divergence, 1 the reverse, what lies between is the generalised Jensen-Shannon
    divergence (arXiv 2306.13649)."""
    temperature: Annotated[float, Field(ge=0.1, le=20)] = 1.0
    """Both distributions are softened by it before they are compared."""


class RewardFunction(ApiModel):
    """Scores an answer from 0 to 1. There is no code to write: what is here is safe to run on any answer."""

    name: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Name of the function in the metrics."""
    type: Literal["exact", "contains", "numeric", "regex", "json", "length"]
    """`exact`, `contains`, `numeric`: 1 where the answer equals, contains, or ends in the number of the row's `answer`; `regex`: 1
    where `pattern` matches somewhere in it; `json`: 1 where the whole answer is valid JSON; `length`: 1 where the answer has from
    `minTokens` to `maxTokens` tokens, less the further it is off."""
    weight: Annotated[float, Field(ge=-100, le=100)] = 1.0
    """Weight in the sum of all rewards; a negative one punishes."""
    pattern: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """RE2 expression of `regex`: it has no look-around and no back-references, and its time grows with the answer's length only."""
    min_tokens: Annotated[int, Field(ge=0, le=65_536)] | None = None
    """Shortest answer in tokens that `length` gives 1 for."""
    max_tokens: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Longest answer in tokens that `length` gives 1 for."""

    rules = (
        Rule(
            cel="has(self.pattern) == (self.type == 'regex')",
            holds=lambda function: (function.pattern is not None) == (function.type == "regex"),
            message="pattern must be given for the type regex, and for no other",
            field="pattern",
        ),
        Rule(
            cel="(has(self.minTokens) || has(self.maxTokens)) == (self.type == 'length')",
            holds=lambda function: (function.min_tokens is not None or function.max_tokens is not None) == (function.type == "length"),
            message="minTokens or maxTokens must be given for the type length, and for no other",
            field="type",
        ),
        Rule(
            cel="!has(self.minTokens) || !has(self.maxTokens) || self.minTokens <= self.maxTokens",
            holds=lambda function: function.min_tokens is None or function.max_tokens is None or function.min_tokens <= function.max_tokens,
            message="must not be above maxTokens",
            field="minTokens",
        ),
    )


class GrpoSpec(ApiModel):
    """Group relative policy optimisation (arXiv 2402.03300): the model answers each prompt several times, and learns from which answers
    were better than the others.
    """

    rewards: Annotated[list[RewardFunction], Field(min_length=1, max_length=8), UniqueBy("name")]
    """What makes an answer good."""
    num_generations: Annotated[int, Field(ge=2, le=64)] = 4
    """Answers to each prompt; `perDeviceBatchSize` times `gradientAccumulationSteps` must be a multiple of it."""
    max_completion_length: Annotated[int, Field(ge=1, le=32_768)] = 256
    """Longest answer in tokens."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Answers are drawn at random, the more freely the higher it is."""
    beta: Annotated[float, Field(ge=0, le=10)] = 0.0
    """How strongly the tuned model is held to the base model, by the Kullback-Leibler divergence; 0 turns it off and is faster."""


def _build_setting_rule(name: Objective) -> Rule:
    return Rule(
        cel=f"!has(self.{name}) || self.objective == '{name}'",
        holds=lambda method: getattr(method, name) is None or method.objective == name,
        message=f"is for the objective {name}; set objective to {name}, or remove it",
        field=name,
    )


def _build_required_rule(name: Objective, what: str) -> Rule:
    return Rule(
        cel=f"self.objective != '{name}' || has(self.{name})",
        holds=lambda method: method.objective != name or getattr(method, name) is not None,
        message=f"{name} must be given for the objective {name}: {what}",
        field="objective",
    )


OBJECTIVE_RULES: Final = (
    *(_build_setting_rule(name) for name in ("dpo", "orpo", "kto", "reward", "distill", "grpo")),
    _build_required_rule("distill", "name the teacher in distill.teacher"),
    _build_required_rule("grpo", "name reward functions in grpo.rewards"),
    Rule(
        cel=f"self.objective in [{', '.join(map(repr, PACKING_OBJECTIVES))}] || "
        "(self.adapter.type == 'lora' && self.adapter.init in ['default', 'gaussian'])",
        holds=lambda method: (
            method.objective in PACKING_OBJECTIVES or (method.adapter.type == "lora" and method.adapter.init in ("default", "gaussian"))
        ),
        message="the objectives dpo, orpo, kto, reward and grpo train LoRA with init default or gaussian only: "
        "with its adapter off, the model must be the base that they compare with",
        field="adapter",
    ),
)
"""Rules of the method that concern the objective."""


def _takes_format(objective: Objective, wanted: DatasetFormat) -> bool:
    return wanted == "auto" or wanted in OBJECTIVE_FORMATS[objective]


def _build_format_rule(objective: Objective) -> Rule:
    formats = OBJECTIVE_FORMATS[objective]
    listed = ", ".join(f"'{name}'" for name in ("auto", *formats))
    return Rule(
        cel=f"self.method.objective != '{objective}' || self.dataset.format in [{listed}]",
        holds=lambda spec: spec.method.objective != objective or _takes_format(objective, spec.dataset.format),
        message=f"the objective {objective} learns from rows in the format {' or '.join(formats)}; set format to it, or to auto",
        field="dataset.format",
    )


def _divides(spec: Any) -> bool:  # noqa: ANN401  the specification, which imports this module
    method, training = spec.method, spec.training
    if method.objective != "grpo" or method.grpo is None:
        return True
    return bool(training.per_device_batch_size * training.gradient_accumulation_steps % method.grpo.num_generations == 0)


_HELD_OUT_CEL: Final = "has(self.dataset.eval) || !has(self.dataset.evalFraction) || self.dataset.evalFraction > 0.0"


def _holds_out(spec: Any) -> bool:  # noqa: ANN401  likewise
    dataset = spec.dataset
    return bool(dataset.eval is not None or dataset.resolved_eval_fraction > 0)


OBJECTIVE_SPEC_RULES: Final = (
    *(_build_format_rule(objective) for objective in OBJECTIVE_FORMATS),
    Rule(
        cel="self.method.objective != 'kto' || self.training.perDeviceBatchSize > 1",
        holds=lambda spec: spec.method.objective != "kto" or spec.training.per_device_batch_size > 1,
        message="the objective kto compares the answers of a batch; set it to 2 or more",
        field="training.perDeviceBatchSize",
    ),
    Rule(
        cel="self.method.objective != 'grpo' || !has(self.method.grpo) || "
        "self.training.perDeviceBatchSize * self.training.gradientAccumulationSteps % self.method.grpo.numGenerations == 0",
        holds=_divides,
        message="must divide training.perDeviceBatchSize times training.gradientAccumulationSteps, "
        "since all answers to a prompt go into one step",
        field="method.grpo.numGenerations",
    ),
    Rule(
        cel="self.method.objective != 'reward' || self.evaluation.tasks.size() == 0",
        holds=lambda spec: spec.method.objective != "reward" or not spec.evaluation.tasks,
        message="a reward model scores answers and writes none; remove the tasks",
        field="evaluation.tasks",
    ),
    Rule(
        cel="self.method.objective != 'reward' || self.evaluation.harness.size() == 0",
        holds=lambda spec: spec.method.objective != "reward" or not spec.evaluation.harness,
        message="a reward model scores answers and has no tokens to score; remove the tasks",
        field="evaluation.harness",
    ),
    Rule(
        cel="self.method.objective != 'reward' || !(self.output.merged || has(self.output.gguf) || has(self.output.gptq))",
        holds=lambda spec: spec.method.objective != "reward" or not (spec.output.merged or spec.output.gguf or spec.output.gptq),
        message="a reward model's head can't be merged into a language model; remove merged, gguf and gptq",
        field="output",
    ),
    Rule(
        cel="!has(self.training.neftuneNoiseAlpha) || self.method.objective == 'sft'",
        holds=lambda spec: spec.training.neftune_noise_alpha is None or spec.method.objective == "sft",
        message="is for the objective sft; remove it",
        field="training.neftuneNoiseAlpha",
    ),
    Rule(
        cel="!has(self.training.divergence.spikeFactor) || self.method.objective != 'grpo'",
        holds=lambda spec: spec.training.divergence.spike_factor is None or spec.method.objective != "grpo",
        message="the loss of the objective grpo lies around 0 and leaps as it should; remove it",
        field="training.divergence.spikeFactor",
    ),
    Rule(
        cel=f"!has(self.training.earlyStopping) || {_HELD_OUT_CEL}",
        holds=lambda spec: spec.training.early_stopping is None or _holds_out(spec),
        message="needs held-out data; set dataset.evalFraction above 0, or name dataset.eval",
        field="training.earlyStopping",
    ),
    Rule(
        cel=f"!self.training.checkpoint.publishBest || {_HELD_OUT_CEL}",
        holds=lambda spec: not spec.training.checkpoint.publish_best or _holds_out(spec),
        message="needs held-out data; set dataset.evalFraction above 0, or name dataset.eval",
        field="training.checkpoint.publishBest",
    ),
)
"""Rules of the whole specification that concern the objective."""
