"""Decoder layers compiled in place by torch, each like all others of its kind: see decision 48."""

import importlib
import logging
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Final

import torch
from torch import nn

from finetune_trainer.device import Device
from finetune_trainer.ending import is_out_of_memory
from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.model.layers import list_layers

logger = logging.getLogger(__name__)

OPTIONS: Final[dict[str, Any]] = {"deterministic": True}
"""Of torch's compiler: never choose between kernels by the clock, so that the next pod's kernels add up in the same order."""


_COMPILERS: Final = 4
"""Processes that compile at a time. torch would begin one for each of the node's processors, whatever memory the pod has."""


def check_compiler(device: Device) -> None:
    """Compile something small and run it on ``device``: what that needs is there then, a compiler of C, headers, a folder to write to.

    :raises ConfigInvalid: it can't be done; says why.
    """
    inductor: Any = importlib.import_module("torch._inductor.config")  # seconds, for runs that compile alone
    inductor.compile_threads = min(inductor.compile_threads, _COMPILERS)
    rows = torch.arange(32.0, device=torch.device(device.kind, device.index) if device.kind == "cuda" else "cpu")
    try:
        found = torch.compile(_measure, options=OPTIONS)(rows)
    except Exception as error:  # whatever it is, nothing can be compiled
        raise ConfigInvalid(
            f"training.compile: nothing can be compiled for {device.name} in this image ({_describe(error)}); use a trainer's image with a "
            "compiler of C (built with TRAINER_PACKAGES), or set training.compile to false"
        ) from error
    if not torch.allclose(found, _measure(rows)):
        raise ConfigInvalid(f"training.compile: what is compiled for {device.name} computes wrong; set training.compile to false")


def compile_layers(model: nn.Module) -> None:
    """Let every decoder layer of ``model`` be compiled when the first step passes through it. Names, types and weights stay as they are.

    Only passes that gradients are taken from are compiled. What is measured and generated without them is by the layers as anybody loads
    them, and their many lengths cost no compilations.

    :raises ConfigInvalid: transformers doesn't say which its layers are.
    """
    layers = list_layers(model)
    if not layers:
        raise ConfigInvalid(
            "training.compile: the layers of this model can't be told from the rest, so that they can't be compiled; set it to false"
        )
    compiled = torch.compile(_pass_through, options=OPTIONS)
    for layer in layers:
        layer.forward = CompiledForward(layer, compiled)
    logger.info("%d layers are compiled when the first step passes through them", len(layers))


class CompiledForward:
    """What a compiled layer has in place of its own ``forward``."""

    def __init__(self, layer: nn.Module, compiled: Any) -> None:  # noqa: ANN401
        self._layer = weakref.ref(layer)  # a circle would hold the model until the collector comes by
        self._compiled = compiled

    def __call__(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        """Pass ``arguments`` through the layer."""
        layer = self._layer()
        assert layer is not None  # noqa: S101  it is calling
        if not (layer.training and torch.is_grad_enabled()):
            return type(layer).forward(layer, *arguments, **options)
        states = arguments[0] if arguments else options["hidden_states"]
        _leave_open(states, _find_tensors((*arguments, *options.values())))
        if not getattr(layer, "gradient_checkpointing", False):
            return self._compiled(layer, arguments, options)
        # Around what is compiled, not within: what layers note of themselves (int8, DoRA) can't be compiled in a part that is done twice
        return layer._gradient_checkpointing_func(lambda *given: self._compiled(layer, given, options), *arguments)  # type: ignore[operator]


def explain_failure(error: BaseException) -> ConfigInvalid | None:
    """Return what to tell of an ``error`` that torch's compiler has raised; None of any other, and of memory or disk that are used up."""
    from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415  loaded by now where anything is compiled

    chain = list(_unwind(error))
    if not any(isinstance(each, TorchDynamoException) for each in chain):
        return None
    if any(isinstance(each, OSError) or is_out_of_memory(each) for each in chain):
        return None
    return ConfigInvalid(f"training.compile: a layer of this model can't be compiled ({_describe(error)}); set training.compile to false")


def _pass_through(layer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:  # noqa: ANN401
    forward = type(layer).forward
    return getattr(forward, "__wrapped__", forward)(layer, *arguments, **options)  # without transformers' own checkpointing around it


def _leave_open(states: torch.Tensor, tensors: Iterable[torch.Tensor]) -> None:
    """Mark which sizes change from one pass to the next: one graph is then made for all of them.

    :param states: batch x tokens x features.
    """
    rows, tokens = states.shape[:2]
    for tensor in tensors:
        for place, size in enumerate(tensor.shape):
            if size > 1 and size == (rows if place == 0 else tokens):  # torch makes a graph of its own for 1
                torch._dynamo.maybe_mark_dynamic(tensor, place)


def _measure(rows: torch.Tensor) -> torch.Tensor:
    return (rows * rows + 1).sum().sqrt()


def _find_tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _find_tensors(value)


def _unwind(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _describe(error: BaseException) -> str:
    cause = getattr(error, "inner_exception", error)
    return (str(cause).strip() or type(cause).__name__).splitlines()[0][:300]
