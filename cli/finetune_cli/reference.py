"""``python -m finetune_cli.reference [--check]``: writes `docs/reference/cli.md` from the commands themselves."""

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from finetune_cli.exit_codes import CliExit
from finetune_cli.main import app

PATH: Final = "docs/reference/cli.md"
_HEADER: Final = "<!-- Generated from cli/finetune_cli by `python -m finetune_cli.reference`. Do not edit. -->"


def build_reference() -> str:
    """Return the reference as Markdown: every command, its options, and the exit codes."""
    group: Any = typer.main.get_command(app)
    lines = [
        _HEADER,
        "# Command line",
        "",
        "`finetune COMMAND`, also `kubectl finetune COMMAND`. How things are done is in [the guide](../guide/cli.md).",
        "",
        "## Exit codes",
        "",
        "`finetune run` exits with [the trainer's own codes](api.md#exit-codes-of-the-trainer), from 64 on.",
        "",
        "| Code | Meaning |",
        "| --- | --- |",
        *(f"| {int(code)} | {text} |" for code, text in _describe_codes()),
        "",
        "## Commands",
        "",
    ]
    for name, command in group.commands.items():
        lines += _describe_command(f"finetune {name}", command)
    return "\n".join(lines).rstrip() + "\n"


def _describe_codes() -> Iterator[tuple[CliExit, str]]:
    (definition,) = ast.parse(inspect.getsource(CliExit)).body
    if not isinstance(definition, ast.ClassDef):
        raise TypeError("CliExit is not a class")
    for before, after in zip(definition.body, definition.body[1:], strict=False):
        match before, after:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(text))):
                yield CliExit[name], " ".join(text.split())


def _describe_command(path: str, command: Any) -> Iterator[str]:  # noqa: ANN401  # Click's
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from _describe_command(f"{path} {name}", below)
        return
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name not in ("help", "_version")]
    yield f"### {path}"
    yield ""
    yield f"`{' '.join([path, *(each.metavar or each.name.upper() for each in arguments), '[OPTIONS]'])}`"
    yield ""
    yield from inspect.cleandoc(command.help or "").splitlines()
    yield ""
    if options:
        yield "| Option | Default | Meaning |"
        yield "| --- | --- | --- |"
        for option in options:
            yield f"| {', '.join(f'`{each}`' for each in option.opts)} | {_show_default(option)} | {_escape(option.help or '')} |"
        yield ""


def _show_default(option: Any) -> str:  # noqa: ANN401
    if option.required:
        return "required"
    value = option.default
    if value is None or value is False or value == "" or not isinstance(value, (str, int, float, Path)):
        return ""
    return f"`{str(getattr(value, 'value', value)).lower() if isinstance(value, bool) else getattr(value, 'value', value)}`"


def _escape(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or with ``--check`` compare it. Returns 1 if it is stale."""
    parser = argparse.ArgumentParser(prog="python -m finetune_cli.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if anything would change")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="the repository's root (default: %(default)s)")
    options = parser.parse_args(arguments)
    target, text = options.root / PATH, build_reference()
    if not options.check:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return 0
    if target.exists() and target.read_text() == text:
        return 0
    sys.stderr.write(f"{PATH} is stale; run `python -m finetune_cli.reference`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
