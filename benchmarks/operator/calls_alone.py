"""The floor of a burst: the calls that lead to a Job, without an operator that makes them.

The benchmark's own client creates each FineTuneJob and then the Job that the operator would make of it. Nobody watches, decides or
writes a status: no operator that makes one Job of each FineTuneJob can be faster on this control plane.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from harness import NAMESPACES, Bench, build_finetunejob, compute_delays, run_at_once

from finetune_api.report import JobReference
from finetune_api.spec import FineTuneJobSpec
from finetune_api.trainer_config import ReportingConfig
from finetune_operator.desired.job import build_job
from finetune_operator.kube.client import FINETUNEJOBS, JOBS
from finetune_operator.reports.certificate import build_authority
from finetune_operator.settings import TrainerSettings

STAND_INS = ("the-namespace", "the-name", "the-uid")


async def measure_calls_alone(bench: Bench, count: int) -> float:
    """Return how many FineTuneJobs a second can be created, each with its Job."""
    await bench.wait_for_silence()
    audit = bench.audit()
    fill_in = prepare_job()

    async def create_both(index: int) -> None:
        namespace, name = f"burst-{index % NAMESPACES}", f"run-{index:05}"
        created = await bench.client.create(FINETUNEJOBS, namespace, build_finetunejob(name))
        await bench.client.create(JOBS, namespace, fill_in(namespace, name, created["metadata"]["uid"]))

    await run_at_once(create_both(index) for index in range(count))
    audit.read()
    _, span = compute_delays(audit)
    await bench.clear()
    return count / span


def prepare_job() -> Callable[..., dict[str, Any]]:
    """Return what gives a run's Job by its namespace, name and UID: the operator's manifest, built once."""
    namespace, name, uid = STAND_INS
    job = build_job(
        FineTuneJobSpec.model_validate(build_finetunejob(name)["spec"]),
        JobReference(namespace=namespace, name=name, uid=uid),
        0,
        trainer=TrainerSettings(image="trainer:benchmark"),
        reporting=ReportingConfig(url="https://localhost/report", ca_certificate=build_authority(datetime.now(UTC)).certificate.decode()),
    )
    text = json.dumps(job)

    def fill_in(*names: str) -> dict[str, Any]:
        filled = text
        for stand_in, given in zip(STAND_INS, names, strict=True):
            filled = filled.replace(stand_in, given)
        manifest: dict[str, Any] = json.loads(filled)
        return manifest

    return fill_in
