"""The processes that train one run together: they meet, watch one another, agree, and end together.

One that ends ends the others within seconds, so that all of them begin anew from the last checkpoint. Of all that fail by the same
incident, one alone ends by a code that is counted as a failure.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from finetune_api.exit_codes import OUTCOMES, ExitCode
from finetune_api.names import ENV_LOCAL_RANK, ENV_NODE_RANK
from finetune_api.trainer_config import GroupConfig
from finetune_trainer.errors import PeerLost

logger = logging.getLogger(__name__)

MEETING_SECONDS: Final = 900.0
"""Longest wait for the others to come. Then the pod gives its GPUs back: two groups that hold half of what each
needs would wait for ever."""
COLLECTIVE_SECONDS: Final = 7200.0
"""Longest wait in one exchange. Whoever waits knows that the others live: the first may be answering questions for an hour."""
BEAT_SECONDS: Final = 1.0
SILENCE_SECONDS: Final = 60.0
"""A process that has not been heard of for so long is lost, with its node. One that ends, however, is known of at once."""
_POLL_SECONDS: Final = 0.2
_GOODBYE_SECONDS: Final = 20.0
"""Longest wait of the first process for the others to hear that all is done."""
_BLAME_SECONDS: Final = 5.0
"""How long one that failed looks whether another has gone before it."""


def find_rank(config: GroupConfig | None, environ: Mapping[str, str]) -> int:
    """Return the number of this process in its group, from 0."""
    if config is None:
        return 0
    return int(environ.get(ENV_NODE_RANK, "0")) * config.processes + int(environ.get(ENV_LOCAL_RANK, "0"))


def choose_backend(kind: str, *, offloads: bool = False) -> str:
    """Return what torch's processes exchange tensors by.

    :param kind: ``cuda`` or ``cpu``.
    :param offloads: of a divided model the parts lie in the node's memory: checkpoints and the gradient's norm are gathered from there,
        which NCCL can't; layers are gathered on the GPUs.
    """
    if kind != "cuda":
        return "gloo"
    return "cpu:gloo,cuda:nccl" if offloads else "nccl"


class Group:
    """A run's processes, seen from one of them. A group of one agrees with itself, and waits for nobody.

    :param lost: called, from a thread, with words when another process is lost; it ends this one and does not return.
    """

    def __init__(self, config: GroupConfig | None, environ: Mapping[str, str], lost: Callable[[str], None] | None = None) -> None:
        self._config = config
        self.size = 1 if config is None else config.size
        self.rank = find_rank(config, environ)
        self.local_rank = self.rank % (1 if config is None else config.processes)
        self._lost = lost or _raise_lost
        self._server: Any = None
        self._store: Any = None
        self._watched: Any = None
        self._exchange: Any = None
        self._over = threading.Event()
        self._lock = threading.RLock()  # a signal may come in the thread that holds it

    @property
    def leads(self) -> bool:
        """Whether this is the process that reports, and writes what the run leaves."""
        return self.rank == 0

    @property
    def meets(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def meet(self, backend: str, is_finished: Callable[[], bool]) -> bool:
        """Wait for all others and set up torch's process group; return False where the run turns out to be finished meanwhile.

        :raises PeerLost: they have not come in time.
        """
        if self._config is None or not self.meets:
            return True
        import torch.distributed as dist  # noqa: PLC0415  seconds to import

        config, deadline = self._config, time.monotonic() + MEETING_SECONDS
        self._export_environment(config)
        if self.leads:
            self._server = dist.TCPStore("0.0.0.0", config.port, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]  # noqa: S104  the pods of the run
        logger.info("process %d of %d: meeting the others at %s:%d", self.rank, self.size, config.address, config.port)
        while (store := self._join(config)) is None:
            if is_finished():
                return False
            if time.monotonic() > deadline:
                raise PeerLost(f"the first pod of the run was not to be met at {config.address} within {MEETING_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS * 5)
        self._store = store
        while (present := store.add("present", 0)) < self.size:
            self._check_whole(store)
            if time.monotonic() > deadline:
                raise PeerLost(f"{present} of {self.size} processes of the run came within {MEETING_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)
        self._watched = self._connect(config)
        threading.Thread(target=self._watch, name="group", daemon=True).start()
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("torch", self._connect(config)),  # type: ignore[attr-defined]
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )
        self._exchange = dist.new_group(backend="gloo", timeout=timedelta(seconds=COLLECTIVE_SECONDS))
        logger.info("all %d processes have met", self.size)
        return True

    def _export_environment(self, config: GroupConfig) -> None:
        """Say it to accelerate and NCCL the way torchrun does."""
        os.environ |= {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(config.processes),
            "MASTER_ADDR": config.address,
            "MASTER_PORT": str(config.port),
        }

    def _connect(self, config: GroupConfig) -> Any:  # noqa: ANN401  a TCPStore
        import torch.distributed as dist  # noqa: PLC0415  loaded by now

        address = "127.0.0.1" if self.leads else config.address
        return dist.TCPStore(address, config.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))  # type: ignore[attr-defined]

    def _join(self, config: GroupConfig) -> Any:  # noqa: ANN401  a TCPStore
        """Return the store, joined; None where the first process is not there, or belongs to a meeting that is over."""
        try:
            store = self._connect(config)
            if store.add(f"joined/{self.rank}", 1) > 1:
                # One of this number was there before: those it met are to end, and to meet again.
                store.set("gone", f"process {self.rank} began anew")
                return None
            store.add("present", 1)
        except RuntimeError:  # torch's own errors of its stores derive from it
            return None
        return store

    def _check_whole(self, store: Any) -> None:  # noqa: ANN401
        try:
            gone = store.get("gone").decode() if store.check(["gone"]) else None
        except RuntimeError as error:
            raise PeerLost("the first process of the run has ended") from error
        if gone is not None:
            raise PeerLost(f"another process of the run has ended: {gone}")

    def _watch(self) -> None:
        """Beat, and listen for the others' beats, until the group is over."""
        store, beats = self._watched, dict.fromkeys(range(self.size), 0)
        heard = dict.fromkeys(range(self.size), time.monotonic())
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._check_whole(store)
                store.add(f"beat/{self.rank}", 1)
                for rank in range(self.size):
                    if (beat := store.add(f"beat/{rank}", 0)) != beats[rank]:
                        beats[rank], heard[rank] = beat, time.monotonic()
            except PeerLost as error:
                return self._end_by(error.message)
            except RuntimeError:
                return self._end_by("the first process of the run has ended")
            silent = [rank for rank in heard if time.monotonic() - heard[rank] > SILENCE_SECONDS]
            if silent:
                return self._end_by(f"process {silent[0]} of the run has not been heard of for {SILENCE_SECONDS:.0f} s")
        return None

    def _end_by(self, words: str) -> None:
        with self._lock:  # whoever fails at the same time decides first, and ends the process
            if not self._over.is_set():
                self._lost(words)

    def any(self, flag: bool) -> bool:  # noqa: FBT001
        """Return whether ``flag`` is true in any process. All must ask at the same point."""
        return self.sum(float(flag)) > 0

    def sum(self, value: float) -> float:
        """Return the sum of every process's ``value``. All must ask at the same point."""
        if not self.meets:
            return value
        import torch  # noqa: PLC0415  loaded by now
        import torch.distributed as dist  # noqa: PLC0415

        numbers = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(numbers, group=self._exchange)
        return float(numbers[0])

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401
        """Return every process's ``value``, in their order, in all of them. It is pickled, by processes of one run for one another."""
        if not self.meets:
            return [value]
        import torch.distributed as dist  # noqa: PLC0415  loaded by now

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._exchange)
        return values

    def wait_for_files(self) -> None:
        """As another process of a pod: wait until the first of the pod has its files, which all of them share."""
        while self.local_rank and not self._store.check([f"files/{self.rank - self.local_rank}"]):
            time.sleep(_POLL_SECONDS)

    def tell_files(self) -> None:
        """As the first process of a pod: say that its files are there."""
        if self._store is not None and not self.local_rank:
            self._store.set(f"files/{self.rank}", "")

    @property
    def shares(self) -> bool:
        """Whether there are other processes in this pod, which share its files."""
        return self._config is not None and self._config.processes > 1

    def wait_for_data(self) -> bool:
        """As another process of a pod: wait until the first of the pod has prepared the data; return whether they are there to be read."""
        name = f"data/{self.rank - self.local_rank}"
        while not self._store.check([name]):
            time.sleep(_POLL_SECONDS)
        return bool(self._store.get(name) == b"kept")

    def tell_data(self, *, kept: bool) -> None:
        """As the first process of a pod: say that the data are prepared, and whether the others can read them."""
        if self._store is not None and not self.local_rank:
            self._store.set(f"data/{self.rank}", "kept" if kept else "lost")

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Do what stands in the block one after the other in the processes of a pod: each takes a lot of the node's memory for a while."""
        while self.local_rank and not self._store.check([f"turn/{self.rank - 1}"]):
            time.sleep(_POLL_SECONDS)
        yield
        if self._store is not None:
            self._store.set(f"turn/{self.rank}", "")

    def part(self) -> None:
        """Stop watching: the others may end from now on, and this process goes on alone to what it has to do."""
        self._over.set()

    def tell_done(self) -> None:
        """As the first process: say that all is published, and wait for the others to hear it, but not long."""
        if self._store is None:
            return
        try:
            self._store.set("done", "")
            deadline = time.monotonic() + _GOODBYE_SECONDS
            while self._store.add("heard", 0) < self.size - 1 and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        except RuntimeError as error:
            logger.warning("the other processes were not told: %s", error)

    def wait_for_leader(self, is_finished: Callable[[], bool], asked_to_stop: Callable[[], bool]) -> bool:
        """As another process: wait until the first one has published; return False where this one is asked to stop before.

        :raises PeerLost: the first process has ended without.
        """
        while not asked_to_stop():
            try:
                if self._store.check(["done"]):
                    self.part()
                    self._store.add("heard", 1)
                    return True
            except RuntimeError:
                self.part()
                if is_finished():
                    return True
                raise PeerLost("the first process of the run ended before it had published") from None
            time.sleep(_POLL_SECONDS * 5)
        self.part()
        return False

    def choose_code(self, code: ExitCode) -> ExitCode:
        """Return the code to end by, having failed by ``code``, and tell the others.

        Where another has gone before, its code counts, not what came of it here. What is never retried ends the run, whoever says it.
        """
        with self._lock:
            over = self._over.is_set()
            self._over.set()
        if self._store is None or OUTCOMES[code].retry != "counted":
            if not over or OUTCOMES[code].retry == "never":
                self._tell_gone(code)
            return code
        try:
            if not over and (self._store.check(["gone"]) or self._lacks_beats()):
                return ExitCode.PEER_LOST
            first = bool(self._store.add("failed", 1) == 1)
        except RuntimeError:
            return ExitCode.PEER_LOST
        self._tell_gone(code)
        return code if first else ExitCode.PEER_LOST

    def _lacks_beats(self) -> bool:
        """Whether another process beats no more: it went before this one failed, and this one failed of it."""
        before = {rank: self._store.add(f"beat/{rank}", 0) for rank in range(self.size) if rank != self.rank}
        deadline = time.monotonic() + _BLAME_SECONDS
        while before and time.monotonic() < deadline:
            # The watch has ended by now, and another that fails at the same moment asks the same of this one.
            self._store.add(f"beat/{self.rank}", 1)
            time.sleep(_POLL_SECONDS)
            before = {rank: beat for rank, beat in before.items() if self._store.add(f"beat/{rank}", 0) == beat}
        return bool(before)

    def _tell_gone(self, code: ExitCode) -> None:
        if self._store is None:
            return
        try:
            self._store.set("gone", f"process {self.rank}: {OUTCOMES[code].reason}")
            if self.leads:  # the store ends with this process: the others ask it once a second
                time.sleep(2 * BEAT_SECONDS)
        except RuntimeError:
            return


def _raise_lost(words: str) -> None:
    raise PeerLost(words)
