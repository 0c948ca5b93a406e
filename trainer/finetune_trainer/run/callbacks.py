"""What happens between steps: figures are taken, checkpoints are handed over, and a request to stop is obeyed."""

import logging
import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from finetune_trainer.run.checkpointing import BEST_FOLDER, CheckpointUploader, RunState, write_run_state
from finetune_trainer.run.loop import RunLoop
from finetune_trainer.run.survival import SurvivalState, observe_evaluation

if TYPE_CHECKING:
    from finetune_trainer.run.session import Surroundings

logger = logging.getLogger(__name__)

_OF_OBJECTIVES: Final = {
    "rewards/accuracies": "reward_accuracy",
    "accuracy": "reward_accuracy",
    "rewards/margins": "reward_margin",
    "margin": "reward_margin",
    "reward": "reward",
    "completions/mean_length": "completion_tokens",
}
"""Our names of figures, by TRL's."""
_NAMES: Final = {
    **{name: name for name in ("loss", "learning_rate", "grad_norm", "eval_loss", "base_eval_loss")},
    **_OF_OBJECTIVES,
    **{f"eval_{name}": f"eval_{ours}" for name, ours in _OF_OBJECTIVES.items() if name != "completions/mean_length"},
}
MEASURED: Final = tuple(dict.fromkeys(_NAMES.values()))
_LOG_SECONDS: Final = 10.0


class RunCallback(TrainerCallback):
    """Ties the library's loop to the run.

    :param state: what the policies remember; part of each checkpoint.
    :param best: local folder for the adapter with the lowest held-out loss.
    """

    def __init__(self, trainer: RunLoop, state: SurvivalState, best: Path, around: "Surroundings", uploader: CheckpointUploader) -> None:
        self._trainer: Any = trainer
        self._survival = state
        self._best = best
        self._spec = around.config.training
        self._progress = around.progress
        self._interruption = around.interruption
        self._uploader = uploader
        self._notify = around.notify
        self._build_fields = around.build_fields
        self._track = around.track
        self._logged = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:  # noqa: ANN401
        """The number of steps is known."""
        del args, control, others
        self._progress.total_steps = state.max_steps
        self._notify()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:  # noqa: ANN401
        """A step begins."""
        del args, state, control, others
        self._progress.begin_step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:  # noqa: ANN401
        """A step is done: log, evaluate and save follow, unless the run was asked to stop; then it saves and stops."""
        del args, others
        peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
        self._progress.end_step(state.global_step, state.epoch or 0.0, self._trainer.tokens_seen, peak)
        self._uploader.raise_if_failing()
        self._trainer.end_step()
        if self._trainer.guard.spikes:
            control.should_save = False  # nothing to go back to
        if state.global_step >= state.max_steps:
            control.should_log = True
        if self._interruption.poll():
            self._trainer.group.part()  # all stop: whoever has nothing more to save ends first
            logger.info("asked to stop: step %d is done, saving", state.global_step)
            control.should_log = control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        self._notify()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:  # noqa: ANN401
        """No evaluation in the grace period."""
        del args, state, others
        if self._interruption.requested:
            control.should_evaluate = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **others: Any,  # noqa: ANN401
    ) -> None:
        """Take the figures of the last steps, or of an evaluation."""
        del args, control, others
        values = {_NAMES[name]: value for name, value in (logs or {}).items() if name in _NAMES and value is not None}
        if state.global_step == 0 and "eval_loss" in values:
            values["base_eval_loss"] = values["eval_loss"]
        if not values:
            return
        self._progress.record(state.global_step, values)
        if "loss" in values and state.log_history:  # the entry of these figures; metrics.jsonl and the report are made from them
            load = self._progress.measure_load()
            state.log_history[-1] |= load
            values |= load
            self._progress.record_curves(state.global_step, values)
        self._track(state.global_step, values)
        if "eval_loss" in values:
            logger.info("step %d: held-out loss %.4f", state.global_step, values["eval_loss"])
        elif time.monotonic() - self._logged >= _LOG_SECONDS or state.global_step in (1, state.max_steps):
            self._logged = time.monotonic()
            speed = self._progress.tokens_per_second or 0.0
            logger.info(
                "step %d of %d: loss %.4f, learning rate %.3g, %.0f tokens/s",
                state.global_step,
                state.max_steps,
                values.get("loss", math.nan),
                values.get("learning_rate", 0.0),
                speed,
            )
        self._notify()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **others: Any,  # noqa: ANN401
    ) -> None:
        """The held-out loss is known: keep the best adapter, and stop where it no longer falls."""
        del args, others
        loss = (metrics or {}).get("eval_loss")
        if state.global_step == 0 or loss is None or not math.isfinite(loss):
            return
        if observe_evaluation(self._survival, self._spec.early_stopping, state.global_step, loss) and self._spec.checkpoint.publish_best:
            self._trainer.adapted.save(self._best)
        if self._survival.stopped_early and state.global_step < state.max_steps:
            patience = self._survival.worse
            logger.info("step %d: the held-out loss has not fallen for %d evaluations: stopping early", state.global_step, patience)
            self._survival.note(f"step {state.global_step}: stopped early, since the held-out loss no longer fell")
            control.should_save = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:  # noqa: ANN401
        """A checkpoint lies in the local folder: complete it and bring it to the store."""
        del control, others
        folder = Path(args.output_dir or "", f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if not self._trainer.group.leads:
            shutil.rmtree(folder, ignore_errors=True)
            self._progress.checkpoint_step = state.global_step  # if the first process can't bring it to the store, it says so itself
            return
        values = {name: value for name in MEASURED if (value := self._progress.get(name)) is not None and math.isfinite(value)}
        self._survival.losses, self._survival.spikes = self._trainer.guard.losses, self._trainer.guard.spikes
        if self._best.is_dir():
            shutil.copytree(self._best, folder / BEST_FOLDER, dirs_exist_ok=True)
        write_run_state(
            folder,
            RunState(tokens_seen=self._trainer.tokens_seen, values=values, evaluation=self._progress.evaluation, survival=self._survival),
        )
        self._progress.note_saving(time.monotonic() - self._trainer.saving_begun)
        fields = self._build_fields(state.global_step)
        if self._interruption.requested:
            self._uploader.publish_now(folder, fields)
        else:
            self._uploader.submit(folder, fields)
