"""Asking base and adapter: prompts go to a process with the training libraries, answers come back as lines of JSON."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from rich.table import Table
from rich.text import Text

from finetune_cli.exit_codes import CliExit
from finetune_cli.output import make_console, make_message_console
from finetune_cli.words import printable

GENERATE_MODULE: Final = "finetune_trainer.generate"


def answer_prompts(options: dict[str, object], prompts: list[str] | None, *, as_json: bool) -> int:
    """Show the answers to ``prompts``, or to what is typed, and return the exit code."""
    messages, console = make_message_console(), make_console()
    process = subprocess.Popen(
        [sys.executable, "-m", GENERATE_MODULE, json.dumps(options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the pipes to the process are missing")
    try:
        ready = _read(process.stdout)
        if "error" in ready:
            messages.print(f"error: {ready['error']}")
            return CliExit.INVALID
        messages.print(f"{ready['model']} with {options['adapter']}, on {ready['device']}", style="dim")
        for prompt in prompts if prompts is not None else _typed():
            process.stdin.write(json.dumps({"prompt": prompt}) + "\n")
            process.stdin.flush()
            answer = _read(process.stdout)
            if "error" in answer:
                messages.print(f"error: {answer['error']}")
                return CliExit.INVALID
            if as_json:
                sys.stdout.write(json.dumps({"prompt": prompt, **answer}, ensure_ascii=False) + "\n")
                sys.stdout.flush()
            else:
                console.print(build_answers(prompt, str(answer["base"]), str(answer["adapter"])))
        return CliExit.OK
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def build_answers(prompt: str, base: str, adapter: str) -> Table:
    """Return the two answers beside each other."""
    table = Table(title=Text(printable(prompt), style="bold"), title_justify="left", expand=True, show_lines=False)
    table.add_column("base", ratio=1, overflow="fold", header_style="dim")
    table.add_column("adapter", ratio=1, overflow="fold", header_style="green")
    table.add_row(Text(printable(base)), Text(printable(adapter)))
    return table


def _typed() -> Iterator[str]:
    """Yield what is typed, until the end of the input."""
    lines: Iterable[str] = iter(lambda: input("> "), None) if sys.stdin.isatty() else sys.stdin
    try:
        yield from (line.rstrip("\n") for line in lines if line.strip())
    except EOFError:
        return


def _read(stream: Iterable[str]) -> dict[str, str]:
    for line in stream:
        if line.startswith("{"):
            parsed: dict[str, str] = json.loads(line)
            return parsed
    return {"error": "the process ended; see its messages above"}
