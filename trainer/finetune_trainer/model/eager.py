"""Loading bitsandbytes without torch's compiler."""

import importlib
from collections.abc import Callable
from typing import Any

import torch


def load_bitsandbytes() -> None:
    """Import bitsandbytes with its reference kernels left uncompiled.

    It hands four of them to ``torch.compile`` while it is imported, which loads all of torch's compiler: seconds of every start. Processors
    and CUDA have kernels of their own for what they do; where one falls back to these, compiling would need a C++ compiler, which an image
    has not got, and would be tried again at every call.
    """
    compiler = torch.compile
    torch.compile = _leave_eager  # type: ignore[assignment]
    try:
        importlib.import_module("bitsandbytes")
    finally:
        torch.compile = compiler


def _leave_eager(function: Callable[..., Any] | None = None, **options: Any) -> Any:  # noqa: ANN401
    del options
    return function if function is not None else _leave_eager
