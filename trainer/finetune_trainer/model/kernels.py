"""Whether the loss can be computed by TRL's own Triton kernels here."""

import logging

from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

from finetune_trainer.device import Device

logger = logging.getLogger(__name__)


def choose_kernels(device: Device) -> None:
    """On a GPU, let TRL compute the loss by torch's own operations where Triton can't work.

    Triton compiles its launcher in C when its first kernel is called, for which it needs a compiler and Python's headers. TRL calls its
    kernels on every GPU, in every step, whether they can be had or not: without them, the first step of every run would fail. What is
    learnt is the same either way; the loss takes longer.
    """
    if device.kind != "cuda":
        return
    obstacle = find_obstacle()
    if obstacle is None:
        logger.info("the loss is computed by TRL's Triton kernels")
        return
    chunked_logprob._TRITON_AVAILABLE = False
    trl_utils._supports_trl_loss_kernel = _supports_none
    logger.warning("the loss is computed by torch, not by TRL's Triton kernels, which would be faster: %s", obstacle)


def find_obstacle() -> str | None:
    """Return why Triton can't call kernels on this machine; None where it can."""
    try:
        from triton.runtime import driver  # type: ignore[import-untyped]  # noqa: PLC0415  torch brings it on Linux only

        driver.active  # noqa: B018  makes the launcher
    except Exception as error:  # noqa: BLE001  whatever it is, kernels can't be called
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _supports_none(*_: object, **__: object) -> bool:
    return False
