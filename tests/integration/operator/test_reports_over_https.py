"""Reports over real HTTPS, with real projected tokens that the real API server reviews."""

import ssl
import time
import urllib.error
from typing import Any

import pytest

from finetune_api.names import ENV_CONFIG, report_audience
from finetune_api.report import JobReference
from finetune_api.trainer_config import ReportingConfig, TrainerConfig
from finetune_operator.reports.certificate import build_authority
from tests.support.live_run import LiveRun, NewRun, wait_until
from tests.support.manifests import merge
from tests.support.pod_token import request_token, send_report
from tests.support.world import NOW, build_summary

pytestmark = pytest.mark.cluster


class Sender:
    """A run whose pod runs, and what its trainer would send."""

    def __init__(self, run: LiveRun) -> None:
        self.run = run
        run.apply()
        self.pod = run.wait_pod()
        run.wait_phase("Running")  # the operator has seen the pod, and takes its reports
        self.job = run.jobs()[0]
        (value,) = [
            variable["value"] for variable in self.job["spec"]["template"]["spec"]["containers"][0]["env"] if variable["name"] == ENV_CONFIG
        ]
        config = TrainerConfig.model_validate_json(value)
        assert config.reporting is not None
        self.reporting: ReportingConfig = config.reporting
        self.job_ref: JobReference = config.job
        self.audience = report_audience(config.job.uid)
        self.token = request_token(run.client, run.namespace, self.audience, self.pod)

    def report(self, step: int = 1, patch: dict[str, Any] | None = None) -> dict[str, Any]:
        report = {
            "job": self.job_ref.model_dump(),
            "sequence": step,
            "stage": "training",
            "progress": {"percentage": step, "step": step, "totalSteps": 100, "epoch": 0.5, "lastUpdatedTime": "2026-01-01T00:00:00Z"},
            "metrics": {"loss": 1.5, "history": [{"step": step, "loss": 1.5}]},
        }
        merged: dict[str, Any] = merge(report, patch or {})
        return merged

    def send(self, report: Any, token: str | None = None, authority: str | None = None) -> int:
        return send_report(self.reporting.url, authority or self.reporting.ca_certificate, token or self.token, report)


def test_reports_reach_status_and_forged_ones_do_not(new_run: NewRun, capsys: pytest.CaptureFixture[str]) -> None:
    sender, other = Sender(new_run("honest")), Sender(new_run("other"))
    client, namespace = sender.run.client, sender.run.namespace

    began = time.monotonic()
    assert sender.send(sender.report(7)) == 202
    wait_until(lambda: sender.run.status.get("progress", {}).get("step") == 7, "the report is in status", 10, sender.run.explain)
    with capsys.disabled():
        print(f"\na report is in status after {time.monotonic() - began:.2f} s;", end=" ")  # noqa: T201
    status = sender.run.status
    assert status["metrics"]["loss"] == 1.5
    assert status["phase"] == "Running"

    unbound = request_token(client, namespace, sender.audience)
    wrong_audience = request_token(client, namespace, "https://kubernetes.default.svc", sender.pod)
    of_other_for_this = request_token(client, namespace, sender.audience, other.pod)
    forged = {
        "no token at all": (sender.report(8), "garbage", 401),
        "a token bound to no pod": (sender.report(8), unbound, 401),
        "a token for another audience": (sender.report(8), wrong_audience, 401),
        "another run's token": (sender.report(8), other.token, 401),
        "another run's pod, for this run's audience": (sender.report(8), of_other_for_this, 403),
        "about another run": (sender.report(8, {"job": {"name": "other"}}), None, 403),
        "about a run of another namespace": (sender.report(8, {"job": {"namespace": "kube-system"}}), None, 403),
        "a replay": (sender.report(7), None, 409),
        "NaN": (str(sender.report(8)).replace("'", '"').replace("1.5", "NaN"), None, 422),
        "negative": (sender.report(8, {"progress": {"step": -1}}), None, 422),
        "too big": (sender.report(8, {"device": "x" * 40_000}), None, 413),
    }
    answers = {}
    for name, (report, token, _) in forged.items():
        answers[name] = sender.send(report, token)
        time.sleep(0.5)  # below the rate that one pod may send at
    with capsys.disabled():
        print("refused:", ", ".join(f"{name} {answer}" for name, answer in answers.items()))  # noqa: T201
    assert answers == {name: expected for name, (_, _, expected) in forged.items()}
    assert sender.run.status["progress"]["step"] == 7
    assert "progress" not in other.run.status

    sender.run.end_pod(0, build_summary())
    sender.run.wait_phase("Succeeded")
    assert sender.send(sender.report(9)) in (403, 409), "the pod has ended, and the run with it"
    assert sender.run.status["progress"]["percentage"] == 100


def test_a_pod_of_another_namespace_is_refused(new_run: NewRun, control_plane: Any, node: Any) -> None:
    sender = Sender(new_run("honest"))
    stranger = f"{sender.run.namespace}-b"
    control_plane.kubectl("create", "namespace", stranger)
    try:
        wait_until(lambda: sender.run.client.request("GET", f"/api/v1/namespaces/{stranger}/serviceaccounts")["items"], "its account")
        other = Sender(LiveRun(control_plane, node, stranger, "honest"))
        token = request_token(sender.run.client, stranger, sender.audience, other.pod)
        assert sender.send(sender.report(), token) == 403
        assert sender.send(sender.report(1, {"job": {"namespace": stranger}}), token) == 403
    finally:
        control_plane.kubectl("delete", "namespace", stranger, "--wait=false")


def test_the_receiver_proves_who_it_is(new_run: NewRun) -> None:
    sender = Sender(new_run())
    another = build_authority(NOW).certificate.decode()
    with pytest.raises(urllib.error.URLError) as refusal:
        sender.send(sender.report(), authority=another)
    assert isinstance(refusal.value.reason, ssl.SSLCertVerificationError)
