"""Following one run: live on a terminal, a line for each change elsewhere."""

import asyncio
import contextlib
import sys
from datetime import UTC, datetime

from rich.live import Live

from finetune_cli.exit_codes import CliExit
from finetune_cli.output import make_console
from finetune_cli.run_view import build_run_view, describe_change
from finetune_sdk import ApiError, AsyncFineTuneClient, FinetuneError, Run, RunEvent

REFRESH_SECONDS = 1.0
"""Ages and durations on the screen move this often."""
EVENTS_SECONDS = 3.0
MAX_WIDTH = 110


def follow_run(name: str, kubeconfig: str | None, context: str | None, namespace: str | None) -> CliExit:
    """Show a run until it has ended, and return what to exit with. Leaving by Ctrl-C leaves the run alone."""
    return asyncio.run(_follow(name, kubeconfig, context, namespace))


async def _follow(name: str, kubeconfig: str | None, context: str | None, namespace: str | None) -> CliExit:
    async with await AsyncFineTuneClient.connect(kubeconfig, context, namespace) as client:
        run = await _follow_live(client, name) if make_console().is_terminal else await _follow_lines(client, name)
    if run is None:
        sys.stderr.write(f"{name} was deleted\n")
        return CliExit.NOT_FOUND
    return CliExit.OK if run.succeeded else CliExit.RUN_FAILED


async def _follow_lines(client: AsyncFineTuneClient, name: str) -> Run | None:
    before: Run | None = None
    async for run in client.watch(name):
        if (line := describe_change(run, before)) is not None:
            sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S} {line}\n")
            sys.stdout.flush()
        before = run
    return before if before is not None and before.finished else None


async def _follow_live(client: AsyncFineTuneClient, name: str) -> Run | None:
    console = make_console()
    run = await client.get(name)
    events: list[RunEvent] = []

    async def read_events() -> None:
        nonlocal events
        while True:
            with contextlib.suppress(ApiError, FinetuneError):  # the view is the less without them, no more
                events = await client.events(run)
            await asyncio.sleep(EVENTS_SECONDS)

    with Live(console=console, auto_refresh=False, transient=False) as live:

        def show() -> None:
            live.update(build_run_view(run, events, datetime.now(UTC), min(console.width, MAX_WIDTH)), refresh=True)

        async def tick() -> None:
            while True:
                show()
                await asyncio.sleep(REFRESH_SECONDS)

        helpers = [asyncio.create_task(read_events()), asyncio.create_task(tick())]
        try:
            async for run in client.watch(name):  # noqa: B007  show() and read_events() look at it
                show()
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        if run.finished:
            with contextlib.suppress(FinetuneError):
                events = await client.events(run)
            show()
    return run if run.finished else None
