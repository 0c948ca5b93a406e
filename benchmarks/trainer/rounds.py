"""Runs of the contenders in turns, so that whatever else the machine does meets all of them alike."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.trainer.contenders import ALPHA, RANK, RATE, SEED
from benchmarks.trainer.workload import Workload

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 1800.0


def run_once(name: str, workload: Workload, folder: Path, python: Path, reporting: dict[str, Any] | None) -> dict[str, Any]:
    """Train once by ``name`` in a process of its own, and return the figures; ``failed`` is the end of its log where it failed."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    for leftover in ("out", "work", "plain", "datasets", "other", "hub"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    begun = time.time()
    if name == "llama-factory":
        settings = json.dumps(build_llama_factory(workload, folder))
        command = ["-m", "benchmarks.trainer.llama_factory", str(folder), str(result), str(begun), settings]
    else:
        command = ["-m", "benchmarks.trainer.contenders", name, str(folder), workload.name, str(result), str(begun)]
        command += [json.dumps(reporting)] if reporting else []
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "PYTHONPATH": str(ROOT), "DISABLE_VERSION_CHECK": "1"}
    environ |= {} if workload.gpu else {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / f"{name}.log").open("w") as log:
        code = subprocess.run(
            [str(python), *command], env=environ, cwd=ROOT, stdout=log, stderr=log, timeout=LIMIT_SECONDS, check=False
        ).returncode
    if not result.exists():
        return {"failed": f"exit code {code}: {(folder / f'{name}.log').read_text()[-1500:]}"}
    return summarise(json.loads(result.read_text()), workload)


def summarise(measured: Mapping[str, Any], workload: Workload) -> dict[str, Any]:
    """Return the figures of one run; a step is from its beginning to that of the next."""
    wall, processor = statistics.median(measured["step walls"]), statistics.median(measured["step processors"])
    tokens = workload.batch * workload.accumulation * workload.max_length
    return {
        "step, s": wall,
        "step, CPU s": processor,
        "own code, CPU ms": 1000 * statistics.mean(measured["step own"]),
        "other threads, CPU ms": 1000 * statistics.mean(measured["step other threads"]),
        "tokens/s": tokens / wall,
        "tokens per CPU s": tokens / processor,
        "to the first step done, s": measured["first step s"],
        "peak memory, MiB": measured["peak MiB"],
        "first loss": measured["losses"][0],
        "last loss": measured["losses"][-1],
    }


def build_llama_factory(workload: Workload, folder: Path) -> dict[str, Any]:
    """Return LLaMA-Factory's own settings for the same training."""
    quantised = {"quantization_bit": 4, "quantization_method": "bnb", "quantization_type": workload.quantization}
    return {
        "model_name_or_path": str(folder / "model"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "lora_target": "all",
        **(quantised if workload.quantization != "none" else {}),
        "dataset_dir": str(folder),
        "dataset": "rows",
        "template": "empty",
        "cutoff_len": workload.max_length,
        "packing": True,
        "output_dir": str(folder / "other"),
        "overwrite_output_dir": True,
        "max_steps": workload.steps,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": workload.batch,
        "gradient_accumulation_steps": workload.accumulation,
        "optim": "paged_adamw_8bit",
        "bf16": True,
        "seed": SEED,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **({} if workload.gpu else {"use_cpu": True}),
    }


def own_python() -> Path:
    """Return the interpreter of the project's environment."""
    return Path(sys.executable)
