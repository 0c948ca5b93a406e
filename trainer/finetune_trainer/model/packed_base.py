"""Loading a base that GPTQ, AWQ or compressed-tensors has packed, by transformers' own loader: see decision 45."""

import logging
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.model.packed_layout import Layout, LayoutUnknown, read_layout, read_weight
from finetune_trainer.model.packed_linear import PackedLinear

logger = logging.getLogger(__name__)

METHOD: Final = "finetune-packed"
"""Our name in transformers' table of readers, where `gptq` and `awq` are those that need GPTQModel."""


@register_quantization_config(METHOD)
class PackedConfig(QuantizationConfigMixin):
    """What the reader is told: the model's own ``quantization_config``."""

    def __init__(self, found: dict[str, Any], quant_method: str = METHOD) -> None:
        self.quant_method = quant_method  # type: ignore[assignment]  # transformers' enumeration holds its own alone
        self.found = found


def use_packed_reader(config: Any, found: dict[str, Any]) -> Any:  # noqa: ANN401  transformers has no one type for it
    """Return ``config`` of a packed base, changed so that transformers loads it by our reader.

    :raises ConfigInvalid: it is packed in a way that is not read.
    """
    try:
        read_layout(found)
    except LayoutUnknown as error:
        raise ConfigInvalid(f"the model is quantised already, {error}; name the model in 16 or 32 bits") from None
    config.quantization_config = PackedConfig(found).to_dict()
    return config


class _Unread(nn.Module):
    """Room for what a file holds of one layer, until all of it is there."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.outputs, self.inputs = outputs, inputs


@register_quantizer(METHOD)
class PackedReader(HfQuantizer):
    """Puts room for the packed numbers into the model before its files are read, and layers that multiply by them after."""

    requires_calibration = True

    def __init__(self, quantization_config: PackedConfig, **options: Any) -> None:  # noqa: ANN401
        super().__init__(quantization_config, **options)
        self.layout: Layout = read_layout(quantization_config.found)
        self.dtype = torch.bfloat16

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Note the type that the rest of the model is held in."""
        self.dtype = dtype
        return dtype

    def _process_model_before_weight_loading(self, model: Any, **options: Any) -> Any:  # noqa: ANN401
        files = options.get("checkpoint_files") or []
        layers, biased = _find_packed(files, self.layout)
        if not layers:
            raise ConfigInvalid(f"config.json says that the model is quantised ({self.layout.method}), and its files hold no such layer")
        modules = dict(model.named_modules())
        prefix = f"{model.base_model_prefix}."
        for name, held in layers.items():
            path = next((each for each in (name, prefix + name, name.removeprefix(prefix)) if each in modules), None)
            linear = modules.get(path) if path is not None else None
            if path is None or not isinstance(linear, nn.Linear):
                raise ConfigInvalid(
                    f"the file holds a quantised {name}, and the model has no linear layer of that name (fused experts are none); "
                    "name the model in 16 bits"
                )
            room = _Unread(linear.out_features, linear.in_features)
            for end, (shape, dtype) in held.items():
                # of the file's own type: the loader would round scales to that of the model
                room.register_parameter(end, nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False))
            if linear.bias is not None or name in biased:  # some files have one where the model has none
                bias = nn.Parameter(torch.empty(linear.out_features, dtype=self.dtype, device="meta"), requires_grad=False)
                room.register_parameter("bias", bias)
            model.set_submodule(path, room)
        logger.info("%d linear layers are packed by %s in %d bits", len(layers), self.layout.method, self.layout.bits)
        return model

    def _process_model_after_weight_loading(self, model: Any, **options: Any) -> Any:  # noqa: ANN401
        del options
        for name, room in [each for each in model.named_modules() if isinstance(each[1], _Unread)]:
            tensors = {end: parameter.data for end, parameter in room.named_parameters()}
            bias = tensors.pop("bias", None)
            try:
                weight = read_weight(self.layout, tensors, room.outputs, room.inputs)
            except (LayoutUnknown, KeyError) as error:
                raise ConfigInvalid(f"the quantised weight of {name} can't be read: {error}") from error
            model.set_submodule(name, PackedLinear(weight, self.layout.bits, self.dtype, bias))
        return model

    def is_serializable(self) -> bool:
        """Nothing is written in this form: what is published is the adapter."""
        return False

    @property
    def is_trainable(self) -> bool:
        """An adapter on it is."""
        return True


def _find_packed(files: list[str], layout: Layout) -> tuple[dict[str, dict[str, tuple[list[int], torch.dtype]]], set[str]]:
    """Return the packed layers by name, with shape and type of what the files hold for each; and the names of all that have a bias."""
    found: dict[str, dict[str, tuple[list[int], torch.dtype]]] = {}
    biased: set[str] = set()
    for file in files:
        with safe_open(file, framework="pt", device="cpu") as tensors:
            for full in tensors.keys():  # noqa: SIM118  safetensors' file is no mapping
                name, _, end = full.rpartition(".")
                if end == "bias":
                    biased.add(name)
                if end not in layout.names:
                    continue
                view = tensors.get_slice(full)
                kind = view.get_dtype()
                if kind not in _DTYPES:
                    raise ConfigInvalid(f"the file holds {full} in {kind}, which no reader of quantised weights expects")
                found.setdefault(name, {})[end] = (view.get_shape(), _DTYPES[kind])
    broken = [name for name, held in found.items() if layout.names[0] not in held or layout.names[1] not in held]
    if broken:
        raise ConfigInvalid(f"the file holds a part of a quantised {broken[0]} ({', '.join(found[broken[0]])}), which is not read")
    return found, biased


_DTYPES: Final = {
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
}
