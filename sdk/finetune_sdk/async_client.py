"""The asynchronous client."""

import asyncio
import base64
import copy
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

from finetune_api.artifact import Artifact
from finetune_api.names import GROUP, LABEL_JOB_UID, PLURAL, TRAINER_CONTAINER, VERSION
from finetune_api.resource import FineTuneJob, write_out
from finetune_api.spec.job import MUTABLE_FIELDS
from finetune_sdk.build import Manifest, to_manifest
from finetune_sdk.errors import ApiError, Conflict, FinetuneError, NoCluster, NotFound, RunFailed, SpecDiffers, WaitTimedOut
from finetune_sdk.gpus import GpuReport, compute_gpu_report
from finetune_sdk.run import LogLine, Run, RunEvent
from finetune_sdk.transport import MERGE_PATCH, Object, Transport
from finetune_sdk.watching import watch_objects

ANNOTATION_RETRY_OF: Final = f"{GROUP}/retry-of"
"""On a FineTuneJob made by a retry: name and UID of the one before it, ``name/uid``."""
PAGE: Final = 500
_SUMMARY_SECONDS: Final = 2.0
"""Time between two looks for pods whose logs are followed."""
_RANK_LABEL: Final = "batch.kubernetes.io/job-completion-index"
RunTest = Callable[[Run], bool]


class AsyncFineTuneClient:
    """FineTuneJobs of one cluster. Use it in ``async with await AsyncFineTuneClient.connect():``.

    Every method takes a ``namespace``; without it, :attr:`namespace` is meant. They raise :class:`~finetune_sdk.errors.NoCluster` where the
    API server does not answer and :class:`~finetune_sdk.errors.ApiError` where it refuses.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.namespace = transport.namespace
        """Namespace of the kubeconfig's context, or the one given to :meth:`connect`."""

    @classmethod
    async def connect(cls, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None) -> Self:
        """Connect as kubectl does: by ``kubeconfig``, ``KUBECONFIG``, ``~/.kube/config``, or as a pod's ServiceAccount.

        :raises NoCluster: there is none of these.
        """
        client = cls(await Transport.connect(kubeconfig, context, f"finetune-sdk/{version('finetune-operator')}"))
        client.namespace = namespace or client.namespace
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def submit(self, job: FineTuneJob | Mapping[str, Any], *, namespace: str | None = None, dry_run: bool = False) -> Run:
        """Create a FineTuneJob. Safe to repeat: one that is there already with the same specification is returned as it is.

        :param dry_run: let the server judge it, and create nothing.
        :raises SpecDiffers: another one has this name.
        :raises ApiError: the server refuses it; ``faults`` names each field.
        """
        manifest = to_manifest(job) if isinstance(job, FineTuneJob) else dict(job)
        metadata = dict(manifest.get("metadata") or {})
        where = namespace or metadata.get("namespace") or self.namespace
        metadata["namespace"] = where
        manifest["metadata"] = metadata
        what = f"creating FineTuneJob {where}/{metadata.get('name') or metadata.get('generateName', '')}"
        query = {"fieldManager": "finetune", "fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        path = f"{self._path(where)}?{urlencode(query)}"
        try:
            return Run(await self._transport.request("POST", path, manifest, what=what))
        except Conflict as error:
            if error.reason != "AlreadyExists" or "name" not in metadata:
                raise
            present = await self.get(metadata["name"], namespace=where)
            defaulted = await self._apply_defaults(manifest, where)
            if defaulted is not None and _same_work(defaulted, present.body["spec"]):
                return present
            raise SpecDiffers(
                f"FineTuneJob {where}/{present.name} exists already with another specification, which can't be changed; "
                "give the new one another name, or delete the one that is there"
            ) from None

    async def _apply_defaults(self, manifest: Manifest, namespace: str) -> Object | None:
        """Return the specification as the server would store it; None where it would refuse it."""
        metadata = {key: value for key, value in manifest["metadata"].items() if key not in ("name", "resourceVersion", "uid")}
        trial = {**manifest, "metadata": {**metadata, "generateName": "trial-"}}
        path = f"{self._path(namespace)}?dryRun=All&fieldValidation=Strict"
        try:
            answer = await self._transport.request("POST", path, trial, what="comparing with the FineTuneJob that is there")
        except ApiError:
            return None
        spec: Object = answer["spec"]
        return spec

    async def get(self, name: str, *, namespace: str | None = None) -> Run:
        """Return a run as it is now.

        :raises NotFound: there is none.
        """
        where = namespace or self.namespace
        return Run(await self._transport.request("GET", self._path(where, name), what=f"reading FineTuneJob {where}/{name}"))

    async def list_runs(self, *, namespace: str | None = None, all_namespaces: bool = False, selector: str = "") -> list[Run]:
        """Return all runs, oldest first.

        :param selector: label selector, as kubectl takes it.
        """
        where = None if all_namespaces else namespace or self.namespace
        query = {"labelSelector": selector} if selector else {}
        items = await self._list(self._path(where), "listing FineTuneJobs", query)
        runs = [Run(item) for item in items]
        return sorted(runs, key=lambda run: (run.namespace, str(run.body["metadata"].get("creationTimestamp")), run.name))

    async def watch(self, name: str, *, namespace: str | None = None) -> AsyncIterator[Run]:
        """Yield a run now and after each change, until it has ended (that version comes last) or is deleted.

        Outlives an API server that goes away for a minute.
        """
        where = namespace or self.namespace
        await self.get(name, namespace=where)
        query = {"fieldSelector": f"metadata.name={name}"}
        async for body in watch_objects(self._transport, self._path(where), query, f"watching FineTuneJob {where}/{name}"):
            if body is None:
                return
            run = Run(body)
            yield run
            if run.finished:
                return

    async def wait(
        self, name: str, until: RunTest | None = None, *, timeout_seconds: float | None = None, namespace: str | None = None
    ) -> Run:
        """Return a run as soon as ``until`` holds of it; without it, as soon as it has ended.

        :param timeout_seconds: None waits for good.
        :raises WaitTimedOut: not in time.
        :raises RunFailed: it has ended, so that ``until`` never will hold.
        :raises NotFound: it is not there, or was deleted meanwhile.
        """
        holds = until or (lambda run: run.finished)
        latest: Run | None = None
        try:
            async with asyncio.timeout(timeout_seconds):
                async for latest in self.watch(name, namespace=namespace):
                    if holds(latest):
                        return latest
        except TimeoutError:
            state = f"it is {latest.phase or 'not seen by the operator yet'}" if latest else "the API server has not shown it"
            raise WaitTimedOut(f"{name}: not within {timeout_seconds:g} s; {state}") from None
        if latest is not None and latest.finished:
            raise RunFailed(name, latest.reason, latest.message)
        where = namespace or self.namespace
        raise NotFound(404, {"message": f"FineTuneJob {where}/{name} was deleted"}, "waiting")

    async def result(self, name: str, *, timeout_seconds: float | None = None, namespace: str | None = None) -> Artifact:
        """Wait for a run's end and return its adapter: where it lies, and its digest.

        :raises RunFailed: the run failed; ``reason`` and ``message`` say why.
        :raises WaitTimedOut: not in time.
        """
        run = await self.wait(name, timeout_seconds=timeout_seconds, namespace=namespace)
        if not run.succeeded or run.artifact is None:
            raise RunFailed(name, run.reason, run.message)
        return run.artifact

    async def suspend(self, name: str, *, namespace: str | None = None) -> Run:
        """Ask a run to write a checkpoint and give its GPUs back."""
        return await self._set_suspend(name, namespace, suspend=True)

    async def resume(self, name: str, *, namespace: str | None = None) -> Run:
        """Let a suspended run go on from its checkpoint."""
        return await self._set_suspend(name, namespace, suspend=False)

    async def _set_suspend(self, name: str, namespace: str | None, *, suspend: bool) -> Run:
        where = namespace or self.namespace
        what = f"{'suspending' if suspend else 'resuming'} FineTuneJob {where}/{name}"
        path = f"{self._path(where, name)}?fieldManager=finetune"
        return Run(await self._transport.request("PATCH", path, {"spec": {"suspend": suspend}}, what=what, content_type=MERGE_PATCH))

    async def cancel(self, name: str, *, namespace: str | None = None, uid: str | None = None) -> None:
        """Delete a run: its pods are asked to stop, and what it has published stays.

        :param uid: delete only this very object; another one that has taken its name is left alone.
        """
        where = namespace or self.namespace
        options: Object = {"propagationPolicy": "Background"} | ({"preconditions": {"uid": uid}} if uid else {})
        await self._transport.request("DELETE", self._path(where, name), options, what=f"deleting FineTuneJob {where}/{name}")

    async def retry(
        self, name: str, *, new_name: str | None = None, changes: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> Run:
        """Create a run with the specification of another that has ended, from the start and under a new name.

        :param new_name: by default the name with ``-retry-1``, ``-retry-2``… behind it.
        :param changes: values by dotted path below ``spec``, for what is to be different: ``{"training.learningRate": 1e-4}``.
        :raises FinetuneError: the run has not ended.
        """
        where = namespace or self.namespace
        before = await self.get(name, namespace=where)
        if not before.finished:
            raise FinetuneError(f"FineTuneJob {where}/{name} is {before.phase or 'new'}: only a run that has ended can be retried")
        metadata: Object = {
            "annotations": {ANNOTATION_RETRY_OF: f"{name}/{before.uid}"},
            "labels": {key: value for key, value in (before.body["metadata"].get("labels") or {}).items() if "kubernetes.io/" not in key},
        }
        spec = change_spec({**before.body["spec"], "suspend": False}, changes or {})
        manifest: Manifest = {"apiVersion": before.body["apiVersion"], "kind": before.body["kind"], "spec": spec}
        if new_name is not None:
            return await self.submit({**manifest, "metadata": {**metadata, "name": new_name}}, namespace=where)
        taken = {run.name for run in await self.list_runs(namespace=where)}
        for candidate in retry_names(name, taken):
            path = f"{self._path(where)}?fieldManager=finetune&fieldValidation=Strict"
            body = {**manifest, "metadata": {**metadata, "name": candidate}}
            try:
                return Run(await self._transport.request("POST", path, body, what=f"creating FineTuneJob {where}/{candidate}"))
            except Conflict:
                continue  # someone else was quicker
        raise FinetuneError(f"no free name for a retry of {name}")

    async def events(self, run: Run) -> list[RunEvent]:
        """Return the Events about a run, its Job and its pods, oldest first."""
        items = await self._list(f"/api/v1/namespaces/{run.namespace}/events", "listing Events", {})
        names = await self._names_of_children(run)
        mine = [item for item in items if _is_about(item["involvedObject"], run, names)]
        return sorted(map(_parse_event, mine), key=lambda event: event.time or datetime.min.replace(tzinfo=UTC))

    async def _names_of_children(self, run: Run) -> set[tuple[str, str]]:
        pods = {("Pod", str(pod["metadata"]["name"])) for pod in await self.pods(run)}
        return pods | ({("Job", run.status.job_name)} if run.status.job_name else set())

    async def pods(self, run: Run) -> list[Object]:
        """Return the pods of a run, oldest first."""
        query = {"labelSelector": f"{LABEL_JOB_UID}={run.uid}"}
        items = await self._list(f"/api/v1/namespaces/{run.namespace}/pods", f"listing the pods of {run.name}", query)
        return sorted(items, key=lambda pod: (str(pod["metadata"]["creationTimestamp"]), str(pod["metadata"]["name"])))

    async def logs(
        self, name: str, *, follow: bool = False, tail: int | None = None, previous: bool = False, namespace: str | None = None
    ) -> AsyncIterator[LogLine]:
        """Yield the lines of a run's trainers, all ranks, as they come.

        :param follow: go on until the run has ended, through restarts too.
        :param tail: so many last lines of each pod; None gives all.
        :param previous: pods that have ended as well, not only those of the newest start.
        """
        run = await self.get(name, namespace=namespace)
        lines: asyncio.Queue[LogLine | BaseException | None] = asyncio.Queue(1000)
        task = asyncio.create_task(self._pump_logs(run, lines, follow=follow, tail=tail, previous=previous))
        try:
            while (line := await lines.get()) is not None:
                if isinstance(line, BaseException):
                    raise line
                yield line
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _pump_logs(
        self, run: Run, lines: asyncio.Queue[LogLine | BaseException | None], *, follow: bool, tail: int | None, previous: bool
    ) -> None:
        streams: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                # Asked before the pods are listed: those of a run that has ended are then all there are.
                over = not follow or (await self.get(run.name, namespace=run.namespace)).finished
                pods = await self.pods(run)
                newest = max((_incarnation(pod) for pod in pods), default="")
                for pod in pods:
                    known = str(pod["metadata"]["uid"]) in streams
                    wanted = previous or streams or _incarnation(pod) == newest or len(pods) == 1 or _is_alive(pod)
                    if not known and wanted and _has_started(pod):
                        streams[str(pod["metadata"]["uid"])] = asyncio.create_task(self._pump_pod(pod, lines, follow=follow, tail=tail))
                if over:
                    break
                await asyncio.sleep(_SUMMARY_SECONDS)
            await asyncio.gather(*streams.values())
            await lines.put(None)
        except (FinetuneError, OSError) as error:
            await lines.put(error)
        finally:
            for stream in streams.values():
                stream.cancel()

    async def _pump_pod(self, pod: Object, lines: asyncio.Queue[LogLine | BaseException | None], *, follow: bool, tail: int | None) -> None:
        metadata = pod["metadata"]
        rank = int((metadata.get("labels") or {}).get(_RANK_LABEL, 0))
        query = {"container": TRAINER_CONTAINER, "follow": str(follow).lower()} | ({} if tail is None else {"tailLines": str(tail)})
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log?{urlencode(query)}"
        try:
            async for line in self._transport.stream(path, what=f"reading the log of pod {metadata['name']}"):
                await lines.put(LogLine(str(metadata["name"]), rank, line.decode(errors="replace").rstrip("\r")))
        except NotFound:
            return  # gone meanwhile
        except (ApiError, NoCluster) as error:
            await lines.put(error if not follow else LogLine(str(metadata["name"]), rank, f"({error})"))

    async def gpus(self, *, namespace: str | None = None) -> GpuReport:
        """Return the cluster's GPUs by node, who holds them, and which FineTuneJobs wait.

        What you may not read is named in ``unseen`` and left out: nodes and other namespaces take rights of their own.
        """
        unseen: list[str] = []

        async def read(path: str, what: str, narrower: str | None = None) -> list[Object]:
            try:
                return await self._list(path, what, {})
            except ApiError as error:
                if error.status != 403:
                    raise
                unseen.append(f"{what}: {error.server_message}")
                return await self._list(narrower, what, {}) if narrower else []

        where = namespace or self.namespace
        nodes = await read("/api/v1/nodes", "listing nodes")
        pods = await read("/api/v1/pods", "listing pods of all namespaces", f"/api/v1/namespaces/{where}/pods")
        jobs = await read(self._path(None), "listing FineTuneJobs of all namespaces", self._path(where))
        return compute_gpu_report(nodes, pods, [Run(job) for job in jobs], unseen)

    async def read_secret(self, name: str, *, namespace: str | None = None) -> dict[str, str]:
        """Return the values of a Secret that you may read, decoded."""
        where = namespace or self.namespace
        body = await self._transport.request(
            "GET", f"/api/v1/namespaces/{where}/secrets/{quote(name)}", what=f"reading Secret {where}/{name}"
        )
        return {key: base64.b64decode(value).decode() for key, value in (body.get("data") or {}).items()}

    async def _list(self, path: str, what: str, query: Mapping[str, str]) -> list[Object]:
        items: list[Object] = []
        token = ""
        while True:
            page = await self._transport.request(
                "GET", f"{path}?{urlencode({**query, 'limit': str(PAGE), **({'continue': token} if token else {})})}", what=what
            )
            items += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return items

    def _path(self, namespace: str | None, name: str | None = None) -> str:
        root = f"/apis/{GROUP}/{VERSION}" + (f"/namespaces/{quote(namespace)}" if namespace else "")
        return f"{root}/{PLURAL}" + (f"/{quote(name)}" if name else "")


def change_spec(spec: Mapping[str, Any], changes: Mapping[str, Any]) -> Object:
    """Return ``spec`` with values set by dotted path; None removes a field."""
    changed = dict(spec)
    for path, value in changes.items():
        *parents, last = path.removeprefix("spec.").split(".")
        target = changed
        for parent in parents:
            below = target.get(parent)
            target[parent] = dict(below) if isinstance(below, Mapping) else {}
            target = target[parent]
        if value is None:
            target.pop(last, None)
        else:
            target[last] = value
    return changed


def retry_names(name: str, taken: set[str], limit: int = 63) -> list[str]:
    """Return free names for retries of ``name``, in order: ``bot-retry-1``; of ``bot-retry-1``, ``bot-retry-2``."""
    stem, found, number = name.rpartition("-retry-")
    stem, first = (stem, int(number) + 1) if found and number.isdigit() else (name, 1)
    names = [f"{stem[: limit - len(f'-retry-{count}')]}-retry-{count}" for count in range(first, first + 100)]
    return [each for each in names if each not in taken]


def _same_work(wanted: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    """Compare two specifications but for what may change after creation."""
    return _without_changes(wanted) == _without_changes(present)


def _without_changes(spec: Mapping[str, Any]) -> Object:
    fixed: Object = copy.deepcopy(write_out(spec))
    for path in MUTABLE_FIELDS:
        *above, last = path.split(".")
        part: Object = fixed
        for name in above:
            part = part.get(name) or {}
        part.pop(last, None)
    return fixed


def _is_about(reference: Mapping[str, Any], run: Run, children: set[tuple[str, str]]) -> bool:
    return reference.get("uid") == run.uid or (str(reference.get("kind")), str(reference.get("name"))) in children


def _parse_event(item: Object) -> RunEvent:
    stamp = item.get("lastTimestamp") or item.get("eventTime") or item["metadata"].get("creationTimestamp")
    reference = item["involvedObject"]
    return RunEvent(
        None if stamp is None else datetime.fromisoformat(str(stamp)),
        str(item.get("type", "Normal")),
        str(item.get("reason", "")),
        str(item.get("message", "")),
        f"{reference.get('kind')}/{reference.get('name')}",
        int(item.get("count") or 1),
    )


def _incarnation(pod: Object) -> str:
    return str(pod["metadata"]["creationTimestamp"])


def _is_alive(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Pending", "Running")


def _has_started(pod: Object) -> bool:
    states = (pod.get("status") or {}).get("containerStatuses") or []
    return any(each["name"] == TRAINER_CONTAINER and ("running" in each["state"] or "terminated" in each["state"]) for each in states)
