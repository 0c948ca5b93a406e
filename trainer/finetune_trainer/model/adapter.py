"""The adapter on the base model."""

import logging
import re
from typing import Any

from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import set_seed

from finetune_api.spec import AdapterSpec
from finetune_api.spec.method import ALL_LINEAR
from finetune_trainer.errors import ConfigInvalid

logger = logging.getLogger(__name__)


def build_lora_config(spec: AdapterSpec) -> LoraConfig:
    """Build PEFT's configuration of a LoRA adapter."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=spec.resolved_target_modules,
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        bias="none",
    )


def add_adapter(model: Any, spec: AdapterSpec, seed: int) -> Any:  # noqa: ANN401  PEFT is not typed
    """Return ``model`` with a fresh adapter, initialised by ``seed``.

    :raises ConfigInvalid: ``targetModules`` names what the model doesn't have, or what can't be adapted; lists what it has.
    """
    check_targets(model, spec)
    set_seed(seed)
    try:
        adapted = get_peft_model(model, build_lora_config(spec))
    except ValueError as error:
        raise ConfigInvalid(f"method.adapter: {str(error).splitlines()[0]}. {_list_available(model)}") from error
    trainable, total = adapted.get_nb_trainable_parameters()
    logger.info("adapter: %s of %s parameters are trained", f"{trainable:,}", f"{total:,}")
    return adapted


def check_targets(model: Any, spec: AdapterSpec) -> None:  # noqa: ANN401
    """Check that each target matches a linear layer, and none the head.

    PEFT is content with one match among several names, so that a misspelt name would train less than was asked for.

    :raises ConfigInvalid: names the target and what the model has.
    """
    if spec.target_modules == ALL_LINEAR:
        return
    linear = _linear_modules(model)
    targets = spec.resolved_target_modules
    matched: set[str] = set()
    for target in [targets] if isinstance(targets, str) else targets:
        if isinstance(targets, str):
            found = {name for name in linear if re.fullmatch(target, name)}
        else:
            found = {name for name in linear if name == target or name.endswith(f".{target}")}
        if not found:
            raise ConfigInvalid(f"method.adapter.targetModules: {target!r} matches no linear layer of the model. {_list_available(model)}")
        matched |= found
    head = model.get_output_embeddings()
    if any(linear[name] is head for name in matched):
        raise ConfigInvalid(f"method.adapter.targetModules: the head can't be adapted; leave it out. {_list_available(model)}")


def _linear_modules(model: Any) -> dict[str, nn.Module]:  # noqa: ANN401
    """Linear layers by path, quantised ones included (they are subclasses)."""
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415  GPT-2's own name for a linear layer

    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}


def _list_available(model: Any) -> str:  # noqa: ANN401
    head = model.get_output_embeddings()
    names = sorted({name.rsplit(".", 1)[-1] for name, module in _linear_modules(model).items() if module is not head})
    return f"It has: {', '.join(names[:40])}. Name some of these, or use all-linear"
