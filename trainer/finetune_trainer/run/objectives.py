"""The trainer of each objective, set up by the specification. What an objective alone needs is imported for it alone."""

from pathlib import Path
from typing import Any

from finetune_api.spec import DistillSpec, GrpoSpec
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.data import PreparedData
from finetune_trainer.device import Device
from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.run.loop import RunLoop
from finetune_trainer.run.settings import build_answer_settings, build_common, build_sft_config
from finetune_trainer.run.survival import BatchPlan


def build_trainer(
    config: TrainerConfig,
    plan: BatchPlan,
    device: Device,
    folder: Path,
    data: PreparedData,
    *,
    teacher: Any = None,  # noqa: ANN401
    **options: Any,  # noqa: ANN401
) -> RunLoop:
    """Build the trainer of ``config``'s objective.

    :param folder: local folder for checkpoints.
    :param teacher: the loaded teacher of the objective ``distill``.
    :param options: what all trainers take: model, tokenizer and what :class:`~finetune_trainer.run.loop.RunLoop` asks for.
    """
    method, training = config.method, config.training
    dtype, evaluates = method.quantization.compute_dtype, data.eval is not None
    options |= {"train_dataset": data.train, "eval_dataset": data.eval}
    if method.objective in ("sft", "pretrain", "distill"):
        settings = build_sft_config(training, dtype, device, folder, evaluates=evaluates, plan=plan)
        if method.objective == "distill":
            from finetune_trainer.run.distill import DistillTrainer  # noqa: PLC0415

            distill: DistillSpec = _given(method.distill, "distill")
            return DistillTrainer(args=settings, teacher=teacher, beta=distill.beta, temperature=distill.temperature, **options)
        from finetune_trainer.run.trainer import RunTrainer  # noqa: PLC0415

        return RunTrainer(args=settings, **options)
    common = build_common(training, plan, dtype, device, folder, evaluates=evaluates)
    if method.objective == "grpo":
        from trl.trainer.grpo_config import GRPOConfig  # noqa: PLC0415

        from finetune_trainer.run.grpo import RunGrpoTrainer  # noqa: PLC0415
        from finetune_trainer.run.rewards import build_reward  # noqa: PLC0415

        grpo: GrpoSpec = _given(method.grpo, "grpo")
        common["per_device_eval_batch_size"] = grpo.num_generations
        return RunGrpoTrainer(
            args=GRPOConfig(
                **common,
                num_generations=grpo.num_generations,
                max_completion_length=grpo.max_completion_length,
                temperature=grpo.temperature,
                beta=grpo.beta,
                reward_weights=[reward.weight for reward in grpo.rewards],
            ),
            reward_funcs=[build_reward(reward) for reward in grpo.rewards],
            **options,
        )
    from trl.experimental.orpo import ORPOConfig  # noqa: PLC0415
    from trl.trainer.dpo_config import DPOConfig  # noqa: PLC0415
    from trl.trainer.kto_config import KTOConfig  # noqa: PLC0415
    from trl.trainer.reward_config import RewardConfig  # noqa: PLC0415

    from finetune_trainer.run.preference import RunDpoTrainer, RunKtoTrainer, RunOrpoTrainer, RunRewardTrainer  # noqa: PLC0415

    own = build_answer_settings(method, training.max_length)
    kinds: dict[str, tuple[Any, Any]] = {
        "dpo": (RunDpoTrainer, DPOConfig),
        "orpo": (RunOrpoTrainer, ORPOConfig),
        "kto": (RunKtoTrainer, KTOConfig),
        "reward": (RunRewardTrainer, RewardConfig),
    }
    trainer, settings_class = kinds[method.objective]
    built: RunLoop = trainer(args=settings_class(**common, **own), **options)
    return built


def _given(settings: Any, name: str) -> Any:  # noqa: ANN401
    if settings is None:
        raise ConfigInvalid(f"method.{name} must be given for the objective {name}")
    return settings
