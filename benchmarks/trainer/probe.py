"""The same clock for every contender: a callback of transformers' Trainer, put there by the benchmark and by no contender.

Imports neither torch nor transformers before :func:`install`: what a contender imports is its own start-up.
"""

import itertools
import json
import resource
import time
from pathlib import Path
from typing import Any

WARM_UP_STEPS = 3
"""Steps that are not counted: the first ones load kernels and fill caches."""


def install(result: Path, begun: float) -> None:
    """Write the figures of the training in this process to ``result`` when its last step is done.

    :param begun: when the process was started, on the clock of :func:`time.time`.
    """
    from transformers import Trainer, TrainerCallback  # noqa: PLC0415  the contender's own libraries

    from benchmarks.trainer.own_cost import OwnCost  # noqa: PLC0415

    own = OwnCost()

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.walls: list[float] = []
            self.processors: list[float] = []
            self.owned: list[float] = []
            self.others: list[float] = []
            self.first: float | None = None

        def _note(self) -> None:
            _wait_for_the_gpu()
            self.walls.append(time.perf_counter())
            self.processors.append(time.process_time())
            self.owned.append(own.seconds)
            self.others.append(time.process_time() - time.thread_time())

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            own.install()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self._note()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if self.first is None:
                self.first = time.time() - begun

        def on_train_end(self, args: Any, state: Any, control: Any, **__: Any) -> None:
            del args, control
            result.write_text(
                json.dumps(
                    {
                        "first step s": self.first,
                        "step walls": _differences(self.walls)[WARM_UP_STEPS:],
                        "step processors": _differences(self.processors)[WARM_UP_STEPS:],
                        "step own": _differences(self.owned)[WARM_UP_STEPS:],
                        "step other threads": _differences(self.others)[WARM_UP_STEPS:],
                        "peak MiB": _read_peak() / 2**20,
                        "losses": [entry["loss"] for entry in state.log_history if "loss" in entry],
                        "steps": state.global_step,
                    }
                )
            )

    build = Trainer.__init__

    def build_with_clock(self: Any, *arguments: Any, **options: Any) -> None:
        build(self, *arguments, **options)
        self.add_callback(Clock())

    Trainer.__init__ = build_with_clock


def _differences(times: list[float]) -> list[float]:
    """Return the time from the beginning of each step to that of the next: with everything that is done between them."""
    return [after - before for before, after in itertools.pairwise(times)]


def _wait_for_the_gpu() -> None:
    import torch  # noqa: PLC0415  loaded by now

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _read_peak() -> int:
    """Return the bytes that the GPU's allocator gave out at the peak, or without a GPU what the process held."""
    import torch  # noqa: PLC0415  loaded by now

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
