"""The operator's process: everything is made here, and everything ends here."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any, Final

import kopf
import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry

from finetune_api.names import KIND, REPORT_PATH, SWEEP_KIND
from finetune_api.trainer_config import ReportingConfig
from finetune_operator.act import Actor
from finetune_operator.handlers import build_kopf_settings, build_registry
from finetune_operator.health import build_health_app
from finetune_operator.intake import FOLLOW_UP_SECONDS, Intake
from finetune_operator.kube.client import ApiError, KubeClient
from finetune_operator.kube.store import Store
from finetune_operator.kueue.follower import KueueFollower
from finetune_operator.leadership.lease import Leadership
from finetune_operator.leadership.sole import SoleOperator
from finetune_operator.logs import configure_logging
from finetune_operator.metrics.operation import OperationMetrics
from finetune_operator.metrics.route import add_metrics_route
from finetune_operator.metrics.runs import RunCollector
from finetune_operator.metrics.usage import UsageMetrics
from finetune_operator.nodes import NodeBook
from finetune_operator.observe import Observer
from finetune_operator.page.access import Gatekeeper
from finetune_operator.page.server import Page
from finetune_operator.queue import WorkQueue
from finetune_operator.reconcile import Reconciler
from finetune_operator.recording import record_call
from finetune_operator.reports.authentication import Authenticator
from finetune_operator.reports.book import ReportBook
from finetune_operator.reports.credentials import ReceiverCredentials
from finetune_operator.reports.receiver import Receiver
from finetune_operator.reports.relay import Relay
from finetune_operator.settings import OperatorSettings, SettingsInvalid, read_settings
from finetune_operator.sweeps.observe import SweepObserver
from finetune_operator.sweeps.reconcile import SweepReconciler
from finetune_operator.tracing import TracingUnavailable, open_traces
from finetune_operator.worker import work_forever

START_SECONDS: Final = 60.0
"""How long the API server may take to answer at the start; then the process ends, and the kubelet starts it again."""
TRIAL_SECONDS: Final = 1.0
"""Changes of a sweep's trials wait this long for each other: a sweep's status is written for several at once."""
SWEEP_WORKERS: Final = 2
"""Sweeps that are worked on at the same time: their trials take hours, and nobody waits for a write more or less."""

KOPF_END_SECONDS: Final = 10.0
"""How long kopf may take to end. A watch of its that waits for an answer while it is told to stop may never end by itself."""

GARBAGE_THRESHOLD: Final = 20_000
"""Objects made between two looks for garbage. At Python's own 700, a tenth of the time goes into looks that find nothing."""

log = logging.getLogger(__name__)


class WatchesBroken(Exception):
    """kopf has given up, so nothing tells of changes any more: the process ends, and the kubelet starts it again."""


def main() -> None:
    """Run the operator until it is told to stop."""
    parser = argparse.ArgumentParser(
        prog="finetune-operator",
        description="Watches FineTuneJobs and runs them. Configured by FINETUNE_… variables: see the chart's values.",
    )
    parser.parse_args()
    try:
        settings = read_settings(os.environ)
    except SettingsInvalid as error:
        sys.exit(f"The environment can't be used:\n{error}")
    configure_logging(settings.log_level, settings.log_format)
    gc.freeze()  # what is there now stays: no look at the modules' objects is worth it
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 20)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings))
    except* (ApiError, OSError, WatchesBroken, TracingUnavailable) as failures:
        for failure in failures.exceptions:
            log.critical("stopped: %s", failure)
        sys.exit(1)


async def run(settings: OperatorSettings) -> None:
    """Run the operator in this event loop until SIGTERM."""
    client = await KubeClient.connect()
    try:
        await _run(settings, client)
    finally:
        await client.close()


async def _run(settings: OperatorSettings, client: KubeClient) -> None:  # noqa: PLR0915  # everything is made here, in order
    leadership = _build_leadership(settings, client)
    registry = CollectorRegistry()
    metrics = OperationMetrics(registry)
    metrics.add_event_loop(asyncio.get_running_loop())

    def note_call(verb: str, path: str, status: int, seconds: float) -> None:
        metrics.note_call(verb, path, status, seconds)
        record_call(verb, path, status, seconds)

    client.on_call = note_call
    writer = client.fenced(lambda: leadership.seconds_left)
    queue, sweep_queue = WorkQueue(), WorkQueue()
    store = Store(on_trial=lambda sweep: sweep_queue.add_after(sweep, TRIAL_SECONDS))
    intake = Intake(client, store, queue, sweep_queue, settings.watch_namespaces)
    book = ReportBook(writer, store, _now)
    service = settings.trainer.report_service
    hosts = [service.rsplit(":", 1)[0]] if service else ["localhost"]
    if settings.page_service:
        # By port-forward the page is at localhost.
        hosts = list(dict.fromkeys([*hosts, settings.page_service.rsplit(":", 1)[0], "localhost"]))
    credentials = ReceiverCredentials(client, settings.namespace, settings.tls_secret, hosts, _now)

    def reporting() -> ReportingConfig | None:
        return ReportingConfig(url=f"https://{service}{REPORT_PATH}", ca_certificate=credentials.authority) if service else None

    kueue = KueueFollower(
        client, store, settings.watch_namespaces, lambda uid: queue.add_after(uid, FOLLOW_UP_SECONDS), enabled=settings.kueue
    )
    nodes = NodeBook(
        client,
        store.waits_for_node,
        lambda uid: queue.add_after(uid, FOLLOW_UP_SECONDS),
        enabled=settings.node_check,
        every_seconds=settings.node_seconds,
    )
    usage = UsageMetrics(registry, settings.gpu_prices)
    registry.register(RunCollector(store.finetunejobs, _now, begin=usage.begin, reports=bool(service)))
    metrics.add_leadership(lambda: leadership.seconds_left)
    metrics.add_resync(lambda: intake.last_resync)
    metrics.add_reports(lambda: book.waiting, lambda: credentials.expiry)
    metrics.add_queue(KIND, queue.__len__)
    metrics.add_queue(SWEEP_KIND, sweep_queue.__len__)
    intake.on_event, intake.on_watch = metrics.note_event, metrics.note_watch
    observer = Observer(
        store,
        simulated_gpus=settings.trainer.simulated_gpus,
        workloads=kueue.book,
        default_queue=settings.trainer.default_queue,
        grace_seconds=settings.trainer.grace_seconds,
        follows_kueue=settings.kueue,
        nodes=nodes,
        defaults=settings.defaults,
    )
    actor = Actor(writer, store, settings.trainer, reporting, kueue.book)
    traces = open_traces(settings.trainer.tracing, settings, store) if settings.trainer.tracing is not None else None
    reconciler = Reconciler(writer, store, observer, actor, book, _now, usage, traces)
    reconcile = traces.trace_reconcile(reconciler.reconcile) if traces is not None else reconciler.reconcile
    sweep_reconciler = SweepReconciler(writer, store, SweepObserver(store), queue.add, _now)
    relay = Relay(leadership, hosts[0], lambda: credentials.authority)
    receiver = Receiver(Authenticator(client), store, book, relay)
    receiver.on_report = metrics.note_report

    def describe_replica() -> str:
        return f"replica {settings.identity}, which {'leads' if leadership.seconds_left > 0 else 'follows'}"

    page = Page(Gatekeeper(client, api_tokens=settings.page_api_tokens), store, _now, describe_replica)

    health_app = build_health_app(lambda: intake.last_resync, settings.resync_seconds)
    add_metrics_route(health_app, registry)
    health = await _serve(health_app, settings.health_port)
    started = time.monotonic()
    await _wait_for_cluster(intake)
    runners = [health]
    await kueue.begin()
    background = [intake.resync_forever(settings.resync_seconds), leadership.follow()]
    background += [kueue.follow_forever(), nodes.follow_forever()]
    if not settings.node_check:
        log.info("nodes are not read: whether any could take a run is left to the scheduler to say")
    if service or settings.page_service:
        await credentials.load()
        if service:
            middlewares = [traces.trace_report] if traces is not None else []
            runners.append(await _serve(receiver.build_app(middlewares), settings.report_port, credentials))
        if settings.page_service:
            runners.append(await _serve(page.build_app(), settings.page_port, credentials))
        background.append(credentials.renew_forever())
    log.info("started in %.1f s with %d FineTuneJobs", time.monotonic() - started, len(store.finetunejobs()))

    ready, stop, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    watching = asyncio.ensure_future(
        kopf.operator(
            registry=build_registry(intake, ended.set),
            settings=build_kopf_settings(),
            standalone=True,
            clusterwide=not settings.watch_namespaces,
            namespaces=settings.watch_namespaces,
            ready_flag=ready,
            stop_flag=stop,
        )
    )

    async def work() -> None:
        if settings.lease:
            await intake.take_over()
        async with asyncio.TaskGroup() as group:
            group.create_task(book.write_forever())
            for _ in range(settings.workers):
                group.create_task(work_forever(queue, reconcile, metrics.note_reconciled(KIND)))
            for _ in range(SWEEP_WORKERS):
                group.create_task(work_forever(sweep_queue, sweep_reconciler.reconcile, metrics.note_reconciled(SWEEP_KIND)))

    try:
        await run_until(_until_told(watching, ready, ended), [*background, _lead_forever(leadership, work, book)])
        # Before kopf has closed its watches, which takes a second or two: the other replicas wait for this.
        await leadership.release()
        stop.set()
        await asyncio.wait({watching}, timeout=KOPF_END_SECONDS)
    finally:
        watching.cancel()
        await relay.close()
        for runner in runners:
            await runner.cleanup()
        if traces is not None:
            await traces.close()
    log.info("stopped")


def _build_leadership(settings: OperatorSettings, client: KubeClient) -> Leadership | SoleOperator:
    if not settings.lease:
        return SoleOperator()
    return Leadership(client, settings.namespace, settings.lease, settings.identity, settings.report_address, settings.lease_times)


async def _lead_forever(leadership: Leadership | SoleOperator, work: Callable[[], Coroutine[Any, Any, None]], book: ReportBook) -> None:
    """Work whenever this replica leads, and only then."""
    while True:
        await leadership.acquire()
        await run_until(leadership.hold(), [work()])
        book.clear()


async def _until_told(watching: asyncio.Future[None], ready: asyncio.Event, ended: asyncio.Event) -> None:
    """Return on SIGTERM or SIGINT.

    :param ended: kopf is stopping, though nobody told it to.
    :raises WatchesBroken: a watch of kopf's broke for good.
    """
    told = asyncio.Event()

    async def listen() -> None:
        await ready.wait()  # until then kopf listens itself, and ends
        for sign in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sign, told.set)
        await told.wait()

    waiting: list[asyncio.Future[Any]] = [asyncio.create_task(listen()), asyncio.create_task(ended.wait())]
    try:
        await asyncio.wait({watching, *waiting}, return_when=asyncio.FIRST_COMPLETED)
        if told.is_set():
            return
        await asyncio.wait({watching}, timeout=KOPF_END_SECONDS)
    finally:
        for task in waiting:
            task.cancel()
    if not watching.done():
        raise WatchesBroken("kopf gave up watching, and did not end")
    if (error := watching.exception()) is not None:
        raise WatchesBroken(f"kopf gave up watching: {error}") from error


async def run_until(end: Coroutine[Any, Any, None], tasks: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run ``tasks`` until ``end`` returns, and return once they have stopped. The failure of one is the failure of all."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(task) for task in tasks]
        await end
        for task in running:
            task.cancel()


async def _wait_for_cluster(intake: Intake) -> None:
    """Fill the store before anything is decided: what isn't known yet must not look as if it didn't exist.

    :raises ApiError: the API server gave no good answer in :data:`START_SECONDS`.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return await intake.resync()
        except ApiError as error:
            if error.not_found:
                log.error("the FineTuneJob resource is not installed: apply crds/finetunejobs.yaml, or install the chart")  # noqa: TRY400
            if time.monotonic() > deadline or error.status in (401, 403):
                raise
            log.warning("waiting for the API server: %s", error)
            await asyncio.sleep(1)


async def _serve(app: web.Application, port: int, credentials: ReceiverCredentials | None = None) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port, ssl_context=credentials.context if credentials is not None else None).start()
    return runner


def _now() -> datetime:
    return datetime.now(UTC)
