"""Lines of a trainer's log as people read them."""

import json
from typing import Final

from rich.text import Text

from finetune_cli.words import printable
from finetune_sdk.run import LogLine

_STYLES: Final = {"warning": "yellow", "error": "red", "critical": "red"}
_RANKS: Final = ("cyan", "magenta", "green", "blue", "yellow")


def render_line(line: LogLine, *, ranks: bool) -> Text:
    """Return a line: time, rank where there are several pods, message; what is no JSON as it is."""
    head = Text(f"[{line.rank}] ", style=_RANKS[line.rank % len(_RANKS)]) if ranks else Text()
    try:
        entry = json.loads(line.text) if line.text.startswith("{") else None
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or "message" not in entry:
        return head.append(printable(line.text))
    level = str(entry.get("level", "info"))
    head.append(f"{str(entry.get('time', ''))[11:19]} ", style="dim")
    head.append(printable(str(entry["message"])), style=_STYLES.get(level, ""))
    if "traceback" in entry:
        head.append("\n" + printable(str(entry["traceback"])), style="dim")
    return head
