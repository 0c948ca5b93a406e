"""Workers: take a key, reconcile it, and decide when it comes back."""

import logging
import time
from collections.abc import Awaitable, Callable

from finetune_operator.kube.client import ApiError
from finetune_operator.log_context import speaking_of
from finetune_operator.queue import WorkQueue

log = logging.getLogger(__name__)


async def work_forever(
    queue: WorkQueue, reconcile: Callable[[str], Awaitable[float | None]], note: Callable[[str, float], None] = lambda *_: None
) -> None:
    """Work on keys until cancelled. No failure of one key ends the worker.

    :param note: is told of each reconciliation: its result (``ok``, ``retry`` or ``error``) and the seconds that it took.
    """
    while True:
        key = await queue.get()
        began, result = time.perf_counter(), "ok"
        try:
            with speaking_of(key):
                result = await _work_on(queue, key, reconcile)
        finally:
            queue.done(key)
            note(result, time.perf_counter() - began)


async def _work_on(queue: WorkQueue, key: str, reconcile: Callable[[str], Awaitable[float | None]]) -> str:
    try:
        look_again_in = await reconcile(key)
    except ApiError as error:
        delay = queue.retry(key)
        level = logging.DEBUG if error.conflict or error.not_found else logging.WARNING
        log.log(level, "will try again in %.1f s: %s", delay, error)
        return "retry"
    except Exception:
        delay = queue.retry(key)
        log.exception("reconciling failed; will try again in %.1f s", delay)
        return "error"
    queue.forget(key)
    if look_again_in is not None:
        queue.add_after(key, look_again_in)
    return "ok"
