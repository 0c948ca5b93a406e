"""The pure parts of the process node."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from finetune_devcluster.process_node import environment, status, volumes
from finetune_devcluster.process_node.environment import MissingObject
from finetune_devcluster.process_node.service_table import build_table
from finetune_devcluster.process_node.settings import LocalImage, read_image, write_image
from finetune_devcluster.process_node.status import Ended, Progress

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 3, 9, 9, tzinfo=UTC)


def build_pod(**spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "a:1", **spec.pop("container", {})}
    return {
        "metadata": {"name": "pod", "namespace": "team", "uid": "u", "labels": {"app": "x", "tier/of": "y"}},
        "spec": {"containers": [container], **spec},
    }


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("/data", "/R/data"),
        ("/data/x", "/R/data/x"),
        ('{"dir":"/data","x":1}', '{"dir":"/R/data","x":1}'),
        ("a=/data:/other", "a=/R/data:/other"),
        ("/data/deep/x", "/R/data/deep/x"),
        ("/datashop", "/datashop"),
        ("/home/data", "/home/data"),
        ("s3://bucket/data", "s3://bucket/data"),
        ("file:///data/x", "file:///data/x"),
        ("https://host/data", "https://host/data"),
        ("~/data", "~/data"),
        ("", ""),
    ],
)
def test_only_whole_paths_are_rewritten(text: str, result: str) -> None:
    assert environment.rewrite_paths(text, ["/data", "/data/deep"], "/R") == result


def test_nothing_is_rewritten_without_a_mount() -> None:
    assert environment.rewrite_paths("/data", [], "/R") == "/data"


@pytest.mark.parametrize(
    ("text", "result"),
    [("$(A)/$(B)", "1/$(B)"), ("$$(A)", "$(A)"), ("$A", "$A"), ("$(A", "$(A"), ("$()", "$()")],
)
def test_references_expand_as_a_kubelet_expands_them(text: str, result: str) -> None:
    assert environment.expand_references(text, {"A": "1"}) == result


def test_later_variables_win_and_prefixes_hold() -> None:
    container = {
        "envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}, {"configMapRef": {"name": "c", "optional": True}}],
        "env": [{"name": "P_A", "value": "own"}, {"name": "B", "value": "$(P_A)-$(P_Z)"}],
    }
    objects = {("secret", "s"): {"A": "secret", "Z": "z"}, ("configmap", "c"): None}
    assert environment.build_variables(build_pod(), container, objects, {}) == {"P_A": "own", "P_Z": "z", "B": "own-z"}


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"envFrom": [{"secretRef": {"name": "s"}}]}, 'secret "s" not found'),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}, 'secret "s" not found'),
        ({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]}, "couldn't find key k in configmap c"),
    ],
)
def test_what_is_missing_is_named_in_kubelets_words(container: dict[str, Any], words: str) -> None:
    with pytest.raises(MissingObject, match=words):
        environment.build_variables(build_pod(), container, {("secret", "s"): None, ("configmap", "c"): {}}, {})


def test_an_optional_key_that_is_missing_sets_no_variable() -> None:
    reference = {"name": "s", "key": "k", "optional": True}
    container = {"env": [{"name": "A", "valueFrom": {"secretKeyRef": reference}}]}
    assert environment.build_variables(build_pod(), container, {("secret", "s"): {}}, {}) == {}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "pod"),
        ("metadata.labels['app']", "x"),
        ("metadata.labels['tier/of']", "y"),
        ("metadata.labels", 'app="x"\ntier/of="y"'),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", ""),
        ("status.podIP", "192.0.2.1"),
    ],
)
def test_fields_are_read_as_the_downward_api_gives_them(path: str, value: str) -> None:
    assert environment.read_field(build_pod(), path, {"status.podIP": "192.0.2.1"}) == value


def test_the_containers_command_takes_the_place_of_the_entrypoint() -> None:
    def build(container: dict[str, Any]) -> list[str]:
        return environment.build_command(container, ["/data/bin/run"], {"A": "1"}, ["/data"], "/R")

    assert build({}) == ["/data/bin/run"]
    assert build({"args": ["$(A)", "/data/x"]}) == ["/data/bin/run", "1", "/R/data/x"]
    assert build({"command": ["sh", "-c"], "args": ["x"]}) == ["sh", "-c", "x"]


def test_volumes_become_folders_that_the_mounts_lead_to(tmp_path: Path) -> None:
    pod = build_pod(
        container={"volumeMounts": [{"name": "s", "mountPath": "/etc/s"}, {"name": "e", "mountPath": "/tmp"}]},
        volumes=[
            {"name": "s", "secret": {"secretName": "keys", "items": [{"key": "a", "path": "sub/b"}]}},
            {"name": "e", "emptyDir": {}},
        ],
    )
    for _ in range(2):
        root = volumes.make_volumes(pod, tmp_path, {("secret", "keys"): {"a": "value"}}, {})
    assert (root / "etc/s/sub/b").read_text() == "value"
    assert (root / "etc/s/sub/b").stat().st_mode & 0o077 == 0
    (root / "tmp" / "file").write_text("x")
    assert (tmp_path / "volumes/e/file").exists()


def test_a_volume_of_a_missing_secret_is_not_made_up(tmp_path: Path) -> None:
    pod = build_pod(volumes=[{"name": "s", "secret": {"secretName": "keys"}}])
    with pytest.raises(MissingObject, match='secret "keys" not found'):
        volumes.make_volumes(pod, tmp_path, {("secret", "keys"): None}, {})


@pytest.mark.parametrize(
    ("progress", "final", "phase", "state"),
    [
        (Progress(), False, "Pending", "waiting"),
        (Progress(waiting=("ErrImagePull", "none")), False, "Pending", "waiting"),
        (Progress(running=NOW), False, "Running", "running"),
        (Progress(ended=Ended(0, NOW, NOW, "")), True, "Succeeded", "terminated"),
        (Progress(ended=Ended(1, NOW, NOW, "")), True, "Failed", "terminated"),
        (Progress(ended=Ended(1, NOW, NOW, "")), False, "Running", "terminated"),
        (Progress(waiting=("CrashLoopBackOff", ""), restarts=1), False, "Running", "waiting"),
    ],
)
def test_phases_are_a_kubelets(progress: Progress, final: bool, phase: str, state: str) -> None:
    built = status.build_status(build_pod(), progress, "192.0.2.1", NOW, final=final)
    assert built["phase"] == phase
    assert list(built["containerStatuses"][0]["state"]) == [state]


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    pod = build_pod()
    pod["status"] = status.build_status(pod, Progress(running=NOW, ready=True), "192.0.2.1", NOW, final=False)
    later = status.build_status(pod, Progress(ended=Ended(0, NOW, LATER, "")), "192.0.2.1", LATER, final=True)
    times = {each["type"]: each["lastTransitionTime"] for each in later["conditions"]}
    assert times["Initialized"] == status.format_time(NOW)
    assert times["Ready"] == status.format_time(LATER)
    assert later["startTime"] == status.format_time(NOW)


@pytest.mark.parametrize(("code", "exit_code"), [(0, 0), (3, 3), (-9, 137), (-15, 143)])
def test_signals_become_exit_codes(code: int, exit_code: int) -> None:
    assert status.compute_exit_code(code) == exit_code


@pytest.mark.parametrize(
    ("written", "policy", "code", "message"),
    [
        ("word", "File", 1, "word"),
        ("", "File", 1, ""),
        ("", "FallbackToLogsOnError", 0, ""),
        ("", "FallbackToLogsOnError", 1, "the log"),
        ("word", "FallbackToLogsOnError", 1, "word"),
        ("x" * 5000, "File", 0, "x" * 4096),
        ("é" * 3000, "File", 0, "é" * 2048),
    ],
)
def test_the_last_word_is_the_containers_or_the_logs(written: str, policy: str, code: int, message: str) -> None:
    assert status.compute_message(written, "the log", policy, code) == message


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [("Never", 1, False), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Always", 0, True), (None, 1, True)],
)
def test_restarts_follow_the_policy(policy: str | None, code: int, again: bool) -> None:
    pod = build_pod(**({} if policy is None else {"restartPolicy": policy}))
    assert status.restarts(pod, code) is again


def test_the_table_has_every_name_of_a_service_with_a_ready_pod() -> None:
    pod = build_pod(container={"ports": [{"name": "web", "containerPort": 8443}]})
    service: dict[str, Any] = {
        "metadata": {"name": "svc", "namespace": "team"},
        "spec": {"selector": {"app": "x"}, "ports": [{"port": 443, "targetPort": "web"}, {"port": 9}, {"port": 7, "targetPort": "none"}]},
    }
    fixed = {"s3.dev.svc": {"7070": ("127.0.0.1", 1234)}}
    assert set(build_table([service], [pod], fixed)) == {"s3.dev", "s3.dev.svc", "s3.dev.svc.cluster.local"}
    pod["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
    table = build_table([service], [pod], fixed)
    assert table["svc.team.svc"] == {"443": ("127.0.0.1", 8443), "9": ("127.0.0.1", 9)}
    assert table["svc.team.svc.cluster.local"] == table["svc.team"]
    other = {**service, "spec": {**service["spec"], "selector": {"app": "z"}}}
    assert "svc.team.svc" not in build_table([other], [pod], fixed)


def test_the_table_of_images_matches_by_pattern_and_is_read_anew(tmp_path: Path) -> None:
    assert read_image(tmp_path, "a.dev/x:1") is None
    write_image(tmp_path, "a.dev/x:*", LocalImage(("run", "it"), ("/bin",)))
    assert read_image(tmp_path, "a.dev/x:1") == LocalImage(("run", "it"), ("/bin",))
    assert read_image(tmp_path, "a.dev/y:1") is None
    write_image(tmp_path, "a.dev/x:*", LocalImage(("other",)))
    assert read_image(tmp_path, "a.dev/x:1") == LocalImage(("other",))
