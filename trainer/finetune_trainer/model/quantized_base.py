"""Bases that are quantised already, recognised from their own configuration."""

from typing import Any, Final

from finetune_api.spec import MethodSpec, OutputSpec
from finetune_api.spec.adapter import BASE_CHANGING_INITS
from finetune_trainer.errors import ConfigInvalid

_LIBRARIES: Final = {"aqlm": "aqlm", "hqq": "hqq", "fp8": "kernels for blocks in FP8"}
_PACKED: Final = ("gptq", "awq", "compressed-tensors")
"""Methods whose files we read ourselves."""


def read_quantization(config: Any) -> dict[str, Any] | None:  # noqa: ANN401  transformers has no one type for it
    """Return how the base with this ``config`` is quantised already; None where it is not."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    return dict(found if isinstance(found, dict) else found.to_dict())


def is_packed(found: dict[str, Any] | None) -> bool:
    """Return whether a base that is quantised as ``found`` says is one that we read, not bitsandbytes."""
    return found is not None and str(found.get("quant_method")) in _PACKED


def check_quantized_base(config: Any, method: MethodSpec, output: OutputSpec, uri: str, *, divided: bool = False) -> None:  # noqa: ANN401
    """Check that a base that is quantised already can be trained as ``method`` asks. One that bitsandbytes, GPTQ or AWQ has
    quantised can, as it is.

    :param divided: it would be divided over the processes.
    :raises ConfigInvalid: it can't; says why, and what to name instead.
    """
    found = read_quantization(config)
    if found is None:
        return
    kind = str(found.get("quant_method", "unknown"))
    if is_packed(found):
        _check_packed(found, method, uri)
    elif kind != "bitsandbytes":
        library = f" and needs {_LIBRARIES[kind]}" if kind in _LIBRARIES else ""
        raise ConfigInvalid(
            f"{uri} is quantised already ({kind}){library}, which this trainer does not have; name the model in 16 or 32 bits, and "
            "method.quantization quantises it while it loads"
        )
    if divided:
        raise ConfigInvalid(
            f"training.sharding: {uri} is quantised already, and its packed weights can't be divided; name the model in 16 or 32 bits, "
            "which is quantised while it loads, or set training.sharding to none"
        )
    held = str(found.get("bnb_4bit_quant_type", "fp4")) if found.get("load_in_4bit") else "int8"
    if not is_packed(found) and method.quantization.type != held:
        raise ConfigInvalid(f"{uri} is quantised already, in {held}; set method.quantization.type to {held}, or name the model in 16 bits")
    if method.adapter.init == "loftq":
        raise ConfigInvalid(
            f"method.adapter.init loftq needs the weights before quantisation, and {uri} has not got them; set init to default or eva"
        )
    if output.merged or output.gguf or output.gptq:
        raise ConfigInvalid(
            f"output.merged, output.gguf and output.gptq need the weights before quantisation, and {uri} has not got them; remove them, "
            "or name the model in 16 bits"
        )


def _check_packed(found: dict[str, Any], method: MethodSpec, uri: str) -> None:
    from finetune_trainer.model.packed_layout import LayoutUnknown, read_layout  # noqa: PLC0415  loads torch

    try:
        layout = read_layout(found)
    except LayoutUnknown as error:
        raise ConfigInvalid(
            f"{uri} is quantised already, {error}; name the model in 16 or 32 bits, and method.quantization quantises it while it loads"
        ) from None
    if method.quantization.type != "none":
        raise ConfigInvalid(
            f"{uri} is quantised already, by {layout.method} in {layout.bits} bits, and stays so; set method.quantization.type to none "
            "(nothing is quantised here), or name the model in 16 bits"
        )
    if method.adapter.type == "none":
        raise ConfigInvalid(f"method.adapter.type none trains the base itself, and {uri} is quantised; set another type, such as lora")
    if method.adapter.init in BASE_CHANGING_INITS:
        raise ConfigInvalid(
            f"method.adapter.init {method.adapter.init} changes the base weights, and {uri} is quantised; "
            "set init to default, gaussian or eva"
        )
