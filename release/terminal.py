"""What a person sees on a terminal, as an SVG: a program runs on a terminal of its own, an emulator keeps the screen, Rich draws it."""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.text import Text

COLUMNS: Final = 104
LINES: Final = 46
_STILL_SECONDS: Final = 0.2
"""A screen that is drawn in several writes is whole when nothing has come for this long."""
# Rich's own drawing fetches a font from elsewhere; the reader's is as good.
_FORMAT: Final = re.sub(r"@font-face \{\{.*?\n    \}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


class Recording:
    """A program on a terminal; :meth:`run` returns when it has ended."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = list(command)
        self._environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "TERM": "xterm-256color", **environment}
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)

    def run(self, seconds: float, look: Callable[["Recording"], None] = lambda _: None) -> int:
        """Run the program and return its exit code; ``look`` is called whenever the screen has changed and stands still.

        Raises:
            TimeoutError: it has not ended after ``seconds``; it is killed.
        """
        parent, child = pty.openpty()
        size = {"COLUMNS": str(COLUMNS), "LINES": str(LINES)}
        process = subprocess.Popen(self._command, stdin=child, stdout=child, stderr=child, env={**self._environment, **size})
        os.close(child)
        deadline = time.monotonic() + seconds
        changed = False
        try:
            while True:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{' '.join(self._command)} has not ended after {seconds:.0f} s")
                if not select.select([parent], [], [], _STILL_SECONDS)[0]:
                    if changed:
                        look(self)
                    changed = False
                    continue
                try:
                    chunk = os.read(parent, 65536)
                except OSError:
                    break
                if not chunk:
                    break
                self._stream.feed(chunk)
                changed = True
            return process.wait(30)
        finally:
            process.kill()
            process.wait()
            os.close(parent)

    def read_text(self) -> str:
        """Return what the screen shows."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def read_rows(self, typed: str) -> list[Text]:
        """Return the rows that the screen shows, under the line that was ``typed``."""
        last = len(self.read_text().splitlines())
        prompt = Text.assemble(("$ ", "bold green"), typed)
        return [prompt, *(_read_row(self.screen.buffer[row]) for row in range(last))]

    def draw(self, title: str, typed: str) -> str:
        """Return the screen as an SVG, under the line that was ``typed``."""
        console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), color_system="truecolor", legacy_windows=False)  # noqa: SIM115, PTH123
        for row in self.read_rows(typed):
            console.print(row, no_wrap=True, crop=True)
        console.file.close()
        return console.export_svg(title=title, code_format=_FORMAT, unique_id=re.sub(r"\W+", "-", title))


def _read_row(cells: Mapping[int, Any]) -> Text:
    text = Text()
    for column in range(COLUMNS):
        cell = cells[column]
        text.append(cell.data, Style(color=_read_colour(cell.fg), bgcolor=_read_colour(cell.bg), bold=cell.bold, reverse=cell.reverse))
    text.rstrip()
    return text


def _read_colour(name: str) -> str | None:
    if name == "default":
        return None
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    return {"brown": "yellow"}.get(name, re.sub(r"^bright(?=\w)", "bright_", name).replace("bright_brown", "bright_yellow"))
