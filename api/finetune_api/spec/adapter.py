"""The adapter that is trained: its type, its settings, and which setting belongs to which type."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from finetune_api.base import ApiModel
from finetune_api.rules import Rule

AdapterType = Literal["lora", "adalora", "ia3", "prompt-tuning", "p-tuning", "prefix-tuning", "none"]
Initialisation = Literal["default", "gaussian", "olora", "pissa", "eva", "loftq"]

PROMPT_TYPES: Final[tuple[AdapterType, ...]] = ("prompt-tuning", "p-tuning", "prefix-tuning")
"""Types that learn what stands before the text and leave the layers alone; nothing of them can be merged into weights."""
RANK_TYPES: Final[tuple[AdapterType, ...]] = ("lora", "adalora")
"""Types that learn an update of low rank."""
LAYER_TYPES: Final[tuple[AdapterType, ...]] = ("lora", "adalora", "ia3")
"""Types that adapt single layers."""
BASE_CHANGING_INITS: Final[tuple[Initialisation, ...]] = ("olora", "pissa")
"""Initialisations that take the adapter's first value out of the base weights. What is published is the difference to the base as it
was, a LoRA adapter of twice the rank."""

ALL_LINEAR = "all-linear"
"""Value of `targetModules` that means every linear layer but the head, in PEFT's own words."""
EXPERTS = "experts"
"""Value of `targetParameters` that means the fused weights of all experts."""
_MODULE_NAMES = re.compile(r"^[A-Za-z0-9_.]+(,[A-Za-z0-9_.]+)*$")

DEFAULT_VIRTUAL_TOKENS: Final = 20


def _list(types: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in types)


def _build_setting_rule(cel: str, unset: Callable[[Any], bool], name: str, types: tuple[AdapterType, ...]) -> Rule:
    return Rule(
        cel=f"self.type in [{_list(types)}] || {cel}",  # what is true of most comes first: the rest is not read then
        holds=lambda adapter: unset(adapter) or adapter.type in types,
        message=f"is for the type{'s' if len(types) > 1 else ''} {', '.join(types)}; remove it, or set another type",
        field=name,
    )


ADAPTER_RULES: Final = (
    # A default can't be told from the same value written out: it is let through, any other is not.
    _build_setting_rule("self.r == 16", lambda adapter: adapter.r == 16, "r", RANK_TYPES),
    _build_setting_rule("self.alpha == 32", lambda adapter: adapter.alpha == 32, "alpha", RANK_TYPES),
    _build_setting_rule("self.dropout == 0.05", lambda adapter: adapter.dropout == 0.05, "dropout", RANK_TYPES),
    _build_setting_rule(
        f"self.targetModules == '{ALL_LINEAR}'",
        lambda adapter: adapter.target_modules == ALL_LINEAR,
        "targetModules",
        LAYER_TYPES,
    ),
    _build_setting_rule("!has(self.targetParameters)", lambda adapter: adapter.target_parameters is None, "targetParameters", ("lora",)),
    _build_setting_rule("!self.rslora", lambda adapter: not adapter.rslora, "rslora", ("lora",)),
    _build_setting_rule("!self.dora", lambda adapter: not adapter.dora, "dora", ("lora",)),
    _build_setting_rule("!has(self.loraPlusRatio)", lambda adapter: adapter.lora_plus_ratio is None, "loraPlusRatio", ("lora",)),
    _build_setting_rule("self.init == 'default'", lambda adapter: adapter.init == "default", "init", ("lora",)),
    _build_setting_rule("!has(self.initR)", lambda adapter: adapter.init_r is None, "initR", ("adalora",)),
    _build_setting_rule("!has(self.virtualTokens)", lambda adapter: adapter.virtual_tokens is None, "virtualTokens", PROMPT_TYPES),
    _build_setting_rule("!has(self.encoder)", lambda adapter: adapter.encoder is None, "encoder", ("p-tuning",)),
    Rule(
        cel="!has(self.initR) || self.initR > self.r",
        holds=lambda adapter: adapter.init_r is None or adapter.init_r > adapter.r,
        message="must be above r: AdaLoRA begins with it and gives up ranks until r are left on average",
        field="initR",
    ),
    Rule(
        cel="!has(self.targetParameters) || self.dropout == 0.0",
        holds=lambda adapter: adapter.target_parameters is None or adapter.dropout == 0,
        message="must be 0 with targetParameters: the update of such a weight is added to the weight itself, which has no input to drop",
        field="dropout",
    ),
    Rule(
        cel="!has(self.targetParameters) || !self.dora",
        holds=lambda adapter: adapter.target_parameters is None or not adapter.dora,
        message="does not work with targetParameters; remove one of them",
        field="dora",
    ),
    Rule(
        cel="!has(self.targetParameters) || self.init in ['default', 'gaussian']",
        holds=lambda adapter: adapter.target_parameters is None or adapter.init in ("default", "gaussian"),
        message="must be default or gaussian with targetParameters",
        field="init",
    ),
    Rule(
        cel="!self.dora || self.init in ['default', 'gaussian', 'eva']",
        holds=lambda adapter: not adapter.dora or adapter.init in ("default", "gaussian", "eva"),
        message="must be default, gaussian or eva with dora, whose magnitudes are taken from the base weights as they are",
        field="init",
    ),
    Rule(
        cel="!self.rslora || !(self.init in ['olora', 'pissa'])",
        holds=lambda adapter: not adapter.rslora or adapter.init not in BASE_CHANGING_INITS,
        message="must not be olora or pissa with rslora: what is published has twice the rank, and would be scaled by another root",
        field="init",
    ),
)
"""Rules within the adapter."""


class AdapterSpec(ApiModel):
    """The adapter that is trained. A setting that the type does not use is refused, so that none is passed over in silence."""

    type: AdapterType = "lora"
    """`lora`: updates of low rank (arXiv 2106.09685). `adalora`: the same, the ranks shared out by need while it trains (arXiv
    2303.10512). `ia3`: one learnt factor for each channel (arXiv 2205.05638). `prompt-tuning`: learnt tokens before the text (arXiv
    2104.08691). `p-tuning`: the same, made by a small network (arXiv 2103.10385). `prefix-tuning`: learnt keys and values in every layer
    (arXiv 2101.00190). `none`: full fine-tuning; the whole model is published."""
    r: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the update (`lora`), or the mean rank that is left in the end (`adalora`)."""
    init_r: Annotated[int, Field(ge=1, le=1536)] | None = None
    """Rank that `adalora` begins with in every layer; above `r`. 1.5 times `r`, rounded up, if it is not given."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """Scale of the update: it is multiplied by alpha / r (alpha / sqrt(r) with `rslora`). Used by `lora` and `adalora`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout on the adapter's input. Used by `lora` and `adalora`."""
    target_modules: Annotated[str, Field(min_length=1, max_length=1024)] = ALL_LINEAR
    """Modules to adapt: `all-linear` (every linear layer but the head), names separated by commas (`q_proj,v_proj`), or a regular
    expression that a module's whole path must match. Used by `lora`, `adalora` and `ia3`."""
    target_parameters: Annotated[str, Field(max_length=1024, pattern=r"^[A-Za-z0-9_.]+(,[A-Za-z0-9_.]+)*$")] | None = None
    """Weights to adapt besides `targetModules` that are no layers of their own, by `lora`: `experts` for the fused experts of a
    mixture-of-experts model, or ends of parameters' paths separated by commas (`experts.down_proj`). Needs `dropout: 0`."""
    rslora: bool = False
    """Scale by alpha / sqrt(r), which keeps high ranks stable (rsLoRA: arXiv 2312.03732). Used by `lora`."""
    dora: bool = False
    """Learn magnitude and direction apart (DoRA: arXiv 2402.09353). Slower. Used by `lora`."""
    lora_plus_ratio: Annotated[float, Field(ge=1, le=1000)] | None = None
    """Learning rate of the update's second matrix over that of its first (LoRA+: arXiv 2402.12354, which recommends 16). Used by `lora`."""
    init: Initialisation = "default"
    """First value of the update, of `lora`. `default`: none (random times zero); `gaussian`: the same, normally distributed; `olora`:
    from the base weights' QR decomposition (arXiv 2406.01775); `pissa`: from their principal singular values (arXiv 2404.02948); `eva`:
    from the activations that the data cause (arXiv 2410.07170); `loftq`: what 4-bit quantisation has lost (arXiv 2310.08659)."""
    virtual_tokens: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Learnt tokens before the text, 20 if it is not given. Used by `prompt-tuning`, `p-tuning` and `prefix-tuning`."""
    encoder: Literal["mlp", "lstm"] | None = None
    """Network that makes the tokens of `p-tuning`, `mlp` if it is not given."""

    rules = ADAPTER_RULES

    @field_validator("target_modules")
    @classmethod
    def _is_names_or_expression(cls, value: str) -> str:
        if not _MODULE_NAMES.match(value) and value != ALL_LINEAR:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"is neither all-linear, nor names separated by commas, nor a regular expression: {error}") from None
        return value

    @property
    def resolved_target_modules(self) -> str | list[str]:
        """The target in PEFT's terms: `all-linear` or a regular expression as text, names as a list."""
        if self.target_modules != ALL_LINEAR and _MODULE_NAMES.match(self.target_modules):
            return self.target_modules.split(",")
        return self.target_modules

    @property
    def resolved_init_r(self) -> int:
        """Rank that AdaLoRA begins with."""
        return self.init_r if self.init_r is not None else (3 * self.r + 1) // 2

    @property
    def resolved_virtual_tokens(self) -> int:
        """Tokens before the text: 0 for types that have none."""
        if self.type not in PROMPT_TYPES:
            return 0
        return DEFAULT_VIRTUAL_TOKENS if self.virtual_tokens is None else self.virtual_tokens


METHOD_RULES: Final = (
    Rule(
        cel="!(self.adapter.dora && self.quantization.type == 'int8')",
        holds=lambda method: not (method.adapter.dora and method.quantization.type == "int8"),
        message="adapter.dora is not supported on an int8 base; use quantization.type nf4, fp4, fp8 or none",
        field="adapter.dora",
    ),
    Rule(
        cel="self.adapter.type != 'none' || self.quantization.type == 'none'",
        holds=lambda method: method.adapter.type != "none" or method.quantization.type == "none",
        message="adapter.type none trains the base itself, and quantised weights can't be trained; set quantization.type to none",
        field="quantization.type",
    ),
    Rule(
        cel="!(self.adapter.init in ['olora', 'pissa']) || self.quantization.type == 'none'",
        holds=lambda method: method.adapter.init not in BASE_CHANGING_INITS or method.quantization.type == "none",
        message=(
            "adapter.init olora and pissa change the base weights, and a quantised base would be rounded anew: the published adapter "
            "would not fit it; set quantization.type to none, or adapter.init to loftq or eva"
        ),
        field="adapter.init",
    ),
    Rule(
        cel="self.adapter.init != 'loftq' || self.quantization.type in ['nf4', 'fp4']",
        holds=lambda method: method.adapter.init != "loftq" or method.quantization.type in ("nf4", "fp4"),
        message="adapter.init loftq makes good what 4-bit quantisation loses; set quantization.type to nf4 or fp4",
        field="adapter.init",
    ),
    Rule(
        cel="self.quantization.type != 'fp8' || self.quantization.computeDtype == 'bfloat16'",
        holds=lambda method: method.quantization.type != "fp8" or method.quantization.compute_dtype == "bfloat16",
        message="must be bfloat16 with quantization.type fp8, whose products are written in it",
        field="quantization.computeDtype",
    ),
)
"""Rules over adapter and quantisation."""

_PROMPT_CEL: Final = f"self.method.adapter.type in [{_list(PROMPT_TYPES)}]"


def _merges(spec: Any) -> bool:  # noqa: ANN401  the specification, which imports this module
    adapter = spec.method.adapter
    return adapter.type not in (*PROMPT_TYPES, "none") and adapter.init != "loftq"


_MERGES_CEL: Final = f"!(self.method.adapter.type in [{_list((*PROMPT_TYPES, 'none'))}] || self.method.adapter.init == 'loftq')"
_UNMERGEABLE: Final = (
    "needs an adapter that can be merged into the base: learnt tokens are no weights, full fine-tuning publishes the whole model already, "
    "and LoftQ's adapter fits the quantised base only; remove it"
)


def _needs_merge(form: str, asked: str) -> Rule:
    """Build the rule that a ``form`` of the merged model, which ``asked`` is the CEL for, needs an adapter that can be merged."""
    return Rule(
        cel=f"{_MERGES_CEL} || !{asked}",
        holds=lambda spec: _merges(spec) or not getattr(spec.output, form),
        message=_UNMERGEABLE,
        field=f"output.{form}",
    )


SPEC_RULES: Final = (
    Rule(
        cel=f"!({_PROMPT_CEL}) || !self.training.packing",
        holds=lambda spec: spec.method.adapter.type not in PROMPT_TYPES or not spec.training.packing,
        message=(
            "must be false with adapter.type prompt-tuning, p-tuning and prefix-tuning: the learnt tokens stand before a sequence: only "
            "the first of several packed examples would see them"
        ),
        field="training.packing",
    ),
    Rule(
        cel="self.method.adapter.type != 'prefix-tuning' || !self.training.gradientCheckpointing",
        holds=lambda spec: spec.method.adapter.type != "prefix-tuning" or not spec.training.gradient_checkpointing,
        message="must be false with adapter.type prefix-tuning: checkpointed layers keep no keys and values, where the prefix lies",
        field="training.gradientCheckpointing",
    ),
    _needs_merge("merged", "self.output.merged"),
    _needs_merge("gguf", "has(self.output.gguf)"),
    _needs_merge("gptq", "has(self.output.gptq)"),
    Rule(
        cel="self.method.adapter.type != 'none' || self.output.push.size() == 0",
        holds=lambda spec: spec.method.adapter.type != "none" or not spec.output.push,
        message="is for adapters and what is made from them; after full fine-tuning, copy the model from output.uri",
        field="output.push",
    ),
)
"""Rules over adapter, training and output."""
