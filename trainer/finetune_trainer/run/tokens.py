"""Tokenising a run's data once: once in a pod, however many processes it has; and, where the run keeps them, once in the run's life."""

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from finetune_trainer.artifacts import CheckpointStore, ManifestFields
from finetune_trainer.data import PreparedData
from finetune_trainer.data.kept import can_keep, pack_prepared, unpack_prepared
from finetune_trainer.data.prepared import read_prepared
from finetune_trainer.errors import StorageFailed
from finetune_trainer.group import Group

logger = logging.getLogger(__name__)
PREPARED_FOLDER: Final = "prepared"
"""Folder of the tokenised data."""


class TokenKeeper:
    """Hands out the run's prepared data, and keeps them. Whatever fails in keeping them costs time and nothing else.

    :param folder: the run's folder on this machine, which the processes of a pod share.
    :param checkpoints: where data are kept from one pod to the next; None where they are not.
    """

    def __init__(self, folder: Path, group: Group, checkpoints: CheckpointStore | None) -> None:
        self._shared = folder / PREPARED_FOLDER
        self._own = folder / f"process-{group.local_rank}" / PREPARED_FOLDER if group.local_rank else self._shared
        self._packed = folder / "tokens"
        self._group = group
        self._checkpoints = checkpoints
        self._thread: threading.Thread | None = None

    def obtain(
        self,
        key: str | None,
        prepare: Callable[[Path], PreparedData],
        settle: Callable[[], None],
        build_fields: Callable[[], ManifestFields],
    ) -> PreparedData:
        """Return the data of ``key``: an earlier pod's, or what another process of this pod has prepared, or what ``prepare`` returns.

        :param key: see :func:`~finetune_trainer.data.kept.compute_key`; None of data that are not kept.
        :param prepare: is given the folder to write to.
        :param settle: does to the tokenizer what ``prepare`` would do.
        """
        if key is None:
            return prepare(self._own)
        if self._group.local_rank:
            if self._group.wait_for_data() and (data := self._read()) is not None:
                settle()
                return data
            return prepare(self._own)
        if self._checkpoints is not None and (data := self._fetch(key)) is not None:
            self._group.tell_data(kept=True)
            settle()
            logger.info("the data were tokenised by an earlier pod: %d examples to train on", data.counts.examples)
            return data
        data = prepare(self._own)
        self._group.tell_data(kept=True)
        if self._checkpoints is not None and self._group.leads and can_keep(data):
            arguments = (self._checkpoints, key, data, build_fields())
            self._thread = threading.Thread(target=self._publish, args=arguments, name="tokens", daemon=True)
            self._thread.start()
        return data

    def wait(self) -> None:
        """Wait until what is on its way to the store is there, or has failed."""
        if self._thread is not None:
            self._thread.join()

    def _fetch(self, key: str) -> PreparedData | None:
        shutil.rmtree(self._packed, ignore_errors=True)
        try:
            if self._checkpoints is None or not self._checkpoints.download_tokens(key, self._packed):
                return None
            return unpack_prepared(self._packed, self._shared)
        except (StorageFailed, OSError) as error:
            logger.warning("kept data were not fetched; they are tokenised again: %s", error)
        except ValueError as error:
            logger.warning("kept data can't be read; they are tokenised again: %s", error)
        finally:
            shutil.rmtree(self._packed, ignore_errors=True)
        return None

    def _read(self) -> PreparedData | None:
        try:
            return read_prepared(self._shared)
        except (OSError, ValueError) as error:
            logger.warning("what the first process of the pod has tokenised can't be read; it is tokenised again: %s", error)
            return None

    def _publish(self, checkpoints: CheckpointStore, key: str, data: PreparedData, fields: ManifestFields) -> None:
        try:
            pack_prepared(data, self._packed)
            checkpoints.publish_tokens(key, self._packed, fields)
        except Exception as error:  # noqa: BLE001  the run goes on without
            logger.warning("the tokenised data are not kept, and the next pod tokenises them again: %s", error)
        shutil.rmtree(self._packed, ignore_errors=True)
