"""One run of a container's command as a local process: a session of its own, ended with all that it has started."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CANNOT_START = 128
"""Exit code of a command that could not be started, as container runtimes have it."""


@dataclass
class LocalProcess:
    """A started command."""

    process: asyncio.subprocess.Process

    async def wait(self) -> int:
        """Wait for the end, end whatever it left behind, and return its return code."""
        code = await self.process.wait()
        # A container's processes end with its first one.
        self._signal(signal.SIGKILL)
        return code

    async def end(self, grace: float) -> None:
        """Ask it to end by SIGTERM, as a kubelet does, and make it end after `grace` seconds."""
        if self.process.returncode is not None:
            return
        # Only the first process of a container is told; the end is everyone's.
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), max(grace, 0.05))
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self.process.wait()

    def _signal(self, sign: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, sign)


async def start(argv: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> LocalProcess:
    """Start a command in `folder`, its output appended to `log`.

    Raises:
        OSError: there is no such command, or it may not be run.
    """
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=folder,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    return LocalProcess(process)
