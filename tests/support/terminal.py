"""Programs on a terminal of their own, as a person sees them."""

import os
import pty
import select
import signal
import subprocess
import time


def _take_interrupts() -> None:
    # Whoever started the tests in the background of a shell has them, and all that they start, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command: list[str]) -> None:
        parent, child = pty.openpty()
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
        self._process = subprocess.Popen(
            command,
            stdin=child,
            stdout=child,
            stderr=child,
            env={**environment, "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "50"},
            preexec_fn=_take_interrupts,  # noqa: PLW1509  a single call, which allocates nothing
        )
        os.close(child)
        self._parent = parent
        self.text = ""

    def _read(self) -> bool:
        if not select.select([self._parent], [], [], 0.2)[0]:
            return True
        try:
            chunk = os.read(self._parent, 65536)
        except OSError:
            return False
        self.text += chunk.decode(errors="replace")
        return bool(chunk)

    def wait_for(self, word: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while word not in self.text:
            assert self._read(), self.text
            assert time.monotonic() < deadline, self.text

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    def wait(self, seconds: float = 60.0) -> int:
        deadline = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < deadline, self.text
        os.close(self._parent)
        return self._process.wait(10)
