"""Loading a base in FP8, each weight rounded as it is read, by transformers' own loader: see decision 46."""

import logging
from typing import Any, Final

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.model.fp8_linear import COMPUTED, MULTIPLE, Fp8Linear, check_products, round_rows

logger = logging.getLogger(__name__)

METHOD: Final = "finetune-fp8"
"""Our name in transformers' table of readers, where `fp8` is one that holds blocks, and computes by kernels that it fetches."""


@register_quantization_config(METHOD)
class Fp8Config(QuantizationConfigMixin):
    """What the reader is told.

    :param kept: layers to leave as they are; None for the head and what is tied to it.
    """

    def __init__(self, kept: list[str] | None = None, quant_method: str = METHOD) -> None:
        self.quant_method = quant_method  # type: ignore[assignment]  # transformers' enumeration holds its own alone
        self.kept = kept


class _Unread(nn.Module):
    """Room for what a file holds of one layer, and for what becomes of it."""

    def __init__(self, linear: nn.Linear | Conv1D) -> None:
        super().__init__()
        self.transposed = isinstance(linear, Conv1D)
        outputs = linear.weight.shape[1 if self.transposed else 0]
        self.weight = nn.Parameter(torch.empty_like(linear.weight), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(outputs, 1, device="meta"), requires_grad=False)
        self.bias = linear.bias


class _Round(ConversionOps):
    """Rounds one weight, on the device that the model is loaded onto: it is there whole only as long."""

    def convert(  # type: ignore[override]  # transformers calls it by names, and passes more of them
        self,
        input_dict: dict[str, Any],
        *,
        model: Any,  # noqa: ANN401
        **options: Any,  # noqa: ANN401
    ) -> dict[str, torch.Tensor]:
        """Return the weight in FP8, and its rows' scales."""
        del options
        ((name, found),) = input_dict.items()
        path = name.rpartition(".")[0]
        weight = found[0] if isinstance(found, list) else found
        values, scale = round_rows(weight.t() if model.get_submodule(path).transposed else weight)
        return {name: nn.Parameter(values.contiguous(), requires_grad=False), f"{path}.scale": nn.Parameter(scale, requires_grad=False)}


@register_quantizer(METHOD)
class Fp8Loader(HfQuantizer):
    """Puts room for weights in FP8 into the model before its files are read, and layers that multiply by them after."""

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Hold all else in the type that products are written in."""
        del dtype
        return COMPUTED

    @property
    def quantized_element_size(self) -> float:
        """Bytes of a weight, for what is reserved before loading."""
        return 1

    def param_needs_quantization(self, model: Any, param_name: str, **options: Any) -> bool:  # noqa: ANN401
        """Return whether this is the weight of a layer in FP8."""
        del options
        path, _, last = param_name.rpartition(".")
        return last == "weight" and isinstance(model.get_submodule(path), _Unread)

    def get_quantize_ops(self) -> ConversionOps:
        """Return what rounds such a weight."""
        return _Round()

    def _process_model_before_weight_loading(self, model: Any, **options: Any) -> Any:  # noqa: ANN401
        del options
        kept = self.get_modules_to_not_convert(model, self.quantization_config.kept, model._keep_in_fp32_modules)  # type: ignore[attr-defined]
        rounded, odd = 0, set()
        for name, module in list(model.named_modules()):
            if type(module) not in (nn.Linear, Conv1D) or not should_convert_module(name, kept):
                continue
            if any(size % MULTIPLE for size in module.weight.shape):
                odd.add(name.rpartition(".")[2])
                continue
            model.set_submodule(name, _Unread(module))
            rounded += 1
        if odd:
            words = f"{', '.join(sorted(odd))} stay in 16 bits: their sizes are no multiples of {MULTIPLE}"
            logger.warning("%s, which FP8 needs", words)
        if not rounded:
            raise ConfigInvalid(
                f"method.quantization.type fp8 finds no linear layer to round in a model of type {model.config.model_type}, which would be "
                "held in 16 bits; set method.quantization.type to none"
            )
        return model

    def _process_model_after_weight_loading(self, model: Any, **options: Any) -> Any:  # noqa: ANN401
        del options
        for name, room in [each for each in model.named_modules() if isinstance(each[1], _Unread)]:
            model.set_submodule(name, Fp8Linear(room.weight.data, room.scale.data, None if room.bias is None else room.bias.data))
        return model

    def is_serializable(self) -> bool:
        """Nothing is written in this form: what is published is the adapter."""
        return False

    @property
    def is_trainable(self) -> bool:
        """An adapter on it is."""
        return True


def check_largest(model: nn.Module) -> None:
    """Check that the device makes the products of the largest layer of ``model`` in FP8.

    :raises ConfigInvalid: it does not.
    """
    check_products(max((each for each in model.modules() if isinstance(each, Fp8Linear)), key=lambda each: each.bytes.numel()))
