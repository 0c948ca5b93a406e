"""Activations that leave the device, on tensors without contents: TRL's own hooks, which think that they move them from a GPU to the node.

Here the processor's memory stands for the GPU's, and CUDA's, of which fake tensors need none, for the node's. Streams and events decide
when a copy is done, not what is alive: they do nothing. Memory is given back as soon as the last reference goes, as by the allocator.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import nn
from trl.models import activation_offloading

NODE = "cuda"
"""Device that stands for the node's memory."""


class _Stream:
    """A stream on which everything is done at once."""

    def wait_stream(self, other: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def record_event(self) -> None: ...

    def synchronize(self) -> None: ...


def _do_nothing(*_: Any) -> None:
    """Stands for what concerns streams alone."""


def _find_device() -> torch.device:
    return torch.device("cpu")


def _find_module(_: str) -> SimpleNamespace:
    return SimpleNamespace(Stream=_Stream, current_stream=_Stream, stream=_on, empty_cache=_do_nothing)


@contextmanager
def _on(stream: Any) -> Iterator[None]:
    del stream
    yield


@contextmanager
def offload_activations(model: nn.Module) -> Iterator[Any]:
    """Yield TRL's context for a training step of ``model`` whose activations are held elsewhere."""
    empty_like = torch.empty_like

    def make_elsewhere(tensor: torch.Tensor, **options: Any) -> torch.Tensor:
        if "pin_memory" in options:  # the hooks' own
            options |= {"pin_memory": False, "device": NODE}
        return empty_like(tensor, **options)

    with ExitStack() as stack:
        with (
            mock.patch.object(torch.accelerator, "current_accelerator", _find_device),
            mock.patch.object(torch, "get_device_module", _find_module),
        ):
            hooks = activation_offloading.get_act_offloading_ctx_manager(model, use_pin_memory=False, warn_if_no_head=False)
        stack.enter_context(mock.patch.object(torch, "empty_like", make_elsewhere))
        # Storages without contents have no address, but are told apart all the same.
        stack.enter_context(mock.patch.object(torch.UntypedStorage, "data_ptr", lambda storage: storage._cdata))
        stack.enter_context(mock.patch.object(torch.Tensor, "record_stream", _do_nothing))
        hooks.update_model_params(model)
        yield hooks
