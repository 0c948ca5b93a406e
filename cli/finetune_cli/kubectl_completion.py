"""``kubectl_complete-finetune``: what kubectl asks when somebody presses Tab behind ``kubectl finetune``.

It answers as kubectl wants it: a completion a line, with a description behind a tab, and ``:4`` (no file names) at the end. See kubectl's
documentation of completion for plugins.
"""

import sys
from typing import Any, Final

import typer
from typer._completion_classes import BashComplete

from finetune_cli.main import app

_NO_FILES: Final = ":4"
_FILES: Final = ":0"


def main() -> None:
    """Print the completions of the words in ``sys.argv``, of which the last is unfinished."""
    *words, incomplete = sys.argv[1:] or [""]
    command: Any = typer.main.get_command(app)
    items = BashComplete(command, {}, "finetune", "").get_completions(list(words), incomplete)
    for item in items:
        if item.type == "plain":
            sys.stdout.write(f"{item.value}\t{(item.help or '').splitlines()[0] if item.help else ''}\n")
    sys.stdout.write(f"{_FILES if any(item.type == 'file' for item in items) else _NO_FILES}\n")
