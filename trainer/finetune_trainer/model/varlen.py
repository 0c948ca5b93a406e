"""Attention of packed rows by torch's own kernel for variable lengths, as an attention that transformers knows: see decision 47."""

from typing import Any, Final

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from finetune_trainer.model.varlen_rows import PackedRows, describe_rows

NAME: Final = "finetune_varlen"
"""Our name among transformers' attentions. Not one with `flash` in it: transformers would take it for a package to be fetched."""
DTYPES: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)
"""What the kernel computes in."""
_WIDEST: Final = 256
_MULTIPLE: Final = 8
_UNKNOWN: Final = {"softcap": "its scores are capped", "s_aux": "it has sinks", "position_bias": "positions are added to its scores"}
"""What layers may ask for that the kernel has not got."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | PackedRows | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,  # noqa: ANN401
) -> tuple[torch.Tensor, None]:
    """Compute one layer's attention, by the kernel if it can, else as transformers does by torch's attention with a mask.

    :param query: rows x heads x tokens x numbers of a head; key and value may have fewer heads, and those of value fewer numbers.
    :return: rows x tokens x heads x numbers of a head.
    """
    mask = attention_mask
    if isinstance(mask, PackedRows):
        query, key, value = narrow(query, key, value)
        if find_obstacle(query, key, value, dropout, options) is None:
            return attend_to_rows(query, key, value, mask, scaling), None
        mask = mask.mask()
    return sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **options)


def narrow(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return ``tensors`` in the type of mixed precision where that is on, as torch does for its own attention."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)


def find_obstacle(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, options: dict[str, Any]) -> str | None:
    """Return why the kernel can't compute a layer's attention; None where it can.

    :param options: what the layer asks for beside its scale.
    """
    if dropout:
        return "its probabilities are dropped out"
    for name, words in _UNKNOWN.items():
        if options.get(name) is not None:
            return words
    kinds = {each.dtype for each in (query, key, value)}
    if len(kinds) > 1 or query.dtype not in DTYPES:
        return f"it computes in {', '.join(sorted(str(kind).removeprefix('torch.') for kind in kinds))}"
    size = query.shape[-1]
    if value.shape[-1] > size or size % _MULTIPLE or size > _WIDEST:
        return f"its heads have {size} numbers, and {value.shape[-1]} of values"
    return None


def attend_to_rows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: PackedRows, scaling: float | None = None
) -> torch.Tensor:
    """Compute attention within the examples of ``rows``. For shapes see :func:`attend`.

    It is always Flash's kernel: of torch's two, cuDNN's takes no windows, and short examples only in some versions, so that another one
    would run for some batches than was tried before the first step.
    """
    wide = pad(value, (0, query.shape[-1] - value.shape[-1]))  # the kernel wants one size of them all
    flat_query, flat_key, flat_value = (each.transpose(1, 2).flatten(0, 1) for each in (query, key, wide))
    bounds = (-1, 0) if rows.window is None or rows.window >= rows.longest else (rows.window - 1, 0)  # both ends are seen
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        found = varlen_attn(
            flat_query,
            flat_key,
            flat_value,
            rows.starts,
            rows.starts,
            rows.longest,
            rows.longest,
            scale=scaling,
            window_size=bounds,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    assert isinstance(found, torch.Tensor)  # noqa: S101  nothing else was asked for
    return found.reshape(query.shape[0], query.shape[2], *found.shape[1:])[..., : value.shape[-1]]


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, describe_rows)
