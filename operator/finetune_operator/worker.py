"""Workers: take a key, reconcile it, and decide when it comes back."""

import logging
from collections.abc import Awaitable, Callable

from finetune_operator.kube.client import ApiError
from finetune_operator.queue import WorkQueue

log = logging.getLogger(__name__)


async def work_forever(queue: WorkQueue, reconcile: Callable[[str], Awaitable[float | None]]) -> None:
    """Work on keys until cancelled. No failure of one key ends the worker."""
    while True:
        key = await queue.get()
        try:
            look_again_in = await reconcile(key)
        except ApiError as error:
            delay = queue.retry(key)
            level = logging.DEBUG if error.conflict or error.not_found else logging.WARNING
            log.log(level, "will try again in %.1f s: %s", delay, error, extra={"uid": key})
        except Exception:
            delay = queue.retry(key)
            log.exception("reconciling failed; will try again in %.1f s", delay, extra={"uid": key})
        else:
            queue.forget(key)
            if look_again_in is not None:
                queue.add_after(key, look_again_in)
        finally:
            queue.done(key)
