"""The pure parts of the development cluster, and its small parts that touch a file or a process."""

import fcntl
import io
import ipaddress
import json
import os
import signal
import sys
import tarfile
from pathlib import Path

import pytest

from finetune_devcluster import DevClusterError, binaries, control_plane, image_ledger, images, node_config
from finetune_devcluster.binaries import MODULES, compute_architecture, compute_key
from finetune_devcluster.capabilities import Machine, compute_capabilities
from finetune_devcluster.control_plane import Endpoints, build_fixed_endpoints
from finetune_devcluster.files import hold_lock, write_atomic
from finetune_devcluster.go_toolchain import REQUIRED_GO, compute_go_version
from finetune_devcluster.image_store import take_store
from finetune_devcluster.node_config import NodeNetwork, compute_network
from finetune_devcluster.paths import compute_state_dir
from finetune_devcluster.ports import find_free_ports
from finetune_devcluster.processes import ProcessRecord, is_running, start_process, stop_process, wait_until
from finetune_devcluster.state import ClusterState, ObjectStore, load_state, save_state

FULL = Machine("Linux", is_root=True, missing_packages=(), has_apt=True, namespace_error=None, cgroup_error=None)


def build_machine(**changes: object) -> Machine:
    return Machine(**{**vars(FULL), **changes})


@pytest.mark.parametrize(
    ("machine", "mode", "words"),
    [
        (FULL, "node", "whole cluster, containers too."),
        (build_machine(missing_packages=("runc",)), "node", "once runc are installed"),
        (build_machine(missing_packages=("runc",), has_apt=False), "process-node", "missing: runc"),
        (build_machine(is_root=False), "process-node", "needs root"),
        (build_machine(is_root=False, missing_packages=("runc",)), "process-node", "missing: runc"),
        (build_machine(namespace_error="EPERM"), "process-node", "namespaces do not work here: EPERM"),
        (build_machine(cgroup_error="read-only"), "process-node", "cgroups cannot be made here: read-only"),
    ],
)
def test_capabilities_name_the_mode_and_the_reason(machine: Machine, mode: str, words: str) -> None:
    able = compute_capabilities(machine)
    assert able.best_mode == mode
    assert words in able.describe()


def test_another_system_than_linux_runs_nothing() -> None:
    able = compute_capabilities(build_machine(system="Darwin"))
    assert able.control_plane
    assert "Darwin" in able.describe()


def test_the_network_keeps_clear_of_those_that_are_there() -> None:
    first = compute_network("0000000f", [])
    assert ipaddress.ip_address(first.address) in ipaddress.ip_network("10.213.0.0/16")
    taken = [ipaddress.IPv4Network(f"{first.address}/24", strict=False)]
    second = compute_network("0000000f", taken)
    assert ipaddress.ip_address(second.address) not in taken[0]
    assert compute_network("0000000f", [ipaddress.IPv4Network("0.0.0.0/0")]) == first
    with pytest.raises(DevClusterError, match="taken"):
        compute_network("0000000f", [ipaddress.IPv4Network("10.0.0.0/8")])


def test_interface_names_fit_the_kernel() -> None:
    assert len(compute_network("ffffffff", []).interface) <= 15


@pytest.mark.parametrize("name", ["", "Dev", "a" * 33, "-a", "a-", "a/b", "..", "a b"])
def test_a_name_that_is_no_folder_and_no_label_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DevClusterError, match="not usable"):
        compute_state_dir(name, tmp_path)


def test_the_cache_key_follows_pins_flags_and_architecture() -> None:
    module = next(each for each in MODULES if each.name == "kubernetes")
    keys = {
        compute_key(module, "amd64"),
        compute_key(module, "arm64"),
        compute_key(binaries.GoModule("etcd", module.packages, module.ldflags), "amd64"),
        compute_key(binaries.GoModule("kubernetes", module.packages, "-s"), "amd64"),
    }
    assert len(keys) == 4
    assert compute_key(module, "amd64") in keys


def test_an_unknown_architecture_is_named() -> None:
    assert compute_architecture("x86_64") == "amd64"
    with pytest.raises(DevClusterError, match="riscv64"):
        compute_architecture("riscv64")


def test_an_unknown_program_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(DevClusterError, match=r"kubectk.*kubectl"):
        binaries.compute_paths(["kubectk"])


@pytest.mark.parametrize(
    ("text", "version"),
    [("go1.26.8", (1, 26, 8)), ("go version go1.27 linux/amd64", (1, 27, 0)), ("command not found", None)],
)
def test_go_versions_are_read(text: str, version: tuple[int, int, int] | None) -> None:
    assert compute_go_version(text) == version


def test_the_required_go_is_the_newest_that_a_module_asks_for() -> None:
    asked = []
    for module in MODULES:
        line = next(line for line in (module.folder / "go.mod").read_text().splitlines() if line.startswith("go "))
        asked.append(tuple(int(part) for part in line.removeprefix("go ").split(".")))
    assert max(asked) == REQUIRED_GO


def test_the_state_survives_its_file(tmp_path: Path) -> None:
    record = ProcessRecord("etcd", 12, 34, ("etcd", "--x"), "/log", {"A": "b"})
    state = ClusterState(
        "dev",
        "node",
        build_fixed_endpoints("10.213.0.2"),
        network=NodeNetwork("ftd0", "10.213.0.1", "10.213.0.2"),
        gpus=2,
        processes={"etcd": record},
        object_store=ObjectStore("http://a", "http://b", "bucket", "key", "secret"),
        image_store="/cache/0",
    )
    save_state(tmp_path, state)
    assert load_state(tmp_path) == state
    assert (tmp_path / "cluster.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": "dev", "mode": "node"}'])
def test_a_state_that_cannot_be_read_is_no_cluster(content: str, tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text(content)
    assert load_state(tmp_path) is None


def test_free_endpoints_are_five_ports() -> None:
    endpoints = control_plane.find_free_endpoints()
    ports = {value for value in endpoints.as_json().values() if isinstance(value, int)}
    assert len(ports) == 5
    assert endpoints.server == f"https://127.0.0.1:{endpoints.apiserver}"


def test_free_ports_are_none_that_an_outgoing_connection_gets() -> None:
    ports = find_free_ports(50)
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(ports)) == 50
    assert all(1024 < port < lowest for port in ports)


def test_a_loopback_api_server_publishes_no_endpoint(tmp_path: Path) -> None:
    def build(endpoints: Endpoints) -> list[str]:
        credentials = control_plane.make_credentials(tmp_path / "pki", endpoints)
        return control_plane.build_apiserver(Path("kube-apiserver"), endpoints, credentials, tmp_path, tmp_path)

    assert "--endpoint-reconciler-type=none" in build(control_plane.find_free_endpoints())
    assert "--endpoint-reconciler-type=none" not in build(build_fixed_endpoints("10.213.0.2"))


def test_containerd_without_cri_serves_no_kubelet() -> None:
    whole = node_config.build_containerd_config(Path("/r"), "overlayfs", "pause:1", cri=True)
    assert "io.containerd.grpc.v1.cri" not in next(line for line in whole.splitlines() if line.startswith("disabled_plugins"))
    bare = node_config.build_containerd_config(Path("/r"), "overlayfs", "pause:1", cri=False)
    disabled = next(line for line in bare.splitlines() if line.startswith("disabled_plugins"))
    assert '"io.containerd.grpc.v1.cri"' in disabled


def test_the_single_file_image_is_the_same_every_time() -> None:
    first = images.build_single_file_image(b"program", "run", "amd64", "a.dev/run:1")
    assert first == images.build_single_file_image(b"program", "run", "amd64", "a.dev/run:1")
    assert first != images.build_single_file_image(b"another", "run", "amd64", "a.dev/run:1")


@pytest.mark.parametrize("unpacked", [True, False])
def test_an_image_layout_is_read_packed_or_not(unpacked: bool, tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(images.build_single_file_image(b"program", "run", "amd64", "a.dev/run:1"))
    if unpacked:
        with tarfile.open(path) as archive:
            archive.extractall(tmp_path / "layout", filter="data")
        path = tmp_path / "layout"
    image = images.ImageArchive(path)
    assert list(image.names) == ["a.dev/run:1"]
    (layer,) = image.list_layers()
    image.write_blob(layer["digest"], tmp_path / "layer")
    with tarfile.open(tmp_path / "layer") as archive:
        member = archive.extractfile("run")
        assert member is not None
        assert member.read() == b"program"
    with tarfile.open(fileobj=io.BytesIO(image.build_outline())) as archive:
        names = archive.getnames()
        assert not any(layer["digest"].removeprefix("sha256:") in name for name in names)
        stream = archive.extractfile("index.json")
        assert stream is not None
        (entry,) = json.load(stream)["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "a.dev/run:1"


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\x1f\x8b\x08\x00"])
def test_what_is_no_image_layout_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(images.NotAnImageLayout):
        images.ImageArchive(tmp_path / "file")


def test_a_truncated_archive_gives_no_blob(tmp_path: Path) -> None:
    whole = images.build_single_file_image(b"x" * 100_000, "run", "amd64", "a.dev/run:1")
    (tmp_path / "image.tar").write_bytes(whole[:50_000])
    with pytest.raises(images.NotAnImageLayout):
        images.ImageArchive(tmp_path / "image.tar")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "file", "old")
    with pytest.raises(TypeError):
        write_atomic(path, 3)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_held_lock_is_waited_for_and_then_named(tmp_path: Path) -> None:
    with (
        hold_lock(tmp_path / "lock", 1, "testing"),
        pytest.raises(DevClusterError, match="has been testing"),
        hold_lock(tmp_path / "lock", 0.1, "testing"),
    ):
        pass
    with hold_lock(tmp_path / "lock", 1, "testing"):
        pass


def test_a_process_is_stopped_and_another_of_the_same_pid_is_not(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    record = start_process("stubborn", [sys.executable, "-c", script], tmp_path / "log")
    assert is_running(record)
    assert os.getsid(record.pid) == record.pid
    other = ProcessRecord(record.name, record.pid, record.start_ticks + 1, record.argv, record.log, record.env)
    stop_process(other, 0.1)
    assert is_running(record)
    stop_process(record, 0.2, signal.SIGTERM)
    assert not is_running(record)


def test_a_process_runs_until_its_last_thread_has_ended(tmp_path: Path) -> None:
    # The first thread ends by itself, as when the kernel takes a killed process apart: the process shows as a zombie.
    script = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); ctypes.CDLL(None).pthread_exit(None)"
    record = start_process("headless", [sys.executable, "-c", script], tmp_path / "log")
    assert wait_until(lambda: ") Z " in Path(f"/proc/{record.pid}/stat").read_text(), 30)
    assert is_running(record)
    stop_process(record, 0, signal.SIGKILL)
    assert not is_running(record)


def test_a_program_that_is_not_there_is_said_not_to_start(tmp_path: Path) -> None:
    with pytest.raises(DevClusterError, match="absent could not be started: /does/not/exist: not found"):
        start_process("absent", ["/does/not/exist"], tmp_path / "log")


def test_the_ledger_keeps_the_newest_images_of_each_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(100))
    monkeypatch.setattr("time.time", lambda: next(moments))
    for name in ("localhost:5000/a:1", "b:1", "localhost:5000/a:2", "localhost:5000/a:3", "localhost:5000/a@sha256:4", "b:2"):
        image_ledger.record_load(tmp_path, [name], 10)
    assert image_ledger.find_outdated(tmp_path) == ["localhost:5000/a:1"]
    image_ledger.record_load(tmp_path, ["localhost:5000/a:1"], 10)
    assert image_ledger.find_outdated(tmp_path) == ["localhost:5000/a:2"]
    assert image_ledger.read_size(tmp_path) == 60
    image_ledger.forget(tmp_path, ["localhost:5000/a:2"])
    assert image_ledger.find_outdated(tmp_path) == []
    (tmp_path / "loads.json").write_text("{")
    assert image_ledger.read_size(tmp_path) == 0


def test_a_cluster_gets_its_own_store_again_else_the_fullest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path))
    dead = ProcessRecord("namespace", 2**22 + 1, 1, (), "", {})
    alive = start_process("holder", ["sleep", "60"], tmp_path / "log")
    try:
        first = take_store(Path("/clusters/a"), dead)
        second = take_store(Path("/clusters/b"), alive)
        assert first == second  # nobody has it, and it is the first
        third = take_store(Path("/clusters/a"), dead)
        assert third != second
        image_ledger.record_load(tmp_path / "containerd" / "7", ["a:1"], 10)
        assert take_store(Path("/clusters/c"), dead).name == "7"
        assert take_store(Path("/clusters/a"), dead) == third
        database = third / "io.containerd.metadata.v1.bolt" / "meta.db"
        database.parent.mkdir()
        with database.open("wb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            assert take_store(Path("/clusters/a"), dead) != third
    finally:
        stop_process(alive, 1)
