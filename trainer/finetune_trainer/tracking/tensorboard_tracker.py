"""TensorBoard: event files, written here and brought to the output."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from finetune_trainer.storage import Store
from finetune_trainer.tracking.tracker import Outcome, Point, RunInfo, Tracker

_UPLOAD_SECONDS: Final = 60.0


class TensorBoardTracker(Tracker):
    """Writes event files to ``tensorboard/<uid>/`` in ``output``. Each pod writes a file of its own; TensorBoard reads them as one run.

    :param folder: where they are written first.
    """

    kind: ClassVar[str] = "tensorboard"

    def __init__(self, output: Store, folder: Path, info: RunInfo) -> None:
        self._output = output
        self._folder = folder
        self._info = info
        self._writer: Any = None
        self._uploaded = time.monotonic()

    def start(self) -> int:
        """Open the file, and write the settings into it. It gets the whole history: the file of an earlier pod may not have arrived."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  runs without it need none of it

        self._writer = SummaryWriter(str(self._folder))
        rows = "".join(f"| {name} | {value.replace('|', ' ')} |\n" for name, value in self._info.settings.items())
        self._writer.add_text("settings", f"| setting | value |\n| --- | --- |\n{rows}")
        return 0

    def log(self, points: Sequence[Point]) -> None:
        """Write the figures, and upload the file now and then."""
        for point in points:
            for name, value in point.values.items():
                self._writer.add_scalar(name, value, point.step, walltime=point.time)
        self._writer.flush()
        if time.monotonic() - self._uploaded >= _UPLOAD_SECONDS:
            self._upload()

    def finish(self, outcome: Outcome, notes: Mapping[str, str]) -> None:
        """Write what came out, and upload the file."""
        self._writer.add_text("outcome", "\n\n".join([outcome, *(f"{name}: {value}" for name, value in notes.items())]))
        self._writer.flush()
        self._upload()

    def _upload(self) -> None:
        for file in sorted(self._folder.iterdir()):
            self._output.upload(file, f"tensorboard/{self._info.uid}/{file.name}")
        self._uploaded = time.monotonic()
