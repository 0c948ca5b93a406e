"""The command line's entry point. Exit codes: 0 all is well, 1 a manifest is invalid, 2 the command was used wrongly."""

import sys
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

try:
    import typer
    from rich.console import Console
except ModuleNotFoundError as missing:  # the distribution without its extra
    sys.exit(f"finetune: {missing.name} is not installed; install the command line with: pip install 'finetune-operator[cli]'")

from finetune_cli.validate import Verdict, compute_verdicts, is_valid, print_json, print_text, read_source

EXIT_INVALID: Final = 1

app = typer.Typer(
    help="Fine-tune language models on Kubernetes: works with FineTuneJob manifests. Also `kubectl finetune`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class OutputFormat(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"


def _print_version(asked: bool) -> None:  # noqa: FBT001  # Typer's form of a callback
    if asked:
        typer.echo(f"finetune {version('finetune-operator')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def validate(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="YAML or JSON; `-` is standard input."),
    ],
    output: Annotated[OutputFormat, typer.Option("--output", "-o", help="Form of the result.")] = OutputFormat.TEXT,
) -> None:
    """Check manifests without a cluster, and name every fault with its file, line and field.

    YAML is read as kubectl reads it; several documents to a file are fine, and those of other kinds are left alone.

    Exit codes: 0 all are valid, 1 one is not, 2 wrong usage.
    """
    verdicts: list[Verdict] = []
    for path in files:
        source = "<stdin>" if str(path) == "-" else str(path)
        try:
            content = read_source(path)
        except OSError as error:
            raise typer.BadParameter(f"{source}: {error.strerror}", param_hint="FILE") from None
        verdicts += compute_verdicts(source, content)
    console = Console(highlight=False, markup=False)
    (print_json if output is OutputFormat.JSON else print_text)(verdicts, console)
    if not is_valid(verdicts):
        raise typer.Exit(EXIT_INVALID)


def main() -> None:
    """Run the command line."""
    app(prog_name="kubectl finetune" if Path(sys.argv[0]).name == "kubectl-finetune" else "finetune")
