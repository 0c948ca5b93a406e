"""What dividing the base model over the processes of a run (FSDP2) leaves on each GPU, and what it gathers there while it computes.

Each GPU holds its part of every weight of the base. A decoder layer is gathered whole for as long as it computes; what is beside the
layers (embedding, head, last norm), for the whole of a pass. Quantisation constants, adapters, teachers and activations are not divided.
With ``gradients`` what a forward pass has gathered stays; with ``shardOffloading`` the parts lie in the node's memory.
The trainer's side of it is ``finetune_trainer.model.sharding``; what lives when was read from ``torch.distributed.fsdp`` of 2.15 and is
held to PyTorch's tracking by ``benchmarks/estimate``.
"""

from dataclasses import dataclass

from finetune_api.estimate.shape import ModelShape
from finetune_api.spec import FineTuneJobSpec


@dataclass(frozen=True, slots=True)
class Division:
    """A base model that is divided. Sizes are those of gathered weights, as they are multiplied with."""

    parts: int
    """Processes, each with a GPU of its own."""
    layer_bytes: int
    """One decoder layer."""
    root_bytes: int
    """Embedding, head and last norm."""
    kept_layers: int
    """Layers that stay gathered from the forward pass to the backward pass."""
    offloads: bool
    """The parts lie in the node's memory."""


def divides(spec: FineTuneJobSpec) -> bool:
    """Return whether the run ``spec`` divides its base model: one GPU alone holds all of it, whatever was asked for."""
    return spec.training.sharding != "none" and spec.resources.gpus * spec.resources.nodes > 1


def build_division(shape: ModelShape, spec: FineTuneJobSpec) -> Division | None:
    """Return how the run ``spec`` divides a base of ``shape``; None where each GPU holds all of it."""
    if not divides(spec):
        return None
    quantization = spec.method.quantization
    width = 4 if quantization.compute_dtype == "float32" else 2
    linear = shape.linear_parameters // shape.layers
    last_norm = shape.hidden
    others = (shape.other_parameters - last_norm + shape.expert_parameters) // shape.layers
    head = shape.vocabulary * shape.hidden if spec.method.objective == "reward" and not shape.tied else 0  # a score is in its place
    return Division(
        parts=spec.resources.gpus * spec.resources.nodes,
        layer_bytes=(linear // 2 if quantization.type in ("nf4", "fp4") else linear * width) + others * width,
        root_bytes=(shape.embedding_parameters - head + last_norm) * width,
        kept_layers=shape.layers if spec.training.sharding == "gradients" else 0,
        offloads=spec.training.shard_offloading,
    )
