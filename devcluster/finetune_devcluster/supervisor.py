"""The processes of one cluster: started, recorded at once, stopped and started again by name."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.processes import (
    ProcessRecord,
    is_running,
    observe_start_ticks,
    read_tail,
    start_process,
    stop_process,
    wait_until,
)
from finetune_devcluster.state import ClusterState, save_state

MARKER = "FINETUNE_DEVCLUSTER_STATE"
"""A variable in the environment of every process of a cluster, its value the cluster's state folder."""

NAMESPACE = "namespace"
"""The name of the process that holds a node's namespaces open: the first process of its process namespace."""

_GRACE = 5.0
_GRACEFUL = ("process-node",)


class Supervisor:
    """Starts and stops the processes of the cluster in `folder`, and keeps its state file true."""

    def __init__(self, folder: Path, state: ClusterState) -> None:
        """Look after the cluster of `state`, whose files are in `folder`."""
        self.folder = folder
        self.state = state

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None, *, inside: bool = True) -> ProcessRecord:
        """Start a process, inside the cluster's namespaces when it has any and `inside` says so."""
        holder = self.state.processes.get(NAMESPACE) if inside else None
        marked = {**(env or {}), MARKER: str(self.folder)}
        record = start_process(name, argv, self.log_of(name), marked, holder.pid if holder else None)
        return self.record(record)

    def record(self, record: ProcessRecord) -> ProcessRecord:
        """Remember a process as the cluster's, on disk."""
        self.state.processes[record.name] = record
        self.save()
        return record

    def save(self) -> None:
        """Write the state to disk."""
        save_state(self.folder, self.state)

    def stop(self, name: str, sign: signal.Signals = signal.SIGTERM, grace: float = _GRACE) -> None:
        """Stop one process; its record stays, so that `restart` knows how to start it."""
        stop_process(self._find(name), grace, sign)

    def restart(self, name: str) -> ProcessRecord:
        """Stop one process if it runs, and start it with the same command line."""
        record = self._find(name)
        if not record.argv:
            raise DevClusterError(f"{name} cannot be restarted by itself: take the cluster down and up again")
        stop_process(record, _GRACE)
        return self.start(name, record.argv, record.env)

    def is_running(self, name: str) -> bool:
        """Tell whether the process of that name runs."""
        record = self.state.processes.get(name)
        return record is not None and is_running(record)

    def wait(self, what: str, condition: Callable[[], bool], timeout: float, needs: Sequence[str]) -> None:
        """Wait until `condition` holds.

        Raises:
            DevClusterError: it did not in `timeout` seconds, or one of the processes that it needs ended; the message
                has the last lines of that process' log.
        """
        dead: list[str] = []

        def settled() -> bool:
            dead[:] = [name for name in needs if not self.is_running(name)]
            return bool(dead) or condition()

        if not wait_until(settled, timeout, interval=0.05):
            tails = "\n".join(f"-- {name}\n{read_tail(self.log_of(name))}" for name in needs)
            raise DevClusterError(f"{what}: not within {timeout:.0f} s\n{tails}")
        if dead:
            raise DevClusterError(f"{what}: {dead[0]} ended:\n{read_tail(self.log_of(dead[0]))}")

    def stop_all(self) -> None:
        """Stop every process of the cluster, those too that were never recorded."""
        holder = self.state.processes.get(NAMESPACE)
        if holder is not None:
            # Its end is the end of everything in its process namespace, by the kernel's hand.
            stop_process(holder, grace=0, sign=signal.SIGKILL)
        # What the cluster holds goes with it, so nothing needs time to save its work, but for what runs local pods.
        for record in sorted(self.state.processes.values(), key=lambda each: each.name not in _GRACEFUL):
            gentle = record.name in _GRACEFUL
            stop_process(record, _GRACE if gentle else 0, signal.SIGTERM if gentle else signal.SIGKILL)
        for record in observe_marked(self.folder):
            stop_process(record, 0, signal.SIGKILL)

    def log_of(self, name: str) -> Path:
        """Return the path of a process' log."""
        return self.folder / "logs" / f"{name}.log"

    def _find(self, name: str) -> ProcessRecord:
        try:
            return self.state.processes[name]
        except KeyError:
            raise DevClusterError(
                f"cluster {self.state.name} has no component {name!r}; it has {', '.join(self.state.processes)}"
            ) from None


def observe_marked(folder: Path) -> list[ProcessRecord]:
    """Return the processes whose environment says that they belong to the cluster in `folder`, this one left out."""
    return observe_with_variable(MARKER, str(folder))


def observe_with_variable(name: str, value: str) -> list[ProcessRecord]:
    """Return the processes that were started with a variable of that value in their environment, this one left out."""
    marker = f"{name}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if marker not in (entry / "environ").read_bytes().split(b"\0"):
                continue
        except OSError:
            continue
        ticks = observe_start_ticks(int(entry.name))
        if ticks is not None:
            found.append(ProcessRecord("unrecorded", int(entry.name), ticks, (), "", {}))
    return found
