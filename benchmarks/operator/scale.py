"""Up to ten thousand FineTuneJobs: at once and at a rate, idle, after a restart, and a thousand that run and report.

    python benchmarks/operator/scale.py --jobs 10000 --growth 100 1000 10000
    python benchmarks/operator/scale.py --only reports --running 1000

Pods are played by kwok, which is built from its Go module at the first use; they never train, but they are real objects, with all their
updates.
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from burst import measure_burst
from harness import (
    DEADLINE_SECONDS,
    OURS,
    Bench,
    Figures,
    OperatorProcess,
    build_finetunejob,
    compute_delays,
    describe_machine,
    open_bench,
    percentile,
    save,
)

from finetune_api.names import LABEL_JOB_UID, LABEL_MANAGED_BY, MANAGED_BY, REPORT_PATH, report_audience
from finetune_devcluster.binaries import ensure_binaries
from finetune_operator.kube.client import FINETUNEJOBS, JOBS, PODS, Resource

IDLE_SECONDS = 60.0
REPORT_SECONDS = 5.0
"""Between two reports of a trainer."""
NODES = Resource("", "v1", "nodes")
STAGES = Path(__file__).with_name("kwok.yaml")


async def measure_growth(bench: Bench, counts: list[int]) -> None:
    """Bursts of growing size: how cost grows."""
    rounds: list[Figures] = []
    for count in counts:
        rounds.append({"jobs": float(count), "load before": os.getloadavg()[0], **await measure_burst(bench, count)})
        save("growth", rounds)
        print(f"{count} at once:", _render(rounds[-1]), flush=True)


async def measure_steady(bench: Bench, count: int, at_rate: int, per_second: float) -> Figures:
    """FineTuneJobs at a rate that can be kept, the rest at once, then all of them at rest, then a restart with all of them."""
    load = os.getloadavg()[0]
    figures: Figures = {"jobs": float(count), "applied at the rate": float(at_rate), "applied per second": per_second, "load before": load}
    with bench.operate() as operator:
        await bench.warm_up()
        audit, before = bench.audit(), operator.cpu_seconds()
        manifests = (build_finetunejob(f"run-{index:05}") for index in range(count))
        await bench.create_all(FINETUNEJOBS, itertools.islice(manifests, at_rate), per_second=per_second)
        await bench.wait_for(JOBS, at_rate)
        audit.read()
        delays, _ = compute_delays(audit)
        figures |= {"p50 s": percentile(delays, 0.5), "p99 s": percentile(delays, 0.99)}
        await bench.create_all(FINETUNEJOBS, manifests)
        await bench.wait_for(JOBS, count)
        await bench.wait_for_silence(OURS)
        audit.read()
        figures |= {
            "CPU s per 1,000, settled": 1000 * (operator.cpu_seconds() - before) / count,
            "writes per job": audit.count(OURS).total() / count,
            "MiB": operator.mebibytes(),
            "peak MiB": operator.peak_mebibytes(),
        }
        figures |= {f"idle, {name}": value for name, value in (await _measure_rest(bench, operator)).items()}
        operator.stop(signal.SIGKILL)
    with bench.operate() as operator:
        audit = bench.audit()
        figures["restart, ready after s"] = await operator.wait_until_ready()
        figures["restart, CPU s"] = operator.cpu_seconds()
        await asyncio.sleep(20)
        audit.read()
        figures |= {"restart, writes": float(audit.count(OURS).total()), "restart, CPU s after 20 s": operator.cpu_seconds()}
        figures["restart, peak MiB"] = operator.peak_mebibytes()
    await bench.clear()
    print(f"{count} at {per_second:.0f}/s:", _render(figures), flush=True)
    return figures


async def _measure_rest(bench: Bench, operator: OperatorProcess) -> Figures:
    before, audit = operator.cpu_seconds(), bench.audit()
    resident = operator.mebibytes()
    await asyncio.sleep(IDLE_SECONDS)
    audit.read()
    return {
        "CPU s a minute": (operator.cpu_seconds() - before) * 60 / IDLE_SECONDS,
        "writes a minute": audit.count(OURS).total() * 60 / IDLE_SECONDS,
        "MiB more a minute": operator.mebibytes() - resident,
    }


@asynccontextmanager
async def play_pods(bench: Bench, nodes: int) -> AsyncIterator[None]:
    """Let kwok play nodes and their pods: a pod that is bound runs at once, and runs on."""
    kwok = ensure_binaries(["kwok"])["kwok"]
    for index in range(nodes):
        metadata = {"name": f"kwok-{index}", "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": {"type": "kwok"}}
        await bench.client.create(NODES, None, {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
    argv = [str(kwok), f"--kubeconfig={bench.cluster.kubeconfig}", f"--config={STAGES}"]
    argv += ["--manage-all-nodes=true", "--node-lease-duration-seconds=0"]
    with (bench.scratch / "kwok.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


async def measure_reports(bench: Bench, running: int, rounds: int = 12, pushed: int = 30) -> Figures:
    """Runs whose pods run and report every five seconds each: how old what status says is. Then each every second: how many are taken."""
    load = os.getloadavg()[0]
    async with play_pods(bench, max(1, running // 100)):
        with bench.operate() as operator:
            await bench.warm_up()
            resources = {"gpus": 0, "cpu": "10m", "memory": "64Mi"}
            device = {"quantization": {"type": "none"}}
            manifests = (build_finetunejob(f"run-{index:05}", resources=resources, method=device) for index in range(running))
            await bench.create_all(FINETUNEJOBS, manifests)
            await bench.wait_for(JOBS, running)
            pods = await _wait_for_pods(bench, running)
            await bench.wait_for_silence(OURS)
            senders = await _prepare_senders(bench, pods)
            ca = await _find_authority(bench)
            before, audit = operator.cpu_seconds(), bench.audit()
            seconds = rounds * REPORT_SECONDS
            accepted = await _send_reports(operator, senders, ca, REPORT_SECONDS, range(rounds))
            ages = await _read_ages(bench)
            audit.read()
            writes = sum(write.resource == "finetunejobs/status" for write in audit.writes if write.agent.startswith(OURS))
            figures = {
                "running": float(running),
                "load before": load,
                "reports accepted a second": accepted / seconds,
                "progress writes a second": writes / seconds,
                "age of progress, p50 s": percentile(ages, 0.5),
                "age of progress, p99 s": percentile(ages, 0.99),
                "CPU share of one core": (operator.cpu_seconds() - before) / seconds,
                "MiB": operator.mebibytes(),
            }
            before, began = operator.cpu_seconds(), time.monotonic()
            accepted = await _send_reports(operator, senders, ca, 1.0, range(rounds, rounds + pushed))
            took = time.monotonic() - began
            figures |= {
                "every second: sent a second": running * pushed / took,
                "every second: accepted a second": accepted / took,
                "every second: CPU share of one core": (operator.cpu_seconds() - before) / took,
            }
        await bench.clear()
    print(f"{running} running:", _render(figures), flush=True)
    return figures


async def _wait_for_pods(bench: Bench, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        pods = (await bench.client.list(PODS, labelSelector=f"{LABEL_MANAGED_BY}={MANAGED_BY}")).items
        if sum(pod["status"].get("phase") == "Running" for pod in pods) == count:
            return pods
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(pods)} pods, not {count} that run")
        await asyncio.sleep(2)


async def _prepare_senders(bench: Bench, pods: list[dict[str, Any]]) -> list[tuple[dict[str, str], str]]:
    """Ask for a token for each pod, as its kubelet would; return each run's reference and token."""
    runs = {body["metadata"]["uid"]: body["metadata"] for body in (await bench.client.list(FINETUNEJOBS)).items}
    gate = asyncio.Semaphore(16)

    async def prepare(pod: dict[str, Any]) -> tuple[dict[str, str], str]:
        metadata = pod["metadata"]
        uid = metadata["labels"][LABEL_JOB_UID]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        spec = {"audiences": [report_audience(uid)], "expirationSeconds": 3600, "boundObjectRef": bound}
        path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/default/token"
        async with gate:
            answer = await bench.client._call("POST", path, {"spec": spec})  # the kubelet's call, and nobody else's
        run = runs[uid]
        return {"namespace": run["namespace"], "name": run["name"], "uid": uid}, answer["status"]["token"]

    return list(await asyncio.gather(*map(prepare, pods)))


async def _find_authority(bench: Bench) -> str:
    """Return the certificate that the Jobs tell their trainers to trust."""
    job = (await bench.client._call("GET", f"{JOBS.path(None)}?limit=1"))["items"][0]  # one will do
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    config = json.loads(next(each["value"] for each in env if each["name"] == "FINETUNE_CONFIG").replace("$$", "$"))
    authority: str = config["reporting"]["caCertificate"]
    return authority


async def _send_reports(
    operator: OperatorProcess, senders: list[tuple[dict[str, str], str]], authority: str, every: float, sequence: range
) -> int:
    """Send each run's reports, one ``every`` so many seconds and the runs evenly apart; return how many were taken."""
    url = f"https://localhost:{operator.report_port}{REPORT_PATH}"
    tls = ssl.create_default_context(cadata=authority)
    accepted = 0
    began = time.monotonic()

    async def report(session: aiohttp.ClientSession, index: int, job: dict[str, str], token: str) -> None:
        nonlocal accepted
        for turn, step in enumerate(sequence):
            await asyncio.sleep(max(0.0, began + every * (index / len(senders) + turn) - time.monotonic()))
            progress = {"percentage": 1, "step": step, "totalSteps": 1000, "epoch": 0.1, "lastUpdatedTime": _now()}
            body = {"job": job, "sequence": step + 1, "stage": "training", "progress": progress, "metrics": {"loss": 2.0 - step / 100}}
            async with session.post(url, json=body, headers={"Authorization": f"Bearer {token}"}) as answer:
                accepted += answer.status == 202
                if answer.status not in (202, 429):
                    print(answer.status, await answer.text())

    connector = aiohttp.TCPConnector(ssl=tls, limit=64)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        for index, (job, token) in enumerate(senders):
            group.create_task(report(session, index, job, token))
    return accepted


async def _read_ages(bench: Bench) -> list[float]:
    """Return how old the progress in each run's status is, in seconds, sorted."""
    now = datetime.now(UTC)
    bodies = (await bench.client.list(FINETUNEJOBS)).items
    progress = [body["status"]["progress"] for body in bodies if "progress" in body.get("status", {})]
    times = [datetime.fromisoformat(each["lastUpdatedTime"]) for each in progress]
    if not times:
        raise RuntimeError("no report has arrived in a status")
    return sorted((now - each).total_seconds() for each in times)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _render(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in figures.items())


async def measure(options: argparse.Namespace) -> None:
    print(", ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    with tempfile.TemporaryDirectory() as scratch:
        if "growth" in options.only:
            async with open_bench("growth", Path(scratch)) as bench:
                await measure_growth(bench, options.growth)
        if "steady" in options.only:
            async with open_bench("steady", Path(scratch), pods_per_second=options.pods_per_second) as bench:
                at_rate = min(options.jobs, options.at_rate)
                save(
                    "steady",
                    [await measure_steady(bench, options.jobs, at_rate, options.per_second)],
                    pods_per_second=options.pods_per_second,
                )
        if "reports" in options.only:
            async with open_bench("reports", Path(scratch), pods_per_second=200) as bench:
                save("reports", [await measure_reports(bench, options.running)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["growth", "steady", "reports"], default=["growth", "steady", "reports"])
    parser.add_argument("--growth", nargs="+", type=int, default=[100, 1000, 10_000], help="sizes of the bursts")
    parser.add_argument("--jobs", type=int, default=10_000, help="of the steady stream")
    parser.add_argument("--at-rate", type=int, default=3000, help="how many of those are applied at the rate; the rest follows at once")
    parser.add_argument("--pods-per-second", type=int, default=100, help="of the steady stream: rate of the controller manager's client")
    parser.add_argument("--per-second", type=float, default=50.0, help="rate of the steady stream")
    parser.add_argument("--running", type=int, default=1000, help="runs that report")
    asyncio.run(measure(parser.parse_args()))
