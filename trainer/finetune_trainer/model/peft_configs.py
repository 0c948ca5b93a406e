"""From the specification of an adapter to PEFT's configuration of it."""

from typing import Any

from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    PromptTuningInit,
)
from peft.tuners.lora.config import EvaConfig

from finetune_api.spec import AdapterSpec
from finetune_trainer.model.targets import find_feedforward_modules, find_target_modules, find_target_parameters

_TASK = "CAUSAL_LM"


def build_lora_config(
    spec: AdapterSpec, target_modules: str | list[str], target_parameters: list[str] | None = None, *, scores: bool = False
) -> LoraConfig:
    """Build PEFT's configuration of a LoRA adapter. LoftQ begins as usual: see :mod:`finetune_trainer.model.initialisation`."""
    init: Any = True if spec.init in ("default", "loftq") else spec.init
    return LoraConfig(
        task_type="SEQ_CLS" if scores else _TASK,  # which trains and saves a reward model's head, too
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=target_modules,
        target_parameters=target_parameters or None,
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        init_lora_weights=init,
        eva_config=EvaConfig() if spec.init == "eva" else None,
        bias="none",
    )


def build_peft_config(spec: AdapterSpec, model: Any, *, scores: bool = False) -> PeftConfig:  # noqa: ANN401
    """Build PEFT's configuration of an adapter of any type but ``none`` on ``model``.

    :param scores: ``model`` is a reward model.
    :raises ConfigInvalid: the model has not the weights that are asked for.
    """
    if spec.type == "lora":
        return build_lora_config(spec, find_target_modules(model, spec), find_target_parameters(model, spec), scores=scores)
    if spec.type == "adalora":
        return AdaLoraConfig(
            task_type=_TASK,
            init_r=spec.resolved_init_r,
            target_r=spec.r,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            target_modules=find_target_modules(model, spec),
            total_step=1,  # set once the number of steps is known: see AdaptedModel.begin
            bias="none",
        )
    if spec.type == "ia3":
        feedforward = find_feedforward_modules(model, spec)
        targets = find_target_modules(model, spec)
        # PEFT wants the feed-forward layers among the targets by the same names
        names = [*targets, *feedforward] if isinstance(targets, list) else targets
        return IA3Config(task_type=_TASK, target_modules=names, feedforward_modules=feedforward)
    tokens = spec.resolved_virtual_tokens
    if spec.type == "prompt-tuning":
        # Lester et al. found tokens of the vocabulary a better beginning than random numbers
        return PromptTuningConfig(task_type=_TASK, num_virtual_tokens=tokens, prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB)
    if spec.type == "p-tuning":
        return PromptEncoderConfig(
            task_type=_TASK,
            num_virtual_tokens=tokens,
            encoder_reparameterization_type=(spec.encoder or "mlp").upper(),
            encoder_hidden_size=model.get_input_embeddings().weight.shape[1],
            encoder_dropout=0.0,
        )
    return PrefixTuningConfig(task_type=_TASK, num_virtual_tokens=tokens)
