"""Which parts of a model an adapter goes on."""

import importlib
import logging
import re
from typing import Any

from torch import nn

from finetune_api.spec import AdapterSpec
from finetune_api.spec.adapter import ALL_LINEAR, EXPERTS
from finetune_trainer.errors import ConfigInvalid

logger = logging.getLogger(__name__)


def check_targets(model: Any, spec: AdapterSpec) -> None:  # noqa: ANN401
    """Check that each target matches a linear layer, and none the head.

    PEFT is content with one match among several names, so that a misspelt name would train less than was asked for.

    :raises ConfigInvalid: names the target and what the model has.
    """
    if spec.target_modules == ALL_LINEAR:
        return
    linear = find_linear_modules(model)
    targets = spec.resolved_target_modules
    matched: set[str] = set()
    taken = find_names_of_experts(model)
    for target in [targets] if isinstance(targets, str) else targets:
        if isinstance(targets, str):
            found = {name for name in linear if re.fullmatch(target, name)}
        else:
            found = {name for name in linear if name == target or name.endswith(f".{target}")}
        if not found:
            raise ConfigInvalid(f"method.adapter.targetModules: {target!r} matches no linear layer of the model. {list_available(model)}")
        matched |= found
    if confused := sorted(taken & {name.rsplit(".", 1)[-1] for name in matched}):
        raise ConfigInvalid(
            f"method.adapter.targetModules: in a model of type {model.config.model_type}, PEFT takes {', '.join(confused)} for the fused "
            "experts; leave it out, and set targetParameters to experts to adapt them"
        )
    head = find_head(model)
    if any(linear[name] is head for name in matched):
        raise ConfigInvalid(f"method.adapter.targetModules: the head can't be adapted; leave it out. {list_available(model)}")


def find_head(model: Any) -> Any:  # noqa: ANN401
    """Return the head: of a language model the output embeddings, of a reward model what scores."""
    return getattr(model, "score", None) or model.get_output_embeddings()


def find_target_modules(model: Any, spec: AdapterSpec) -> str | list[str]:  # noqa: ANN401
    """Return the linear layers that ``targetModules`` means, as PEFT takes them.

    Where experts are fused into one weight, ``all-linear`` is written out: PEFT (0.21) would take it for the experts and the router too,
    which are no layers, and fail with any dropout. What adapts experts is ``targetParameters``.
    """
    targets = spec.resolved_target_modules
    if targets != ALL_LINEAR or not find_fused_experts(model):
        return targets
    head, taken = find_head(model), find_names_of_experts(model)
    names = {name.rsplit(".", 1)[-1] for name, module in find_linear_modules(model).items() if module is not head}
    if left := sorted(names & taken):
        logger.warning("all-linear leaves out %s, whose names PEFT takes for the fused experts", ", ".join(left))
    if spec.target_parameters is None:
        logger.warning("the experts are fused weights, which all-linear leaves out; method.adapter.targetParameters: experts adapts them")
    return sorted(names - taken)


def find_fused_experts(model: Any) -> list[str]:  # noqa: ANN401
    """Return the ends of the paths of weights that hold all experts of a layer: experts x outputs x inputs, or the other way round."""
    return sorted(
        {".".join(name.split(".")[-2:]) for name, weight in model.named_parameters() if weight.ndim == 3 and ".experts." in f".{name}."}
    )


def find_names_of_experts(model: Any) -> set[str]:  # noqa: ANN401
    """Return the names of layers that PEFT takes for fused experts, since older releases of transformers called them so."""
    conversion: Any = importlib.import_module("peft.utils.transformers_weight_conversion")  # private: tested with every family
    kind = conversion._MODEL_TO_CONVERSION_PATTERN.get(getattr(model.config, "model_type", ""), "")
    return set(conversion._MOE_TARGET_MODULE_MAPPING.get(kind, {}))


def find_linear_modules(model: Any) -> dict[str, nn.Module]:  # noqa: ANN401
    """Return the linear layers by path, quantised ones included (they are subclasses)."""
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415  GPT-2's own name for a linear layer

    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}


def list_available(model: Any) -> str:  # noqa: ANN401
    """Return words that name the linear layers of ``model``."""
    head = find_head(model)
    names = sorted({name.rsplit(".", 1)[-1] for name, module in find_linear_modules(model).items() if module is not head})
    return f"It has: {', '.join(names[:40])}. Name some of these, or use all-linear"


def find_target_parameters(model: Any, spec: AdapterSpec) -> list[str]:  # noqa: ANN401
    """Return the ends of the paths of the weights that ``targetParameters`` means.

    :raises ConfigInvalid: the model has none such.
    """
    if spec.target_parameters is None:
        return []
    fused = find_fused_experts(model)
    wanted = fused if spec.target_parameters == EXPERTS else spec.target_parameters.split(",")
    has = f"It has: {', '.join(fused)}" if fused else "It has no fused experts"
    if not wanted:
        raise ConfigInvalid(f"method.adapter.targetParameters: {has}; remove the field")
    for end in wanted:
        if not any(name.endswith(f".{end}") for name, weight in model.named_parameters() if weight.ndim in (2, 3)):
            raise ConfigInvalid(f"method.adapter.targetParameters: {end!r} is the end of no weight's path. {has}")
    return wanted


def find_feedforward_modules(model: Any, spec: AdapterSpec) -> list[str]:  # noqa: ANN401
    """Return the names of the targeted layers that come last in a feed-forward block: (IA)3 scales what goes into these, and what comes out
    of all others. They are told by their shape, wider inside than out, outside of attention.
    """
    targets = find_target_modules(model, spec)
    names: set[str] = set()
    for name, module in find_linear_modules(model).items():
        inside, outside = _get_features(module)
        if inside <= outside or "attn" in name or "attention" in name:
            continue
        last = name.rsplit(".", 1)[-1]
        if targets == ALL_LINEAR or (re.fullmatch(targets, name) if isinstance(targets, str) else last in targets or name in targets):
            names.add(name)
    return sorted(names)


def _get_features(module: Any) -> tuple[int, int]:  # noqa: ANN401
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    inside, outside = module.weight.shape  # transformers' Conv1D holds its weight transposed
    return int(inside), int(outside)
