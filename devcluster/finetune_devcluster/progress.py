"""Long commands, run so that the terminal shows where they stand."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.room import describe_full_disk

_TIMEOUT = 3600.0
_FIRST_REPORT = 2.0
_REPORT_INTERVAL = 10.0
_KEPT_LINES = 40
_WIDTH = 120


def run_shown(words: Sequence[str], name: str, temporary: Path) -> None:
    """Run a long command, its steps and the time on the terminal; its temporary files go to `temporary`.

    Raises:
        DevClusterError: it failed or took more than an hour; the message has the end of its output.
    """
    started = time.monotonic()
    tail: deque[str] = deque(maxlen=_KEPT_LINES)
    process = subprocess.Popen(
        list(words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read_lines, args=(process, lines), daemon=True).start()
    step, since, reported = "started", started, started
    try:
        while True:
            now = time.monotonic()
            # A step that is over in a moment is not worth a line.
            if now - since >= _FIRST_REPORT and (reported < since or now - reported >= _REPORT_INTERVAL):
                _show(name, now - started, step)
                reported = now
            try:
                line = lines.get(timeout=_FIRST_REPORT)
            except queue.Empty:
                pass
            else:
                if line is None:
                    break
                tail.append(line)
                if "STEP " in line or line.startswith("I: "):
                    step, since = line.strip(), time.monotonic()
            if time.monotonic() - started > _TIMEOUT:
                raise DevClusterError(f"{name}: not done after {_TIMEOUT:.0f} s:\n" + "\n".join(tail))
        code = process.wait(timeout=60)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=60)
    if code != 0:
        raise DevClusterError(f"{name}: {Path(words[0]).name} ended with {code}:\n" + "\n".join(tail) + describe_full_disk(tail, temporary))


def _read_lines(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    if process.stdout is not None:
        with process.stdout:
            for line in process.stdout:
                lines.put(line.rstrip())
    lines.put(None)


def _show(name: str, seconds: float, text: str) -> None:
    shown = text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"
    print(f"  {name} {seconds:4.0f} s  {shown}", file=sys.stderr, flush=True)
