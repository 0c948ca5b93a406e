"""From the training specification to TRL's settings, field by field."""

from pathlib import Path

from trl.trainer.sft_config import SFTConfig

from finetune_api.spec import TrainingSpec
from finetune_api.spec.method import ComputeDtype
from finetune_trainer.device import Device


def build_sft_config(training: TrainingSpec, compute_dtype: ComputeDtype, device: Device, folder: Path, *, evaluates: bool) -> SFTConfig:
    """Build TRL's settings.

    :param folder: local folder for checkpoints.
    :param evaluates: whether there is held-out data: its loss is measured before the first step, every ``evalSteps`` steps (or at the end
        of each epoch), and at the end.
    """
    strategy = "no" if not evaluates else "epoch" if training.eval_steps is None else "steps"
    return SFTConfig(
        output_dir=str(folder),
        seed=training.seed,
        data_seed=training.seed,
        # Length and rate
        num_train_epochs=training.epochs,
        max_steps=-1 if training.max_steps is None else training.max_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler,
        warmup_steps=training.warmup_ratio,  # below 1, it is a share of all steps
        optim=training.optimizer,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        # Batches. The data are tokenised, labelled and cut already; only packing is left to TRL.
        per_device_train_batch_size=training.per_device_batch_size,
        per_device_eval_batch_size=training.per_device_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        max_length=training.max_length,
        packing=training.packing,
        packing_strategy="bfd",
        dataset_kwargs=None if training.packing else {"skip_prepare_dataset": True},
        dataloader_pin_memory=device.kind == "cuda",
        # Memory and precision
        gradient_checkpointing=training.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if training.gradient_checkpointing else None,
        bf16=compute_dtype == "bfloat16",
        fp16=compute_dtype == "float16",
        use_cpu=device.kind == "cpu",
        # When what is done
        logging_strategy="steps",
        logging_steps=training.logging_steps,
        logging_nan_inf_filter=False,  # it would replace a NaN by the mean of the losses before it
        eval_strategy=strategy,
        eval_steps=training.eval_steps if strategy == "steps" else None,
        eval_on_start=evaluates,
        save_strategy="steps",
        save_steps=training.checkpoint.every_steps,
        report_to="none",
        disable_tqdm=True,
    )
