"""How the demo speaks: numbered steps with their times, and commands whose failure ends it with what they said."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


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

    def result(self, timeout: float) -> str:
        """Wait for its end and return the last line that it printed.

        :raises DemoFailed: it failed, or had not ended after ``timeout`` seconds.
        """
        try:
            output, errors = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"{self._name} did not end within {timeout:.0f} s") from None
        if self._process.returncode != 0:
            raise DemoFailed(f"{self._name} ended with {self._process.returncode}:\n{errors.strip()}")
        for line in errors.strip().splitlines():
            say(line)
        return output.strip().splitlines()[-1]

    def stop(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()


def _name(words: Sequence[str | Path]) -> str:
    text = shlex.join([Path(str(words[0])).name, *map(str, words[1:])])
    return text if len(text) < 160 else f"{text[:160]}…"
