"""Running many cases at once, and hearing of every one that fails."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def run_all(works: Iterable[Awaitable[T]], at_once: int = 6) -> list[T]:
    """Await ``works``, so many at once; all of them run to their end.

    :raises AssertionError: some failed; the message has what each said, and how many did.
    """
    gate = asyncio.Semaphore(at_once)

    async def run(work: Awaitable[T]) -> T:
        async with gate:
            return await work

    results = await asyncio.gather(*(run(work) for work in works), return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    if failures:
        words = "\n\n".join(f"{type(failure).__name__}: {failure}" for failure in failures)
        raise AssertionError(f"{len(failures)} of {len(results)} failed:\n{words}") from failures[0]
    return [result for result in results if not isinstance(result, BaseException)]
