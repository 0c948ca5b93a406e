"""Reading back what trackers wrote, and runs stopped at a step. Functions here run in a trainer's process."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def read_events(folder: Path, result: Path) -> None:
    """Read event files by TensorBoard's own reader; write step and value of each figure to ``result``."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    result.write_text(json.dumps({tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))


def run_interrupted(config: dict[str, Any], step: int) -> None:
    """Run the trainer, and send it SIGTERM when ``step`` is done."""
    from finetune_trainer.main import main
    from finetune_trainer.run.progress import RunProgress

    end_step = RunProgress.end_step

    def end_and_interrupt(self: RunProgress, done: int, *others: Any) -> None:
        end_step(self, done, *others)
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    RunProgress.end_step = end_and_interrupt  # type: ignore[method-assign]
    os.environ.update({"FINETUNE_CONFIG": json.dumps(config), "FINETUNE_LOG_FORMAT": "text"})
    sys.argv = ["finetune-trainer"]
    main()
