"""Whether a run's packed rows are told apart by variable lengths or by a mask, and the proof that comes before the first step.

See decision 47.
"""

import inspect
import logging
import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from finetune_api.names import ENV_PACKED_ATTENTION
from finetune_api.spec.method import ComputeDtype
from finetune_trainer.configuration import PackedAttention
from finetune_trainer.device import Device

logger = logging.getLogger(__name__)

KERNELS: tuple[str, ...] = ("cuda",)
"""Kinds of devices that torch has the kernel for."""
TYPES: tuple[str, ...] = ("float16", "bfloat16")
"""What it computes in."""
_DROPOUTS: Final = ("attention_dropout", "attn_pdrop")
"""Names of a model's own dropout of attention's probabilities."""
_BY_MASK: Final = "%s: packed examples are told apart by a mask: %s"
_ASKS: Final = re.compile(r"_attn_implementation\s*(==|!=|in|not in)[^\n]*\bsdpa\b")
"""Code that computes otherwise where attention is torch's own."""


def choose_attention(
    model: Any,  # noqa: ANN401
    device: Device,
    compute_dtype: ComputeDtype,
    wanted: PackedAttention,
    *,
    compiles: bool = False,
) -> str | None:
    """Return why ``model`` can't tell packed examples apart by variable lengths; None where it is worth the proof. Computes nothing.

    :param compiles: its layers will be compiled: how they would take lengths, nobody has seen.
    """
    if wanted == "mask":
        return f"{ENV_PACKED_ATTENTION} is set to mask"
    if compiles:
        return "its layers are compiled"
    if device.kind not in KERNELS:
        return "torch has a kernel for it on GPUs alone"
    if compute_dtype not in TYPES:
        return "its kernel computes in 16 bits, and method.quantization.computeDtype is " + compute_dtype
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return f"the attention of {config.model_type} is its own"
    if any(not _is_plain(kind) for kind in {type(module) for module in model.modules() if isinstance(module, PreTrainedModel)}):
        return f"{config.model_type} computes otherwise where its attention is not torch's"
    if any(getattr(config, name, None) for name in _DROPOUTS):
        return f"{config.model_type} drops out some of its attention, which the kernel can't"
    return None


def settle_attention(
    model: Any,  # noqa: ANN401
    uri: str,
    device: Device,
    compute_dtype: ComputeDtype,
    wanted: PackedAttention,
    *,
    compiles: bool = False,
) -> bool:
    """Let ``model`` tell packed examples apart by variable lengths, where that is proven to work here; say in the log what became of it.

    :param uri: of the model, for the log.
    :param compiles: see :func:`choose_attention`.
    :return: whether it does.
    """
    obstacle = choose_attention(model, device, compute_dtype, wanted, compiles=compiles)
    if obstacle is not None:
        logger.info(_BY_MASK, uri, obstacle)
        return False
    from finetune_trainer.model.varlen import NAME  # noqa: PLC0415  registers itself; few runs need it
    from finetune_trainer.model.varlen_proof import NoLayer, prove  # noqa: PLC0415

    try:
        with mix_precision(model, compute_dtype):
            layers = prove(model, torch.device(device.kind, device.index))
    except NoLayer as error:
        logger.info(_BY_MASK, uri, error)
        return False
    except Exception as error:  # noqa: BLE001  whatever it is, the mask works
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("%s: packed examples are told apart by a mask, not by variable lengths, which take less memory: %s", uri, words)
        return False
    model.set_attn_implementation(NAME)
    logger.info("%s: packed examples are told apart by variable lengths in %s; held against a mask on this device", uri, layers)
    return True


def mix_precision(model: Any, compute_dtype: ComputeDtype) -> AbstractContextManager[Any]:  # noqa: ANN401
    """Return the mixed precision that training will have."""
    if compute_dtype == "float32":
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, getattr(torch, compute_dtype))


def _is_plain(kind: type[PreTrainedModel]) -> bool:
    """Return whether a model asks transformers for its attention by name, and does nothing by that name itself."""
    if not kind._can_set_attn_implementation():
        return False
    module = inspect.getmodule(kind)
    return module is not None and _ASKS.search(inspect.getsource(module)) is None
