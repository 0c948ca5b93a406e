"""What the library is told. Functions here run in a process of their own: the tests load no torch."""

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any


def build_settings(training: dict[str, Any], result: Path) -> None:
    """Write whether activations are offloaded, by device."""
    from finetune_api.spec import TrainingSpec
    from finetune_trainer.device import Device
    from finetune_trainer.run.settings import build_common
    from finetune_trainer.run.survival import build_plan

    spec = TrainingSpec.model_validate(training)
    seen = {}
    for device in (Device("cuda", "a GPU"), Device("cpu", "cpu")):
        common = build_common(spec, build_plan(spec), "bfloat16", device, result.parent, evaluates=False)
        seen[device.kind] = common.get("activation_offloading", False)
    result.write_text(json.dumps(seen))


def find_offloading(result: Path) -> None:
    """Write for which objectives the API offers it, and for which TRL's trainer has the setting and reads it."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from finetune_api.spec.sharding import OFFLOADING_OBJECTIVES

    kinds: dict[str, tuple[Any, Any]] = {
        **dict.fromkeys(("sft", "pretrain", "distill"), (SFTConfig, SFTTrainer)),
        "dpo": (DPOConfig, DPOTrainer),
        "kto": (KTOConfig, KTOTrainer),
        "reward": (RewardConfig, RewardTrainer),
        "orpo": (ORPOConfig, ORPOTrainer),
        "grpo": (GRPOConfig, GRPOTrainer),
    }
    known = [
        name
        for name, (settings, trainer) in kinds.items()
        if "activation_offloading" in {field.name for field in dataclasses.fields(settings)}
        and "args.activation_offloading" in inspect.getsource(trainer)
    ]
    result.write_text(json.dumps({"offered": sorted(OFFLOADING_OBJECTIVES), "known": sorted(known)}))


def choose_kernels_without_a_compiler(result: Path) -> None:
    """Be on a GPU, as far as Triton and TRL ask, in an image without a C compiler; write whether kernels would be called."""
    import logging
    import os

    import torch
    from triton.backends import backends
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    from finetune_trainer.device import Device
    from finetune_trainer.model.kernels import choose_kernels

    logging.basicConfig()
    backends["nvidia"].driver.is_active = staticmethod(lambda: True)
    backends["amd"].driver.is_active = staticmethod(lambda: False)
    os.environ.pop("CC", None)
    os.environ |= {"PATH": "", "TRITON_LIBCUDA_PATH": str(result.parent), "TRITON_CACHE_DIR": str(result.parent / "cache")}
    asked = inspect.getsource(utils.selective_log_softmax)
    seen = {"asks": "_supports_trl_loss_kernel(" in asked, "before": chunked_logprob._use_triton(torch.device("cuda"))}
    choose_kernels(Device("cpu", "cpu"))
    seen["on a processor"] = chunked_logprob._use_triton(torch.device("cuda"))
    choose_kernels(Device("cuda", "a GPU"))
    seen["after"] = chunked_logprob._use_triton(torch.device("cuda")) or utils._supports_trl_loss_kernel(torch.zeros(1, 2))
    result.write_text(json.dumps(seen))
