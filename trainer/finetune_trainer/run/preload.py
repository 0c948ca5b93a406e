"""Importing the training libraries while something slow but idle goes on."""

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, cast

from finetune_api.spec.objective import Objective

_MODULES: Final = (
    "finetune_trainer.model.adapter",
    "finetune_trainer.model.loading",
    "finetune_trainer.run.callbacks",
    "finetune_trainer.run.settings",
)
"""Modules of our own that import torch, transformers, PEFT and TRL, which takes 8 s on a quiet machine and more on a busy one."""


_OF_OBJECTIVES: Final[dict[Objective, str]] = {
    "sft": "finetune_trainer.run.trainer",
    "pretrain": "finetune_trainer.run.trainer",
    "distill": "finetune_trainer.run.distill",
    "grpo": "finetune_trainer.run.grpo",
    "dpo": "finetune_trainer.run.preference",
    "orpo": "finetune_trainer.run.preference",
    "kto": "finetune_trainer.run.preference",
    "reward": "finetune_trainer.run.preference",
}
"""Likewise, of each objective."""


class Preload:
    """Imports in a thread of its own as long as the ``with`` block runs, and waits for the rest at its end.

    What an import raised is raised there. Where the block itself raises, nothing is waited for.

    :param unused: modules that the libraries would import because they are there, and that this run has no use for.
    """

    def __init__(self, objective: Objective, unused: tuple[str, ...] = ()) -> None:
        self._modules = (*_MODULES, _OF_OBJECTIVES[objective])
        self._unused = unused
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
            with hide_modules(self._unused):
                for name in self._modules:
                    importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            self._error = error


@contextmanager
def hide_modules(names: tuple[str, ...]) -> Iterator[None]:
    """Let ``names`` look as if they were not installed, for as long as the block runs; those that are loaded already stay.

    TRL imports wandb wherever it finds it: a quarter of all that is imported before the first step.
    """
    hidden = [name for name in names if name not in sys.modules]
    modules = cast("dict[str, Any]", sys.modules)  # None is how Python marks what can't be imported
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            if modules.get(name) is None:
                modules.pop(name, None)
