"""The synchronous client: the asynchronous one, driven by a thread of its own, so that it works in notebooks too."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from finetune_api.artifact import Artifact
from finetune_api.resource import FineTuneJob
from finetune_sdk.async_client import AsyncFineTuneClient, RunTest
from finetune_sdk.gpus import GpuReport
from finetune_sdk.run import LogLine, Run, RunEvent

T = TypeVar("T")


class FineTuneClient:
    """FineTuneJobs of one cluster. Use it in a ``with`` block, or call :meth:`close`.

    Methods mean what those of :class:`~finetune_sdk.async_client.AsyncFineTuneClient` mean, and raise the same.
    """

    def __init__(self, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None) -> None:
        """Connect as kubectl does.

        :raises NoCluster: there is no kubeconfig and no ServiceAccount.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="finetune-client", daemon=True)
        self._thread.start()
        try:
            self._client = self._run(AsyncFineTuneClient.connect(kubeconfig, context, namespace))
        except BaseException:
            self._stop()
            raise

    @property
    def namespace(self) -> str:
        """Namespace that is meant where none is given."""
        return self._client.namespace

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread."""
        if not self._loop.is_closed():
            self._run(self._loop.shutdown_asyncgens())  # a watch that was left half-way still has its connection
            self._run(self._client.close())
            self._stop()

    def submit(self, job: FineTuneJob | Mapping[str, Any], *, namespace: str | None = None, dry_run: bool = False) -> Run:
        """Create a FineTuneJob; one that is there already with the same specification is returned as it is."""
        return self._run(self._client.submit(job, namespace=namespace, dry_run=dry_run))

    def get(self, name: str, *, namespace: str | None = None) -> Run:
        """Return a run as it is now."""
        return self._run(self._client.get(name, namespace=namespace))

    def list_runs(self, *, namespace: str | None = None, all_namespaces: bool = False, selector: str = "") -> list[Run]:
        """Return all runs, oldest first."""
        return self._run(self._client.list_runs(namespace=namespace, all_namespaces=all_namespaces, selector=selector))

    def watch(self, name: str, *, namespace: str | None = None) -> Iterator[Run]:
        """Yield a run now and after each change, until it has ended or is deleted."""
        return self._iterate(lambda: self._client.watch(name, namespace=namespace))

    def wait(self, name: str, until: RunTest | None = None, *, timeout_seconds: float | None = None, namespace: str | None = None) -> Run:
        """Return a run as soon as ``until`` holds of it; without it, as soon as it has ended."""
        return self._run(self._client.wait(name, until, timeout_seconds=timeout_seconds, namespace=namespace))

    def result(self, name: str, *, timeout_seconds: float | None = None, namespace: str | None = None) -> Artifact:
        """Wait for a run's end and return its adapter."""
        return self._run(self._client.result(name, timeout_seconds=timeout_seconds, namespace=namespace))

    def suspend(self, name: str, *, namespace: str | None = None) -> Run:
        """Ask a run to write a checkpoint and give its GPUs back."""
        return self._run(self._client.suspend(name, namespace=namespace))

    def resume(self, name: str, *, namespace: str | None = None) -> Run:
        """Let a suspended run go on from its checkpoint."""
        return self._run(self._client.resume(name, namespace=namespace))

    def cancel(self, name: str, *, namespace: str | None = None, uid: str | None = None) -> None:
        """Delete a run; what it has published stays."""
        self._run(self._client.cancel(name, namespace=namespace, uid=uid))

    def retry(
        self, name: str, *, new_name: str | None = None, changes: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> Run:
        """Create a run with the specification of another that has ended, from the start and under a new name."""
        return self._run(self._client.retry(name, new_name=new_name, changes=changes, namespace=namespace))

    def events(self, run: Run) -> list[RunEvent]:
        """Return the Events about a run, its Job and its pods, oldest first."""
        return self._run(self._client.events(run))

    def pods(self, run: Run) -> list[dict[str, Any]]:
        """Return the pods of a run, oldest first."""
        return self._run(self._client.pods(run))

    def logs(
        self, name: str, *, follow: bool = False, tail: int | None = None, previous: bool = False, namespace: str | None = None
    ) -> Iterator[LogLine]:
        """Yield the lines of a run's trainers, all ranks, as they come."""
        return self._iterate(lambda: self._client.logs(name, follow=follow, tail=tail, previous=previous, namespace=namespace))

    def gpus(self, *, namespace: str | None = None) -> GpuReport:
        """Return the cluster's GPUs by node, who holds them, and which FineTuneJobs wait."""
        return self._run(self._client.gpus(namespace=namespace))

    def read_secret(self, name: str, *, namespace: str | None = None) -> dict[str, str]:
        """Return the values of a Secret that you may read, decoded."""
        return self._run(self._client.read_secret(name, namespace=namespace))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def _iterate(self, start: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        iterator = start()

        async def step() -> tuple[bool, T | None]:
            try:
                return True, await anext(iterator)
            except StopAsyncIteration:
                return False, None

        async def finish() -> None:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

        try:
            while True:
                there, value = self._run(step())
                if not there:
                    return
                yield value  # type: ignore[misc]  # there is one
        finally:
            if not self._loop.is_closed():
                self._run(finish())

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
