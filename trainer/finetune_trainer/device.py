"""What the run computes on."""

from dataclasses import dataclass
from typing import Final, Literal

from finetune_api.spec.method import QuantizationType
from finetune_api.trainer_config import DeviceConfig
from finetune_trainer.errors import AcceleratorMissing, ConfigInvalid

FP8_CAPABILITY: Final = (8, 9)
"""CUDA compute capability from which on a GPU multiplies in FP8."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device to train on."""

    kind: Literal["cpu", "cuda"]
    name: str
    """For people."""
    index: int = 0
    """Which of the GPUs that the pod sees."""


def choose_device(config: DeviceConfig, index: int = 0) -> Device:
    """Return the GPU of this ``index`` where one was asked for, else the processor, which needs no torch to be loaded.

    :raises AcceleratorMissing: a GPU was asked for, CUDA finds none, and the configuration does not allow the processor instead.
    """
    if config.gpus == 0:
        return Device("cpu", "cpu")
    import torch  # noqa: PLC0415  seconds to import; runs on the processor load it later, while they download

    if torch.cuda.is_available():
        if index >= torch.cuda.device_count():
            raise AcceleratorMissing(f"the pod asked for {config.gpus} GPUs, but CUDA finds {torch.cuda.device_count()} in this container")
        torch.cuda.set_device(index)
        return Device("cuda", torch.cuda.get_device_name(index), index)
    if config.allow_cpu:
        return Device("cpu", "cpu (simulated GPU)")
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
    raise AcceleratorMissing(
        f"the run asked for {config.gpus} GPU(s), but CUDA finds none in this container (torch {torch.__version__} {built}). "
        "Check that the node has the NVIDIA driver and the container toolkit (runtimeClass or default runtime nvidia), "
        "or set resources.gpus to 0 to train on the CPU"
    )


def check_device(device: Device, quantization: QuantizationType) -> None:
    """Check that ``device`` can multiply by weights that are held so: all do but one. Processors multiply in FP8, too, if slowly.

    :raises ConfigInvalid: it can't.
    """
    if quantization == "fp8" and device.kind == "cuda":
        import torch  # noqa: PLC0415  loaded by now

        check_capability(torch.cuda.get_device_capability(device.index), device.name)


def check_capability(capability: tuple[int, int], name: str) -> None:
    """Check that a GPU of this compute capability multiplies in FP8.

    :raises ConfigInvalid: it does not; names it.
    """
    if capability < FP8_CAPABILITY:
        raise ConfigInvalid(
            "method.quantization.type fp8 needs a GPU of compute capability 8.9 or more (Ada, Hopper, Blackwell), and "
            f"{name} has {capability[0]}.{capability[1]}; set method.quantization.type to nf4 or int8"
        )
