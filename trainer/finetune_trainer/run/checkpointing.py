"""What a checkpoint holds besides the library's own files, and bringing it to the store."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import Field

from finetune_api.base import StoredModel
from finetune_trainer.artifacts import CheckpointStore, ManifestFields
from finetune_trainer.errors import StorageFailed
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.run.survival import SurvivalState
from finetune_trainer.tracing import OpenSpan, no_span

logger = logging.getLogger(__name__)

STATE_FILE: Final = "run_state.json"
BEST_FOLDER: Final = "best"
"""Folder, in a checkpoint, of the adapter with the lowest held-out loss so far."""
MAX_FAILURES: Final = 3
"""Checkpoints lost in a row before the run fails: each was tried several times already."""


class RunState(StoredModel):
    """What the run knows at a checkpoint and the library does not."""

    tokens_seen: int = Field(ge=0)
    values: dict[str, float] = Field(default_factory=dict)
    """Last metrics by name; finite ones only."""
    evaluation: Evaluation | None = None
    """What was answered before the first step."""
    survival: SurvivalState = Field(default_factory=SurvivalState)


def write_run_state(folder: Path, state: RunState) -> None:
    """Add ``state`` to the checkpoint in ``folder``."""
    (folder / STATE_FILE).write_text(state.model_dump_json(), encoding="utf-8")


def read_run_state(folder: Path) -> RunState:
    """Read what :func:`write_run_state` wrote; the folder's digests must have been verified."""
    return RunState.model_validate_json((folder / STATE_FILE).read_text(encoding="utf-8"))


class CheckpointUploader:
    """Publishes checkpoints from a thread of its own, one at a time, so that training goes on meanwhile.

    While one is on its way the newest of the others waits; those between are dropped. A local folder is deleted once it is published or
    dropped. Killed at any moment, the store keeps the checkpoints that have their manifest.

    :param published: told the step of each checkpoint that is complete in the store.
    :param timed: told how many seconds it took to get there from the local folder.
    :param span: opens a span of the run's trace.
    """

    def __init__(
        self,
        checkpoints: CheckpointStore,
        keep: int,
        published: Callable[[int], None],
        timed: Callable[[float], None] = lambda _: None,
        span: OpenSpan = no_span,
    ) -> None:
        self._span = span
        self._timed = timed
        self._checkpoints = checkpoints
        self._keep = keep
        self._published = published
        self._changed = threading.Condition()
        self._waiting: tuple[Path, ManifestFields] | None = None
        self._busy = False
        self._closed = False
        self._failures_in_row = 0
        self._last_failure: StorageFailed | None = None
        self.failures = 0
        """Checkpoints that could not be published."""
        self._thread: threading.Thread | None = None

    def submit(self, folder: Path, fields: ManifestFields) -> None:
        """Publish ``folder`` in the background."""
        with self._changed:
            dropped, self._waiting = self._waiting, (folder, fields)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if dropped is not None and dropped[0] != folder:
            logger.warning("the store is slower than checkpoints come: that of step %d is left out", dropped[1].step)
            shutil.rmtree(dropped[0], ignore_errors=True)

    def publish_now(self, folder: Path, fields: ManifestFields) -> None:
        """Publish ``folder`` before anything else, in this thread; what waits is dropped.

        :raises StorageFailed: the store failed.
        """
        with self._changed:
            self._waiting = None
        self._publish(folder, fields)

    def raise_if_failing(self) -> None:
        """:raises StorageFailed: the last :data:`MAX_FAILURES` checkpoints were lost."""
        with self._changed:
            if self._failures_in_row >= MAX_FAILURES and self._last_failure is not None:
                raise StorageFailed(f"{self._failures_in_row} checkpoints in a row could not be written: {self._last_failure.message}")

    def drain(self, timeout: float | None = None) -> None:
        """Wait until all checkpoints are published, at most ``timeout`` seconds; what has not begun by then is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting is None and not self._busy, timeout)
            self._waiting = None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._waiting is None:
                    return
                folder, fields = self._waiting
                self._waiting, self._busy = None, True
            try:
                self._publish(folder, fields)
            except StorageFailed as error:
                self._note_failure(fields.step, error)
            except Exception as error:  # noqa: BLE001  a thread that dies unseen would leave the run without checkpoints
                self._note_failure(fields.step, StorageFailed(f"{type(error).__name__}: {error}"))
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _publish(self, folder: Path, fields: ManifestFields) -> None:
        begun = time.monotonic()
        with self._span("checkpoint", step=fields.step):
            self._checkpoints.publish(folder, fields)
        self._timed(time.monotonic() - begun)
        with self._changed:
            self._failures_in_row = 0
        self._published(fields.step)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self._checkpoints.rotate(self._keep)
        except StorageFailed as error:  # the checkpoint itself is safe
            logger.warning("older checkpoints were not deleted: %s", error)

    def _note_failure(self, step: int, error: StorageFailed) -> None:
        logger.warning("the checkpoint of step %d is lost (training goes on): %s", step, error)
        with self._changed:
            self.failures += 1
            self._failures_in_row += 1
            self._last_failure = error
