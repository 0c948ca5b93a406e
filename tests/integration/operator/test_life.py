"""The life of a run on a real API server, controller manager and scheduler."""

import json
import time
from datetime import UTC, datetime

import pytest

from finetune_api.base import format_time
from finetune_api.names import ENV_CONFIG, LABEL_JOB_UID, LABEL_MANAGED_BY, MANAGED_BY
from finetune_api.reasons import Reason
from finetune_api.trainer_config import TrainerConfig
from finetune_devcluster import Cluster
from finetune_operator.desired.names import build_job_name
from finetune_operator.objects import is_over
from tests.support.audit import count, read_writes, render
from tests.support.fake_node import Script
from tests.support.live_run import LiveRun, NewRun, Object, wait_until
from tests.support.operator_process import USER, OperatorProcess
from tests.support.world import build_artifact, build_summary

pytestmark = pytest.mark.cluster
IDLE_SECONDS = 3.0


def _config_of(job: Object) -> TrainerConfig:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (value,) = [variable["value"] for variable in container["env"] if variable["name"] == ENV_CONFIG]
    return TrainerConfig.model_validate_json(value)


def test_an_applied_run_gets_its_job(new_run: NewRun, operator: OperatorProcess) -> None:
    run = new_run("first")
    created = run.apply()
    job = run.wait_job()
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("FineTuneJob", created["metadata"]["uid"], True)
    assert job["metadata"]["labels"][LABEL_JOB_UID] == created["metadata"]["uid"]
    assert job["metadata"]["labels"][LABEL_MANAGED_BY] == MANAGED_BY
    config = _config_of(job)
    assert (config.job.name, config.job.uid, config.attempt) == ("first", created["metadata"]["uid"], 0)
    assert config.reporting is not None
    assert config.reporting.url == f"https://localhost:{operator.report_port}/v1/reports"
    assert config.reporting.ca_certificate.startswith("-----BEGIN CERTIFICATE-----")


def test_a_whole_life_and_what_it_costs(new_run: NewRun, control_plane: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run("whole")
    since = control_plane.audit_log.stat().st_size
    began = time.monotonic()
    run.apply()
    phases: list[str] = []

    def note() -> str:
        phase = str(run.status.get("phase", ""))
        if phase and phase not in phases[-1:]:
            phases.append(phase)
        return phase

    wait_until(lambda: note() == "Running", "it runs", explain=run.explain)
    took = time.monotonic() - began
    run.end_pod(0, build_summary())
    wait_until(lambda: note() == "Succeeded", "it has succeeded", explain=run.explain)
    status = run.status
    assert [phase for phase in ("Pending", "Starting", "Running", "Succeeded") if phase in phases] == phases
    assert status["artifacts"] == [json.loads(build_artifact().model_dump_json(exclude_none=True))]
    assert (status["restarts"], status["gpus"]) == (0, 1)
    assert status["observedGeneration"] == 1
    time.sleep(IDLE_SECONDS)
    writes = read_writes(control_plane.audit_log, user=USER, namespace=run.namespace, since=since)
    with capsys.disabled():
        print(f"\nfrom apply to Running in {took:.1f} s; writes of one run from apply to Succeeded, and {IDLE_SECONDS:.0f} s beyond:")  # noqa: T201
        print(render(writes))  # noqa: T201
    table = count(writes)
    assert table["create", "jobs", 201] == 1
    assert table["patch", "finetunejobs/status", 200] <= 4
    assert {(verb, resource) for verb, resource, _ in table} <= {("create", "jobs"), ("patch", "finetunejobs/status"), ("create", "events")}
    assert all(code < 300 for _, _, code in table), "a write was refused, and made again"
    idle = control_plane.audit_log.stat().st_size
    time.sleep(IDLE_SECONDS)
    assert read_writes(control_plane.audit_log, user=USER, namespace=run.namespace, since=idle) == []


def test_suspended_and_resumed(new_run: NewRun) -> None:
    run = new_run()
    run.apply(script=Script(interrupted=build_summary("interrupted", Reason.INTERRUPTED, checkpoint_step=4)))
    first = run.wait_pod()
    run.wait_phase("Running")  # a pod that nobody has seen run is no restart
    run.patch({"suspend": True})
    status = run.wait_phase("Suspended")
    assert status["observedGeneration"] == 2
    wait_until(lambda: not run.pods(), "no pod is left", explain=run.explain)
    assert run.condition("Suspended")["status"] == "True"
    run.patch({"suspend": False})
    second = run.wait_pod()
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert len(run.jobs()) == 1, "the same Job goes on"
    run.wait_phase("Running")
    run.end_pod(0, build_summary())
    status = run.wait_phase("Succeeded")
    assert status["restarts"] == 1


def test_a_run_that_is_suspended_from_the_start_has_no_job(new_run: NewRun) -> None:
    run = new_run()
    run.apply({"suspend": True})
    run.wait_phase("Suspended")
    assert run.jobs() == []
    run.patch({"suspend": False})
    run.wait_job()


def test_a_deadline_can_be_changed_and_ends_the_run(new_run: NewRun) -> None:
    run = new_run()
    run.apply({"activeDeadlineSeconds": 3600})
    run.wait_pod()
    run.patch({"activeDeadlineSeconds": 1})
    status = run.wait_phase("Failed")
    assert run.condition()["reason"] == Reason.DEADLINE_EXCEEDED
    assert "spec.activeDeadlineSeconds (1 s)" in run.condition()["message"]
    assert "completionTime" in status


def test_a_deadline_counts_anew_from_a_resume(new_run: NewRun) -> None:
    run = new_run()
    run.apply({"activeDeadlineSeconds": 3600}, Script(interrupted=build_summary("interrupted", Reason.INTERRUPTED, checkpoint_step=4)))
    run.wait_pod()
    (job,) = run.jobs()
    began = job["status"]["startTime"]
    run.patch({"suspend": True})
    run.wait_phase("Suspended")
    wait_until(lambda: format_time(datetime.now(UTC)) > began, "the next second, in which times of Jobs are")
    run.patch({"suspend": False})
    wait_until(lambda: _start_of(run) > began, "the Job's time begins anew", explain=run.explain)
    run.wait_pod()
    (again,) = run.jobs()
    assert again["metadata"]["uid"] == job["metadata"]["uid"]
    assert again["spec"]["activeDeadlineSeconds"] == 3600


def test_a_job_deleted_by_hand_is_made_again_once_its_pod_is_gone(new_run: NewRun) -> None:
    run = new_run()
    run.apply()
    pod = run.wait_pod()
    (job,) = run.jobs()
    run.client.request(
        "DELETE", f"/apis/batch/v1/namespaces/{run.namespace}/jobs/{job['metadata']['name']}", {"propagationPolicy": "Background"}
    )
    again = wait_until(
        lambda: next((each for each in run.jobs() if each["metadata"]["uid"] != job["metadata"]["uid"]), None),
        "a new Job",
        explain=run.explain,
    )
    alive = {each["metadata"]["uid"] for each in run.pods() if not is_over(each)}
    assert pod["metadata"]["uid"] not in alive
    assert again["metadata"]["name"] == job["metadata"]["name"]
    run.wait_pod()
    run.end_pod(0, build_summary())
    assert run.wait_phase("Succeeded")["attempt"] == 0


def test_a_stranger_s_job_of_our_name_is_not_adopted(new_run: NewRun) -> None:
    """The name follows from the UID, so the stranger's Job comes first by suspending the run until it is there."""
    run = new_run()
    created = run.apply({"suspend": True})
    run.wait_phase("Suspended")
    name = _job_name(created)
    container = {"name": "x", "image": "x"}
    strange = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": run.namespace},
        "spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }
    jobs = f"/apis/batch/v1/namespaces/{run.namespace}/jobs"
    kept = run.client.request("POST", jobs, strange)
    run.patch({"suspend": False})
    message = run.wait_reason(Reason.NAME_TAKEN)["message"]
    assert name in message
    assert run.condition("Stalled")["status"] == "True"
    found = run.client.request("GET", f"{jobs}/{name}")
    assert found["metadata"]["uid"] == kept["metadata"]["uid"]
    assert "ownerReferences" not in found["metadata"]


def test_one_deleted_and_made_anew_under_its_name_is_another_run(new_run: NewRun) -> None:
    run = new_run()
    run.apply()
    first = run.wait_job()
    run.delete()
    created = run.apply()
    second = run.wait_job()
    assert second["metadata"]["name"] != first["metadata"]["name"]
    assert second["metadata"]["ownerReferences"][0]["uid"] == created["metadata"]["uid"]
    wait_until(lambda: len(run.client.request("GET", _jobs_path(run))["items"]) == 1, "the first Job is gone", explain=run.explain)


def test_children_go_after_their_time_and_the_run_stays(new_run: NewRun) -> None:
    run = new_run()
    run.apply({"ttlSecondsAfterFinished": 3}, Script(ends=iter([(0, build_summary())])))
    ended = run.wait_phase("Succeeded")
    wait_until(lambda: not run.jobs() and not run.pods(), "the children are gone", explain=run.explain)
    time.sleep(1)
    assert run.status == ended


def test_the_time_of_children_can_be_cut_short_afterwards(new_run: NewRun) -> None:
    run = new_run()
    run.apply(script=Script(ends=iter([(0, build_summary())])))
    run.wait_phase("Succeeded")
    run.patch({"ttlSecondsAfterFinished": 0})
    wait_until(lambda: not run.jobs() and not run.pods(), "the children are gone", explain=run.explain)


def test_a_completion_without_an_artifact_is_a_failure(new_run: NewRun) -> None:
    run = new_run()
    run.apply(script=Script(ends=iter([(0, "no summary")])))
    run.wait_phase("Failed")
    assert run.condition()["reason"] == Reason.RESULT_MISSING


def _start_of(run: LiveRun) -> str:
    """Return when the Job counts its deadline from; empty while it is suspended."""
    return str(run.jobs()[0]["status"].get("startTime") or "")


def _jobs_path(run: LiveRun) -> str:
    return f"/apis/batch/v1/namespaces/{run.namespace}/jobs"


def _job_name(created: Object) -> str:
    return build_job_name(created["metadata"]["name"], created["metadata"]["uid"], 0)
