"""Where the examples of packed rows begin, as attention by variable lengths wants it: see decision 47."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.masking_utils import causal_mask_function, sdpa_mask

Sees = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Whether the tokens at some places of their rows see those at others: three matrices of rows x places."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """Stands where layers get their mask, and says the same in a few numbers: each token sees those of its own example up to itself."""

    starts: torch.Tensor
    """Where each example begins in all rows one after the other, and the end of the last: int32, on the device of the tokens."""
    longest: int
    """Tokens of the longest example."""
    window: int | None
    """How many tokens one sees, itself included; None where it sees all before it."""
    build: Callable[[], torch.Tensor]
    """Builds the mask that this stands for."""
    _built: list[torch.Tensor] = field(default_factory=list)

    def mask(self) -> torch.Tensor:
        """Return that mask (rows, 1, tokens, tokens), true where one token sees the other. It is built once for all layers."""
        if not self._built:
            self._built.append(self.build())
        return self._built[0]


def find_starts(sees: Sees, rows: int, length: int, window: int | None, device: torch.device | str) -> tuple[torch.Tensor, int] | None:
    """Return where examples begin (see :class:`PackedRows`), and the longest one's tokens.

    An example begins where a token does not see the one before it. For each token it is looked at whether it sees itself and the first
    token that it should, but neither the one before that nor the one after itself. Numbers pass from the device to the processor once.

    :param length: tokens of a row.
    :param window: see :class:`PackedRows`.
    :return: None where tokens see other tokens than those.
    """
    places = torch.arange(length, device=device).expand(rows, length)
    begins = (places == 0) | ~sees(places, (places - 1).clamp_min(0))
    first = torch.where(begins, places, 0).cummax(-1).values
    if window is not None:
        first = first.maximum(places - window + 1)
    fits = sees(places, places) & sees(places, first)
    fits &= (first == 0) | ~sees(places, (first - 1).clamp_min(0))
    fits &= (places == length - 1) | ~sees(places, (places + 1).clamp_max(length - 1))
    told = torch.cat([begins.flatten(), fits.all()[None]]).cpu()
    if not told[-1]:
        return None
    told[-1] = True  # the end of the last
    starts = told.nonzero().flatten().to(torch.int32)
    return starts.to(device), int(starts.diff().max())


def describe_rows(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., torch.Tensor] = causal_mask_function,  # type: ignore[assignment]  # typed as if for one pair
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,  # noqa: FBT001, FBT002  transformers' own names and order
    use_vmap: bool = False,  # noqa: FBT001, FBT002
    device: torch.device | str = "cpu",
    **options: Any,  # noqa: ANN401
) -> torch.Tensor | PackedRows | None:
    """Return what layers get as their mask: :class:`PackedRows` where that says it, else what transformers makes for torch's attention.

    transformers calls it once a forward pass for each kind of layer. That is: not where there is padding, or a cache before the tokens, or
    where examples see by other rules than the order of their tokens.
    """
    told = {
        "batch_size": batch_size,
        "q_length": q_length,
        "kv_length": kv_length,
        "q_offset": q_offset,
        "kv_offset": kv_offset,
        "mask_function": mask_function,
        "attention_mask": attention_mask,
        "local_size": local_size,
        "allow_is_causal_skip": allow_is_causal_skip,
        "use_vmap": use_vmap,
        "device": device,
        **options,
    }
    needs_none = allow_is_causal_skip and (local_size is None or kv_length < local_size)  # one example, all of it in sight
    begins_here = isinstance(q_offset, int) and q_offset == kv_offset == 0 and q_length == kv_length
    sees_none = local_size is not None and local_size < 1  # a window that no layer has, of models that could have one
    if needs_none or sees_none or not begins_here or attention_mask is not None or use_vmap:
        return sdpa_mask(**told)
    row = torch.arange(batch_size, device=device)[:, None]
    head = torch.zeros((), dtype=torch.long, device=device)

    def sees(places: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return mask_function(row, head, places, others).expand(batch_size, q_length)

    found = find_starts(sees, batch_size, q_length, local_size, device)
    if found is None:
        return sdpa_mask(**told)
    return PackedRows(*found, local_size, lambda: _build_mask(told))


def _build_mask(told: dict[str, Any]) -> torch.Tensor:
    mask = sdpa_mask(**{**told, "allow_is_causal_skip": False})
    assert mask is not None  # noqa: S101  only what may be skipped is none
    return mask
