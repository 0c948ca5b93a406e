"""The shared cache of base models: fetched once, whole or not there, and never in a run's way."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.cache_usage import CacheUsage
from finetune_api.names import ENV_CONFIG
from finetune_api.report import JobReference
from finetune_api.spec import ModelSpec
from finetune_operator.desired.config import build_trainer_config
from finetune_operator.desired.job import build_job
from finetune_trainer.ending import ENV_TERMINATION_MESSAGE
from finetune_trainer.errors import SourceUnavailable
from finetune_trainer.model_cache import main, run
from finetune_trainer.storage import Credentials, RetryPolicy
from finetune_trainer.storage.cache import DAY, CacheEntry, LockTimeout, ModelCache
from finetune_trainer.storage.cached import HANDOVER, fetch_by_cache, fill_from_hub, identify, write_handover
from tests.support.hub_server import Hub, Repository, run_hub
from tests.support.world import REF, TRAINER, build_spec

WEIGHTS = bytes(range(256)) * 512
FILES = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}", "model.safetensors": WEIGHTS, "evil.py": b"raise SystemExit"}
QUICK = RetryPolicy(attempts=2, first_delay=0.001, max_delay=0.002, total=5)
NOBODY = Credentials()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with run_hub(Hub({"models/org/base": Repository(dict(FILES))})) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")


def _model(hub: Hub, **fields: Any) -> ModelSpec:
    return ModelSpec.model_validate({"uri": "hf://org/base", "endpointUrl": hub.url, **fields})


def _fill(cache: ModelCache, hub: Hub, credentials: Credentials = NOBODY, wait: float = 20.0) -> str:
    return fill_from_hub(cache, _model(hub), credentials, wait, QUICK)[0]


def _downloads(hub: Hub) -> int:
    return len([seen for seen in hub.faults.seen if seen.startswith("GET") and seen.endswith("model.safetensors")])


def test_a_model_is_fetched_once_and_nothing_but_its_data(cache: ModelCache, hub: Hub) -> None:
    key = _fill(cache, hub)
    assert _fill(cache, hub) == key
    assert _downloads(hub) == 1
    assert {path.name for path in cache.path_of(key).iterdir()} == {*FILES, "cache-entry.json"} - {"evil.py"}
    entry = cache.verify(key)
    assert entry is not None
    assert entry.commit == hub.repositories["models/org/base"].commit
    assert list((cache.root / "partial").iterdir()) == []


def test_of_several_at_once_one_fetches(cache: ModelCache, hub: Hub) -> None:
    keys: list[str] = []
    threads = [threading.Thread(target=lambda: keys.append(_fill(cache, hub))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(keys) == 5
    assert len(set(keys)) == 1
    assert _downloads(hub) == 1


def test_the_lock_of_a_holder_that_was_killed_is_free_and_its_work_goes_on(cache: ModelCache, hub: Hub) -> None:
    key = _fill(cache, hub)
    cache.path_of(key).rename(cache.root / "partial" / key)  # as a fetcher leaves it that dies just before the end
    (cache.root / "partial" / key / "cache-entry.json").unlink()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(cache.root / "locks" / key)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockTimeout):
            _fill(cache, hub, wait=0.1)
        holder.kill()
        holder.wait()
        assert _fill(cache, hub) == key
    assert cache.verify(key) is not None


def test_a_fetch_that_ends_early_publishes_nothing_and_keeps_what_it_has(cache: ModelCache) -> None:
    def fetch_half(folder: Path) -> CacheEntry:
        (folder / "model.safetensors").write_bytes(WEIGHTS[:100])
        raise OSError(errno.ENOSPC, "no space left on device")

    with pytest.raises(OSError, match="no space"):
        cache.fill("key", fetch_half, 1)
    assert cache.find("key") is None
    assert cache.measure().partial_bytes == 100

    def fetch_rest(folder: Path) -> CacheEntry:
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS[:100]
        (folder / "model.safetensors").write_bytes(WEIGHTS)
        return CacheEntry(uri="hf://org/base", commit="c")

    assert cache.fill("key", fetch_rest, 1).size_bytes == len(WEIGHTS)


def test_the_command_of_the_pod_s_filler_is_one_that_the_image_has() -> None:
    scripts = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["scripts"]
    spec = build_spec({"model": {"uri": "hf://org/base"}})
    pod = build_job(spec, REF, 0, trainer=replace(TRAINER, model_cache="models"), reporting=None)["spec"]["template"]["spec"]
    program, command = pod["initContainers"][0]["command"]
    assert scripts[program] == f"{main.__module__}:{main.__name__}"
    assert command == "fill"


def test_without_locks_both_fetch_and_one_is_published(cache: ModelCache, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    # Of this module only: the hub's client has locks of its own.
    without = SimpleNamespace(LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB, flock=refuse)
    monkeypatch.setattr("finetune_trainer.storage.cache.fcntl", without)
    keys: list[str] = []
    threads = [threading.Thread(target=lambda: keys.append(_fill(cache, hub))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(keys)) == 1
    assert len(keys) == 3
    assert cache.verify(keys[0]) is not None
    assert list((cache.root / "partial").iterdir()) == []


def test_who_may_not_read_a_model_does_not_get_it_from_the_cache(cache: ModelCache, hub: Hub) -> None:
    hub.repositories["models/org/base"].token = "secret"
    _fill(cache, hub, Credentials(hub_token="secret"))
    with pytest.raises(SourceUnavailable):
        _fill(cache, hub, Credentials(hub_token="other"))


def test_another_commit_is_another_model(cache: ModelCache, hub: Hub) -> None:
    first = _fill(cache, hub)
    hub.repositories["models/org/base"] = Repository({**FILES, "config.json": b'{"model_type": "qwen2"}'}, commit="f" * 40)
    assert _fill(cache, hub) != first
    assert len(cache.measure().entries) == 2


def _fetch(cache: ModelCache, hub: Hub, work: Path) -> Path:
    return fetch_by_cache(_model(hub), NOBODY, work / "model", str(cache.root), str(work)).path


def test_the_trainer_reads_it_in_place_and_writes_nothing_there(cache: ModelCache, hub: Hub, tmp_path: Path) -> None:
    key = _fill(cache, hub)
    write_handover(tmp_path, {identify(_model(hub)): key})
    before = sorted((path, path.stat().st_mtime_ns) for path in cache.root.rglob("*"))
    hub.repositories.clear()  # nothing is asked of the hub
    assert _fetch(cache, hub, tmp_path) == cache.path_of(key)
    assert sorted((path, path.stat().st_mtime_ns) for path in cache.root.rglob("*")) == before


@pytest.mark.parametrize("damage", ["other bytes", "cut off", "gone", "no handover", "a handover that is none"])
def test_what_is_not_whole_is_fetched_for_the_run_alone(cache: ModelCache, hub: Hub, tmp_path: Path, damage: str) -> None:
    key = _fill(cache, hub)
    write_handover(tmp_path, {identify(_model(hub)): key})
    weights = cache.path_of(key) / "model.safetensors"
    match damage:
        case "other bytes":
            weights.write_bytes(WEIGHTS[::-1])
        case "cut off":
            weights.write_bytes(WEIGHTS[:-1])
        case "gone":
            weights.unlink()
        case "no handover":
            (tmp_path / HANDOVER).unlink()
        case _:
            (tmp_path / HANDOVER).write_bytes(b"[1, 2")
    path = _fetch(cache, hub, tmp_path)
    assert path == tmp_path / "model"
    assert (path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_model_that_was_cut_off_is_mended_by_the_next_run(cache: ModelCache, hub: Hub) -> None:
    key = _fill(cache, hub)
    (cache.path_of(key) / "model.safetensors").write_bytes(b"")
    assert _fill(cache, hub) == key
    assert cache.verify(key) is not None


def _environ(hub: Hub, work: Path) -> dict[str, str]:
    spec = build_spec({"model": {"uri": "hf://org/base", "endpointUrl": hub.url}})
    config = build_trainer_config(spec, JobReference(namespace="a", name="b", uid="c"), 0, simulated_gpus=False, reporting=None)
    return {ENV_CONFIG: config.model_copy(update={"work_dir": str(work)}).model_dump_json(exclude_none=True)}


def test_the_filler_of_a_pod_hands_over_what_it_found(cache: ModelCache, hub: Hub, tmp_path: Path) -> None:
    assert run(["--cache", str(cache.root), "fill"], _environ(hub, tmp_path)) == 0
    (key,) = cache.measure().entries
    assert _fetch(cache, hub, tmp_path) == cache.path_of(key)


@pytest.mark.parametrize("trouble", ["no such model", "no cache", "no configuration"])
def test_the_filler_of_a_pod_never_fails(cache: ModelCache, hub: Hub, tmp_path: Path, trouble: str) -> None:
    environ = _environ(hub, tmp_path)
    match trouble:
        case "no such model":
            hub.repositories.clear()
        case "no cache":
            cache.root.write_text("a file")
        case _:
            environ = {}
    assert run(["--cache", str(cache.root), "fill"], environ) == 0


def test_a_model_is_pulled_ahead_shown_and_removed(cache: ModelCache, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--cache", str(cache.root)]
    assert run([*root, "pull", "hf://org/base", "--endpoint-url", hub.url], {}) == 0
    assert run([*root, "show"], {}) == 0
    shown = json.loads(capsys.readouterr().out)
    (model,) = shown["models"]
    assert (model["uri"], model["bytes"]) == ("hf://org/base", sum(len(FILES[name]) for name in FILES if name != "evil.py"))
    assert 0 < shown["freeBytes"] <= shown["totalBytes"]
    assert run([*root, "remove", model["key"]], {}) == 0
    assert cache.measure().entries == {}
    assert run([*root, "pull", "s3://bucket/model"], {}) == 1


def test_how_full_it_is_is_left_for_the_operator(cache: ModelCache, hub: Hub, tmp_path: Path) -> None:
    """As the termination message of the pod's filler, where the kubelet has made a file for it."""
    words = tmp_path / "termination-log"
    words.touch()
    environ = {**_environ(hub, tmp_path), ENV_TERMINATION_MESSAGE: str(words)}
    assert run(["--cache", str(cache.root), "fill"], environ) == 0
    usage = CacheUsage.model_validate_json(words.read_text())
    assert (usage.models, usage.used_bytes) == (1, sum(len(FILES[name]) for name in FILES if name != "evil.py"))
    assert 0 < usage.free_bytes <= usage.total_bytes


@pytest.fixture
def full(cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> ModelCache:
    """A cache with three models, asked for 30, 20 and 1 days before :data:`NOW`, in a volume with room for no more."""
    for name, days in (("old", 30), ("older", 20), ("new", 1)):
        cache.fill(name, lambda folder: _write_model(folder, WEIGHTS), 0)
        os.utime(cache.root / "uses" / name, (NOW - days * DAY,) * 2)
    size = len(WEIGHTS)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3 * size - _held(cache), total=3 * size))
    return cache


NOW = time.time()


def _write_model(folder: Path, content: bytes) -> CacheEntry:
    (folder / "model.safetensors").write_bytes(content)
    return CacheEntry(uri="hf://org/base", commit="c")


def _held(cache: ModelCache) -> int:
    return sum(path.stat().st_size for path in (cache.root / "models").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("models", "days", "left"),
    [(0, 7, ["new", "old", "older"]), (1, 7, ["new", "older"]), (2, 7, ["new"]), (3, 7, ["new"]), (3, 25, ["new", "older"]), (3, 0, [])],
)
def test_room_is_made_by_what_was_longest_not_asked_for(full: ModelCache, models: int, days: float, left: list[str]) -> None:
    removed = full.trim(models * len(WEIGHTS), days, NOW)
    assert sorted(full.measure().entries) == left
    assert len(removed) == 3 - len(left)


def test_asking_for_a_model_counts_as_its_use(full: ModelCache) -> None:
    os.utime(full.root / "uses" / "new", (NOW - 40 * DAY,) * 2)
    full.fill("old", lambda folder: _write_model(folder, b"never fetched"), 0)
    full.trim(2 * len(WEIGHTS), 7, NOW)
    assert sorted(full.measure().entries) == ["old"]


def test_what_was_left_unfinished_goes_unless_somebody_is_at_it(full: ModelCache) -> None:
    for name in ("dead", "alive", "young"):
        folder = full.root / "partial" / name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
        if name != "young":
            for path in (folder / "model.safetensors", folder):
                os.utime(path, (NOW - 2 * DAY,) * 2)
        else:
            for path in (folder / "model.safetensors", folder):
                os.utime(path, (NOW, NOW))
    with (full.root / "locks" / "alive").open("a") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        full.trim(0, 7, NOW)
    assert sorted(path.name for path in (full.root / "partial").iterdir()) == ["alive", "young"]


def test_trimming_is_a_command(full: ModelCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--cache", str(full.root), "trim", "--free", "1Gi", "--unused-days", "0"], {}) == 0
    assert full.measure().entries == {}
    with pytest.raises(SystemExit):
        run(["--cache", str(full.root), "trim", "--free", "lots"], {})
    assert "--free" in capsys.readouterr().err
