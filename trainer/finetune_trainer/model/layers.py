"""The decoder layers of a model."""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def list_layers(model: nn.Module) -> list[nn.Module]:
    """Return the decoder layers of ``model``, as transformers marks them: none where it marks none."""
    found: list[nn.Module] = []

    def descend(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, GradientCheckpointingLayer):
                found.append(child)
            else:
                descend(child)

    descend(model)
    return found
