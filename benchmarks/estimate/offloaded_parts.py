"""Parts of a divided model that lie in the node's memory, on tensors without contents: torch's own FSDP2, which thinks that it moves them.

Here the processor's memory stands for the GPU's, and CUDA's, of which fake tensors need none, for the node's: what FSDP2 moves to the
processor goes there instead, and comes back from there.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

from benchmarks.estimate.offloading import NODE


def _do_nothing(_: Any) -> None:
    """Stands for the question whether all parts lie on the processor."""


@contextmanager
def offload_parts() -> Iterator[None]:
    """Let the parts of what is divided in the block lie in the node's memory, and their gradients with them."""
    move = torch.Tensor.to

    def move_part(tensor: torch.Tensor) -> torch.Tensor:
        return move(tensor, NODE)

    def move_gradient(tensor: torch.Tensor, *target: Any, **options: Any) -> torch.Tensor:
        if "non_blocking" in options and target == (torch.device("cpu"),) and tensor.device.type != NODE:
            return move(tensor, NODE)
        return move(tensor, *target, **options)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.Tensor, "cpu", move_part))
        stack.enter_context(mock.patch.object(torch.Tensor, "to", move_gradient))
        stack.enter_context(mock.patch.object(FSDPParamGroup, "_validate_cpu_offload_params", _do_nothing))
        yield
