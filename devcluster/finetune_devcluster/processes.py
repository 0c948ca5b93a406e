"""Long-lived processes: started apart from their starter, known by pid and start time, stopped for certain.

A recorded pid alone may belong to another process by the time it is used; pid and start time together do not.
"""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_devcluster.errors import DevClusterError

# Of /proc/PID/stat, after the command's name: the number of threads, and the start time in clock ticks since boot.
_THREADS_FIELD, _START_FIELD = 17, 19
_ZOMBIE_STATES = ("Z", "X", "x")


@dataclass(frozen=True)
class ProcessRecord:
    """A process that was started: enough to find it again, to stop it, and to start it anew."""

    name: str
    pid: int
    start_ticks: int
    argv: tuple[str, ...]
    log: str
    env: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "ProcessRecord":
        """Read a record that `as_json` wrote."""
        return ProcessRecord(**{**value, "argv": tuple(value["argv"])})


def observe_start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when it has ended, or waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    # A process that is being killed shows as a zombie as soon as its first thread has ended; the others still hold its ports and files.
    ended = fields[0] in _ZOMBIE_STATES and int(fields[_THREADS_FIELD]) <= 1
    return None if ended else int(fields[_START_FIELD])


def is_running(record: ProcessRecord) -> bool:
    """Tell whether the very process of the record still runs."""
    return observe_start_ticks(record.pid) == record.start_ticks


def start_process(
    name: str,
    argv: Sequence[str],
    log: Path,
    env: Mapping[str, str] | None = None,
    namespaces_of: int | None = None,
) -> ProcessRecord:
    """Start a program in a session of its own, its output appended to `log`, and return at once.

    Args:
        env: variables added to those of this process.
        namespaces_of: a pid whose network, mount and process namespaces the program joins.

    Raises:
        DevClusterError: there is no such program, or it ended before it could be recorded.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # The shell says its pid and becomes the program, so nothing stands between the program and the recorded pid. It
    # looks for the program first: once the pid is said, nothing tells a shell that fails to become it from one about to.
    find = 'command -v "$1" >/dev/null || { echo "$1: not found" >&2; exit 127; }'
    script = f'{find}; echo $$; exec "$@" >>{shlex.quote(str(log))} 2>&1 </dev/null'
    prefix = [] if namespaces_of is None else ["nsenter", f"--target={namespaces_of}", "--net", "--mount", "--pid"]
    spoken = subprocess.run(
        [*prefix, "setsid", "--fork", "sh", "-c", script, "sh", *argv],
        env={**os.environ, **(env or {})},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if spoken.returncode != 0 or not spoken.stdout.strip().isdigit():
        raise DevClusterError(f"{name} could not be started: {spoken.stderr.strip() or 'no pid was reported'}")
    pid = int(spoken.stdout)
    if namespaces_of is not None:
        pid = observe_outer_pid(namespaces_of, pid) or 0
    ticks = observe_start_ticks(pid) if pid else None
    if ticks is None:
        raise DevClusterError(f"{name} ended as soon as it was started; {log} ends with:\n{read_tail(log)}")
    return ProcessRecord(name, pid, ticks, tuple(argv), str(log), dict(env or {}))


def observe_outer_pid(member: int, inner_pid: int) -> int | None:
    """Return this namespace's pid of the process that is `inner_pid` in the process namespace of `member`."""
    try:
        namespace = Path(f"/proc/{member}/ns/pid").readlink()
    except OSError:
        return None
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "ns/pid").readlink() != namespace:
                continue
            status = (entry / "status").read_text()
        except OSError:
            continue
        line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
        if int(line.split()[-1]) == inner_pid:
            return int(entry.name)
    return None


def stop_process(record: ProcessRecord, grace: float, sign: signal.Signals = signal.SIGTERM) -> None:
    """End a process: `sign`, then SIGKILL after `grace` seconds. One that has ended already is left alone.

    Raises:
        DevClusterError: the kernel still shows it 10 s after SIGKILL.
    """
    steps = [(sign, grace)] if sign != signal.SIGKILL else []
    for step, wait in (*steps, (signal.SIGKILL, 10.0)):
        if not is_running(record):
            return
        try:
            os.kill(record.pid, step)
        except ProcessLookupError:
            return
        if wait_until(lambda: not is_running(record), wait, interval=0.02):
            return
    raise DevClusterError(f"{record.name} (pid {record.pid}) did not end within 10 s of SIGKILL")


def wait_until(condition: Callable[[], object], timeout: float, interval: float = 0.1) -> bool:
    """Ask `condition` every `interval` seconds until it holds or `timeout` seconds have passed; say which."""
    deadline = time.monotonic() + timeout
    while True:
        if condition():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)


def read_tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, or a word that there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 16384))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return f"(no log at {log})"
