"""What the operator's benchmarks share: a control plane, the operator as a process, the audit log, and how figures are kept.

Times come from the API server's audit log (microseconds, one clock), processor time and memory from the operator's process.
"""

import asyncio
import ctypes
import importlib.metadata
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from finetune_api.names import API_VERSION, KIND
from finetune_devcluster import Cluster, control_plane
from finetune_operator.kube.client import FINETUNEJOBS, JOBS, PODS, SERVICES, ApiError, KubeClient, Resource

NAMESPACES = 10
AT_ONCE = 32
DEADLINE_SECONDS = 900.0
ROOT = Path(__file__).parents[2]
CRDS = ROOT / "crds"
RESULTS = ROOT / "benchmarks" / "results"
NAMESPACE_RESOURCE = Resource("", "v1", "namespaces")
_ALONE = ROOT / ".venv-operator" / "bin" / "python"
PYTHON = str(_ALONE) if _ALONE.exists() else sys.executable
"""The operator's own environment (`make operator-environment`), as in its image: in another, kopf imports a client that it doesn't use."""
LIBRARIES = ("kopf", "pydantic", "aiohttp", "orjson", "uvloop")
OURS = ("finetune-operator",)

Figures = dict[str, float]
_PR_SET_PDEATHSIG = 1


def build_finetunejob(name: str, **spec: object) -> dict[str, Any]:
    uris = {"model": {"uri": "hf://org/base"}, "dataset": {"uri": "s3://bucket/rows.jsonl"}, "output": {"uri": "s3://bucket/out"}}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": {**uris, **spec}}


def build_plain_job(name: str) -> dict[str, Any]:
    container = {"name": "main", "image": "none"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template}}


def read_cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has taken so far, the kernel's for it included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class MeasuredProcess:
    """A process of a command of its own, which ends with the benchmark."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.started = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                stderr=output,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  # there is one thread
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        return read_cpu_seconds(self.pid)

    def peak_mebibytes(self) -> float:
        return self._read_mebibytes("VmHWM")

    def mebibytes(self) -> float:
        return self._read_mebibytes("VmRSS")

    def _read_mebibytes(self, field: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) / 1024

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class OperatorProcess(MeasuredProcess):
    """The operator (or another one, by ``argv``) as a process of its own."""

    def __init__(self, kubeconfig: Path, log: Path, argv: Sequence[str] = ("-m", "finetune_operator"), **environ: str) -> None:
        self.report_port, self.health_port = find_free_port(), find_free_port()
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "FINETUNE_TRAINER_IMAGE": "trainer:benchmark",
            "FINETUNE_REPORT_SERVICE": f"localhost:{self.report_port}",
            "FINETUNE_REPORT_PORT": str(self.report_port),
            "FINETUNE_HEALTH_PORT": str(self.health_port),
            "FINETUNE_LOG_LEVEL": "WARNING",
            **environ,
        }
        super().__init__([PYTHON, *argv], environment, log)

    async def wait_until_ready(self) -> float:
        """Wait until it says that it is ready; return the seconds since it was started."""
        while not is_ready(self.health_port):
            if not self.is_alive:
                raise RuntimeError(f"the operator left with {self._process.returncode}")
            if time.monotonic() - self.started > DEADLINE_SECONDS:
                raise TimeoutError("the operator is not ready")
            await asyncio.sleep(0.05)
        return time.monotonic() - self.started


def is_ready(port: int) -> bool:
    """Return whether the process that answers for its health at ``port`` says that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end_with_parent() -> None:
    """Let this process end with the benchmark, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Write:
    """One write that the API server took or refused."""

    time: datetime
    verb: str
    resource: str
    namespace: str
    name: str
    code: int
    agent: str


class AuditLog:
    """The API server's log of writes, from a place in it on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.read_bytes().rfind(b"\n") + 1  # the last line may be half written
        self.writes: list[Write] = []

    def read(self) -> list[Write]:
        """Read on to the end; return all writes since the beginning."""
        with self._path.open("rb") as log:
            log.seek(self._offset)
            content = log.read()
        whole = content.rfind(b"\n") + 1
        self._offset += whole
        self.writes += [_parse(line) for line in content[:whole].splitlines()]
        return self.writes

    def creations(self, resource: str) -> dict[str, datetime]:
        """Return when each object of a kind was created, by namespace/name."""
        made = (write for write in self.writes if (write.verb, write.resource, write.code) == ("create", resource, 201))
        return {f"{write.namespace}/{write.name}": write.time for write in made}

    def count(self, agents: tuple[str, ...]) -> Counter[str]:
        """Count the writes of clients by verb and resource, refused ones too. TokenReviews change nothing and are left out."""
        ours = (write for write in self.writes if write.agent.startswith(agents) and write.resource != "tokenreviews")
        return Counter(f"{write.verb} {write.resource}" for write in ours)


def _parse(line: bytes) -> Write:
    entry = json.loads(line)
    target = entry.get("objectRef") or {}
    return Write(
        time=datetime.fromisoformat(entry["stageTimestamp"]),
        verb=entry["verb"],
        resource="/".join(filter(None, (target.get("resource", ""), target.get("subresource", "")))),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=entry.get("responseStatus", {}).get("code", 0),
        agent=entry.get("userAgent", ""),
    )


@dataclass(slots=True)
class Bench:
    """A control plane with the CRD and namespaces, and a client to it."""

    cluster: Cluster
    client: KubeClient
    scratch: Path

    def audit(self) -> AuditLog:
        return AuditLog(Path(self.cluster.audit_log))

    def operate(self, argv: Sequence[str] = ("-m", "finetune_operator"), **environ: str) -> OperatorProcess:
        return OperatorProcess(Path(self.cluster.kubeconfig), self.scratch / "operator.log", argv, **environ)

    async def create_all(self, resource: Resource, manifests: Iterable[dict[str, Any]], *, per_second: float = 0.0) -> None:
        """Create objects over all namespaces, as fast as they are taken or at a rate."""
        creations = (self._create(resource, f"burst-{index % NAMESPACES}", manifest) for index, manifest in enumerate(manifests))
        await run_at_once(creations, per_second=per_second)

    async def _create(self, resource: Resource, namespace: str, manifest: dict[str, Any]) -> None:
        while True:
            try:
                await self.client.create(resource, namespace, manifest)
            except ApiError as error:
                if error.conflict:
                    return  # made by a try whose answer was lost
                if not error.transient:
                    raise
            else:
                return

    async def count(self, resource: Resource) -> int:
        """Return how many objects of a kind there are, at the cost of one."""
        answer = await self.client._call("GET", f"{resource.path(None)}?limit=1")  # no list of ours asks for a count
        return len(answer["items"]) + int(answer["metadata"].get("remainingItemCount", 0))

    async def wait_for(self, resource: Resource, count: int) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (there := await self.count(resource)) != count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{there} and not {count} {resource.plural} after {DEADLINE_SECONDS:.0f} s")
            await asyncio.sleep(0.3)

    async def warm_up(self) -> None:
        """Wait until the operator has made the Job of a first run (it has started, and watches), and clear it away."""
        await self.create_all(FINETUNEJOBS, [build_finetunejob("warm-up")])
        await self.wait_for(JOBS, 1)
        await self.clear()
        await asyncio.sleep(2)

    async def clear(self, *owners: Resource) -> None:
        """Delete everything, ``owners`` first. The garbage collector, at the controllers' rate, would take minutes for the children."""
        for resource in (*owners, FINETUNEJOBS, JOBS, PODS, SERVICES):
            for index in range(NAMESPACES):
                while await self._delete_some(f"{resource.path(f'burst-{index}')}?propagationPolicy=Background&gracePeriodSeconds=0"):
                    pass
        for resource in (*owners, FINETUNEJOBS, JOBS):
            await self.wait_for(resource, 0)

    async def wait_for_silence(self, agents: tuple[str, ...] = ("",), seconds: float = 5.0) -> None:
        """Wait until these clients (all, unless told otherwise) have written nothing for a while; Leases are always renewed.

        What one round leaves behind, the cluster's controllers clear away for minutes, and that would slow the next.
        """
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            audit = self.audit()
            await asyncio.sleep(seconds)
            audit.read()
            if all(what.endswith(" leases") for what in audit.count(agents)):
                return
        raise TimeoutError("somebody goes on writing")

    async def _delete_some(self, path: str) -> bool:
        try:
            await self.client._call("DELETE", path)  # no part of the operator deletes a collection
        except ApiError as error:
            if error.transient:
                return True
            raise
        return False


async def run_at_once(calls: Iterable[Coroutine[Any, Any, None]], *, per_second: float = 0.0) -> None:
    """Await calls, at most ``AT_ONCE`` of them at a time, as fast as they are answered or begun at a rate."""
    gate = asyncio.Semaphore(AT_ONCE)
    began = time.monotonic()

    async def run(call: Coroutine[Any, Any, None]) -> None:
        try:
            await call
        finally:
            gate.release()

    async with asyncio.TaskGroup() as group:
        for index, call in enumerate(calls):
            if per_second:
                await asyncio.sleep(max(0.0, began + index / per_second - time.monotonic()))
            await gate.acquire()
            group.create_task(run(call))


@asynccontextmanager
async def open_bench(name: str, scratch: Path, *, pods_per_second: int | None = None, crds: Path = CRDS) -> AsyncIterator[Bench]:
    """Start a control plane with the definitions in the folder ``crds``.

    ``pods_per_second`` is the rate of the controller manager's client; None is Kubernetes' own (20).
    """
    with _ControllersAt(pods_per_second or 20), Cluster.up(f"{name}-{os.getpid()}", ephemeral=True) as cluster:
        for plural in ("finetunejobs", "finetunesweeps"):
            cluster.kubectl("apply", "--server-side", "-f", str(crds / f"{plural}.yaml"))
        os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
        client = await KubeClient.connect("benchmark")
        bench = Bench(cluster, client, scratch)
        try:
            for index in range(NAMESPACES):
                await client.create(NAMESPACE_RESOURCE, None, {"metadata": {"name": f"burst-{index}"}})
            await _wait_until_established(bench)
            yield bench
        finally:
            await client.close()


class _ControllersAt:
    """The development cluster lets its controllers make pods ten times as fast as Kubernetes' default does; a benchmark says how fast."""

    def __init__(self, qps: int) -> None:
        self._original, self._qps = control_plane.build_controller_manager, qps

    def __enter__(self) -> None:
        def build(*arguments: Any) -> list[str]:
            words = self._original(*arguments)
            burst = 30 if self._qps == 20 else 2 * self._qps
            return [*(word for word in words if "--kube-api-" not in word), f"--kube-api-qps={self._qps}", f"--kube-api-burst={burst}"]

        control_plane.build_controller_manager = build

    def __exit__(self, *_: object) -> None:
        control_plane.build_controller_manager = self._original


async def _wait_until_established(bench: Bench) -> None:
    while True:
        try:
            await bench.count(FINETUNEJOBS)
        except ApiError as error:
            if not error.not_found:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def describe_machine() -> dict[str, str]:
    """Return what the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} cores ({cpu}), {platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "versions": f"Kubernetes 1.35.4, Python {platform.python_version()}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES),
        "environment": "the operator's own" if _ALONE.exists() else "the developer's, with a client that the operator's image lacks",
        "commit": commit,
    }


def compute_delays(audit: AuditLog, plural: str = FINETUNEJOBS.plural) -> tuple[list[float], float]:
    """Return the seconds from each run (FineTuneJob, or what ``plural`` names) to its Job, sorted, and those from the first to the last."""
    applied, made = audit.creations(plural), audit.creations("jobs")
    # Of a Job's name the last two parts are its own: the hash of the run's UID and the attempt; Kubeflow's, a role and a number.
    delays = sorted((when - applied[job.rsplit("-", 2)[0]]).total_seconds() for job, when in made.items())
    return delays, (max(made.values()) - min(applied.values())).total_seconds()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the sorted ``values`` lie."""
    return values[min(len(values) - 1, int(len(values) * share))]


def render_spread(rounds: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """Yield a line for each figure: median, least, most."""
    for name in rounds[0]:
        values = [each[name] for each in rounds if name in each]
        yield f"  {name:34} {statistics.median(values):9.2f}   [{min(values):.2f}, {max(values):.2f}]"


def save(name: str, rounds: Sequence[Figures], **more: object) -> Path:
    """Keep a benchmark's figures as JSON, with what they depend on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"name": name, **describe_machine(), **more, "rounds": rounds}, indent=1) + "\n")
    return path
