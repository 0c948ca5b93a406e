"""A trainer's reports, with the token that the API server gives to its pod."""

import asyncio
import json
import random
import ssl
from datetime import UTC, datetime

import aiohttp

from finetune_api.names import ENV_CONFIG, REPORT_PATH, report_audience
from finetune_api.trainer_config import TrainerConfig
from tests.faults.support.bench import Case
from tests.faults.support.direct import DirectApi, Object
from tests.faults.support.witness import JOBS, PODS


class Sender:
    """The trainer of one run, and whoever else has its token."""

    def __init__(self, config: TrainerConfig, token: str) -> None:
        assert config.reporting is not None
        self.url, self.token = config.reporting.url, token
        self.tls = ssl.create_default_context(cadata=config.reporting.ca_certificate)
        self.job = config.job.model_dump()
        self.step = 0

    def build(self, step: int) -> Object:
        """Return a true report."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        progress = {"percentage": min(100, step // 1000), "step": step, "totalSteps": 100_000, "epoch": 0.5, "lastUpdatedTime": now}
        return {"job": self.job, "sequence": step, "stage": "training", "progress": progress, "metrics": {"loss": 1.5}}

    def build_any(self, chance: random.Random) -> tuple[str, str, str]:
        """Return the kind of a report, its text, and the token that it comes with."""
        kind = chance.choice(["true", "true", "NaN", "a megabyte", "an old step", "forged", "no JSON", "another run's"])
        self.step += 1
        report, token = self.build(self.step), self.token
        if kind == "an old step":
            report = self.build(max(0, self.step - 100))
        elif kind == "forged":
            token = token[:-6] + "AAAAAA"
        elif kind == "another run's":
            report["job"] = {**self.job, "name": "other"}
        text = json.dumps(report)
        if kind == "NaN":
            text = text.replace("1.5", "NaN")
        elif kind == "a megabyte":
            text = text[:-1] + ', "device": "' + "x" * 1_000_000 + '"}'
        elif kind == "no JSON":
            text = text[:-5]
        return kind, text, token


async def make_sender(case: Case) -> Sender:
    """Create a run, wait until its pod trains, and keep it there."""
    case.script.hold = asyncio.Event()
    await case.create()
    await case.until_phase("Running")
    (job,), (pod,) = case.find(JOBS), case.find(PODS)
    return await build_sender(case.bench.api, job, pod)


async def build_sender(api: DirectApi, job: Object, pod: Object) -> Sender:
    """Return the trainer in ``pod`` of ``job``, with a token such as its kubelet would ask for."""
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    config = TrainerConfig.model_validate_json(next(each["value"] for each in variables if each["name"] == ENV_CONFIG))
    metadata = pod["metadata"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
    request = {"spec": {"audiences": [report_audience(config.job.uid)], "expirationSeconds": 3600, "boundObjectRef": bound}}
    path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/default/token"
    return Sender(config, (await api.call("POST", path, request))["status"]["token"])


async def send(sender: Sender, step: int, port: int, token: str | None = None) -> int:
    """Send one report to the replica whose receiver is at ``port``, and return the answer's status."""
    headers = {"Authorization": f"Bearer {token or sender.token}", "Content-Type": "application/json"}
    url = f"https://localhost:{port}{REPORT_PATH}"
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=sender.tls)) as session,
        session.post(url, data=json.dumps(sender.build(step)), headers=headers) as answer,
    ):
        return answer.status
