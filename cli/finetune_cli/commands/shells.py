"""``finetune completion``."""

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    """Shells that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> None:
    """Print the completion script of a shell: `source <(finetune completion bash)`. `finetune --install-completion` installs it for good.

    Completes commands, options, and the names of runs in the namespace.
    """
    from typer._completion_shared import get_completion_script

    typer.echo(get_completion_script(prog_name="finetune", complete_var="_FINETUNE_COMPLETE", shell=shell.value))
