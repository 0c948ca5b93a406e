"""What this trainer's own code costs in a step, counted where it runs.

Two trainings in turn differ by far more than a hundredth from what else the machine does; the CPU time of our own functions does not.
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any


class OwnCost:
    """CPU time of the training thread in this trainer's code, without what that hands on to the libraries."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._ours = False
        self._since = 0.0

    def install(self) -> None:
        """Count from now on. A process that has not loaded the trainer has nothing to count."""
        if "finetune_trainer.run.callbacks" not in sys.modules:
            return
        from trl.trainer.sft_trainer import SFTTrainer  # noqa: PLC0415  loaded by now

        from finetune_trainer.run.adapting import AdapterHooks, _AdapterCallback  # noqa: PLC0415
        from finetune_trainer.run.callbacks import RunCallback  # noqa: PLC0415
        from finetune_trainer.run.loop import RunLoop  # noqa: PLC0415

        for kind, names in (
            (RunCallback, ("on_step_begin", "on_step_end", "on_log", "on_epoch_end", "on_evaluate", "on_save")),
            (_AdapterCallback, ("on_optimizer_step",)),
            (RunLoop, ("training_step", "_save_checkpoint")),
            (AdapterHooks, ("compute_loss",)),
        ):
            for name in names:
                setattr(kind, name, self._switch(getattr(kind, name), ours=True))
        for name in ("training_step", "compute_loss", "_save_checkpoint"):
            setattr(SFTTrainer, name, self._switch(getattr(SFTTrainer, name), ours=False))

    def _switch(self, function: Callable[..., Any], *, ours: bool) -> Callable[..., Any]:
        @functools.wraps(function)
        def switched(*arguments: Any, **options: Any) -> Any:
            before = self._ours
            self._enter(ours)
            try:
                return function(*arguments, **options)
            finally:
                self._enter(before)

        return switched

    def _enter(self, ours: bool) -> None:  # noqa: FBT001
        now = time.thread_time()
        if self._ours:
            self.seconds += now - self._since
        self._ours, self._since = ours, now
