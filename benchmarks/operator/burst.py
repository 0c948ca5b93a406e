"""From apply to Job: a burst of FineTuneJobs on a real control plane, beside the same number of plain Jobs in the same run.

Times come from the API server's audit log (microseconds, one clock), processor time and memory from the operator's process.

    python benchmarks/operator/burst.py --jobs 1000 --rounds 3
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune_api.names import API_VERSION, KIND
from finetune_devcluster import Cluster
from finetune_operator.kube.client import FINETUNEJOBS, JOBS, ApiError, KubeClient, Resource

NAMESPACES = 10
AT_ONCE = 32
DEADLINE_SECONDS = 300.0
ROOT = Path(__file__).parents[2]
NAMESPACE_RESOURCE = Resource("", "v1", "namespaces")


def build_finetunejob(name: str) -> dict[str, Any]:
    uris = {"model": {"uri": "hf://org/base"}, "dataset": {"uri": "s3://bucket/rows.jsonl"}, "output": {"uri": "s3://bucket/out"}}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": uris}


def build_plain_job(name: str) -> dict[str, Any]:
    container = {"name": "main", "image": "none"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template}}


class OperatorProcess:
    """The operator as a process of its own."""

    def __init__(self, kubeconfig: Path, log: Path) -> None:
        ports = [_free_port(), _free_port()]
        environ = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "FINETUNE_TRAINER_IMAGE": "trainer:benchmark",
            "FINETUNE_REPORT_SERVICE": f"localhost:{ports[0]}",
            "FINETUNE_REPORT_PORT": str(ports[0]),
            "FINETUNE_HEALTH_PORT": str(ports[1]),
            "FINETUNE_LOG_LEVEL": "WARNING",
        }
        with log.open("wb") as output:
            self._process = subprocess.Popen([sys.executable, "-m", "finetune_operator"], env=environ, stdout=output, stderr=output)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mebibytes(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def apply_all(client: KubeClient, resource: Resource, manifests: list[dict[str, Any]]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def apply(index: int, manifest: dict[str, Any]) -> None:
        async with gate:
            await client.create(resource, f"burst-{index % NAMESPACES}", manifest)

    await asyncio.gather(*(apply(index, manifest) for index, manifest in enumerate(manifests)))


async def warm_up(client: KubeClient) -> None:
    """Wait until the operator has made the Job of a first run: it has started, and watches."""
    await apply_all(client, FINETUNEJOBS, [build_finetunejob("warm-up")])
    await wait_for(client, JOBS, 1)
    await clear(client, FINETUNEJOBS)
    await wait_for(client, JOBS, 0)


async def wait_for(client: KubeClient, resource: Resource, count: int) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len((await client.list(resource)).items) != count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not {count} {resource.plural} within {DEADLINE_SECONDS:.0f} s")
        await asyncio.sleep(0.5)


def read_creations(audit_log: Path, offset: int, resource: str) -> dict[str, datetime]:
    """Return when each object of `resource` was created, by namespace/name, from the log's lines after `offset`."""
    created: dict[str, datetime] = {}
    with audit_log.open() as lines:
        lines.seek(offset)
        for line in lines:
            entry = json.loads(line)
            target = entry.get("objectRef", {})
            is_create = entry["verb"] == "create" and target.get("resource") == resource and "subresource" not in target
            if is_create and entry.get("responseStatus", {}).get("code") == 201:
                created[f"{target['namespace']}/{target['name']}"] = datetime.fromisoformat(entry["stageTimestamp"])
    return created


async def measure_round(cluster: Cluster, client: KubeClient, count: int, scratch: Path) -> dict[str, float]:
    audit_log = Path(cluster.audit_log)
    operator = OperatorProcess(Path(cluster.kubeconfig), scratch / "operator.log")
    try:
        await warm_up(client)
        before, offset = operator.cpu_seconds(), audit_log.stat().st_size
        await apply_all(client, FINETUNEJOBS, [build_finetunejob(f"run-{index:05}") for index in range(count)])
        await wait_for(client, JOBS, count)
        created = operator.cpu_seconds()
        await asyncio.sleep(10)
        settled = operator.cpu_seconds()
        applied, made = read_creations(audit_log, offset, "finetunejobs"), read_creations(audit_log, offset, "jobs")
        delays = sorted((time_made - applied[_run_of(job)]).total_seconds() for job, time_made in made.items())
        span = (max(made.values()) - min(applied.values())).total_seconds()
        figures = {
            "jobs/s": count / span,
            "p50 s": delays[len(delays) // 2],
            "p99 s": delays[int(len(delays) * 0.99)],
            "cpu s to last Job": created - before,
            "cpu s settled": settled - before,
            "peak MiB": operator.peak_mebibytes(),
        }
    finally:
        operator.stop()
    await clear(client, FINETUNEJOBS)
    await wait_for(client, JOBS, 0)
    return figures


def _run_of(job: str) -> str:
    """The Job's name is the run's, the hash of its UID, and the attempt."""
    return job.rsplit("-", 2)[0]


async def measure_floor(cluster: Cluster, client: KubeClient, count: int) -> float:
    offset = Path(cluster.audit_log).stat().st_size
    await apply_all(client, JOBS, [build_plain_job(f"plain-{index:05}") for index in range(count)])
    made = read_creations(Path(cluster.audit_log), offset, "jobs").values()
    await clear(client, JOBS)
    await wait_for(client, JOBS, 0)
    return count / (max(made) - min(made)).total_seconds()


async def clear(client: KubeClient, resource: Resource) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def delete(item: dict[str, Any]) -> None:
        async with gate:
            await client.delete(resource, item["metadata"]["namespace"], item["metadata"]["name"], uid=item["metadata"]["uid"])

    await asyncio.gather(*(delete(item) for item in (await client.list(resource)).items))


async def measure(count: int, rounds: int) -> None:
    versions = {name: importlib.metadata.version(name) for name in ("kopf", "kubernetes", "pydantic", "aiohttp", "orjson", "uvloop")}
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}, {versions}")
    with tempfile.TemporaryDirectory() as scratch, Cluster.up(f"burst-{os.getpid()}", ephemeral=True) as cluster:
        cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / "finetunejobs.yaml"))
        client = await KubeClient.connect("benchmark", str(cluster.kubeconfig))
        try:
            for index in range(NAMESPACES):
                await client.create(NAMESPACE_RESOURCE, None, {"metadata": {"name": f"burst-{index}"}})
            results: list[dict[str, float]] = []
            for number in range(rounds):
                floor = await measure_floor(cluster, client, count)
                figures = {"plain Jobs/s": floor, **await measure_round(cluster, client, count, Path(scratch))}
                results.append(figures)
                print(f"round {number + 1}:", ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)
        except ApiError as error:
            sys.exit(f"the API server refused: {error}")
        finally:
            await client.close()
    print(f"\n{count} FineTuneJobs, {rounds} rounds   median [least, most]")
    for name in results[0]:
        values = [result[name] for result in results]
        print(f"  {name:20} {statistics.median(values):9.2f}   [{min(values):.2f}, {max(values):.2f}]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(measure(options.jobs, options.rounds))
