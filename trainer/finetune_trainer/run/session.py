"""Training from a checkpoint or the beginning to the end, over what can be got over: see :mod:`finetune_trainer.run.survival`."""

import gc
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.artifacts import CheckpointStore, FetchedCheckpoint, ManifestFields
from finetune_trainer.data import PreparedData
from finetune_trainer.device import Device
from finetune_trainer.ending import is_out_of_memory
from finetune_trainer.errors import Interrupted, LossDiverged
from finetune_trainer.group import Group
from finetune_trainer.interruption import Interruption
from finetune_trainer.run.checkpointing import BEST_FOLDER, CheckpointUploader, read_run_state
from finetune_trainer.run.progress import RunProgress
from finetune_trainer.run.survival import BatchPlan, SpikeGuard, SurvivalState, build_plan, compute_step_down
from finetune_trainer.run.tracking import TRACKED
from finetune_trainer.tracing import OpenSpan, no_span

logger = logging.getLogger(__name__)

_DRAIN_SECONDS: Final = 30.0
"""Longest wait for a checkpoint on its way when the run has failed."""


@dataclass(slots=True)
class Surroundings:
    """What a session needs of its run."""

    config: TrainerConfig
    progress: RunProgress
    interruption: Interruption
    checkpoints: CheckpointStore
    folder: Path
    """The run's folder on this machine."""
    notify: Callable[[], None]
    """Says that there is something new to report."""
    build_fields: Callable[[int], ManifestFields]
    """Builds the manifest fields of a checkpoint at a step."""
    note_checkpoint: Callable[[int], None]
    track: Callable[[int, Mapping[str, float]], None]
    """Hands the figures of a step to the trackers."""
    group: Group = field(default_factory=lambda: Group(None, {}))
    """The processes that train together."""
    span: OpenSpan = no_span
    """Opens a span of the run's trace."""


class TrainingSession:
    """Trains one model on one dataset.

    :param adapted: the base model with its fresh adapter.
    :param teacher: the teacher of the objective ``distill``.
    """

    def __init__(
        self,
        around: Surroundings,
        adapted: Any,  # noqa: ANN401  an AdaptedModel, whose module loads torch
        tokenizer: Any,  # noqa: ANN401
        data: PreparedData,
        device: Device,
        teacher: Any = None,  # noqa: ANN401
    ) -> None:
        self._around = around
        self._adapted = adapted
        self._tokenizer = tokenizer
        self._data = data
        self._device = device
        self._teacher = teacher
        self._training = around.config.training
        self.state = SurvivalState()
        self._fresh = around.folder / "fresh"
        self._best = around.folder / BEST_FOLDER

    def train(self, checkpoint: FetchedCheckpoint | None, before: Callable[[], None]) -> Any:  # noqa: ANN401
        """Train to the end, or until the run is asked to stop, and return TRL's trainer.

        :param before: called before the first step of a run that begins anew.
        :raises Interrupted: it was asked to stop; a checkpoint of the last step is published.
        """
        if self._can_go_back and self._adapted.spec.type != "none":  # a whole model is too large to keep another of
            self._adapted.save(self._fresh)
        if checkpoint is not None:
            self.state = read_run_state(checkpoint.path).survival
        scale = self.state.learning_rate_scale
        begun = False
        while True:
            trainer = self._build(checkpoint, self.state.learning_rate_scale / scale)
            if checkpoint is None and not begun:
                before()
            self._around.interruption.defer()
            begun = True
            try:
                self._run(trainer, checkpoint)
            except (LossDiverged, RuntimeError, MemoryError) as error:
                words = self._get_over(error, trainer)
                if words is None:
                    self._explain(error)
                    raise
                failed = error
            else:
                return trainer
            # Outside of the handler, whose traceback holds the step's tensors
            at = self._around.progress.step + 1
            failed.__traceback__ = None
            del trainer
            self._tidy()
            kept = self.state
            checkpoint = self._around.checkpoints.download_newest(self._around.folder / "resume")
            if checkpoint is None and not self._fresh.is_dir():
                raise failed
            self.state = SurvivalState() if checkpoint is None else read_run_state(checkpoint.path).survival
            scale = self.state.learning_rate_scale
            self.state.learning_rate_scale, self.state.roll_backs = kept.learning_rate_scale, kept.roll_backs
            self.state.plan, self.state.adjustments = kept.plan, kept.adjustments
            back = f"back to step {checkpoint.step if checkpoint else 0}"
            self.state.note(f"step {at}: {words}; {back}")
            logger.warning("step %d: %s; %s", at, words, back)

    def restore_best(self, trainer: Any) -> None:  # noqa: ANN401
        """Put the adapter of the lowest held-out loss in place, where the specification asks for it."""
        if self._training.checkpoint.publish_best and self._best.is_dir() and self.state.best_step != self._around.progress.step:
            trainer.adapted.load(self._best)
            logger.info("the adapter of step %s is published, where the held-out loss was lowest", self.state.best_step)
            self._around.progress.record_best(self.state.best_step, self.state.best_loss)

    @property
    def _can_go_back(self) -> bool:
        return self._training.divergence.action == "rollBack" or self._training.on_out_of_memory == "stepDown"

    @property
    def _plan(self) -> BatchPlan:
        return self.state.plan or build_plan(self._training)

    def _build(self, checkpoint: FetchedCheckpoint | None, rate: float) -> Any:  # noqa: ANN401
        from transformers import PrinterCallback  # noqa: PLC0415  heavy; loaded by now

        from finetune_trainer.run.callbacks import RunCallback  # noqa: PLC0415
        from finetune_trainer.run.objectives import build_trainer  # noqa: PLC0415

        around = self._around
        around.progress.adjustments = self.state.adjustments
        config = around.config
        if checkpoint is None and rate != 1.0:  # no optimizer to scale yet: it begins with the lower rate
            lower = config.training.model_copy(update={"learning_rate": config.training.learning_rate * rate})
            config = config.model_copy(update={"training": lower})
        if checkpoint is None and self._fresh.is_dir():
            self._adapted.load(self._fresh)
        trainer: Any = build_trainer(
            config,
            self._plan,
            self._device,
            around.folder / "checkpoints",
            self._data,
            teacher=self._teacher,
            interruption=around.interruption,
            group=around.group,
            guard=SpikeGuard(self._training.divergence.spike_factor, self.state.losses, self.state.spikes),
            adapted=self._adapted,
            processing_class=self._tokenizer,
        )
        self._uploader = CheckpointUploader(
            around.checkpoints, self._training.checkpoint.keep, around.note_checkpoint, around.progress.note_publishing, around.span
        )
        trainer.span = around.span
        trainer.remove_callback(PrinterCallback)  # it prints to standard output, past the log
        trainer.add_callback(RunCallback(trainer, self.state, self._best, around, self._uploader))
        if checkpoint is None:
            shutil.rmtree(self._best, ignore_errors=True)
        else:
            self._restore(trainer, checkpoint)
            trainer.scale_learning_rate(rate)
        return trainer

    def _restore(self, trainer: Any, checkpoint: FetchedCheckpoint) -> None:  # noqa: ANN401
        """Take up what the checkpoint knows; its digests and its owner have been verified."""
        state = read_run_state(checkpoint.path)
        progress = self._around.progress
        trainer.restore(checkpoint.path)
        trainer.tokens_seen = state.tokens_seen
        shutil.rmtree(self._best, ignore_errors=True)
        if (checkpoint.path / BEST_FOLDER).is_dir():
            shutil.copytree(checkpoint.path / BEST_FOLDER, self._best)
        progress.evaluation = state.evaluation
        for entry in trainer.state.log_history:  # an earlier pod may not have got it through
            self._around.track(entry["step"], {name: entry[name] for name in TRACKED if name in entry})
        progress.total_steps = checkpoint.manifest.total_steps
        progress.restore(checkpoint.step, trainer.state.epoch or 0.0, state.tokens_seen, trainer.state.log_history, state.values)
        progress.checkpoint_step = checkpoint.step
        logger.info("going on from the checkpoint of step %d of %d", checkpoint.step, checkpoint.manifest.total_steps)

    def _run(self, trainer: Any, checkpoint: FetchedCheckpoint | None) -> None:  # noqa: ANN401
        progress = self._around.progress
        progress.enter("training")
        uploader = self._uploader
        try:
            if not self.state.stopped_early and (checkpoint is None or checkpoint.step < checkpoint.manifest.total_steps):
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint.path))
            if self._data.eval is not None:
                trainer.evaluate_at_end()
        except BaseException:
            uploader.drain(_DRAIN_SECONDS)  # a checkpoint on its way is worth a moment: the next pod may go on from it
            raise
        self._stop_if_asked()  # without waiting for older checkpoints: the grace period is running
        uploader.drain()
        self._stop_if_asked()
        if self.state.stopped_early:
            progress.total_steps = progress.step

    def _stop_if_asked(self) -> None:
        progress = self._around.progress
        if self._around.interruption.requested and progress.checkpoint_step == progress.step:
            raise Interrupted(f"asked to stop; the checkpoint of step {progress.step} is published, and the next pod resumes from it")

    def _get_over(self, error: BaseException, trainer: Any) -> str | None:  # noqa: ANN401
        """Change :attr:`state` so that the run can go on, and say in words how; None where it can't."""
        if self._around.interruption.requested or self._around.group.meets:
            return None  # of several processes, the others know nothing of it: all begin anew
        divergence = self._training.divergence
        if isinstance(error, LossDiverged):
            if divergence.action != "rollBack" or self.state.roll_backs >= divergence.max_roll_backs:
                return None
            self.state.roll_backs += 1
            self.state.learning_rate_scale *= divergence.learning_rate_factor
            rate = self._training.learning_rate * self.state.learning_rate_scale
            return f"the loss diverged; learning rate {rate:.3g}"
        if self._training.on_out_of_memory != "stepDown" or not is_out_of_memory(error):
            return None
        can_offload = self._device.kind == "cuda" and hasattr(trainer.args, "activation_offloading") and not self._training.compile
        down = compute_step_down(self._plan, self._around.config.method.objective, can_offload=can_offload)
        if down is None:
            return None
        self.state.plan = down.plan
        return f"out of memory; {down.words}"

    def _explain(self, error: BaseException) -> None:
        """:raises ConfigInvalid: it was torch's compiler that failed."""
        if self._training.compile:
            from finetune_trainer.model.compiling import explain_failure  # noqa: PLC0415  loaded by now

            if (told := explain_failure(error)) is not None:
                raise told from error

    def _tidy(self) -> None:
        """Give back what the failed trainer held."""
        import torch  # noqa: PLC0415  heavy; loaded by now
        from accelerate.utils import extract_model_from_parallel  # noqa: PLC0415

        extract_model_from_parallel(self._adapted.model, keep_fp32_wrapper=False)
        self._adapted.model.zero_grad(set_to_none=True)
        shutil.rmtree(self._around.folder / "checkpoints", ignore_errors=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
