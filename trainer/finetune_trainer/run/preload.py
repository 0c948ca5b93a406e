"""Importing the training libraries while something slow but idle goes on."""

import importlib
import threading
from types import TracebackType
from typing import Final, Self

_MODULES: Final = (
    "finetune_trainer.model.adapter",
    "finetune_trainer.model.loading",
    "finetune_trainer.run.callbacks",
    "finetune_trainer.run.settings",
)
"""Modules of our own that import torch, transformers, PEFT and TRL, which takes 8 s on a quiet machine and more on a busy one."""


class Preload:
    """Imports in a thread of its own as long as the ``with`` block runs, and waits for the rest at its end.

    What an import raised is raised there. Where the block itself raises, nothing is waited for.
    """

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._import, name="preload", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            return
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _import(self) -> None:
        try:
            for name in _MODULES:
                importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            self._error = error
