"""The command line and the SDK against a real API server and operator; a stand-in plays the node."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from typer.testing import CliRunner

from finetune_api.reasons import Reason
from finetune_api.status import Phase
from finetune_cli.main import app
from finetune_devcluster import Cluster
from finetune_sdk import ApiError, AsyncFineTuneClient, FineTuneClient, NotFound, RunFailed, WaitTimedOut, build_job
from tests.support.fake_node import Script
from tests.support.live_run import LiveRun, NewRun, wait_until
from tests.support.manifests import build_minimal_manifest
from tests.support.tcp_forwarder import TcpForwarder
from tests.support.terminal import Terminal
from tests.support.world import build_artifact, build_summary

pytestmark = pytest.mark.cluster
FINETUNE = str(Path(sys.executable).with_name("finetune"))
DONE = (0, build_summary())
FAILED = (65, build_summary("failed", Reason.DATA_INVALID, message="row 7 has no answer"))


class Shell:
    """A person at the keyboard, in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path) -> None:
        self.kubeconfig, self.namespace, self.folder = kubeconfig, namespace, folder
        self.where = ["--kubeconfig", str(kubeconfig), "--namespace", namespace]

    def run(self, command: str, *words: str, stdin: str = "") -> tuple[int, str, str]:
        """Return exit code, output and messages."""
        result = CliRunner().invoke(app, [command, *words, *self.where], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    def write(self, name: str = "run", **spec: object) -> str:
        manifest = build_minimal_manifest(name)
        manifest["spec"] |= spec
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(manifest))
        return str(path)


@pytest.fixture
def shell(control_plane: Cluster, namespace: str, tmp_path: Path) -> Shell:
    return Shell(control_plane.kubeconfig, namespace, tmp_path)


@pytest.fixture
def client(control_plane: Cluster, namespace: str) -> Iterator[FineTuneClient]:
    with FineTuneClient(str(control_plane.kubeconfig), namespace=namespace) as client:
        yield client


def test_a_run_from_submit_to_its_end(new_run: NewRun, shell: Shell) -> None:
    run = new_run("run")
    path = shell.write()
    assert shell.run("submit", "-f", path)[:2] == (0, "finetunejob.finetune.dev/run\n")
    assert shell.run("submit", "-f", path)[:2] == (0, "finetunejob.finetune.dev/run\n"), "repeating it is safe"
    other = shell.run("submit", "-f", shell.write(training={"epochs": 7}))
    assert (other[0], "exists already with another specification" in other[2]) == (1, True)
    spelt_out = shell.write(training={"epochs": 3.0}, method={"quantization": {"type": "nf4"}})
    assert shell.run("submit", "-f", spelt_out)[:2] == (0, "finetunejob.finetune.dev/run\n"), "what holds anyway is no difference"
    settings = yaml.safe_load(shell.run("status", "run", "--settings")[1])
    assert (settings["training"]["epochs"], settings["method"]["adapter"]["r"]) == (3.0, 16), "with what no manifest says"
    assert json.loads(shell.run("status", "run", "--settings", "-o", "json")[1]) == settings
    run.wait_pod()
    assert shell.run("wait", "run", "--for", "running", "--timeout", "60s")[0] == 0
    assert shell.run("wait", "run", "--timeout", "0.2s")[0] == 5
    assert shell.run("status", "run", "-o", "name")[1] == "finetunejob.finetune.dev/run\n"
    run.end_pod(*DONE)
    assert shell.run("wait", "run", "--timeout", "60s")[:2] == (0, "finetunejob.finetune.dev/run\n")
    code, shown, _ = shell.run("list")
    assert code == 0
    assert re.match(r"NAME +PHASE +PROGRESS +LOSS", shown)
    assert re.search(r"^run +Succeeded +.* 1\.25 ", shown, re.MULTILINE)
    code, shown, _ = shell.run("status", "run")
    assert build_artifact().uri in shown
    assert "Succeeded" in shown


def test_what_the_server_refuses_is_said_as_a_person_would(shell: Shell, client: FineTuneClient) -> None:
    manifest = build_minimal_manifest("bad")
    manifest["spec"]["training"] = {"epoch": 3}
    path = shell.folder / "bad.yaml"
    path.write_text(yaml.safe_dump(manifest))
    code, _, said = shell.run("submit", "-f", str(path))
    assert code == 1
    assert "spec.training.epoch: unknown field" in said
    manifest["spec"]["training"] = {"epochs": 0}
    manifest["spec"]["model"]["uri"] = "ftp://example/model"
    with pytest.raises(ApiError, match="refused as invalid") as refusal:
        client.submit(manifest)
    assert {fault.field for fault in refusal.value.faults} >= {"spec.training.epochs"}
    assert 'Invalid value: "object"' not in str(refusal.value)


def test_nothing_is_created_by_a_dry_run(shell: Shell) -> None:
    assert shell.run("submit", "--dry-run", "-f", shell.write())[0] == 0
    assert shell.run("status", "run")[0] == 3


def test_suspended_resumed_and_cancelled(new_run: NewRun, shell: Shell) -> None:
    run = new_run("run")
    run.apply(script=Script(interrupted=build_summary("interrupted", Reason.INTERRUPTED, checkpoint_step=4)))
    run.wait_pod()
    code, shown, _ = shell.run("suspend", "run", "--wait", "--timeout", "60s")
    assert (code, shown.splitlines()[-1]) == (0, "run is Suspended")
    assert shell.run("resume", "run")[0] == 0
    run.wait_pod()
    assert shell.run("cancel", "run")[0] == 2, "nobody can be asked, and --yes is not given"
    assert shell.run("cancel", "run", "--yes")[0] == 0
    wait_until(lambda: shell.run("status", "run")[0] == 3, "it is gone")


def test_a_failed_run_is_retried_under_a_new_name(new_run: NewRun, shell: Shell, client: FineTuneClient) -> None:
    run = new_run("run")
    run.apply({"training": {"epochs": 2}}, Script(ends=iter([FAILED])))
    code, _, said = shell.run("wait", "run", "--timeout", "60s")
    assert (code, "row 7 has no answer" in said) == (4, True)
    assert shell.run("retry", "run", "--set", "training.learningRate=1e-4")[:2] == (0, "finetunejob.finetune.dev/run-retry-1\n")
    again = client.get("run-retry-1")
    assert again.get("metadata.annotations")["finetune.dev/retry-of"] == f"run/{client.get('run').uid}"
    assert (again.spec.training.epochs, again.spec.training.learning_rate) == (2, 1e-4)
    assert shell.run("retry", "run-retry-1")[0] == 1, "it has not ended"
    code, shown, _ = shell.run("compare", "run", "run-retry-1")
    assert code == 0
    assert re.search(r"training\.learningRate +0\.0002 +0\.0001", shown)
    assert shell.run("compare", "run")[0] == 2, "one run is no comparison"


def test_every_change_is_a_line_where_there_is_no_terminal(new_run: NewRun, shell: Shell) -> None:
    new_run("run").node.scripts[shell.namespace, "run"] = Script(ends=iter([DONE]))
    code, shown, _ = shell.run("submit", "--watch", "-f", shell.write())
    assert code == 0
    assert "\x1b" not in shown
    assert re.search(r"\d\d:\d\d:\d\d Succeeded Completed: ", shown.splitlines()[-1])


def test_watching_a_run_that_fails_exits_so(new_run: NewRun, shell: Shell) -> None:
    new_run("run").node.scripts[shell.namespace, "run"] = Script(ends=iter([FAILED]))
    code, shown, _ = shell.run("submit", "--watch", "-f", shell.write())
    assert code == 4
    assert "DataInvalid: row 7 has no answer" in shown


def test_a_terminal_shows_the_run_live(new_run: NewRun, shell: Shell) -> None:
    run = new_run("run")
    path = shell.write()
    screen = Terminal([FINETUNE, "submit", "--watch", "-f", path, *shell.where])
    run.wait_pod()
    screen.wait_for("Running")
    run.end_pod(*DONE)
    assert screen.wait() == 0
    assert "Succeeded" in screen.text
    assert build_artifact().digest in screen.text
    assert "\x1b[" in screen.text, "a terminal has colours"


def test_the_gpus_are_shown_with_who_holds_them_and_who_waits(new_run: NewRun, shell: Shell) -> None:
    holder, waiter = new_run("holder"), new_run("waiter")
    holder.apply()
    holder.wait_pod()
    waiter.apply({"pod": {"nodeSelector": {"no": "such"}}})
    waiter.wait_reason(Reason.NO_FITTING_NODE)
    code, shown, _ = shell.run("gpus", "-o", "json")
    report = json.loads(shown)
    (node,) = [node for node in report["nodes"] if node["node"] == holder.node.name]
    assert (node["resource"], node["total"]) == ("nvidia.com/gpu", 8)
    assert {"namespace": shell.namespace, "job": "holder"}.items() <= next(
        each for each in node["holders"] if each["job"] == "holder" and each["namespace"] == shell.namespace
    ).items()
    assert ("waiter", 1) in [(each["name"], each["gpus"]) for each in report["waiting"] if each["namespace"] == shell.namespace]
    assert code == 0
    assert f"{shell.namespace}/holder" in shell.run("gpus")[1]


def test_who_may_not_read_nodes_is_told_and_sees_the_rest(control_plane: Cluster, new_run: NewRun, shell: Shell) -> None:
    new_run("run").apply({"suspend": True})
    tenant = control_plane.mint_user("tenant", groups=["tenants"])
    rules = {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["get", "list"]}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "tenant"}, "rules": [rules]}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tenant"}],
    }
    control_plane.kubectl("-n", shell.namespace, "apply", "-f", "-", stdin=yaml.safe_dump_all([role, binding]))
    theirs = Shell(tenant, shell.namespace, shell.folder)
    code, shown, said = theirs.run("list")
    assert (code, "run" in shown) == (0, True), said
    code, _, said = theirs.run("suspend", "run")
    assert code == 6
    assert "ask whoever runs the cluster for this right" in said


def test_the_sdk_submits_watches_and_gives_the_result(new_run: NewRun, client: FineTuneClient) -> None:
    new_run("built").node.scripts[client.namespace, "built"] = Script(ends=iter([DONE]))
    job = build_job("built", model="hf://example/model", dataset="s3://team-a/a.jsonl", output="s3://team-a/out", training={"epochs": 1})
    submitted = client.submit(job)
    assert submitted.spec.training.epochs == 1
    phases = [run.phase for run in client.watch("built")]
    assert phases[-1] is Phase.SUCCEEDED
    assert client.result("built").digest == build_artifact().digest
    wait_until(
        lambda: "SuccessfulCreate" in {event.reason for event in client.events(client.get("built"))}, "its Job's Event is shown, too"
    )


def test_the_sdk_says_what_goes_wrong(new_run: NewRun, client: FineTuneClient) -> None:
    new_run("run").apply(script=Script(ends=iter([FAILED])))
    with pytest.raises(RunFailed, match="row 7 has no answer"):
        client.result("run", timeout_seconds=60)
    with pytest.raises(RunFailed):
        client.wait("run", lambda run: run.phase is Phase.SUSPENDED, timeout_seconds=60)
    with pytest.raises(NotFound, match='"missing" not found'):
        client.wait("missing")


async def test_the_asynchronous_client_watches_several_at_once(control_plane: Cluster, new_run: NewRun, namespace: str) -> None:
    for name in ("one", "two"):
        new_run(name).apply(script=Script(ends=iter([DONE])))
    async with await AsyncFineTuneClient.connect(str(control_plane.kubeconfig), namespace=namespace) as client:
        results = await asyncio.gather(*(client.result(name, timeout_seconds=60) for name in ("one", "two")))
        assert len(results) == 2
        new_run("three").apply({"suspend": True})
        with pytest.raises(WaitTimedOut, match=r"three: not within 0\.5 s"):
            await client.wait("three", timeout_seconds=0.5)


def test_a_watch_outlives_a_connection_that_breaks(control_plane: Cluster, new_run: NewRun, namespace: str, tmp_path: Path) -> None:
    run = new_run("run")
    run.apply({"suspend": True})
    run.wait_phase("Suspended")
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    server = urlsplit(config["clusters"][0]["cluster"]["server"])
    with TcpForwarder(str(server.hostname), int(server.port or 443)) as forwarder:
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{forwarder.port}"
        kubeconfig = tmp_path / "through-forwarder"
        kubeconfig.write_text(yaml.safe_dump(config))
        with FineTuneClient(str(kubeconfig), namespace=namespace) as client:
            seen = client.watch("run")
            assert next(seen).phase is Phase.SUSPENDED
            forwarder.cut()
            run.client.request("PATCH", run.path, {"metadata": {"labels": {"a": "b"}}}, "application/merge-patch+json")
            assert next(each for each in seen if each.get("metadata.labels")).name == "run"
            assert forwarder.connections > 1
            seen.close()


def test_a_run_that_is_deleted_while_it_is_watched_ends_the_watch(new_run: NewRun, shell: Shell) -> None:
    run: LiveRun = new_run("run")
    run.apply({"suspend": True})
    run.wait_phase("Suspended")
    screen = Terminal([FINETUNE, "status", "--watch", "run", *shell.where])
    screen.wait_for("Suspended")
    run.delete()
    assert screen.wait() == 3


def test_ctrl_c_leaves_the_run_alone(new_run: NewRun, shell: Shell) -> None:
    run = new_run("run")
    run.apply({"suspend": True})
    run.wait_phase("Suspended")
    screen = Terminal([FINETUNE, "status", "--watch", "run", *shell.where])
    screen.wait_for("Suspended")
    screen.interrupt()
    assert screen.wait() == 130
    assert "Traceback" not in screen.text
    assert run.status["phase"] == "Suspended"
