"""How the demo speaks: numbered steps with their times, and commands whose failure ends it with what they said."""

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


@dataclass
class Steps:
    """The steps so far, with their times in seconds."""

    times: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Say what is done now, and at its end how long it took."""
        print(f"\n[{len(self.times) + 1}] {title}", flush=True)
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        self.times.append((title, seconds))
        say(f"done in {seconds:.1f} s")

    def print_summary(self, total: float) -> None:
        """Print the time of every step."""
        print("\nTimes:")
        for title, seconds in self.times:
            print(f"  {seconds:7.1f} s  {title}")
        print(f"  {total:7.1f} s  in all", flush=True)


def say(text: str) -> None:
    """Print a line that belongs to the step before."""
    print(f"    {text}", flush=True)


def run(words: Sequence[str | Path], env: Mapping[str, str] | None = None, stdin: str | None = None, timeout: float = 120) -> str:
    """Run a command and return what it printed.

    :raises DemoFailed: it failed, or took longer than ``timeout`` seconds.
    """
    try:
        spoken = subprocess.run(
            [str(word) for word in words],
            input=stdin,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"`{_name(words)}` did not end within {timeout:.0f} s") from None
    except OSError as error:
        raise DemoFailed(f"`{_name(words)}` could not be started: {error}") from None
    if spoken.returncode != 0:
        said = spoken.stderr.strip() or spoken.stdout.strip()
        raise DemoFailed(f"`{_name(words)}` ended with {spoken.returncode}:\n{said}")
    return spoken.stdout


class Background:
    """A Python script of this folder that runs beside the next steps."""

    def __init__(self, script: str, *arguments: str) -> None:
        """Start it."""
        path = Path(__file__).with_name(script)
        words = [sys.executable, str(path), *arguments]
        self._name = script
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._output: list[str] = []
        self._progress: list[str] = []
        pipes = ((self._process.stdout, self._output), (self._process.stderr, self._progress))
        self._readers = [threading.Thread(target=_collect, args=pipe, daemon=True) for pipe in pipes]
        for reader in self._readers:
            reader.start()

    def result(self, timeout: float) -> str:
        """Wait for its end, its newest words on the terminal meanwhile, and return the last line that it printed.

        :raises DemoFailed: it failed, or had not ended after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        shown = 0
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                raise DemoFailed(f"{self._name} did not end within {timeout:.0f} s")
            if len(self._progress) > shown:
                shown = len(self._progress)
                say(self._progress[-1])
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
        for reader in self._readers:
            reader.join(timeout=10)
        if self._process.returncode != 0:
            raise DemoFailed(f"{self._name} ended with {self._process.returncode}:\n" + "\n".join(self._progress[-40:]))
        if len(self._progress) > shown:
            say(self._progress[-1])
        return self._output[-1]

    def stop(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(timeout=20)


def _collect(pipe: IO[str] | None, lines: list[str]) -> None:
    for line in pipe or ():
        lines.append(line.rstrip())  # noqa: PERF401 - each as it comes


def _name(words: Sequence[str | Path]) -> str:
    text = shlex.join([Path(str(words[0])).name, *map(str, words[1:])])
    return text if len(text) < 160 else f"{text[:160]}…"
