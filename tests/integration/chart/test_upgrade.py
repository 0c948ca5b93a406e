"""The chart upgraded from the release before, with runs under way: nothing of them is touched.

The release before is the folder named by `FINETUNE_PREVIOUS` (a checkout of its tag, whose chart and operator are then used); without it,
this tree's chart under an older version, with CRDs that lack a field. The operator runs as a process beside the control plane, with the
rights that the chart gives it; on a node with containers it is `test_an_upgrade_of_the_chart_restarts_no_run` of the end-to-end tests.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_devcluster import Cluster
from finetune_devcluster.binaries import ensure_binaries
from tests.integration.operator.conftest import wait_for_account
from tests.support.audit import read_writes
from tests.support.fake_node import FakeNode
from tests.support.live_run import LiveRun, wait_until
from tests.support.operator_process import NAMESPACE, RELEASE, USER, OperatorProcess, write_kubeconfig
from tests.support.world import build_summary

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "finetune-operator"
OLDER = "0.0.9"
NEW_FIELD = "activeDeadlineSeconds"
"""A field that the older CRD of a made-up release before lacks."""
RUNS = 3
# No node takes the Deployment's pod: the operator is a process here. The fence wants a token that is bound to that pod.
FLAGS = ["--set=image.repository=registry.test/operator,trainer.image.repository=registry.test/trainer,serverSideFence=false"]
FLAGS += ["--set-string=nodeSelector.nowhere=true"]

Helm = Callable[..., str]


@dataclass(frozen=True)
class Previous:
    """The release before."""

    chart: Path
    python_path: str
    """Where its operator's code is; empty for this tree's."""


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Previous:
    if folder := os.environ.get("FINETUNE_PREVIOUS"):
        return Previous(Path(folder) / "charts" / "finetune-operator", f"{folder}/operator{os.pathsep}{folder}/api")
    chart = tmp_path_factory.mktemp("previous") / "finetune-operator"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text()) | {"version": OLDER, "appVersion": OLDER}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    path = chart / "crds" / "finetunejobs.yaml"
    crd = yaml.safe_load(path.read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"][NEW_FIELD]
    spec["x-kubernetes-validations"] = [rule for rule in spec.get("x-kubernetes-validations", []) if NEW_FIELD not in rule["rule"]]
    path.write_text(yaml.safe_dump(crd))
    return Previous(chart, "")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane of its own, without any CRD of ours."""
    with Cluster.up(f"upgrade-{os.getpid()}", state_root=tmp_path_factory.mktemp("upgrade-plane"), ephemeral=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def helm(plane: Cluster) -> Helm:
    program = ensure_binaries(["helm"])["helm"]

    def run(*words: str | Path) -> str:
        environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig)}
        spoken = subprocess.run(
            [program, *words, "--namespace", NAMESPACE], env=environment, capture_output=True, text=True, timeout=90, check=False
        )
        assert spoken.returncode == 0, spoken.stderr
        return spoken.stdout

    return run


def knows_the_new_field(plane: Cluster) -> bool:
    crd = json.loads(plane.kubectl("get", "crd", "finetunejobs.finetune.dev", "--output=json"))
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return NEW_FIELD in properties


def look_at(run: LiveRun) -> dict[str, Any]:
    """Return all of a run that an upgrade must leave alone."""
    (job,), (pod,) = run.jobs(), run.pods()
    return {
        "Job": (job["metadata"]["uid"], job["metadata"]["generation"], job["spec"]),
        "pod": (pod["metadata"]["uid"], pod["spec"], pod["status"]["phase"]),
        "restarts": run.status["restarts"],
        "generation": run.get()["metadata"]["generation"],
    }


def still_says(after: Any, before: Any) -> bool:
    """True where nothing was taken away or changed: a newer CRD may show defaults of fields that an older one lacked."""
    if isinstance(before, dict):
        return isinstance(after, dict) and all(key in after and still_says(after[key], value) for key, value in before.items())
    return bool(after == before)


def test_an_upgrade_from_the_release_before_touches_no_run_and_removing_it_takes_only_itself(
    plane: Cluster, helm: Helm, previous: Previous, tmp_path: Path
) -> None:
    helm("install", RELEASE, previous.chart, "--create-namespace", *FLAGS)
    plane.kubectl("wait", "--for=condition=Established", "crd", "finetunejobs.finetune.dev", "finetunesweeps.finetune.dev", "--timeout=30s")
    kubeconfig = write_kubeconfig(plane, tmp_path / "kubeconfig")
    plane.kubectl("create", "namespace", "team-a")
    wait_for_account(plane, "team-a")
    with FakeNode(plane) as node:
        runs = [LiveRun(plane, node, "team-a", f"run-{number}") for number in range(RUNS)]
        with OperatorProcess(kubeconfig, tmp_path, {"PYTHONPATH": previous.python_path} if previous.python_path else {}):
            for run in runs:
                run.apply()
            for run in runs:
                run.wait_phase("Running")
        before, specs = [look_at(run) for run in runs], [run.get()["spec"] for run in runs]
        since = plane.audit_log.stat().st_size

        if not os.environ.get("FINETUNE_PREVIOUS"):
            assert not knows_the_new_field(plane)
        plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=helm("show", "crds", CHART))
        wait_until(lambda: knows_the_new_field(plane), "the CRD is the new one")
        helm("upgrade", RELEASE, CHART, "--reset-then-reuse-values")
        folder = tmp_path / "after"
        folder.mkdir()
        with OperatorProcess(kubeconfig, folder) as operator:
            wait_until(lambda: operator.log_path.read_text().count("started in"), "it has looked at all there is")
            newcomer = LiveRun(plane, node, "team-a", "newcomer")
            newcomer.apply({NEW_FIELD: 3600})
            newcomer.wait_phase("Running")
            assert newcomer.get()["spec"][NEW_FIELD] == 3600
            assert [look_at(run) for run in runs] == before
            assert all(still_says(run.get()["spec"], spec) for run, spec in zip(runs, specs, strict=True))
            written = [write for run in runs for write in read_writes(plane.audit_log, user=USER, name=run.name, since=since)]
            written += [write for write in read_writes(plane.audit_log, user=USER, since=since) if write.resource == "jobs"]
            assert {(write.verb, write.resource) for write in written} <= {("patch", "finetunejobs/status"), ("create", "jobs")}
            assert [write.verb for write in written if write.resource == "jobs"] == ["create"], "the newcomer's alone"
            for run in runs:
                run.end_pod(0, build_summary())
            for run in runs:
                assert run.wait_phase("Succeeded")["restarts"] == 0

        helm("uninstall", RELEASE, "--wait")
        assert [run.status["phase"] for run in runs] == ["Succeeded"] * RUNS
        assert newcomer.pods()[0]["status"]["phase"] == "Running", "a run goes on without any operator"
        kinds = "deployments,services,secrets,serviceaccounts,roles,rolebindings,leases"
        left = plane.kubectl("--namespace", NAMESPACE, "get", kinds, "--output=name").split()
        assert [name for name in left if RELEASE in name] == []
        wide = plane.kubectl(
            "get", "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings", "-o", "name"
        )
        assert [name for name in wide.split() if RELEASE in name] == []


def test_the_kustomize_base_is_what_the_api_server_takes(plane: Cluster) -> None:
    plane.kubectl("apply", "--server-side", "--force-conflicts", "--kustomize", str(ROOT / "kustomize" / "operator"))
    deployment = json.loads(plane.kubectl("--namespace", NAMESPACE, "get", "deployment", RELEASE, "--output=json"))
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "finetune-operator:0.0.0-dev"
    # Taking it away again would take the CRDs along, and every run with them: that is what the guide warns of.
    assert "finetunejobs.finetune.dev" in plane.kubectl("get", "crds", "--output=name")
