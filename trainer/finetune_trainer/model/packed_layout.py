"""How GPTQ, AWQ and compressed-tensors lay out a linear layer's weight as whole numbers of 4 or 8 bits, each read into one form.

All three mean the same: weight = (level - zero) * scale, with one zero and one scale for a row's ``group`` inputs. Formats, as their own
libraries write them: GPTQ (AutoGPTQ, GPTQModel), AWQ (AutoAWQ's version `gemm`), compressed-tensors (`pack-quantized`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
"""AWQ: the output whose number stands in the n-th four bits of a word of eight outputs."""
_WORD: Final = 32


class LayoutUnknown(ValueError):
    """The numbers are laid out in a way that is not read here; says how."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model's configuration says of its packed weights."""

    method: str
    """`gptq`, `awq` or `compressed-tensors`."""
    bits: int
    """4 or 8."""
    zero_above: bool = False
    """GPTQ's first version holds each zero as one less than it is."""

    @property
    def names(self) -> tuple[str, ...]:
        """Ends of the names of what a file holds for one layer; the first is always there, and says that a layer is packed."""
        if self.method == "compressed-tensors":
            return ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
        return ("qweight", "scales", "qzeros", "g_idx")


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight of a linear layer, in whole numbers."""

    levels: torch.Tensor
    """Outputs x inputs, each 0 to 2^bits - 1; 8-bit without a sign. Of 4 bits two to a byte, the lower input's in the lower half."""
    zeros: torch.Tensor
    """Outputs x groups: the level that stands for 0. Of 4 bits 8-bit without a sign, of 8 bits 32-bit: they reach 256, and gloo and NCCL
    hand no 16-bit whole numbers from process to process."""
    scale: torch.Tensor
    """Outputs x groups, in the type of the file."""
    order: torch.Tensor | None
    """The group of each input, 64-bit; None where inputs are grouped as they come."""


def read_layout(found: Mapping[str, Any]) -> Layout:
    """Read the layout from a model's ``quantization_config``.

    :raises LayoutUnknown: it is not one of those that are read here.
    """
    match str(found.get("quant_method", "")):
        case "gptq":
            return _read_gptq(found)
        case "awq":
            return _read_awq(found)
        case "compressed-tensors":
            return _read_compressed(found)
        case other:
            raise LayoutUnknown(f"in a way of its own ({other or 'quant_method is missing'})")


def _read_gptq(found: Mapping[str, Any]) -> Layout:
    layout = str(found.get("checkpoint_format") or found.get("format") or "gptq")
    if layout not in ("gptq", "gptq_v2"):
        raise LayoutUnknown(f"by GPTQ in the format {layout}; gptq and gptq_v2 are read")
    if found.get("dynamic"):
        raise LayoutUnknown("by GPTQ with settings of their own for some layers (dynamic)")
    return Layout("gptq", _check_bits("GPTQ", found.get("bits"), (4, 8)), zero_above=layout == "gptq")


def _read_awq(found: Mapping[str, Any]) -> Layout:
    version = str(found.get("version") or found.get("format") or "gemm").lower()
    if version != "gemm":
        raise LayoutUnknown(f"by AWQ in the version {version}; gemm is read")
    return Layout("awq", _check_bits("AWQ", found.get("bits", found.get("w_bit")), (4,)))


def _read_compressed(found: Mapping[str, Any]) -> Layout:
    groups = list((found.get("config_groups") or {}).values())
    formats = {str(group.get("format") or found.get("format")) for group in groups}
    weights = [group.get("weights") or {} for group in groups]
    if formats != {"pack-quantized"}:
        raise LayoutUnknown(f"by compressed-tensors in the format {', '.join(sorted(formats)) or 'none'}; pack-quantized is read")
    if any(group.get("input_activations") or group.get("output_activations") for group in groups) or found.get("kv_cache_scheme"):
        raise LayoutUnknown("by compressed-tensors, activations or cache included; weights alone are read")
    if any(each.get("type") != "int" for each in weights) or len({each.get("num_bits") for each in weights}) > 1:
        raise LayoutUnknown("by compressed-tensors in numbers of several kinds; whole numbers of one width are read")
    return Layout("compressed-tensors", _check_bits("compressed-tensors", weights[0].get("num_bits"), (4, 8)))


def _check_bits(name: str, bits: object, known: tuple[int, ...]) -> int:
    if not isinstance(bits, int) or bits not in known:
        raise LayoutUnknown(f"by {name} to {bits} bits; {' and '.join(map(str, known))} are read")
    return bits


def read_weight(layout: Layout, tensors: Mapping[str, torch.Tensor], outputs: int, inputs: int) -> PackedWeight:
    """Return the weight of a layer from what its file holds.

    :param tensors: by the ends of their names, see :attr:`Layout.names`.
    :raises LayoutUnknown: the sizes don't match a layer of ``outputs`` x ``inputs``.
    """
    bits = layout.bits
    match layout.method:
        case "gptq":
            levels = unpack(tensors["qweight"].T, bits)
            zeros = unpack(tensors["qzeros"], bits).T.to(torch.int32) + int(layout.zero_above)
            scale, order = tensors["scales"].T, tensors.get("g_idx")
        case "awq":
            levels = unpack(tensors["qweight"], bits, _AWQ_ORDER).T
            scale, order = tensors["scales"].T, None
            zeros = unpack(tensors["qzeros"], bits, _AWQ_ORDER).T if "qzeros" in tensors else _middle(scale, bits)
        case _:
            levels = unpack(tensors["weight_packed"], bits)[:, :inputs]
            scale, order = tensors["weight_scale"], tensors.get("weight_g_idx")
            zeros = unpack(tensors["weight_zero_point"].T, bits).T[:outputs] if "weight_zero_point" in tensors else _middle(scale, bits)
    groups = scale.shape[1] if scale.ndim == 2 else 0
    if (
        levels.shape != (outputs, inputs)
        or scale.shape != (outputs, groups)
        or zeros.shape != scale.shape
        or inputs % (groups or inputs + 1)
    ):
        raise LayoutUnknown(
            f"levels {tuple(levels.shape)}, zeros {tuple(zeros.shape)} and scales {tuple(scale.shape)} do not make a weight of "
            f"{outputs} x {inputs}"
        )
    if order is not None:
        order = order.to(torch.int64)
        if order.shape != (inputs,) or int(order.min()) < 0 or int(order.max()) >= groups:
            raise LayoutUnknown(f"the order of its {inputs} inputs names groups that it has not got")
        if torch.equal(order, torch.arange(inputs, device=order.device) // (inputs // groups)):
            order = None
    if bits == 4:
        if inputs % 2:
            raise LayoutUnknown(f"{inputs} inputs can't be held two to a byte")
        levels = levels[:, 0::2] | levels[:, 1::2] << 4
    zeros = zeros.to(torch.uint8 if bits == 4 else torch.int32)
    return PackedWeight(levels.contiguous(), zeros.contiguous(), scale.contiguous(), order)


def restore(weight: PackedWeight, bits: int, dtype: torch.dtype) -> torch.Tensor:
    """Return ``weight`` as numbers (outputs x inputs) in ``dtype``, each rounded once: products are made in 32 bits."""
    levels = weight.levels
    if bits == 4:
        levels = torch.stack((levels & 15, levels >> 4), dim=-1).flatten(-2)
    outputs, inputs = levels.shape
    # the product is made in the scale's 32 bits and rounded as it is written: there is no copy of the weight in 32 bits
    result = torch.empty(outputs, inputs, dtype=dtype, device=levels.device)
    narrow = torch.int8 if bits == 4 else torch.int16
    scale = weight.scale.to(torch.float32)
    if weight.order is not None:
        shifted = levels.to(narrow) - weight.zeros.to(narrow)[:, weight.order]
        return torch.mul(shifted, scale[:, weight.order], out=result)
    groups = scale.shape[1]
    shifted = levels.to(narrow).view(outputs, groups, -1) - weight.zeros.to(narrow).unsqueeze(-1)
    torch.mul(shifted, scale.unsqueeze(-1), out=result.view(outputs, groups, -1))
    return result


def unpack(words: torch.Tensor, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Return the whole numbers in ``words`` (rows x words, 32-bit), the lowest bits first: rows x numbers, 8-bit without a sign.

    :param order: places of the numbers of a word, where they are not as they come.
    """
    count = _WORD // bits
    result = torch.empty(*words.shape, count, dtype=torch.uint8, device=words.device)
    for number in range(count):  # one at a time: all at once would take eight times the memory of the words
        result[..., order[number] if order else number] = (words >> (bits * number) & (2**bits - 1)).to(torch.uint8)
    return result.flatten(-2)


def _middle(scale: torch.Tensor, bits: int) -> torch.Tensor:
    return torch.full(scale.shape, 2 ** (bits - 1), dtype=torch.uint8, device=scale.device)
