"""Holding a Lease, in the manner of client-go's leader election, with a deadline that a write can be held to.

Nobody's wall clock matters. A follower takes the Lease over when it has not seen it change for its whole duration, by its own clock.
The leader counts its time from *before* it sent the last renewal that succeeded, and stops writing when
:attr:`~finetune_operator.settings.LeaseTimes.validity` is over, well before anyone may take the Lease. The clock is the kernel's, and
goes on while the process is stopped or the machine sleeps.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from finetune_operator.kube.client import LEASES, ApiError, KubeClient, Manifest
from finetune_operator.settings import LeaseTimes

ANNOTATION_ADDRESS: Final = "finetune.dev/report-address"
"""On the Lease: host and port of the leader's report receiver, for the replicas beside it."""

RELEASE_TRIES: Final = 3
"""A renewal that was under way when this replica was told to stop may take effect before, or between, the tries to give the Lease up."""

log = logging.getLogger(__name__)


def read_clock() -> float:
    """Return seconds by the clock that also counts while the process is stopped and the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Leadership:
    """This replica's part in the election."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        address: str,
        times: LeaseTimes | None = None,
        clock: Callable[[], float] = read_clock,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._address = address
        self._times = times or LeaseTimes()
        self._clock = clock
        self._lease: Manifest | None = None
        """The Lease as last seen."""
        self._seen_at = 0.0
        """When it was first seen so."""
        self._valid_until = 0.0

    @property
    def seconds_left(self) -> float:
        """How long this replica may still write; 0 where it doesn't lead."""
        return max(0.0, self._valid_until - self._clock())

    @property
    def leader_address(self) -> str | None:
        """Where the leader's report receiver is, as far as is known; None where this replica leads, or nobody is known to."""
        if self.seconds_left or self._lease is None or self._holder in ("", self._identity):
            return None
        address: str | None = self._lease["metadata"].get("annotations", {}).get(ANNOTATION_ADDRESS)
        return address

    async def acquire(self) -> None:
        """Wait until this replica leads."""
        while not await self._try():  # noqa: ASYNC110  # a Lease is looked at, as client-go does; watching it would save little
            await asyncio.sleep(self._times.retry)
        log.info("leading", extra={"identity": self._identity})

    async def hold(self) -> None:
        """Renew the Lease; return when it is lost, or can't be renewed in time."""
        while self.seconds_left:
            await asyncio.sleep(min(self._times.renewal, self.seconds_left))
            if self.seconds_left:
                await self._try()
        log.warning("no longer leading", extra={"identity": self._identity})

    async def follow(self) -> None:
        """Keep looking who leads, for those who want to know; to be run beside :meth:`hold`."""
        while True:
            await asyncio.sleep(self._times.retry)
            if not self.seconds_left:
                with suppress(ApiError):
                    await self._look()

    async def release(self) -> None:
        """Give the Lease up, so that another replica need not wait for its end. To be called once nothing writes any more."""
        if not self.seconds_left or self._lease is None:
            return
        self._valid_until = 0.0
        try:
            for _ in range(RELEASE_TRIES):
                if await self._give_up():
                    return
                await self._look()
                if self._holder != self._identity:
                    return
        except ApiError as error:
            log.warning("the Lease could not be given up; it runs out by itself: %s", error)

    async def _give_up(self) -> bool:
        """Write that nobody holds the Lease; return False where it isn't as last seen: a renewal that was cut off has taken effect."""
        try:
            await self._write({"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()})
        except ApiError as error:
            if not error.conflict:
                raise
            return False
        return True

    async def _try(self) -> bool:
        """Acquire or renew the Lease if that is possible; return whether this replica leads."""
        began = self._clock()
        try:
            # A leader knows the Lease as it wrote it; if anyone changed it since, the write is refused.
            if not self.seconds_left:
                await self._look()
                if not self._may_take():
                    return False
            await self._write(self._build_spec())
        except ApiError as error:
            if error.conflict:
                self._valid_until = 0.0  # someone else has it, or is just taking it
            else:
                log.warning("the Lease could not be renewed: %s", error)
            return self.seconds_left > 0
        self._valid_until = began + self._times.validity
        return True

    @property
    def _holder(self) -> str:
        return str(((self._lease or {}).get("spec") or {}).get("holderIdentity") or "")

    def _may_take(self) -> bool:
        if self._lease is None or self._holder in ("", self._identity):
            return True
        duration = float(self._lease["spec"].get("leaseDurationSeconds") or self._times.duration)
        return self._clock() >= self._seen_at + duration

    async def _look(self) -> None:
        try:
            lease: Manifest | None = await self._client.get(LEASES, self._namespace, self._name)
        except ApiError as error:
            if not error.not_found:
                raise
            lease = None
        self._keep(lease)

    async def _write(self, spec: dict[str, Any]) -> None:
        metadata: dict[str, Any] = {"annotations": {ANNOTATION_ADDRESS: self._address}}
        if self._lease is None:
            manifest = {"metadata": {**metadata, "name": self._name}, "spec": spec}
            self._keep(await self._client.create(LEASES, self._namespace, manifest))
            return
        metadata["resourceVersion"] = self._lease["metadata"]["resourceVersion"]
        self._keep(await self._client.merge_patch(LEASES, self._namespace, self._name, {"metadata": metadata, "spec": spec}))

    def _keep(self, lease: Manifest | None) -> None:
        if lease is None or self._lease is None or lease["metadata"]["resourceVersion"] != self._lease["metadata"]["resourceVersion"]:
            self._seen_at = self._clock()
        self._lease = lease

    def _build_spec(self) -> dict[str, Any]:
        spec = {"holderIdentity": self._identity, "leaseDurationSeconds": round(self._times.duration), "renewTime": _now()}
        if self._holder != self._identity:
            transitions = ((self._lease or {}).get("spec") or {}).get("leaseTransitions") or 0
            spec |= {"acquireTime": _now(), "leaseTransitions": transitions + 1}
        return spec


def _now() -> str:
    """Return the time as `metav1.MicroTime` has it. It is for people: nothing is decided by it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
