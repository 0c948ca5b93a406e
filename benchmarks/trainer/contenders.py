"""Who trains: `python -m benchmarks.trainer.contenders NAME FOLDER WORKLOAD RESULT BEGUN [REPORTING]`, each in a process of its own.

Each trains as its own documentation shows, by the same settings: QLoRA of rank 16 on all linear layers, packing, 8-bit AdamW, gradient
checkpointing, a constant rate. None evaluates; none saves before the end.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.trainer.probe import install
from benchmarks.trainer.workload import WORKLOADS, Workload

RATE, RANK, ALPHA, SEED = 2e-4, 16, 32, 7


def train_ours(workload: Workload, folder: Path, reporting: dict[str, Any] | None) -> None:
    """Train by the trainer's own program, which reports over HTTPS as in a cluster; it ends the process."""
    from finetune_trainer.main import main  # noqa: PLC0415  start-up is measured

    config = {
        "job": {"namespace": "benchmark", "name": "ours", "uid": "uid-ours"},
        "model": {"uri": f"file://{folder}/model"},
        "dataset": {"uri": f"file://{folder}/train.jsonl", "evalFraction": 0},
        "method": {"adapter": {"r": RANK, "alpha": ALPHA, "dropout": 0}, "quantization": {"type": workload.quantization}},
        "training": {
            "maxSteps": workload.steps,
            "learningRate": RATE,
            "lrScheduler": "constant",
            "warmupRatio": 0,
            "perDeviceBatchSize": workload.batch,
            "gradientAccumulationSteps": workload.accumulation,
            "maxLength": workload.max_length,
            "packing": True,
            "gradientCheckpointing": True,
            "compile": workload.compile,
            "optimizer": "paged_adamw_8bit",
            "loggingSteps": 1,
            "checkpoint": {"everySteps": 100_000},
            "seed": SEED,
        },
        "evaluation": {"samples": {"count": 0}},
        "output": {"uri": f"file://{folder}/out"},
        "device": {"gpus": 1 if workload.gpu else 0},
        "workDir": f"{folder}/work",
        **({"reporting": reporting} if reporting else {}),
    }
    os.environ |= {"FINETUNE_CONFIG": json.dumps(config), "FINETUNE_TERMINATION_MESSAGE_PATH": f"{folder}/termination"}
    sys.argv = ["finetune-trainer"]
    main()


def train_plainly(workload: Workload, folder: Path) -> None:
    """Train by TRL and PEFT alone."""
    import torch  # noqa: PLC0415  start-up is measured
    from datasets import load_dataset  # noqa: PLC0415
    from peft import LoraConfig  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig  # noqa: PLC0415
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=workload.quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            folder / "model",
            dtype=torch.bfloat16,
            quantization_config=quantization,
            **({"device_map": {"": 0}} if workload.gpu else {}),
        ),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        train_dataset=load_dataset("json", data_files=str(folder / "train.jsonl"), split="train", cache_dir=str(folder / "datasets")),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, lora_dropout=0, target_modules="all-linear"),
        args=SFTConfig(
            output_dir=str(folder / "plain"),
            max_steps=workload.steps,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            per_device_train_batch_size=workload.batch,
            gradient_accumulation_steps=workload.accumulation,
            max_length=workload.max_length,
            packing=True,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            optim="paged_adamw_8bit",
            seed=SEED,
            bf16=True,
            use_cpu=not workload.gpu,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    trainer.train()
    trainer.save_model(str(folder / "plain-adapter"))


def main() -> None:
    """Train as the arguments say."""
    name, folder, workload, result, begun, *reporting = sys.argv[1:]
    install(Path(result), float(begun))
    if name == "ours":
        train_ours(WORKLOADS[workload], Path(folder), json.loads(reporting[0]) if reporting else None)
    else:
        train_plainly(WORKLOADS[workload], Path(folder))


if __name__ == "__main__":
    main()
