"""The operator's page on a real API server, looked at by Chromium."""

import json
import math
import os
import random
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from finetune_devcluster import Cluster
from finetune_devcluster.ports import find_free_ports
from tests.support.crds import install_crds
from tests.support.operator_process import OperatorProcess, install_rights, write_kubeconfig

AUDIENCE = "finetune.dev/page"
SAMPLES = [
    {
        "prompt": "<|user|>\nMy invoice shows two charges for March. Which one is right?\n<|assistant|>\n",
        "before": "There are many reasons why an invoice can show two charges. An invoice is a document that",
    },
    {"prompt": "<|user|>\nHow do I add a colleague to our plan?\n<|assistant|>\n", "before": "To add a colleague to our plan, add a"},
]


class Site:
    """The page's address, and the cluster behind it."""

    def __init__(self, cluster: Cluster, url: str, operator: OperatorProcess) -> None:
        self.cluster, self.url, self.operator = cluster, url, operator

    def token(self, namespace: str, account: str, audience: str = AUDIENCE) -> str:
        return self.cluster.kubectl(
            "create", "token", account, "--namespace", namespace, *([f"--audience={audience}"] if audience else [])
        ).strip()

    def get(self, path: str, token: str = "", body: bytes | None = None, **headers: str) -> tuple[int, str, dict[str, str]]:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        request = urllib.request.Request(
            self.url + path, data=body, headers={**({"Authorization": f"Bearer {token}"} if token else {}), **headers}
        )
        try:
            with urllib.request.urlopen(request, context=context, timeout=20) as answer:
                return answer.status, answer.read().decode(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), dict(error.headers)


def make_run(cluster: Cluster, namespace: str, name: str, status: dict[str, Any]) -> None:
    spec = {
        "model": {"uri": "hf://meta-llama/Llama-3.1-8B-Instruct"},
        "dataset": {"uri": f"s3://{namespace}/support.jsonl"},
        "output": {"uri": f"s3://{namespace}/adapters/{name}"},
        "suspend": True,
    }
    body = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps(body))
    patch_status(cluster, namespace, name, status)


def patch_status(cluster: Cluster, namespace: str, name: str, status: dict[str, Any]) -> None:
    cluster.kubectl(
        "patch", "ftj", name, "--namespace", namespace, "--subresource=status", "--type=merge", "--patch", json.dumps({"status": status})
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A cluster with two teams. `reader` of team-a may view team-a; `stranger` may view nothing. The operator leaves statuses as they are:
    another holds its Lease."""
    folder = tmp_path_factory.mktemp("page")
    with Cluster.up(f"page-{os.getpid()}", state_root=folder / "cluster", ephemeral=True) as cluster:
        install_crds(cluster)
        install_rights(cluster, more="page.enabled=true")
        for team in ("team-a", "team-b"):
            cluster.kubectl("create", "namespace", team)
        for account in ("reader", "stranger"):
            cluster.kubectl("create", "serviceaccount", account, "--namespace=team-a")
        cluster.kubectl("create", "role", "reader", "--namespace=team-a", "--verb=get,list", "--resource=finetunejobs.finetune.dev")
        cluster.kubectl("create", "rolebinding", "reader", "--namespace=team-a", "--role=reader", "--serviceaccount=team-a:reader")
        noise = random.Random(0)  # noqa: S311  a picture's
        history = [{"step": step, "loss": 0.9 + 1.6 * 0.985**step + noise.gauss(0, 0.03)} for step in range(1, 410, 8)]
        steps = list(range(1, 410, 13))
        curves = {
            "steps": steps,
            "learningRate": [2e-4 * min(1.0, step / 30) * (0.5 + 0.5 * math.cos(math.pi * step / 1000)) for step in steps],
            "gradNorm": [0.4 + 1.1 * 0.99**step + abs(noise.gauss(0, 0.05)) for step in steps],
            "tokensPerSecond": [5120 + noise.gauss(0, 40) for _ in steps],
            "memoryBytes": [round(17.2e9 * (1 - 0.08 * 0.9**step)) for step in steps],
        }
        now = datetime.now(UTC)
        # A run can't wait for longer than it is there.
        queued, time = (f"{each:%Y-%m-%dT%H:%M:%SZ}" for each in (now, now - timedelta(minutes=34)))
        running = {
            "phase": "Running",
            "gpus": 2,
            "gpuSeconds": 5400,
            "progress": {
                "percentage": 41,
                "step": 410,
                "totalSteps": 1000,
                "epoch": 1.2,
                "estimatedRemainingSeconds": 1260,
                "lastUpdatedTime": time,
            },
            "metrics": {
                "loss": 0.91,
                "evalLoss": 1.02,
                "baseEvalLoss": 2.31,
                "tokensPerSecond": 5120,
                "gpuMemoryPeakBytes": 17200000000,
                "history": history,
                "curves": curves,
                "samples": SAMPLES,
            },
            "conditions": [
                {"type": "Succeeded", "status": "Unknown", "reason": "Training", "message": "step 410 of 1000", "lastTransitionTime": time}
            ],
        }
        make_run(cluster, "team-a", "support-bot", running)
        make_run(cluster, "team-a", "summaries", {"phase": "Queued", "queue": {"name": "team-a", "position": 2}, "queuedSince": queued})
        done = {
            "phase": "Succeeded",
            "metrics": {"loss": 0.7},
            "progress": {"percentage": 100, "step": 900, "totalSteps": 900, "epoch": 3, "lastUpdatedTime": time},
            "artifacts": [
                {
                    "name": "adapter",
                    "format": "peft",
                    "baseModel": "hf://meta-llama/Llama-3.1-8B-Instruct",
                    "uri": "s3://team-a/adapters/triage/adapter",
                    "digest": "sha256:" + "ab" * 32,
                    "sizeBytes": 83886080,
                    "createdTime": time,
                }
            ],
        }
        make_run(cluster, "team-a", "triage", done)
        make_run(cluster, "team-a", "too-hot", {"phase": "Failed", "metrics": {"loss": 9.4}})
        make_run(cluster, "team-b", "secret-plan", running)
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "page-test", "namespace": "finetune-system"},
            "spec": {"holderIdentity": "another", "leaseDurationSeconds": 3600, "renewTime": "2026-01-01T00:00:00.000000Z"},
        }
        cluster.kubectl("apply", "--filename=-", stdin=json.dumps(lease))
        cluster.kubectl(
            "create", "role", "page-test", "--namespace=finetune-system", "--verb=get,patch", "--resource=leases.coordination.k8s.io"
        )
        cluster.kubectl(
            "create",
            "rolebinding",
            "page-test",
            "--namespace=finetune-system",
            "--role=page-test",
            "--serviceaccount=finetune-system:finetune-operator",
        )
        (port,) = find_free_ports(1)
        environment = {
            "FINETUNE_PAGE_SERVICE": f"localhost:{port}",
            "FINETUNE_PAGE_PORT": str(port),
            "FINETUNE_LEASE": "page-test",
            "FINETUNE_LEASE_SECONDS": "300",
            "POD_NAME": "finetune-operator-0",
        }
        process = OperatorProcess(write_kubeconfig(cluster, folder / "kubeconfig"), folder, environment)
        with process:
            yield Site(cluster, f"https://localhost:{port}", process)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window.

    It ends with the module: as long as it lives, an event loop of Playwright's is the running one of this process, in which a test with
    a loop of its own, of another folder, could not run.
    """
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("FINETUNE_REQUIRE_NODE"):
            pytest.fail("chromium is not installed, and has to be here: make chromium")
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: FINETUNE_PICTURES, or a folder that is forgotten."""
    folder = os.environ.get("FINETUNE_PICTURES")
    return Path(folder) if folder else tmp_path_factory.mktemp("pictures")
