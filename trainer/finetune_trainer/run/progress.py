"""How far a run is: written by the training thread, read by the reporter's."""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from finetune_api.progress import DatasetCounts, Metrics, Progress
from finetune_api.report import JobReference, Stage, TrainerReport
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.reporting.curve import CurveSet, LossCurve

_WINDOW: Final = 32
"""Steps that speed is averaged over."""
_LOSS_LIMIT: Final = 1e6
_OF_OBJECTIVES: Final = (
    "reward_accuracy",
    "reward_margin",
    "reward",
    "completion_tokens",
    "eval_reward_accuracy",
    "eval_reward_margin",
    "eval_reward",
)
"""Metrics that only some objectives have."""
_MEASURE_LIMIT: Final = 1e15


@dataclass(slots=True)
class SpeedMeter:
    """Speed over the last steps. The first step of a process, which warms caches and kernels up, counts only until others are known."""

    _steps: deque[tuple[float, float, int]] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    """Start and end of a step on the monotonic clock, and its tokens."""
    _begun: float | None = None
    _warm: bool = False

    def begin_step(self, now: float) -> None:
        """A step begins."""
        self._begun = now

    def end_step(self, now: float, tokens: int) -> None:
        """A step of ``tokens`` tokens ended."""
        if self._begun is None:
            return
        self._steps.append((self._begun, now, tokens))
        self._begun = None
        if not self._warm and len(self._steps) == 3:
            self._steps.popleft()
            self._warm = True

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens a second of training proper: evaluation and checkpoints are not counted."""
        spent = sum(end - begin for begin, end, _ in self._steps)
        return sum(tokens for _, _, tokens in self._steps) / spent if spent > 0 else None

    @property
    def longest(self) -> float | None:
        """Longest of the last steps, in seconds."""
        return max((end - begin for begin, end, _ in self._steps), default=None)

    def estimate_remaining(self, steps: int) -> float | None:
        """Return the seconds that ``steps`` more steps take at the present speed, with the evaluations and checkpoints between them."""
        if not self._steps:
            return None
        spent = self._steps[-1][1] - self._steps[0][0]
        return spent / len(self._steps) * steps


class RunProgress:
    """The figures of a run. Every method may be called from any thread.

    :param samples_shown: samples that everybody may see who may read the run.
    :param likelihood: the loss is a mean negative log-likelihood, of which a perplexity can be told.
    """

    def __init__(self, job: JobReference, *, likelihood: bool = True, samples_shown: int = 0) -> None:
        self._samples_shown = samples_shown
        self._job = job
        self._lock = threading.RLock()  # a signal's handler reads it in the thread that may hold it
        self._speed = SpeedMeter()
        self._curve = LossCurve()
        self._curves = CurveSet()
        self._stage: Stage = "loading"
        self._values: dict[str, float] = {}
        self._step: int | None = None
        self._best_step: int | None = None
        self._epoch = 0.0
        self._updated = datetime.now(UTC)
        self._gpu_peak: int | None = None
        self._saving_seconds = 0.0
        self._publishing_seconds: float | None = None
        self.device: str | None = None
        self.memory_estimate: int | None = None
        """Memory of one GPU that the run needs by estimate, in bytes."""
        self.total_steps = 0
        self.tokens_seen = 0
        """Training tokens without padding, over the whole run."""
        self.dataset: DatasetCounts | None = None
        self.adjustments: list[str] = []
        """What the run changed on its own."""
        self._likelihood = likelihood
        self.evaluation: Evaluation | None = None
        """What was answered to samples and tasks so far."""
        self.checkpoint_step: int | None = None
        """Step of the newest complete checkpoint in the store."""

    def enter(self, stage: Stage) -> None:
        """Say what the run does now."""
        with self._lock:
            self._stage = stage

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._step or 0

    def restore(self, step: int, epoch: float, tokens_seen: int, entries: Sequence[Mapping[str, float]], values: dict[str, float]) -> None:
        """Go on from a checkpoint.

        :param entries: what was logged before it: each with its `step`, and with a `loss` if it is of training.
        :param values: last metrics, by the names of :class:`~finetune_api.progress.Metrics`.
        """
        with self._lock:
            self._step, self._epoch, self.tokens_seen = step, epoch, tokens_seen
            self._values = dict(values)
            self._curve = LossCurve()  # a run may go back in the midst
            self._curves = CurveSet()
            self._speed = SpeedMeter()
            for entry in entries:
                if "loss" in entry:
                    self._add_point(int(entry["step"]), entry["loss"])
                    self._curves.add(int(entry["step"]), entry)

    def begin_step(self) -> None:
        """A step begins."""
        with self._lock:
            self._speed.begin_step(time.monotonic())
            self._stage = "training"

    def end_step(self, step: int, epoch: float, tokens_seen: int, gpu_peak_bytes: int | None) -> None:
        """``step`` steps are done."""
        with self._lock:
            self._speed.end_step(time.monotonic(), tokens_seen - self.tokens_seen)
            self._step, self._epoch, self.tokens_seen, self._gpu_peak = step, epoch, tokens_seen, gpu_peak_bytes
            self._updated = datetime.now(UTC)

    def record(self, step: int, values: dict[str, float]) -> None:
        """Record metrics measured at ``step``, by the names of :class:`~finetune_api.progress.Metrics`; a loss joins the curve."""
        with self._lock:
            self._values |= values
            if "loss" in values:
                self._add_point(step, values["loss"])

    def record_curves(self, step: int, values: Mapping[str, float]) -> None:
        """Record the figures of ``step`` that have curves of their own."""
        with self._lock:
            self._curves.add(step, values)

    def _add_point(self, step: int, loss: float) -> None:
        if math.isfinite(loss):
            self._curve.add(step, max(-_LOSS_LIMIT, min(loss, _LOSS_LIMIT)))

    def note_saving(self, seconds: float) -> None:
        """Take note of how long a checkpoint took to be saved on the local disk."""
        with self._lock:
            self._saving_seconds = max(seconds, self._saving_seconds)

    def note_publishing(self, seconds: float) -> None:
        """Take note of how long a checkpoint took to be brought to the store."""
        with self._lock:
            self._publishing_seconds = max(seconds, self._publishing_seconds or 0.0)

    @property
    def _checkpoint_seconds(self) -> float | None:
        return self._saving_seconds + self._publishing_seconds if self._publishing_seconds is not None else None

    def record_best(self, step: int | None, loss: float | None) -> None:
        """Say that the adapter of ``step`` is published, whose held-out loss was ``loss``."""
        with self._lock:
            self._best_step = step
            if loss is not None:
                self._values["eval_loss"] = loss

    def _measure_objective(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in _OF_OBJECTIVES:
            low, high = (0.0, 1.0) if name.endswith("accuracy") else (-_MEASURE_LIMIT, _MEASURE_LIMIT)
            if (value := _bound(self._values.get(name), low, high)) is not None:
                found[name] = value
        return found

    def get(self, name: str) -> float | None:
        """Return the last value of a metric."""
        with self._lock:
            return self._values.get(name)

    @property
    def tokens_per_second(self) -> float | None:
        """Present speed."""
        with self._lock:
            return self._speed.tokens_per_second

    def measure_load(self) -> dict[str, float]:
        """Return speed (`tokens_per_second`) and memory held (`memory_bytes`): the GPU allocator's largest, or the process's own now."""
        with self._lock:
            speed, memory = self._speed.tokens_per_second, self._gpu_peak
        if memory is None:
            memory = _observe_process_memory()
        return {
            **({} if speed is None else {"tokens_per_second": round(speed, 2)}),
            **({} if memory is None else {"memory_bytes": memory}),
        }

    def measure(self) -> tuple[Progress | None, Metrics]:
        """Return progress (None before the number of steps is known) and metrics. Numbers that are not finite are left out."""
        with self._lock:
            metrics = Metrics(
                loss=_bound(self._values.get("loss"), -_LOSS_LIMIT, _LOSS_LIMIT),
                eval_loss=_bound(self._values.get("eval_loss"), -_LOSS_LIMIT, _LOSS_LIMIT),
                base_eval_loss=_bound(self._values.get("base_eval_loss"), -_LOSS_LIMIT, _LOSS_LIMIT),
                perplexity=_perplexity(self._values.get("eval_loss")) if self._likelihood else None,
                base_perplexity=_perplexity(self._values.get("base_eval_loss")) if self._likelihood else None,
                best_step=self._best_step,
                **self._measure_objective(),
                tasks=[] if self.evaluation is None else self.evaluation.score_tasks(),
                harness=[] if self.evaluation is None else self.evaluation.score_harness(),
                learning_rate=_bound(self._values.get("learning_rate"), 0, _MEASURE_LIMIT),
                grad_norm=_bound(self._values.get("grad_norm"), 0, _MEASURE_LIMIT),
                tokens_per_second=_bound(self._speed.tokens_per_second, 0, _MEASURE_LIMIT),
                tokens_seen=self.tokens_seen or None,
                step_seconds=_bound(self._speed.longest, 0, _MEASURE_LIMIT),
                checkpoint_seconds=_bound(self._checkpoint_seconds, 0, _MEASURE_LIMIT),
                gpu_memory_peak_bytes=self._gpu_peak,
                gpu_memory_estimate_bytes=self.memory_estimate,
                history=self._curve.thin(),
                curves=self._curves.build(),
                samples=[] if self.evaluation is None else self.evaluation.excerpt_samples(self._samples_shown),
            )
            if not self.total_steps or self._step is None:
                return None, metrics
            remaining = self._speed.estimate_remaining(self.total_steps - self._step)
            progress = Progress(
                percentage=min(100, 100 * self._step // self.total_steps),
                step=self._step,
                total_steps=self.total_steps,
                epoch=self._epoch,
                estimated_remaining_seconds=None if remaining is None else max(0, round(remaining)),
                last_updated_time=self._updated,
                adjustments=list(self.adjustments) or None,
            )
            return progress, metrics

    def build_report(self, sequence: int) -> TrainerReport:
        """Build the report of this moment."""
        progress, metrics = self.measure()
        return TrainerReport(
            job=self._job,
            sequence=sequence,
            stage=self._stage,
            device=self.device,
            progress=progress,
            metrics=metrics,
            dataset=self.dataset,
        )


def _bound(value: float | None, low: float, high: float) -> float | None:
    return None if value is None or not math.isfinite(value) else max(low, min(value, high))


def _perplexity(loss: float | None) -> float | None:
    return None if loss is None or not math.isfinite(loss) else _bound(math.exp(min(loss, 40.0)), 0, _MEASURE_LIMIT)


def _observe_process_memory() -> int | None:
    """Return the memory that this process has resident, in bytes; None where the system doesn't say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
