"""Tokenised data as files, so that they need not be tokenised again: Arrow's own format for rows, JSON for the rest. Nothing is pickled."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from finetune_api.spec import DatasetSpec, MethodSpec, TrainingSpec
from finetune_trainer.data.prepared import FACTS_FILE, PreparedData, PreparedFacts, read_prepared
from finetune_trainer.data.tables import EVAL_FILE, TRAIN_FILE
from finetune_trainer.storage.digest import digest_files

_LARGEST_TOKENIZER_FILE: Final = 256 * 2**20
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


def compute_key(
    read_digest: str, tokenizer_folder: Path, dataset: DatasetSpec, training: TrainingSpec, method: MethodSpec, versions: Mapping[str, str]
) -> str:
    """Return what tokenised data hang on, as 64 hexadecimal digits: the data, the tokenizer, the settings, and the code that prepares them.

    It hangs on more than it must (the learning rate changes it): a key that changes needlessly costs time, one that does not, a model.

    :param read_digest: of all data as they were read, held-out ones too.
    :param tokenizer_folder: folder of the base model; whatever in it is not weights counts as the tokenizer's.
    """
    tokenizer = {
        file.name: file
        for file in tokenizer_folder.iterdir()
        if file.is_file() and file.suffix not in _WEIGHTS and file.stat().st_size <= _LARGEST_TOKENIZER_FILE
    }
    parts = {
        "data": read_digest,
        "tokenizer": digest_files(tokenizer),
        "dataset": dataset.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "method": method.model_dump(mode="json"),
        "versions": dict(versions),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def can_keep(data: PreparedData) -> bool:
    """Return whether ``data`` are tokens: prompts without answers stay text, and are read as fast as a file of them would be."""
    return all("prompt" not in dataset.column_names for dataset in (data.train, data.eval) if dataset is not None)


def pack_prepared(data: PreparedData, folder: Path) -> None:
    """Write ``data`` to ``folder``, compressed for the way to the store and back.

    :raises OSError: the disk is full; nothing is left then.
    """
    import pyarrow as pa  # noqa: PLC0415  loaded by now

    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        for file in data.folder.iterdir():
            if file.name == FACTS_FILE:
                shutil.copyfile(file, folder / file.name)
            elif file.name in (TRAIN_FILE, EVAL_FILE):
                with pa.memory_map(str(file)) as source:
                    _copy_batches(pa.ipc.open_stream(source), folder / file.name, pa.ipc.IpcWriteOptions(compression="zstd"))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def unpack_prepared(packed: Path, folder: Path) -> PreparedData:
    """Write to ``folder`` what :func:`pack_prepared` made of them, and map it. ``packed`` is left as it is.

    :raises OSError: the disk is full.
    :raises ValueError: it is something else.
    """
    import pyarrow as pa  # noqa: PLC0415  loaded by now

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts = PreparedFacts.model_validate_json((packed / FACTS_FILE).read_text(encoding="utf-8"))
    for name in (TRAIN_FILE, EVAL_FILE):
        if (packed / name).exists():
            with pa.OSFile(str(packed / name), "rb") as source:  # pa.ArrowInvalid, of a damaged file, is a ValueError
                _copy_batches(pa.ipc.open_stream(source), folder / name, pa.ipc.IpcWriteOptions())
    (folder / FACTS_FILE).write_text(facts.model_dump_json(), encoding="utf-8")
    return read_prepared(folder)


def _copy_batches(batches: Any, file: Path, options: Any) -> None:  # noqa: ANN401
    import pyarrow as pa  # noqa: PLC0415  loaded by now

    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, batches.schema, options=options) as out:
        for batch in batches:
            out.write_batch(batch)
