"""The node itself: registered, alive, and at work on the pods that are bound to it."""

import asyncio
import os
import platform
import shutil
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from finetune_devcluster.binaries import KUBERNETES_VERSION, compute_architecture
from finetune_devcluster.gpus import RESOURCE, count_file
from finetune_devcluster.process_node.client import NodeClient, RequestRefused
from finetune_devcluster.process_node.log_server import LogServer
from finetune_devcluster.process_node.pod_worker import ADDRESS, PodWorker
from finetune_devcluster.process_node.service_table import build_table, write_table
from finetune_devcluster.process_node.settings import BANNER, Settings
from finetune_devcluster.process_node.status import format_time

_SAID = "pods run as local processes; nothing is isolated, and nothing is measured"
_BEAT = 3.0
_STATUS_AGE = 30.0
_LEASE_SECONDS = 12
_RETRY = 1.0
_PODS = 110


class ProcessNode:
    """A node whose pods are local processes."""

    def __init__(self, settings: Settings, client: NodeClient, proxy: NodeClient) -> None:
        """Prepare a node.

        Args:
            client: authenticated as the node's user.
            proxy: authenticated as kube-proxy's user, for what a node may not read: which Services there are.
        """
        self._settings = settings
        self._client = client
        self._proxy = proxy
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._logs = LogServer(self._find_log)

    async def run(self) -> None:
        """Work until cancelled; then end every pod's process, by SIGTERM first."""
        pki = self._settings.folder / "pki"
        await self._logs.start(self._settings.port, pki / "ca.crt", pki / "kubelet-server.crt", pki / "kubelet-server.key")
        loops = [asyncio.create_task(each()) for each in (self._beat, self._watch_pods, self._watch_services)]
        try:
            await asyncio.gather(*loops)
        finally:
            for task in (*loops, *self._tasks.values()):
                task.cancel()
            await asyncio.gather(*loops, *self._tasks.values(), return_exceptions=True)
            await self._logs.stop()

    async def _beat(self) -> None:
        registered, told, due = False, -1, 0.0
        while True:
            try:
                if not registered:
                    await self._register()
                    registered = True
                await self._renew_lease()
                gpus = self._read_gpus()
                # As a kubelet: the lease says that the node lives, the status is sent when it changes or gets old.
                if gpus != told or asyncio.get_running_loop().time() > due:
                    path = f"/api/v1/nodes/{self._settings.node_name}/status"
                    await self._client.patch(path, {"status": self._build_status(gpus)}, "strategic")
                    told, due = gpus, asyncio.get_running_loop().time() + _STATUS_AGE
            except (RequestRefused, aiohttp.ClientError, TimeoutError) as error:
                registered, told = False, -1
                print(f"node: {error}", flush=True)
                await asyncio.sleep(_RETRY)
                continue
            await self._sleep_until_gpus_change(_BEAT)

    async def _sleep_until_gpus_change(self, seconds: float) -> None:
        before = self._read_gpus()
        for _ in range(int(seconds / 0.3)):
            await asyncio.sleep(0.3)
            if self._read_gpus() != before:
                return

    async def _register(self) -> None:
        name = self._settings.node_name
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": compute_architecture(platform.machine()),
                    "finetune.dev/process-node": "true",
                },
                "annotations": {"finetune.dev/process-node": BANNER},
            },
        }
        try:
            await self._client.create("/api/v1/nodes", body)
        except RequestRefused as error:
            if error.status != 409:
                raise

    def _build_status(self, gpus: int) -> dict[str, Any]:
        now = format_time(datetime.now(UTC))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
        capacity = {
            "cpu": str(os.cpu_count() or 1),
            "memory": f"{memory}Ki",
            "ephemeral-storage": str(shutil.disk_usage(self._settings.folder).total),
            "pods": str(_PODS),
            RESOURCE: str(gpus),
        }

        def condition(kind: str, *, holds: bool, reason: str) -> dict[str, str]:
            return {"type": kind, "status": str(holds), "reason": reason, "lastHeartbeatTime": now, "message": _SAID}

        return {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": ADDRESS}, {"type": "Hostname", "address": self._settings.node_name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._settings.port}},
            "conditions": [
                condition("Ready", holds=True, reason="ProcessNodeReady"),
                condition("MemoryPressure", holds=False, reason="NotObserved"),
                condition("DiskPressure", holds=False, reason="NotObserved"),
                condition("PIDPressure", holds=False, reason="NotObserved"),
            ],
            "nodeInfo": {
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
                "kernelVersion": platform.release(),
                "osImage": "process-node (no containers)",
                "containerRuntimeVersion": "process-node://1",
                "kubeletVersion": KUBERNETES_VERSION,
                "kubeProxyVersion": KUBERNETES_VERSION,
                "operatingSystem": "linux",
                "architecture": compute_architecture(platform.machine()),
            },
        }

    def _read_gpus(self) -> int:
        try:
            return int(count_file(self._settings.folder).read_text())
        except (OSError, ValueError):
            return 0

    async def _renew_lease(self) -> None:
        folder = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        name = self._settings.node_name
        spec = {
            "holderIdentity": name,
            "leaseDurationSeconds": _LEASE_SECONDS,
            "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        try:
            await self._client.patch(f"{folder}/{name}", {"spec": spec})
        except RequestRefused as error:
            if error.status != 404:
                raise
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}
            await self._client.create(folder, lease)

    async def _watch_pods(self) -> None:
        path = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{self._settings.node_name}"
        while True:
            try:
                listing = await self._client.get(path)
                present = {pod["metadata"]["uid"] for pod in listing["items"]}
                for pod in listing["items"]:
                    self._take(pod)
                for uid in self._workers.keys() - present:
                    self._drop(uid)
                async for event in self._client.watch(path, listing["metadata"]["resourceVersion"]):
                    if event["type"] == "ERROR":
                        break
                    if event["type"] == "DELETED":
                        self._drop(event["object"]["metadata"]["uid"])
                    elif event["type"] in ("ADDED", "MODIFIED"):
                        self._take(event["object"])
            except (RequestRefused, aiohttp.ClientError, TimeoutError) as error:
                print(f"pods: {error}", flush=True)
                await asyncio.sleep(_RETRY)

    def _take(self, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if worker is None:
            worker = self._workers[uid] = PodWorker(self._settings, self._client, pod)
            self._tasks[uid] = asyncio.create_task(self._see_through(worker))
        worker.update(pod)

    async def _see_through(self, worker: PodWorker) -> None:
        try:
            await worker.run()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - one pod's trouble must not be that of all
            print(f"pod {worker.pod['metadata']['name']}: {type(error).__name__}: {error}", flush=True)

    def _drop(self, uid: str) -> None:
        """Forget a pod that the API server has forgotten, ending what is left of it."""
        worker, task = self._workers.pop(uid, None), self._tasks.pop(uid, None)
        if worker is not None and task is not None:
            task.add_done_callback(lambda _: shutil.rmtree(worker.folder, ignore_errors=True))
            task.cancel()

    async def _watch_services(self) -> None:
        """Keep the table of Services true to within a second: they change rarely, and one list is cheap."""
        while True:
            try:
                services = (await self._proxy.get("/api/v1/services"))["items"]
                pods = [worker.pod for worker in self._workers.values()]
                write_table(self._settings.folder / "services.json", build_table(services, pods, self._settings.names))
            except (RequestRefused, aiohttp.ClientError, TimeoutError) as error:
                print(f"services: {error}", flush=True)
            await asyncio.sleep(_RETRY)

    def _find_log(self, namespace: str, name: str) -> tuple[Path, Callable[[], bool]] | None:
        for worker in self._workers.values():
            meta = worker.pod["metadata"]
            if (meta["namespace"], meta["name"]) == (namespace, name):
                return worker.log, worker.grows
        return None


async def serve(settings: Settings) -> None:
    """Run a process node until SIGTERM or SIGINT."""
    pki = settings.folder / "pki"
    client = NodeClient.open(settings.server, pki / "ca.crt", pki / "kubelet.crt", pki / "kubelet.key")
    proxy = NodeClient.open(settings.server, pki / "ca.crt", pki / "kube-proxy.crt", pki / "kube-proxy.key")
    task = asyncio.create_task(ProcessNode(settings, client, proxy).run())
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        print("process node: told to end", flush=True)
    finally:
        await client.close()
        await proxy.close()
