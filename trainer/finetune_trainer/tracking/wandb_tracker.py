"""Weights & Biases: one run for one FineTuneJob, by its UID; or, offline, a folder in the output for `wandb sync`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from finetune_trainer.storage import Store
from finetune_trainer.tracking.tracker import Outcome, Point, RunInfo, Tracker

_TIMEOUT_SECONDS: Final = 30.0


class WandbTracker(Tracker):
    """Sends figures to Weights & Biases.

    :param url: a server of one's own; the service itself if None.
    :param credentials: `WANDB_API_KEY`, by its name.
    """

    kind: ClassVar[str] = "wandb"

    def __init__(
        self,
        info: RunInfo,
        output: Store,
        folder: Path,
        credentials: Mapping[str, str],
        *,
        url: str | None,
        entity: str | None,
        offline: bool,
    ) -> None:
        self._info = info
        self._output = output
        self._folder = folder
        self._credentials = credentials
        self._url = url
        self._entity = entity
        self._offline = offline
        self._run: Any = None

    def start(self) -> int:
        """Begin the run, or go on with it."""
        os.environ.update({"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", **self._credentials})
        import wandb  # noqa: PLC0415  seconds to import; runs without it need none of it

        self._folder.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {"console": "off", "disable_git": True, "disable_code": True, "init_timeout": _TIMEOUT_SECONDS}
        if self._url is not None:
            settings["base_url"] = self._url
        self._run = wandb.init(
            project=self._info.project.replace("/", "-"),
            entity=self._entity,
            name=self._info.name,
            id=self._info.uid,
            resume=None if self._offline else "allow",
            dir=str(self._folder),
            mode="offline" if self._offline else "online",
            config=dict(self._info.settings),
            settings=wandb.Settings(**settings),
        )
        return int(self._run.step or 0)

    def log(self, points: Sequence[Point]) -> None:
        """Send the figures of each step."""
        for point in points:
            self._run.log(dict(point.values), step=point.step)

    def finish(self, outcome: Outcome, notes: Mapping[str, str]) -> None:
        """Write what came out and end the run; offline, bring its folder to the output."""
        self._run.summary.update({"outcome": outcome, **notes})
        self._run.finish(exit_code=0 if outcome == "completed" else 1)
        if self._offline:
            root = self._folder / "wandb"
            for file in sorted(root.rglob("*")):
                if file.is_file() and not file.is_symlink() and "logs" not in file.relative_to(root).parts:
                    self._output.upload(file, f"wandb/{self._info.uid}/{file.relative_to(root).as_posix()}")
