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
Sharding = Literal["none", "gradients", "full"]
LearningRateScheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]


class CheckpointSpec(ApiModel):
    """How often the run is saved, so that an interruption costs little."""

    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Save after this many optimizer steps, and also when the pod is asked to stop."""
    keep: Annotated[int, Field(ge=1, le=10)] = 2
    """Newest checkpoints to keep. All go once the adapter is published."""
    publish_best: bool = False
    """Publish the adapter as it was when the held-out loss was lowest, instead of the last one. It needs held-out data."""


class EarlyStoppingSpec(ApiModel):
    """Stop before the end, once the held-out loss no longer falls."""

    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations in a row without a new lowest held-out loss after which the run stops."""
    min_delta: Annotated[float, Field(ge=0, le=100)] = 0.0
    """A loss counts as lower only if it is lower by more than this."""


class DivergenceSpec(ApiModel):
    """What is done about a loss that is not finite, or leaps."""

    action: Literal["fail", "rollBack"] = "fail"
    """`fail`: end the run. `rollBack`: go back to the last good checkpoint and on from there with a lower learning rate."""
    spike_factor: Annotated[float, Field(gt=1, le=1000)] | None = None
    """A loss above this many times the median of the last 32 steps, three steps in a row, counts as divergence too. Without it only a
    loss that is not finite does."""
    learning_rate_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What the learning rate is multiplied by at each return."""
    max_roll_backs: Annotated[int, Field(ge=1, le=10)] = 3
    """Returns before the run fails after all."""


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
    """Longest sequence in tokens; `dataset.tooLong` says what becomes of what is longer."""
    packing: bool = True
    """Fill sequences up to `maxLength` with several examples, which attend only to themselves. Used by the objectives `sft`, `pretrain`
    and `distill`; the others compare whole answers."""
    neftune_noise_alpha: Annotated[float, Field(gt=0, le=100)] | None = None
    """Noise on the embeddings while training (NEFTune: arXiv 2310.05914); 5 is usual."""
    loss_on: Literal["completion", "all"] = "completion"
    """Learn only from answers (`completion`: completions, or the assistant's turns), or from every token. Rows of plain text are
    always learnt whole."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: much less memory, about a fifth slower."""
    activation_offloading: bool = False
    """Hold activations in the node's memory between the forward and the backward pass: less GPU memory, slower. Raise
    `resources.memory`."""
    compile: bool = False
    """Compile the model's layers (`torch.compile`): other, fused kernels, and a first step that takes longer by about a minute. It needs a
    compiler of C in the trainer's image."""
    sharding: Sharding = "none"
    """How several processes hold the base model. `none`: each holds all of it (DDP). `full`: each holds a part of it, and gathers one
    layer after the other while it computes (FSDP2). An adapter stays whole in each; with `adapter.type` none, gradients and optimizer
    are divided as well. `gradients`, for `adapter.type` none: the same, but what the forward pass has gathered stays until the backward
    pass is done with it: two exchanges of each layer instead of three, for 2 bytes a parameter."""
    shard_offloading: bool = False
    """Hold each process's part of a divided model in the node's memory, with `adapter.type` none those of gradients and optimizer as well,
    whose steps the processor then takes: less GPU memory, slower. Raise `resources.memory` and `resources.cpu`."""
    optimizer: Optimizer = "paged_adamw_8bit"
    """Optimizer, by transformers' own name."""
    eval_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Evaluate after this many optimizer steps; at the end of each epoch if it is not given."""
    logging_steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Record metrics after this many optimizer steps."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42
    """Seed of everything random: split, order, initialisation, dropout."""
    on_out_of_memory: Literal["stepDown", "fail"] = "stepDown"
    """`stepDown`: halve the batch and double the accumulation, which leaves what is learnt as it is; then turn gradient checkpointing
    on; then hold activations in the node's memory; each time going on from the last checkpoint. `fail`: end the run."""
    divergence: DivergenceSpec = Field(default_factory=DivergenceSpec)
    """What is done about a loss that is not finite, or leaps."""
    early_stopping: EarlyStoppingSpec | None = None
    """Stop before the end, once the held-out loss no longer falls; off if it is not given."""
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec)
    """How often the run is saved."""
