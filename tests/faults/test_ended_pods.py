"""Pods that end in every way there is: the right reason, and the budget used to the last retry and no further."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from finetune_api.exit_codes import ExitCode
from tests.faults.support.bench import Bench, Case
from tests.faults.support.figures import Figures
from tests.faults.support.node import EVICTED_FOR_STORAGE, OOM_KILLED, Killed, Script, build_disruption
from tests.faults.support.side_by_side import run_all
from tests.faults.support.witness import PODS

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]


@dataclass(frozen=True, slots=True)
class Ending:
    """How the pods of a run end, and what its status has to say of it."""

    row: int
    name: str
    script: Script
    phase: str
    reason: str
    pods: int
    """How many there are in all."""
    spec: Mapping[str, object] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    """Counts of the status; those that are not named are zero."""
    words: str = ""
    """What the message has to say."""


def _lost(*reasons: str) -> tuple[int | Killed, ...]:
    return (*map(build_disruption, reasons), 0)


ONCE, NEVER = {"backoffLimit": 1}, {"backoffLimit": 0}
RETRIED = {"failures": 2, "restarts": 1}
DISRUPTED = {"interruptions": 1, "restarts": 1}
ENDINGS = [
    Ending(18, "killed (SIGKILL), twice", Script((Killed(),)), "Failed", "TrainerCrashed", 2, ONCE, RETRIED, "1 retry"),
    Ending(18, "out of memory, twice", Script((OOM_KILLED,)), "Failed", "OutOfMemory", 2, ONCE, RETRIED, "resources.memory"),
    Ending(18, "killed once", Script((Killed(), 0)), "Succeeded", "Completed", 2, {"backoffLimit": 1}, {"failures": 1, "restarts": 1}),
    Ending(18, "data that can't be read", Script((ExitCode.DATA_INVALID,)), "Failed", "DataInvalid", 1, {"backoffLimit": 3}),
    Ending(
        18,
        "preempted",
        Script(_lost("PreemptionByScheduler")),
        "Succeeded",
        "Completed",
        2,
        {"backoffLimit": 0},
        {"interruptions": 1, "restarts": 1},
    ),
    Ending(
        18,
        "its node gone, then drained",
        Script(_lost("DeletionByPodGC", "EvictionByEvictionAPI")),
        "Succeeded",
        "Completed",
        3,
        {"backoffLimit": 0},
        {"interruptions": 2, "restarts": 2},
    ),
    Ending(
        27,
        "evicted for a full disk, twice",
        Script((EVICTED_FOR_STORAGE,)),
        "Failed",
        "StorageFailed",
        2,
        {"backoffLimit": 1},
        RETRIED,
        "ephemeralStorage",
    ),
    Ending(23, "left with 0 and no last word", Script((0,), last_word=""), "Failed", "ResultMissing", 1, {}, {}, "no verified artifact"),
    Ending(
        23,
        "left with 0 and a summary without an artifact",
        Script((0,), last_word='{"outcome":"completed","reason":"Completed"}'),
        "Failed",
        "ResultMissing",
        1,
        {},
        {},
        "no verified artifact",
    ),
]


async def test_the_right_reason_and_the_exact_budget(bench: Bench, figures: Figures) -> None:
    cases = await bench.make_cases(len(ENDINGS))
    async with bench.operate(cases):
        await run_all((_play(bench, case, ending) for case, ending in zip(cases, ENDINGS, strict=True)), at_once=len(ENDINGS))
        await bench.check_silence(cases, 2.0)
    for ending in ENDINGS:
        counted = ", ".join(f"{number} {name}" for name, number in ending.counts.items()) or "nothing counted"
        figures.add(ending.row, f"pods: {ending.name}", f"{ending.phase}, {ending.reason}; {ending.pods} pods, {counted}")


async def _play(bench: Bench, case: Case, ending: Ending) -> None:
    case.patience = 120.0
    bench.node.scripts[case.namespace] = ending.script
    await case.create(**ending.spec)
    await case.until_phase(ending.phase)
    case.check(jobs_of_an_attempt=2)
    assert case.body is not None
    status = case.body["status"]
    condition = next(each for each in status["conditions"] if each["type"] == "Succeeded")
    assert (condition["reason"], len(ending.script.started)) == (ending.reason, ending.pods), f"{ending.name}: {condition}"
    assert ending.words in condition["message"], f"{ending.name}: {condition}"
    counts = {name: status.get(name, 0) for name in ("failures", "interruptions", "restarts")}
    assert counts == {"failures": 0, "interruptions": 0, "restarts": 0, **ending.counts}, f"{ending.name}: {counts}"
    assert len(case.find(PODS)) <= ending.pods
