"""One pod, from its binding to its deletion."""

import asyncio
import base64
import contextlib
import json
import shutil
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from finetune_devcluster.files import write_json
from finetune_devcluster.process_node import environment, process, status, volumes
from finetune_devcluster.process_node.client import NodeClient, RequestRefused
from finetune_devcluster.process_node.environment import MissingObject, Objects
from finetune_devcluster.process_node.settings import LocalImage, Settings, read_image
from finetune_devcluster.process_node.status import Ended, Progress
from finetune_devcluster.processes import stop_process
from finetune_devcluster.supervisor import MARKER, observe_with_variable

ADDRESS = "127.0.0.1"

_ACCOUNT_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_POD_VARIABLE = "FINETUNE_PROCESS_NODE_POD"
_RETRY = 1.0
_RESTART_DELAYS = (1.0, 2.0, 5.0, 10.0)
_TOKEN_RENEWAL = 0.8
_PYTHON_PATH = str(Path(__file__).parent / "python_path")


class PodWorker:
    """Runs a pod's container as a local process, and tells the API server how it fares."""

    def __init__(self, settings: Settings, client: NodeClient, pod: dict[str, Any]) -> None:
        """Take on a pod; `run` does the work."""
        self._settings = settings
        self._client = client
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.folder: Path = settings.folder / "pods" / self.uid
        self._progress = Progress()
        self._process: process.LocalProcess | None = None
        self._deleted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._written = ""
        self._over = False

    def grows(self) -> bool:
        """Tell whether the container's log may grow: until it has ended for good."""
        return not self._over

    @property
    def log(self) -> Path:
        """Where the container's output goes."""
        return self.folder / "log"

    def update(self, pod: dict[str, Any]) -> None:
        """Take note of the pod's newest state; a deletion is acted on."""
        self.pod = pod
        if "deletionTimestamp" in pod["metadata"]:
            self._deleted.set()

    async def run(self) -> None:
        """See the pod through to its end."""
        work = asyncio.create_task(self._work())
        deleted = asyncio.create_task(self._deleted.wait())
        try:
            await asyncio.wait([work, deleted], return_when=asyncio.FIRST_COMPLETED)
            if self._deleted.is_set():
                await self._end(work)
                self._over = True
            else:
                await work
                self._over = True
                await deleted
            await self._remove()
        finally:
            for task in (work, deleted, *self._tasks):
                task.cancel()
            if self._process is not None:
                await self._process.end(0)

    async def _work(self) -> None:
        try:
            await self._see_through()
        except Exception as error:  # noqa: BLE001 - whatever it was, the pod's owner must hear of it
            message = f"{type(error).__name__}: {error}"
            print(f"pod {self.pod['metadata']['name']}: {message}", flush=True)
            await self._tell(Progress(rejected=("ProcessNodeError", message)), final=True)

    async def _see_through(self) -> None:
        if self.pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return
        if self.pod.get("status", {}).get("containerStatuses"):
            # Its process was another life's: nobody knows how it ended, but it must have.
            for left in observe_with_variable(_POD_VARIABLE, self.uid):
                stop_process(left, 0, signal.SIGKILL)
            started = datetime.now(UTC)
            message = "the process node was restarted; what became of the container is not known"
            await self._tell(Progress(ended=Ended(137, started, started, message)), final=True)
            return
        if unsupported := volumes.find_unsupported(self.pod):
            message = f"this node runs pods as local processes, and cannot run this one: {'; '.join(unsupported)}"
            await self._tell(Progress(rejected=("NotSupportedByProcessNode", message)), final=True)
            return
        await self._event("Normal", "LocalProcess", f"runs as a local process, isolated by nothing ({self.folder})")
        image = await self._wait_for_image()
        objects, root = await self._prepare()
        await self._run_container(image, objects, root)

    async def _wait_for_image(self) -> LocalImage:
        reference = self.pod["spec"]["containers"][0]["image"]
        reason = "ErrImagePull"
        while (image := read_image(self._settings.folder, reference)) is None:
            message = f'"{reference}" is not in the process node\'s table of images: add it by `map-image`'
            await self._tell(Progress(waiting=(reason, message)))
            reason = "ImagePullBackOff"
            await asyncio.sleep(_RETRY)
        return image

    async def _prepare(self) -> tuple[Objects, Path]:
        container = self.pod["spec"]["containers"][0]
        wanted = environment.list_references(container) | volumes.list_volume_references(self.pod)
        while True:
            try:
                objects = {key: await self._read_object(*key) for key in wanted}
                root = volumes.make_volumes(self.pod, self.folder, objects, self._status_fields())
                environment.build_variables(self.pod, container, objects, self._status_fields())
                await self._write_tokens()
            except MissingObject as error:
                await self._tell(Progress(waiting=("CreateContainerConfigError", str(error))))
            except (RequestRefused, aiohttp.ClientError, OSError) as error:
                await self._tell(Progress(waiting=("ContainerCreating", str(error))))
            else:
                return objects, root
            await asyncio.sleep(_RETRY)

    async def _run_container(self, image: LocalImage, objects: Objects, root: Path) -> None:
        spec = self.pod["spec"]
        container = spec["containers"][0]
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        declared = environment.build_variables(self.pod, container, objects, self._status_fields())
        variables = environment.build_base_environment(str(root), self.pod["metadata"]["name"], image.path, _PYTHON_PATH)
        variables["FINETUNE_SERVICE_TABLE"] = str(self._settings.folder / "services.json")
        # By these the process is found again should the process node die before it.
        variables |= {MARKER: str(self._settings.folder), _POD_VARIABLE: self.uid}
        variables |= {name: environment.rewrite_paths(value, paths, str(root)) for name, value in declared.items()}
        if kubeconfig := self._write_kubeconfig(root):
            variables.setdefault("KUBECONFIG", str(kubeconfig))
        argv = environment.build_command(container, image.entrypoint, declared, paths, str(root))
        argv[0] = shutil.which(argv[0], path=variables["PATH"]) or argv[0]
        work_dir = Path(environment.rewrite_paths(container.get("workingDir", ""), paths, str(root)) or root)
        message_path = root / container.get("terminationMessagePath", "/dev/termination-log").lstrip("/")
        # For programs that write their last word to a path of their own, as the trainer does.
        variables.setdefault("FINETUNE_TERMINATION_MESSAGE_PATH", str(message_path))
        restarts, last = 0, None
        while True:
            message_path.parent.mkdir(parents=True, exist_ok=True)
            message_path.write_text("")
            started = datetime.now(UTC)
            ended = await self._run_once(argv, variables, work_dir, started, message_path, restarts, last)
            again = status.restarts(self.pod, ended.exit_code) and not self._deleted.is_set()
            await self._tell(Progress(ended=ended, last_ended=last, restarts=restarts), final=not again)
            if not again:
                return
            last = ended
            await asyncio.sleep(_RESTART_DELAYS[min(restarts, len(_RESTART_DELAYS) - 1)])
            restarts += 1

    async def _run_once(
        self,
        argv: list[str],
        variables: Mapping[str, str],
        work_dir: Path,
        started: datetime,
        message_path: Path,
        restarts: int,
        last: Ended | None,
    ) -> Ended:
        container = self.pod["spec"]["containers"][0]
        try:
            self._process = await process.start(argv, variables, work_dir, self.log)
        except OSError as error:
            return Ended(process.CANNOT_START, started, datetime.now(UTC), f"{argv[0]}: {error}")
        probe = container.get("readinessProbe")
        running = Progress(running=started, restarts=restarts, last_ended=last, ready=probe is None)
        await self._tell(running)
        watch = asyncio.create_task(self._watch_readiness(probe, running)) if probe else None
        try:
            code = status.compute_exit_code(await self._process.wait())
        finally:
            if watch is not None:
                watch.cancel()
        written = _read_text(message_path)
        policy = container.get("terminationMessagePolicy", "File")
        message = status.compute_message(written, _read_text(self.log), policy, code)
        return Ended(code, started, datetime.now(UTC), message)

    async def _watch_readiness(self, probe: Mapping[str, Any], running: Progress) -> None:
        """Ask by HTTP, the only way that is known here, and pass on every change of the answer."""
        period = float(probe.get("periodSeconds", 10))
        await asyncio.sleep(float(probe.get("initialDelaySeconds", 0)))
        ready = False
        while True:
            answer = await self._ask(probe)
            if answer != ready:
                ready = answer
                await self._tell(Progress(running=running.running, restarts=running.restarts, last_ended=running.last_ended, ready=ready))
            # Until the first success a start is waited for, which is no reason to dawdle.
            await asyncio.sleep(period if ready else min(period, 0.5))

    async def _ask(self, probe: Mapping[str, Any]) -> bool:
        target = probe.get("httpGet")
        if target is None:
            return True
        port = target["port"]
        for each in self.pod["spec"]["containers"][0].get("ports", []):
            if each.get("name") == port:
                port = each["containerPort"]
        url = f"{target.get('scheme', 'HTTP').lower()}://{ADDRESS}:{port}{target.get('path', '/')}"
        timeout = aiohttp.ClientTimeout(total=float(probe.get("timeoutSeconds", 1)))
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, ssl=False) as response:
                return response.status < 400
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def _end(self, work: "asyncio.Task[None]") -> None:
        meta = self.pod["metadata"]
        grace = float(meta.get("deletionGracePeriodSeconds") or 0)
        if self._process is not None and self._process.process.returncode is None:
            await self._process.end(grace)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(work), 10)
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work

    async def _remove(self) -> None:
        meta = self.pod["metadata"]
        shutil.rmtree(self.folder, ignore_errors=True)
        await self._client.delete(
            f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}",
            {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}},
        )

    async def _tell(self, progress: Progress, *, final: bool = False) -> None:
        """Write the pod's status if it says something new, however often the API server has to be asked."""
        self._progress = progress
        meta = self.pod["metadata"]
        body = {
            "metadata": {"uid": self.uid},
            "status": status.build_status(self.pod, progress, self._settings.pod_address, datetime.now(UTC), final=final),
        }
        text = json.dumps(body)
        if text == self._written:
            return
        while True:
            try:
                path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
                self.pod = await self._client.patch(path, body, "strategic")
            except RequestRefused as error:
                if error.status in (404, 409):
                    self._deleted.set()
                    return
                print(f"pod {meta['namespace']}/{meta['name']}: status refused: {error}", flush=True)
            except (aiohttp.ClientError, TimeoutError) as error:
                print(f"pod {meta['namespace']}/{meta['name']}: status not written: {error}", flush=True)
            else:
                self._written = text
                if "deletionTimestamp" in self.pod["metadata"]:
                    self._deleted.set()
                return
            await asyncio.sleep(_RETRY)

    async def _read_object(self, kind: str, name: str) -> dict[str, str] | None:
        plural = {"secret": "secrets", "configmap": "configmaps"}[kind]
        try:
            found = await self._client.get(f"/api/v1/namespaces/{self.pod['metadata']['namespace']}/{plural}/{name}")
        except RequestRefused as error:
            if error.status == 404:
                return None
            raise
        if kind == "configmap":
            return dict(found.get("data", {}))
        # A Secret is bytes; a variable or a file of text is all that a process node makes of it.
        return {key: _decode(value) for key, value in found.get("data", {}).items()}

    async def _write_tokens(self) -> None:
        for volume, source in volumes.list_tokens(self.pod):
            lifetime = await self._write_token(volume, source)
            self._tasks.append(asyncio.create_task(self._renew(volume, source, lifetime)))

    async def _write_token(self, volume: str, source: Mapping[str, Any]) -> float:
        meta = self.pod["metadata"]
        lifetime = int(source.get("expirationSeconds", 3600))
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [source["audience"]] if source.get("audience") else [],
                "expirationSeconds": lifetime,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": self.uid},
            },
        }
        account = self.pod["spec"].get("serviceAccountName", "default")
        path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{quote(account)}/token"
        answer = await self._client.create(path, body)
        volumes.write_token(self.folder, volume, source["path"], answer["status"]["token"])
        return float(lifetime)

    async def _renew(self, volume: str, source: Mapping[str, Any], lifetime: float) -> None:
        wait = lifetime * _TOKEN_RENEWAL
        while True:
            await asyncio.sleep(wait)
            try:
                wait = await self._write_token(volume, source) * _TOKEN_RENEWAL
            except (RequestRefused, aiohttp.ClientError, TimeoutError) as error:
                print(f"pod {self.pod['metadata']['name']}: token not renewed: {error}", flush=True)
                wait = 10.0

    def _write_kubeconfig(self, root: Path) -> Path | None:
        """Write a kubeconfig for a pod with a token of its account: programs look for it where no container is."""
        mounted = root / _ACCOUNT_MOUNT.lstrip("/")
        if not (mounted / "token").exists():
            return None
        namespace = self.pod["metadata"]["namespace"]
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "finetune",
                    "cluster": {"server": self._settings.server, "certificate-authority": str(mounted / "ca.crt")},
                }
            ],
            # The token itself, too: not every client reads tokenFile.
            "users": [
                {
                    "name": "pod",
                    "user": {"token": (mounted / "token").read_text(), "tokenFile": str(mounted / "token")},
                }
            ],
            "contexts": [{"name": "pod", "context": {"cluster": "finetune", "user": "pod", "namespace": namespace}}],
            "current-context": "pod",
        }
        return write_json(self.folder / "kubeconfig", config, mode=0o600)

    def _status_fields(self) -> dict[str, str]:
        address = self._settings.pod_address
        return dict.fromkeys(("status.podIP", "status.hostIP", "status.podIPs", "status.hostIPs"), address)

    async def _event(self, kind: str, reason: str, message: str) -> None:
        meta = self.pod["metadata"]
        now = status.format_time(datetime.now(UTC))
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{meta['name']}-", "namespace": meta["namespace"]},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": self.uid,
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": "process-node", "host": self._settings.node_name},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        # An event is a courtesy: a pod does not wait for it, nor fail by it.
        with contextlib.suppress(RequestRefused, aiohttp.ClientError, TimeoutError):
            await self._client.create(f"/api/v1/namespaces/{meta['namespace']}/events", body)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _decode(value: str) -> str:
    return base64.b64decode(value).decode(errors="surrogateescape")
