"""The operator as a process that can be killed at any moment and is quickly there again.

It is forked from a server that has imported the program already: hundreds of starts would otherwise be spent on imports.
"""

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import aiohttp

from finetune_devcluster.ports import find_free_ports

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.faults.support.operator_program", "finetune_operator.main"])
_PR_SET_PDEATHSIG = 1


def run_operator(environ: Mapping[str, str], log: str) -> None:
    """Become the operator, as its console script starts it."""
    # Whatever ends the tests ends the operators too.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name in [name for name in os.environ if name.startswith(("FINETUNE_", "KUBE"))]:
        del os.environ[name]
    os.environ.update(environ)
    sys.argv = ["finetune-operator"]
    import finetune_operator.main as program

    if skew := float(environ.get("FAULTS_CLOCK_SKEW", "0")):
        program._now = lambda: datetime.now(UTC) + timedelta(seconds=skew)
    program.main()


class OperatorProcess:
    """An operator that watches ``namespaces`` by way of ``kubeconfig``; its log is kept over restarts."""

    def __init__(self, kubeconfig: Path, namespaces: tuple[str, ...], log: Path, **environ: str) -> None:
        self.log = log
        self.report_port, self._health_port = find_free_ports(2)
        self._environ = {
            "KUBECONFIG": str(kubeconfig),
            "FINETUNE_TRAINER_IMAGE": "trainer:faults",
            "FINETUNE_WATCH_NAMESPACES": ",".join(namespaces),
            "FINETUNE_OPERATOR_NAMESPACE": namespaces[0],
            "FINETUNE_HEALTH_PORT": str(self._health_port),
            "FINETUNE_REPORT_PORT": str(self.report_port),
            "FINETUNE_RESYNC_SECONDS": "300",
            "FINETUNE_LOG_LEVEL": "DEBUG",
            "FINETUNE_LOG_FORMAT": "text",
            **environ,
        }
        self._process: ForkServerProcess | None = None
        self.starts = 0

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """How the last process ended; None while it runs."""
        return self._process.exitcode if self._process is not None else None

    def configure(self, **environ: str) -> None:
        """Change the environment of the processes that are started from now on.

        Beside the operator's own variables there is FAULTS_CLOCK_SKEW: seconds that its clock is ahead.
        """
        self._environ |= environ

    def start(self) -> None:
        """Start a process."""
        assert not self.is_alive
        self._process = _CONTEXT.Process(target=run_operator, args=(self._environ, str(self.log)), daemon=True)
        self._process.start()
        self.starts += 1

    def send(self, sign: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._process is not None
        assert self._process.pid is not None
        os.kill(self._process.pid, sign)

    def kill(self) -> None:
        """End the process by SIGKILL, at once."""
        if self._process is not None:
            self._process.kill()

    async def wait_for_end(self, seconds: float = 60.0) -> None:
        """Wait until the process has ended."""
        async with asyncio.timeout(seconds):
            while self.is_alive:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.01)

    async def wait_until_ready(self, seconds: float = 60.0, *, may_end: bool = False) -> None:
        """Wait until the operator says that it is ready, and the second is over in which it began.

        What is created then is young enough to be known as its own to carry out; by the second, for so are times of creation.

        :raises AssertionError: it ended (unless it ``may_end``, and someone starts it again), or took longer.
        """
        url = f"http://127.0.0.1:{self._health_port}/readyz"
        try:
            async with asyncio.timeout(seconds), aiohttp.ClientSession() as session:
                while True:
                    try:
                        async with session.get(url) as answer:
                            if answer.status == 200:
                                break
                    except aiohttp.ClientError:
                        pass
                    assert may_end or self.is_alive, f"the operator ended with {self.exit_code}:\n{self.read_log()}"
                    await asyncio.sleep(0.05)
                await asyncio.sleep(1 - time.time() % 1)
        except TimeoutError:
            raise AssertionError(f"the operator was not ready within {seconds:.0f} s:\n{self.read_log()}") from None

    def read_log(self, lines: int = 40) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else "(no log)"
