"""Reports that are not the run's own are refused, and status stays as it was."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from finetune_api.names import ENV_CONFIG, REPORT_PATH, report_audience
from finetune_api.trainer_config import TrainerConfig
from tests.support.pod_security import UNPRIVILEGED
from tests.support.runs import Run, Runs
from tests.support.timeline import PODS, Object, phase_of, step_of, trainer_state_of

pytestmark = pytest.mark.node

FORGED_STEP = 777_777
SEND = """
import http.client, json, os, ssl
tls = ssl.create_default_context(cadata=os.environ["CA"])
answers = {}
for name, (token, body) in json.loads(os.environ["REPORTS"]).items():
    connection = http.client.HTTPSConnection(os.environ["HOST"], int(os.environ["PORT"]), timeout=10, context=tls)
    headers = {"Content-Type": "application/json"} | ({"Authorization": "Bearer " + token} if token else {})
    connection.request("POST", os.environ["URL_PATH"], json.dumps(body), headers)
    answers[name] = connection.getresponse().status
    connection.close()
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Victim:
    """A run that trains, with all that a forger could know of it."""

    run: Run
    uid: str
    pod: str
    config: TrainerConfig


def test_reports_of_others_are_refused_and_change_nothing(runs: Runs, images: dict[str, str], namespace: str) -> None:
    # One run trains; another's pod is there too, and waits for a GPU.
    other_run = runs.apply(namespace, "other", {"resources": {"gpus": 1}})
    victim = observe_victim(runs, runs.apply(namespace, "victim", {"training": {"maxSteps": 100_000}}))
    other_uid, other_pod = other_run.get()["metadata"]["uid"], other_run.pods()[0]
    audience = report_audience(victim.uid)
    apply_pod(runs, namespace, "bystander", images["operator"], "import time; time.sleep(600)", {})
    report = build_report(victim, 2**40)
    reports = {
        "no token": ("", report),
        "no token at all, but a word": ("secret", report),
        "bound to no pod": (mint(runs, namespace, audience), report),
        "wrong audience": (mint(runs, namespace, "finetune.dev/report", victim.pod), report),
        "for the API server": (mint(runs, namespace, "https://kubernetes.default.svc.cluster.local", victim.pod), report),
        "other run's token as it is": (mint(runs, namespace, report_audience(other_uid), other_pod), report),
        "other run's pod, this run's audience": (mint(runs, namespace, audience, other_pod), report),
        "bystander's pod, this run's audience": (mint(runs, namespace, audience, "bystander"), report),
        "own token, older report": (mint(runs, namespace, audience, victim.pod), build_report(victim, 1)),
        "own token, not a number": (mint(runs, namespace, audience, victim.pod), build_report(victim, 2**40, loss="NaN")),
        "own token, negative": (mint(runs, namespace, audience, victim.pod), build_report(victim, 2**40, percentage=-1)),
    }
    answers = send(runs, namespace, images["operator"], victim, reports)
    assert answers == {
        "no token": 401,
        "no token at all, but a word": 401,
        "bound to no pod": 401,
        "wrong audience": 401,
        "for the API server": 401,
        "other run's token as it is": 401,
        "other run's pod, this run's audience": 403,
        "bystander's pod, this run's audience": 403,
        # The way is open to whom it is meant for: these pass as the pod's own, and fail by what they say.
        "own token, older report": 409,
        "own token, not a number": 422,
        "own token, negative": 422,
    }
    # The run's own reports still come through, and nothing forged ever stood in its status.
    seen = victim.run.history()[-1]
    victim.run.wait_step(seen["status"]["progress"]["step"] + 1)
    assert all(step_of(body) < FORGED_STEP for body in [*victim.run.history(), *other_run.history()])
    # With a token that is right in all, the very same report is taken: what was refused above was refused for its token alone.
    taken = {"own token": (mint(runs, namespace, audience, victim.pod), report)}
    assert send(runs, namespace, images["operator"], victim, taken) == {"own token": 202}
    victim.run.wait(lambda body: step_of(body) == FORGED_STEP, 20, "shows what its own pod reported")


def observe_victim(runs: Runs, run: Run) -> Victim:
    body = run.wait_step(1).body
    (pod,) = [each for each in runs.timeline.alive(PODS, run.namespace) if each["metadata"]["name"] in run.pods()]
    env = {variable["name"]: variable.get("value", "") for variable in pod["spec"]["containers"][0]["env"]}
    config = TrainerConfig.model_validate_json(env[ENV_CONFIG].replace("$$", "$"))
    return Victim(run, body["metadata"]["uid"], pod["metadata"]["name"], config)


def build_report(victim: Victim, sequence: int, **changes: Any) -> Object:
    loss = changes.pop("loss", 0.001)
    progress = {
        "percentage": 99,
        "step": FORGED_STEP,
        "totalSteps": FORGED_STEP,
        "epoch": 1.0,
        "lastUpdatedTime": "2030-01-01T00:00:00Z",
        **changes,
    }
    job = {"namespace": victim.run.namespace, "name": victim.run.name, "uid": victim.uid}
    metrics = {"loss": loss, "history": []}
    return {"job": job, "sequence": sequence, "stage": "training", "progress": progress, "metrics": metrics}


def mint(runs: Runs, namespace: str, audience: str, pod: str = "") -> str:
    """Return a token of the namespace's default ServiceAccount, bound to a pod where one is named."""
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod}"] if pod else []
    return runs.cluster.kubectl("--namespace", namespace, "create", "token", "default", f"--audience={audience}", *bound).strip()


def send(runs: Runs, namespace: str, image: str, victim: Victim, reports: dict[str, tuple[str, Object]]) -> dict[str, int]:
    """Send reports from a pod of the namespace and return the HTTP status of each answer."""
    assert victim.config.reporting is not None
    url = victim.config.reporting.url.removeprefix("https://").removesuffix(REPORT_PATH)
    host, _, port = url.partition(":")
    environment = {
        "CA": victim.config.reporting.ca_certificate,
        "HOST": host,
        "PORT": port,
        "URL_PATH": REPORT_PATH,
        "REPORTS": json.dumps(reports),
    }
    name = f"forger-{len(runs.timeline.names(PODS, namespace))}"
    apply_pod(runs, namespace, name, image, SEND, environment)
    runs.timeline.wait_for(PODS, namespace, name, lambda pod: "terminated" in trainer_state_of(pod), 60, "the forger is done")
    said = runs.cluster.kubectl("--namespace", namespace, "logs", name)
    assert phase_of(runs.timeline.history(PODS, namespace, name)[-1].body) in ("Running", "Succeeded"), said
    answers: dict[str, int] = json.loads(said)
    return answers


def apply_pod(runs: Runs, namespace: str, name: str, image: str, program: str, environment: dict[str, str]) -> None:
    """Run a Python program in a pod under the restricted Pod Security Standard."""
    container = {
        "name": "program",
        "image": image,
        "command": ["python", "-c", program],
        "env": [{"name": key, "value": value.replace("$", "$$")} for key, value in environment.items()],
        "securityContext": UNPRIVILEGED,
    }
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "containers": [container],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    runs.cluster.kubectl("--namespace", namespace, "apply", "--filename=-", stdin=json.dumps(pod))
    runs.timeline.wait_for(PODS, namespace, name, lambda body: phase_of(body) != "Pending", 60, "the pod runs")
