"""What a cluster has shown, kept with the time at which it was seen: states that last a moment are not missed, and delays can be told.

One ``kubectl get --watch`` a kind writes into it. Waiting looks at what was seen, so it costs the API server nothing.
"""

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from finetune_devcluster.binaries import ensure_binaries

Object = dict[str, Any]
T = TypeVar("T")

FINETUNEJOBS: Final = "finetunejobs.finetune.dev"
JOBS: Final = "jobs.batch"
PODS: Final = "pods"
EVENTS: Final = "events"
KINDS: Final = (FINETUNEJOBS, JOBS, PODS, EVENTS)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One version of an object."""

    at: float
    """When it was seen, on the monotonic clock, in seconds."""
    body: Object
    gone: bool = False
    """Whether this was its last version, seen as it was deleted."""


class Timeline:
    """Every version of every object of :data:`KINDS`, in the order seen."""

    def __init__(self, kubeconfig: Path, kinds: Iterable[str] = KINDS) -> None:
        self._kubectl = [str(ensure_binaries(["kubectl"])["kubectl"]), f"--kubeconfig={kubeconfig}"]
        self._kinds = tuple(kinds)
        self._changed = threading.Condition()
        self._seen: dict[tuple[str, str, str], list[Sighting]] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._threads: list[threading.Thread] = []
        self._closed = False

    def __enter__(self) -> Self:
        for kind in self._kinds:
            self._threads.append(threading.Thread(target=self._follow, args=(kind,), name=f"watch {kind}", daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._closed = True
            processes = list(self._processes.values())
        for process in processes:
            with contextlib.suppress(OSError):
                process.kill()
        for thread in self._threads:
            thread.join(10)

    def history(self, kind: str, namespace: str, name: str, since: float = 0.0) -> list[Sighting]:
        """Return the versions of one object that were seen after ``since``."""
        with self._changed:
            return [each for each in self._seen.get((kind, namespace, name), ()) if each.at >= since]

    def names(self, kind: str, namespace: str) -> list[str]:
        """Return the names of all objects ever seen in a namespace, in the order in which they appeared."""
        with self._changed:
            return [key[2] for key in self._seen if key[:2] == (kind, namespace)]

    def alive(self, kind: str, namespace: str) -> list[Object]:
        """Return the newest version of each object of a namespace that is there now."""
        with self._changed:
            last = [seen[-1] for key, seen in self._seen.items() if key[:2] == (kind, namespace)]
        return [each.body for each in last if not each.gone]

    def wait_for(
        self, kind: str, namespace: str, name: str, holds: Callable[[Object], object], seconds: float, what: str, since: float = 0.0
    ) -> Sighting:
        """Return the first version, seen after ``since``, of which ``holds`` is true.

        :raises AssertionError: there was none within ``seconds`` from now; the message has the last version seen.
        """
        return self.wait(
            lambda: next((each for each in self.history(kind, namespace, name, since) if holds(each.body)), None),
            seconds,
            what,
            lambda: self._describe(kind, namespace, name),
        )

    def wait(
        self, look: Callable[[], T | None], seconds: float, what: str, describe: Callable[[], object] = lambda: "see the cluster's state"
    ) -> T:
        """Return what ``look`` returns as soon as that is true; it is asked after each change, and each second besides.

        :raises AssertionError: it was not within ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while True:
            with self._changed:
                version = self._version()
            found = look()
            if found:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"not within {seconds:.0f} s: {what}. Last seen: {describe()}")
            with self._changed:
                self._changed.wait_for(lambda: self._version() != version, min(left, 1.0))  # noqa: B023  called at once

    def _version(self) -> int:
        return sum(map(len, self._seen.values()))

    def _describe(self, kind: str, namespace: str, name: str) -> str:
        seen = self.history(kind, namespace, name)
        return json.dumps(seen[-1].body.get("status"), indent=1) if seen else f"no {kind} {namespace}/{name} at all"

    def _follow(self, kind: str) -> None:
        words = [*self._kubectl, "get", kind, "--all-namespaces", "--watch", "--output-watch-events", "--output=json"]
        while True:
            with self._changed:
                if self._closed:
                    return
                process = subprocess.Popen(
                    words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "TZ": "UTC"}
                )
                self._processes[kind] = process
            with process:
                self._read(kind, process)
            # The watch ended: the API server does that after some time, and kubectl where the kind does not exist yet.
            with self._changed:
                self._changed.wait_for(lambda: self._closed, 0.5)

    def _read(self, kind: str, process: "subprocess.Popen[str]") -> None:
        for line in process.stdout or ():
            try:
                event = json.loads(line)
            except ValueError:
                return  # killed in the middle of a line
            self._take(kind, event)

    def _take(self, kind: str, event: Object) -> None:
        body = event["object"]
        metadata = body.get("metadata", {})
        if "name" not in metadata:
            return
        with self._changed:
            seen = self._seen.setdefault((kind, metadata.get("namespace", ""), metadata["name"]), [])
            gone = event["type"] == "DELETED"
            if seen and not gone and seen[-1].body["metadata"].get("resourceVersion") == metadata.get("resourceVersion"):
                return  # the watch began anew
            seen.append(Sighting(time.monotonic(), body, gone))
            self._changed.notify_all()


def condition_of(body: Object, kind: str) -> Object:
    """Return a condition of an object; an empty one where it is not there."""
    conditions: list[Object] = body.get("status", {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == kind), {})


def phase_of(body: Object) -> str:
    """Return the phase of a FineTuneJob or pod."""
    return str(body.get("status", {}).get("phase", ""))


def step_of(body: Object) -> int:
    """Return how many steps a FineTuneJob's status says are done."""
    return int((body.get("status", {}).get("progress") or {}).get("step", 0))


def trainer_state_of(pod: Object) -> Object:
    """Return the state of a pod's container: `waiting`, `running` or `terminated`."""
    statuses: list[Object] = pod.get("status", {}).get("containerStatuses") or []
    state: Object = statuses[0].get("state", {}) if statuses else {}
    return state
