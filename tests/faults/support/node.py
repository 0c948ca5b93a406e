"""A node that runs no containers: the scheduler places pods on it, and their states are played by script.

The node is a real Node object whose lease is renewed, so that node lifecycle and pod garbage collection leave it alone.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Self

import aiohttp

from finetune_api.artifact import Artifact
from finetune_api.exit_codes import ExitCode
from finetune_api.names import LABEL_JOB_NAME, LABEL_JOB_UID, TRAINER_CONTAINER
from finetune_api.progress import Metrics, Progress
from finetune_api.reasons import Reason
from finetune_api.summary import TrainerSummary, encode_summary
from tests.faults.support.direct import DirectApi, Object, Refused
from tests.faults.support.witness import FINETUNEJOBS, PODS, Sighting, Witness

NODE: Final = "played-node"
SIGKILLED: Final = 137
_NODE_PATH: Final = "/api/v1/nodes"
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
PATIENCE: Final = 20.0
"""Seconds that a pod waits for the operator to say that it runs; then it ends unseen, as real ones do."""


@dataclass(frozen=True, slots=True)
class Killed:
    """An end that the trainer has no say in: SIGKILL, without a last word."""

    container: str = "Error"
    """The reason of the container's end."""
    status: Mapping[str, object] = field(default_factory=dict)
    """What becomes part of the pod's status."""


def build_disruption(reason: str) -> Killed:
    """Return the end of a pod that somebody took its place from."""
    now = _now()
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "Played.", "lastTransitionTime": now}
    return Killed(status={"conditions": [condition]})


OOM_KILLED: Final = Killed(container="OOMKilled")
EVICTED_FOR_STORAGE: Final = Killed(
    status={"reason": "Evicted", "message": "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "}
)
"""As the kubelet says it, and without the condition of a disruption (pkg/kubelet/eviction of Kubernetes 1.35)."""


@dataclass(slots=True)
class Script:
    """How the pods of one namespace go: the n-th pod leaves with the n-th code or end, later ones with the last."""

    exit_codes: tuple[int | Killed, ...] = (0,)
    last_word: str | None = None
    """The termination message of a pod that leaves with 0, if not that of a completed run."""
    until_stopped: int = 0
    """So many pods run until they are asked to stop."""
    hold: asyncio.Event | None = None
    """Where given, no pod ends before it is set (unless it is asked to stop)."""
    wait_for_phase: bool = True
    """A pod ends only once status says Running, so that each run makes the same calls."""
    started: list[str] = field(default_factory=list)
    """Names of pods that have started, in order."""


class PlayedNode:
    """Plays what a kubelet would report. Use as ``async with``."""

    def __init__(self, api: DirectApi, witness: Witness) -> None:
        self._api = api
        self._witness = witness
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.scripts: defaultdict[str, Script] = defaultdict(Script)
        """By namespace."""
        self.scripts_of_runs: dict[tuple[str, str], Script] = {}
        """By namespace and FineTuneJob: for namespaces with several."""

    async def __aenter__(self) -> Self:
        await self._register()
        self._renewal = asyncio.create_task(self._renew_forever())
        self._witness.listeners.append(self._notice)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._witness.listeners.remove(self._notice)
        tasks = [self._renewal, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _notice(self, sighting: Sighting) -> None:
        if sighting.path != PODS or sighting.type == "DELETED":
            return
        pod = sighting.body
        if "deletionTimestamp" in pod["metadata"]:
            self._stopping[sighting.uid].set()
        if pod["spec"].get("nodeName") == NODE and sighting.uid not in self._tasks:
            self._tasks[sighting.uid] = asyncio.create_task(self._play(pod))

    async def _play(self, pod: Object) -> None:
        namespace, uid, name = pod["metadata"]["namespace"], pod["metadata"]["uid"], pod["metadata"]["name"]
        script = self.scripts_of_runs.get((namespace, pod["metadata"]["labels"][LABEL_JOB_NAME])) or self.scripts[namespace]
        stopping = self._stopping[uid]
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        number = len(script.started)
        script.started.append(name)
        started = _now()
        await self._report(path, "Running", {"running": {"startedAt": started}})
        run = pod["metadata"]["labels"][LABEL_JOB_UID]
        end = asyncio.create_task(self._until_done(script, number, namespace, run))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({end, stop}, return_when=asyncio.FIRST_COMPLETED)
        code = script.exit_codes[min(number, len(script.exit_codes) - 1)] if end.done() else int(ExitCode.INTERRUPTED)
        end.cancel()
        status: Mapping[str, object] = {}
        if isinstance(code, Killed):
            terminated, status = {"exitCode": SIGKILLED, "reason": code.container, "message": ""}, code.status
        else:
            message = script.last_word if code == 0 and script.last_word is not None else build_message(code)
            terminated = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "message": message}
        times = {"startedAt": started, "finishedAt": _now()}
        await self._report(path, "Succeeded" if code == 0 else "Failed", {"terminated": {**terminated, **times}}, status)
        await stop
        await self._insist("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})

    async def _until_done(self, script: Script, number: int, namespace: str, run: str) -> None:
        if number < script.until_stopped:
            await asyncio.Event().wait()
        if script.hold is not None:
            await script.hold.wait()
        if script.wait_for_phase:
            with suppress(AssertionError):
                await self._witness.until(lambda: self._is_running(namespace, run), PATIENCE, str)

    def _is_running(self, namespace: str, run: str) -> bool:
        found = [body for body in self._witness.find(namespace, FINETUNEJOBS) if body["metadata"]["uid"] == run]
        return not found or found[0].get("status", {}).get("phase") in ("Running", "Succeeded", "Failed")

    async def _report(self, path: str, phase: str, state: Object, status: Mapping[str, object] = MappingProxyType({})) -> None:
        container = {"name": TRAINER_CONTAINER, "image": "trainer:faults", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        await self._insist("PATCH", f"{path}/status", {"status": {**status, "phase": phase, "containerStatuses": [container]}})

    async def _insist(self, method: str, path: str, body: Object) -> None:
        """Make a call, again and again while the API server can't be reached; an object that is gone is fine."""
        while True:
            try:
                await self._api.call(method, path, body)
            except Refused as refusal:
                if refusal.status in (404, 409):
                    return
                if refusal.status < 500 and refusal.status != 429:
                    raise
            except (aiohttp.ClientError, OSError):
                pass
            else:
                return
            await asyncio.sleep(0.2)

    async def _register(self) -> None:
        await self._api.call("POST", _NODE_PATH, {"metadata": {"name": NODE}})
        await self._make_ready()
        lease = {"metadata": {"name": NODE, "namespace": "kube-node-lease"}, "spec": _build_lease()}
        await self._api.call("POST", _LEASES, lease)

    async def _make_ready(self) -> None:
        much = {"cpu": "100000", "memory": "100000Ti", "pods": "100000", "nvidia.com/gpu": "100000", "ephemeral-storage": "100000Ti"}
        ready = {"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": _now(), "lastTransitionTime": _now()}
        status = {"status": {"capacity": much, "allocatable": much, "conditions": [ready]}}
        await self._insist("PATCH", f"{_NODE_PATH}/{NODE}/status", status)
        await self._insist("PATCH", f"{_NODE_PATH}/{NODE}", {"spec": {"taints": None}})

    async def _renew_forever(self) -> None:
        while True:
            await self._insist("PATCH", f"{_LEASES}/{NODE}", {"spec": _build_lease()})
            with suppress(Refused, aiohttp.ClientError, OSError):
                node = await self._api.call("GET", f"{_NODE_PATH}/{NODE}")
                # On a machine that stood still for long the node counts as lost until it says itself that it is there.
                if any(each["status"] != "True" for each in node["status"]["conditions"] if each["type"] == "Ready"):
                    await self._make_ready()
            await asyncio.sleep(1)


def build_message(code: int) -> str:
    """Return the termination message of a trainer that leaves with ``code``, the same at each end."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    if code == ExitCode.COMPLETED:
        artifact = Artifact(
            name="adapter",
            format="peft",
            uri="s3://bucket/out/adapter",
            digest="sha256:" + "0123456789abcdef" * 4,
            size_bytes=1024,
            base_model="hf://org/base",
            created_time=at,
        )
        progress = Progress(percentage=100, step=10, total_steps=10, epoch=1.0, last_updated_time=at)
        return encode_summary(
            TrainerSummary(outcome="completed", reason=Reason.COMPLETED, progress=progress, metrics=Metrics(loss=1.5), artifacts=[artifact])
        )
    if code == ExitCode.INTERRUPTED:
        return encode_summary(TrainerSummary(outcome="interrupted", reason=Reason.INTERRUPTED, message="Stopped.", checkpoint_step=5))
    reason = Reason.DATA_INVALID if code == ExitCode.DATA_INVALID else Reason.TRAINER_CRASHED
    return encode_summary(TrainerSummary(outcome="failed", reason=reason, message=f"Left with {code}."))


def _build_lease() -> dict[str, Any]:
    return {
        "holderIdentity": NODE,
        "leaseDurationSeconds": 40,
        "renewTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
