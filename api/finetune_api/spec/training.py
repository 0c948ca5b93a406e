"""How training runs: length, rate, batch, checkpoints."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import ApiModel

Optimizer = Literal[
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adamw_8bit",
    "adamw_torch",
    "adamw_torch_fused",
    "paged_lion_8bit",
    "paged_lion_32bit",
    "adafactor",
    "sgd",
]
LearningRateScheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]


class CheckpointSpec(ApiModel):
    """How often the run is saved, so that an interruption costs little."""

    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Save after this many optimizer steps, and also when the pod is asked to stop."""
    keep: Annotated[int, Field(ge=1, le=10)] = 2
    """Newest checkpoints to keep. All go once the adapter is published."""


class TrainingSpec(ApiModel):
    """Hyperparameters, in the words of transformers and TRL."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    """Passes over the data."""
    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Stop after this many optimizer steps, whatever `epochs` says."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    """Peak learning rate."""
    lr_scheduler: LearningRateScheduler = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Gradients are clipped to this norm; 0 turns it off."""
    per_device_batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Examples (packed sequences with `packing`) in one forward pass on one device."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=4096)] = 4
    """Forward passes to one optimizer step."""
    max_length: Annotated[int, Field(ge=16, le=1_048_576)] = 2048
    """Longest sequence in tokens; what is longer is truncated and counted in `status.dataset.truncated`."""
    packing: bool = True
    """Fill sequences up to `maxLength` with several examples, which attend only to themselves."""
    loss_on: Literal["completion", "all"] = "completion"
    """Learn only from answers (`completion`: completions, or the assistant's turns), or from every token. Rows of plain text are
    always learnt whole."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: much less memory, about a fifth slower."""
    optimizer: Optimizer = "paged_adamw_8bit"
    """Optimizer, by transformers' own name."""
    eval_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Evaluate after this many optimizer steps; at the end of each epoch if it is not given."""
    logging_steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Record metrics after this many optimizer steps."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42
    """Seed of everything random: split, order, initialisation, dropout."""
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec)
    """How often the run is saved."""
