"""From the specification to TRL's settings, field by field."""

from pathlib import Path
from typing import Any

from trl.trainer.sft_config import SFTConfig

from finetune_api.spec import DpoSpec, KtoSpec, MethodSpec, OrpoSpec, RewardSpec, TrainingSpec
from finetune_api.spec.method import ComputeDtype
from finetune_trainer.device import Device
from finetune_trainer.run.survival import BatchPlan, build_plan


def build_common(
    training: TrainingSpec, plan: BatchPlan, compute_dtype: ComputeDtype, device: Device, folder: Path, *, evaluates: bool
) -> dict[str, Any]:
    """Build the settings that all of TRL's trainers know.

    :param folder: local folder for checkpoints.
    :param evaluates: whether there is held-out data: its loss is measured before the first step, every ``evalSteps`` steps (or at the end
        of each epoch), and at the end.
    """
    strategy = "no" if not evaluates else "epoch" if training.eval_steps is None else "steps"
    return {
        "output_dir": str(folder),
        "seed": training.seed,
        "data_seed": training.seed,
        # Length and rate
        "num_train_epochs": training.epochs,
        "max_steps": -1 if training.max_steps is None else training.max_steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler,
        "warmup_steps": training.warmup_ratio,  # below 1, it is a share of all steps
        "optim": training.optimizer,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        # Batches. The data are tokenised, labelled and cut already; only packing is left to TRL.
        "per_device_train_batch_size": plan.per_device,
        "per_device_eval_batch_size": plan.per_device,
        "gradient_accumulation_steps": plan.accumulation,
        "dataloader_pin_memory": device.kind == "cuda",
        # Several processes: every token counts the same, whichever of them it is in
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
        # Memory and precision
        "gradient_checkpointing": plan.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if plan.checkpointing else None,
        # On the processor, activations are in its memory already (a simulated GPU)
        **({"activation_offloading": True} if plan.offload and device.kind == "cuda" else {}),
        "bf16": compute_dtype == "bfloat16",
        "fp16": compute_dtype == "float16",
        "use_cpu": device.kind == "cpu",
        # When what is done
        "logging_strategy": "steps",
        "logging_steps": training.logging_steps,
        "logging_nan_inf_filter": False,  # it would replace a NaN by the mean of the losses before it
        "eval_strategy": strategy,
        "eval_steps": training.eval_steps if strategy == "steps" else None,
        "eval_on_start": evaluates,
        "save_strategy": "steps",
        "save_steps": training.checkpoint.every_steps,
        "report_to": "none",
        "disable_tqdm": True,
    }


def build_sft_config(
    training: TrainingSpec,
    compute_dtype: ComputeDtype,
    device: Device,
    folder: Path,
    *,
    evaluates: bool,
    plan: BatchPlan | None = None,
) -> SFTConfig:
    """Build the settings of the objectives that learn tokens. See :func:`build_common`."""
    return SFTConfig(
        **build_common(training, plan or build_plan(training), compute_dtype, device, folder, evaluates=evaluates),
        max_length=training.max_length,
        packing=training.packing,
        packing_strategy="bfd",
        neftune_noise_alpha=training.neftune_noise_alpha,
        dataset_kwargs=None if training.packing else {"skip_prepare_dataset": True},
    )


def build_answer_settings(method: MethodSpec, max_length: int) -> dict[str, Any]:
    """Build the settings that only the objectives ``dpo``, ``orpo``, ``kto`` and ``reward`` have, each with its own defaults."""
    if method.objective == "dpo":
        dpo = method.dpo or DpoSpec()
        own: dict[str, Any] = {"beta": dpo.beta, "loss_type": [dpo.loss], "label_smoothing": dpo.label_smoothing}
    elif method.objective == "orpo":
        own = {"beta": (method.orpo or OrpoSpec()).beta}
    elif method.objective == "kto":
        kto = method.kto or KtoSpec()
        own = {
            "beta": kto.beta,
            "desirable_weight": kto.desirable_weight,
            "undesirable_weight": kto.undesirable_weight,
            "train_sampling_strategy": "sequential",
        }
    else:
        own = {"center_rewards_coefficient": (method.reward or RewardSpec()).center_coefficient or None}
    return {**own, "max_length": max_length}
