"""One operator and no Lease: it always leads."""

import asyncio
import math


class SoleOperator:
    """Stands in for :class:`~finetune_operator.leadership.lease.Leadership` where there is one operator only."""

    seconds_left = math.inf
    """It may always write."""
    leader_address: str | None = None
    """There is nobody else."""

    async def acquire(self) -> None:
        """Return: it leads."""

    async def hold(self) -> None:
        """Lead until cancelled."""
        await asyncio.Event().wait()

    async def follow(self) -> None:
        """Wait until cancelled: there is nobody to follow."""
        await asyncio.Event().wait()

    async def release(self) -> None:
        """There is nothing to give up."""
