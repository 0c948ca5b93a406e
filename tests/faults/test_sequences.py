"""Any sequence of what users, trainers and accidents do ends where the straight way ends.

The sequences are drawn at random: suspensions, deletions by hand, drains, stale views, calls that fail before or after they took
effect, and the process ending at a call. What the trainers leave with is drawn too. Whatever happened in between, once it stops the run
reaches the end that its trainers' exit codes call for, no terminal phase is ever left, and then nothing is written.

The API server and the controllers are played here, in memory: thousands of runs take a minute.
"""

import asyncio
import copy
import itertools
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.exit_codes import ExitCode, codes_with_retry
from finetune_api.names import LABEL_ATTEMPT
from finetune_operator.act import Actor
from finetune_operator.kube.client import FINETUNEJOBS, JOBS, PODS, ApiError
from finetune_operator.kube.store import Store
from finetune_operator.observe import Observer
from finetune_operator.plan.actions import MAX_INTERRUPTIONS
from finetune_operator.reconcile import Reconciler
from tests.faults.support.figures import Figures
from tests.support.in_memory_api import Call, InMemoryApi
from tests.support.manifests import Manifest, merge
from tests.support.played_controllers import PlayedControllers
from tests.support.world import NAME, NAMESPACE, TRAINER, UID, at, build_finetunejob

BACKOFF_LIMIT = 2
SETTLED = 3
"""Rounds without a change after which nothing more is expected."""

OPERATIONS = (
    "reconcile",
    "reconcile blindly",
    "control Jobs",
    "run pods",
    "drain",
    "suspend",
    "resume",
    "delete pods",
    "delete the Job",
    "collect garbage",
    "restart",
    "die before a call",
    "die after a call",
    "fail a call",
    "lose a reply",
)


class Died(BaseException):
    """The process ended here."""


class World:
    """A run, its operator, and all that can happen to it."""

    def __init__(self, exit_codes: tuple[int, ...]) -> None:
        self.api = InMemoryApi()
        self.api.seed(FINETUNEJOBS, build_finetunejob({"backoffLimit": BACKOFF_LIMIT, "ttlSecondsAfterFinished": None}))
        self.controllers = PlayedControllers(self.api, itertools.chain(exit_codes, itertools.repeat(0)))
        self.seconds = 0.0
        self.ends: list[Manifest] = []
        self.restart()

    def close(self, uid: str) -> None:
        """Nothing reports here."""

    def restart(self) -> None:
        self.store = Store()
        actor = Actor(self.api, self.store, TRAINER, lambda: None)
        observer = Observer(self.store, simulated_gpus=False)
        self.reconciler = Reconciler(self.api, self.store, observer, actor, self, lambda: at(self.seconds))

    @property
    def run(self) -> Manifest:
        return self.api.objects[FINETUNEJOBS][NAMESPACE, NAME]

    @property
    def status(self) -> Manifest:
        status: Manifest = self.run.get("status", {})
        return status

    def set_suspend(self, *, suspend: bool) -> None:
        body = copy.deepcopy(self.run)
        if body["spec"].get("suspend", False) != suspend:
            body["spec"] = merge(body["spec"], {"suspend": suspend})
            body["metadata"]["generation"] += 1
            self.api.seed(FINETUNEJOBS, body)

    def see(self) -> None:
        for resource in (FINETUNEJOBS, JOBS, PODS):
            list(self.store.replace(resource, self.api.all(resource), 10**9))

    async def reconcile(self, *, blindly: bool = False) -> None:
        if not blindly:
            self.see()
        try:
            await self.reconciler.reconcile(UID)
        except ApiError:
            pass
        except Died:
            self.restart()
        finally:
            self.api.before = self.api.after = lambda _: None
        if self.status.get("phase") in ("Succeeded", "Failed"):
            self.ends.append(copy.deepcopy(self.status))

    def arm(self, moment: str, error: BaseException) -> None:
        """Let the next call of the operator meet ``error``."""

        def strike(_: Call) -> None:
            raise error

        setattr(self.api, moment, strike)

    async def do(self, operation: str) -> None:
        self.seconds += 1
        lost = ApiError(0, "Timeout", "no answer", "test")
        deeds: dict[str, Callable[[], object]] = {
            "control Jobs": self.controllers.control_jobs,
            "run pods": self.controllers.run_pods,
            "drain": self.controllers.stop_pods,
            "suspend": lambda: self.set_suspend(suspend=True),
            "resume": lambda: self.set_suspend(suspend=False),
            "delete pods": self._delete_pods,
            "delete the Job": self._delete_job,
            "collect garbage": self.controllers.collect_garbage,
            "restart": self.restart,
            "die before a call": lambda: self.arm("before", Died()),
            "die after a call": lambda: self.arm("after", Died()),
            "fail a call": lambda: self.arm("before", lost),
            "lose a reply": lambda: self.arm("after", lost),
        }
        if operation.startswith("reconcile"):
            await self.reconcile(blindly=operation.endswith("blindly"))
        else:
            deeds[operation]()

    def _delete_pods(self) -> None:
        """Delete by hand what runs; what has ended keeps its finalizer until the Job controller has counted it."""
        for key, pod in list(self.api.objects[PODS].items()):
            if pod["status"]["phase"] not in ("Succeeded", "Failed"):
                del self.api.objects[PODS][key]

    def _delete_job(self) -> None:
        """Delete the Job by hand, while there is nothing in it that its successor would have to know.

        Its pods go on until they are collected.
        """
        for key in list(self.api.objects[JOBS]):
            if not any(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in self.api.all(PODS)):
                del self.api.objects[JOBS][key]

    async def settle(self) -> int:
        """Let everything go its way, and return how many rounds it took to come to rest."""
        self.api.before = self.api.after = lambda _: None
        self.set_suspend(suspend=False)
        quiet = 0
        for round_number in range(60):
            version = self.api.version
            self.seconds += 1
            await self.reconcile()
            self.controllers.control_jobs()
            self.controllers.run_pods()
            self.controllers.collect_garbage()
            quiet = quiet + 1 if self.api.version == version else 0
            if quiet == SETTLED:
                return round_number
        raise AssertionError(f"no rest: {self.status}")


def expect_end(codes: tuple[int, ...]) -> tuple[str, int | None]:
    """Return the phase that trainers leaving with ``codes`` in turn bring about, and the code that decides."""
    crashes = 0
    for code in codes:
        if code == ExitCode.COMPLETED:
            break
        if code in codes_with_retry("never"):
            return "Failed", code
        crashes += code in codes_with_retry("counted")
        if crashes > BACKOFF_LIMIT:
            return "Failed", None
    return "Succeeded", 0


CODES = st.lists(
    st.sampled_from([int(ExitCode.CRASHED), int(ExitCode.INTERRUPTED), int(ExitCode.DATA_INVALID), int(ExitCode.COMPLETED)]), max_size=6
).map(tuple)


@pytest.mark.timeout(3600)  # of five thousand
def test_every_way_ends_where_the_straight_one_does(figures: Figures, full: bool) -> None:
    examples = 5000 if full else 300
    steps: list[int] = []

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(CODES, st.lists(st.sampled_from(OPERATIONS), max_size=40))
    def check(codes: tuple[int, ...], operations: list[str]) -> None:
        steps.append(len(operations))
        _check_sequence(codes, operations)

    check()
    words = f"{len(steps)} sequences of up to {max(steps)} of {len(OPERATIONS)} operations"
    figures.add(20, "random sequences of what users, trainers and accidents do", f"{words}: each ends as the straight way does")


def _check_sequence(codes: tuple[int, ...], operations: list[str]) -> int:
    """Play a sequence, check its end, and return the last attempt."""
    world = World(codes)

    async def play() -> None:  # not the world: asyncio writes out what a task returns, and nobody reads it
        for operation in operations:
            await world.do(operation)
        await world.settle()

    asyncio.run(play())
    phase, _ = expect_end(codes)
    assert world.status["phase"] == phase, world.status
    assert world.controllers.faults == []
    first, *later = world.ends
    assert all(end == first for end in later), "a terminal status changed"
    (job,) = world.api.all(JOBS)
    # One that is interrupted again and again goes on in a new Job, since this one's controller would make it wait; no other does.
    attempt = int(job["metadata"]["labels"][LABEL_ATTEMPT])
    interrupted = world.controllers.interruptions
    assert all(interrupted[former] >= MAX_INTERRUPTIONS for former in range(attempt)), interrupted
    assert "completionTime" in world.status
    if phase == "Succeeded":
        assert world.status["artifacts"]
    return attempt


def test_a_run_that_is_drained_again_and_again_goes_on_in_a_new_job() -> None:
    assert _check_sequence((), ["reconcile", *(["control Jobs", "drain"] * MAX_INTERRUPTIONS), "reconcile"]) == 1


@settings(max_examples=50, deadline=None)
@given(CODES)
def test_the_straight_way_writes_little(codes: tuple[int, ...]) -> None:
    world = World(codes)
    asyncio.run(world.settle())
    patches = [call for call in world.api.writes if call.subresource == "status"]
    pods = len(world.api.all(PODS))
    # A claim, a start and an end; and for each further pod a start and why there was need of it.
    assert len(patches) <= 4 + 3 * (pods - 1), [call.body["status"] for call in patches]
