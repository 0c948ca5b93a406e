"""Tokenised data that are kept: they come back as they were, belong to one run, and are used whole or not at all."""

import json
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import DatasetSpec, MethodSpec, TrainingSpec
from finetune_trainer.artifacts import CheckpointStore, ManifestFields
from finetune_trainer.data import Examples, PreparedData, prepare_data
from finetune_trainer.data.kept import compute_key, pack_prepared, unpack_prepared
from finetune_trainer.group import Group
from finetune_trainer.run.tokens import TokenKeeper
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.storage.retry import RetryPolicy
from tests.support.tiny_model import TEMPLATE_WITH_MARKERS, build_tokenizer

pytestmark = pytest.mark.torch

PAIR = {"prompt": "Which way?\n", "chosen": " The first.", "rejected": " None at all."}
ROWS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "sft": ("prompt-completion", [{"prompt": f"What is {n}?", "completion": f" A number, {n}."} for n in range(7)]),
    "dpo": ("preference", [PAIR] * 3),
    "reward": ("preference", [PAIR] * 3),
    "kto": ("unpaired-preference", [{"prompt": "Is it?\n", "completion": " It is.", "label": bool(n % 2)} for n in range(4)]),
}
TRAINING = TrainingSpec(max_length=32)


def prepare(folder: Path, objective: str = "sft", *, held: bool = True) -> PreparedData:
    format_, rows = ROWS[objective]
    examples = Examples.from_rows(rows, rows[:2] if held else [], format_, format_, "sha256:" + "0" * 64)
    method = MethodSpec(objective=objective)  # type: ignore[arg-type]
    return prepare_data(examples, build_tokenizer(TEMPLATE_WITH_MARKERS), TRAINING, method, folder=folder)


def fields(uid: str = "uid-a") -> ManifestFields:
    return ManifestFields("tokens", uid, "team-a", "run", 0, 0, 0, "file:///model", {}, {})


def checkpoints(folder: Path, uid: str = "uid-a") -> CheckpointStore:
    return CheckpointStore(LocalStore("file:///out", "output", folder, RetryPolicy()), uid)


def equal(one: PreparedData, other: PreparedData) -> bool:
    held = [None if data.eval is None else data.eval[:] for data in (one, other)]
    same = (one.counts, one.digest, one.sample, one.longest) == (other.counts, other.digest, other.sample, other.longest)
    return same and one.train.features == other.train.features and one.train[:] == other.train[:] and held[0] == held[1]


@pytest.mark.parametrize("objective", ROWS)
@pytest.mark.parametrize("held", [True, False])
def test_they_come_back_as_they_were(objective: str, held: bool, tmp_path: Path) -> None:
    data = prepare(tmp_path / "made", objective, held=held)
    pack_prepared(data, tmp_path / "kept")
    assert equal(unpack_prepared(tmp_path / "kept", tmp_path / "read"), data)


@pytest.mark.parametrize("objective", ROWS)
def test_how_many_are_in_memory_at_a_time_changes_nothing(objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare(tmp_path / "whole", objective)
    monkeypatch.setattr("finetune_trainer.data.prepare._BATCH", 2)
    monkeypatch.setattr("finetune_trainer.data.tables._BATCH_BYTES", 1)
    parts = prepare(tmp_path / "parts", objective)
    assert equal(parts, whole)
    assert parts.train.data.column(0).num_chunks > whole.train.data.column(0).num_chunks


@contextmanager
def no_room(limit: int) -> Iterator[None]:
    """Let no file grow beyond ``limit`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_room_they_are_not_kept_and_the_run_goes_on(tmp_path: Path) -> None:
    keeper = TokenKeeper(tmp_path / "work", Group(None, {}), checkpoints(tmp_path / "out"))
    made = prepare(tmp_path / "made")
    with no_room(64):
        data = keeper.obtain("a" * 64, lambda _folder: made, nothing, fields)
        keeper.wait()
    assert equal(data, made)
    assert not [file for name in ("work", "out") for file in (tmp_path / name).rglob("*") if file.is_file()]


def test_without_room_to_prepare_them_the_run_fails_by_the_disk_and_leaves_nothing(tmp_path: Path) -> None:
    with no_room(64), pytest.raises(OSError, match="large"):
        prepare(tmp_path / "made")
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def nothing() -> None:
    """There is nothing to settle."""


def never(_folder: Path) -> PreparedData:
    raise AssertionError("tokenised again")


def keep(
    folder: Path, disk: str, key: str = "a" * 64, uid: str = "uid-a", prepare: Callable[[Path], PreparedData] = prepare
) -> PreparedData:
    """Take the data of ``key`` in a pod of the run ``uid`` with the ``disk``."""
    keeper = TokenKeeper(folder / disk, Group(None, {}), checkpoints(folder / "out", uid))
    data = keeper.obtain(key, prepare, nothing, lambda: fields(uid))
    keeper.wait()
    return data


def test_the_next_pod_does_not_tokenise_again(tmp_path: Path) -> None:
    first = keep(tmp_path, "first")
    assert equal(keep(tmp_path, "second", prepare=never), first)


def test_another_run_does_not_get_them(tmp_path: Path) -> None:
    keep(tmp_path, "first")
    (tmp_path / "out" / "checkpoints" / "uid-a").rename(tmp_path / "out" / "checkpoints" / "uid-b")
    with pytest.raises(AssertionError, match="tokenised again"):
        keep(tmp_path, "second", uid="uid-b", prepare=never)


@pytest.mark.parametrize("file", ["manifest.json", "train.arrow", "eval.arrow", "facts.json"])
def test_what_is_not_whole_is_not_used(file: str, tmp_path: Path) -> None:
    keep(tmp_path, "first")
    (found,) = (tmp_path / "out").rglob(file)
    content = bytearray(found.read_bytes())
    if file == "manifest.json":
        found.unlink()
    else:
        content[len(content) // 2] ^= 1
        found.write_bytes(content)
    with pytest.raises(AssertionError, match="tokenised again"):
        keep(tmp_path, "second", prepare=never)
    assert equal(keep(tmp_path, "third"), keep(tmp_path, "fourth", prepare=never))


def test_they_go_with_the_checkpoints_and_are_none(tmp_path: Path) -> None:
    keep(tmp_path, "first")
    store = checkpoints(tmp_path / "out")
    assert store.list_steps() == []
    assert store.download_newest(tmp_path / "resume") is None
    store.delete_all()
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_file()]


def test_a_pod_tokenises_once_whatever_number_of_processes_it_has(tmp_path: Path) -> None:
    """The second process waits for the first, and reads what that has written."""
    told = threading.Event()

    class First(Group):
        shares = True  # type: ignore[assignment]

        def tell_data(self, *, kept: bool) -> None:
            assert kept
            told.set()

    class Second(First):
        local_rank = 1

        def wait_for_data(self) -> bool:
            return told.wait(60)

    def group(kind: type[Group], rank: int) -> Group:
        made = kind(None, {})
        made.local_rank = made.rank = rank
        return made

    read: list[PreparedData] = []
    second = threading.Thread(
        target=lambda: read.append(TokenKeeper(tmp_path, group(Second, 1), None).obtain("a" * 64, never, nothing, fields))
    )
    second.start()
    data = TokenKeeper(tmp_path, group(First, 0), None).obtain("a" * 64, prepare, nothing, fields)
    second.join(60)
    assert equal(read[0], data)


def test_whatever_they_hang_on_changes_their_key(tmp_path: Path) -> None:
    tokenizer = tmp_path / "model"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    (tokenizer / "model.safetensors").write_bytes(b"weights")
    dataset = DatasetSpec(uri="file:///data.jsonl")

    def key(read: str = "sha256:0", **changes: Any) -> str:
        settings = {"dataset": dataset, "training": TRAINING, "method": MethodSpec(), "versions": {"transformers": "5"}} | changes
        return compute_key(read, tokenizer, settings["dataset"], settings["training"], settings["method"], settings["versions"])

    first = key()
    assert key() == first
    (tokenizer / "model.safetensors").write_bytes(b"others")
    assert key() == first
    others = [
        key("sha256:1"),
        key(dataset=dataset.model_copy(update={"too_long": "drop"})),
        key(training=TRAINING.model_copy(update={"max_length": 64})),
        key(method=MethodSpec(objective="pretrain")),
        key(versions={"transformers": "6"}),
    ]
    (tokenizer / "tokenizer.json").write_text(json.dumps({"other": 1}))
    others.append(key())
    assert len({first, *others}) == 7
