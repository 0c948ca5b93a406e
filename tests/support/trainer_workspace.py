"""A base model and data for trainer tests. Functions here run in a trainer's process: the tests themselves load no torch."""

import json
import logging
import random
import sys
from pathlib import Path
from typing import Any

from tests.support.tiny_model import CORPUS, TEMPLATE_WITH_MARKERS, build_model, build_tokenizer

POISON = "§"
"""A character that is in one example only; the poisoned model makes NaN of it."""
SPEC_METHOD = {
    "adapter": {"r": 8, "alpha": 16, "dropout": 0.1},
    "quantization": {"type": "nf4", "doubleQuant": True, "computeDtype": "bfloat16"},
}
TRAINING = {
    "maxSteps": 14,
    "learningRate": 5e-3,
    "lrScheduler": "cosine",
    "warmupRatio": 0.1,
    "perDeviceBatchSize": 2,
    "gradientAccumulationSteps": 2,
    "maxLength": 64,
    "packing": True,
    "gradientCheckpointing": True,
    "optimizer": "paged_adamw_8bit",
    "weightDecay": 0.01,
    "evalSteps": 5,
    "seed": 7,
    "checkpoint": {"everySteps": 4, "keep": 2},
}


def make_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Make rows of prompt and completion from a few words."""
    generator = random.Random(seed)  # noqa: S311  made-up rows, no secret
    words = sorted({word for line in CORPUS for word in line.split()})
    return [
        {
            "prompt": " ".join(generator.choices(words, k=generator.randint(2, 10))) + "\n",
            "completion": " ".join(generator.choices(words, k=generator.randint(2, 10))),
        }
        for _ in range(count)
    ]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_workspace(folder: Path) -> None:
    """Write a model, a poisoned one, and data into ``folder``."""
    import torch

    tokenizer = build_tokenizer(TEMPLATE_WITH_MARKERS)
    for name in ("model", "poisoned", "teacher"):
        model = build_model(len(tokenizer), seed=int(name == "teacher"))
        model.config.eos_token_id = tokenizer.eos_token_id
        if name == "poisoned":
            bad = tokenizer(POISON)["input_ids"][-1]
            with torch.no_grad():
                model.get_input_embeddings().weight[bad] = float("nan")
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rows = make_rows(60, 1)
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "eval.jsonl", make_rows(12, 2))
    poisoned = [dict(row) for row in rows]
    poisoned[40]["completion"] += f" {POISON}"
    write_rows(folder / "poisoned.jsonl", poisoned)
    write_answers(folder)


def write_answers(folder: Path) -> None:
    """Write rows that say which answers are good: short ones. `pairs.jsonl`, `labelled.jsonl`, `prompts.jsonl`, `texts.jsonl`."""
    rows = make_rows(40, 3)
    pairs = [{"prompt": row["prompt"], "chosen": "Return two.", "rejected": row["completion"]} for row in rows]
    write_rows(folder / "pairs.jsonl", pairs)
    labelled = [
        {"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"} for pair in pairs for name in ("chosen", "rejected")
    ]
    write_rows(folder / "labelled.jsonl", labelled)
    write_rows(folder / "prompts.jsonl", [{"prompt": row["prompt"], "answer": "2"} for row in rows])
    write_rows(folder / "texts.jsonl", [{"text": row["prompt"] + row["completion"]} for row in rows])


def make_config(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Build a trainer's configuration in ``folder``. ``changes`` replace whole parts; ``training`` is merged."""
    training = {**TRAINING, **changes.pop("training", {})}
    return {
        "job": {"namespace": "team-a", "name": name, "uid": f"uid-{name}"},
        "model": {"uri": f"file://{folder}/model"},
        "dataset": {"uri": f"file://{folder}/train.jsonl", "eval": {"uri": f"file://{folder}/eval.jsonl"}},
        "method": SPEC_METHOD,
        "training": {key: value for key, value in training.items() if value is not None},
        "output": {"uri": f"file://{folder}/out/{name}"},
        "device": {"gpus": 0},
        "workDir": str(folder / "work" / name),
        **changes,
    }


def train_plainly(folder: Path, result: Path) -> None:
    """Train with TRL and PEFT alone, as their documentation shows, by the same settings; write the log to ``result``.

    Nothing of the trainer is used: the rows go in as text, and TRL tokenises, labels and packs them.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16, quantization_config=quantization),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.1, target_modules="all-linear"),
        args=SFTConfig(
            output_dir=str(result.parent / "plain"),
            max_steps=14,
            learning_rate=5e-3,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_length=64,
            packing=True,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            optim="paged_adamw_8bit",
            weight_decay=0.01,
            seed=7,
            bf16=True,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        ),
    )
    trainer.train()
    trainer.save_model(str(result.parent / "plain-adapter"))
    result.write_text(json.dumps([entry for entry in trainer.state.log_history if "loss" in entry]))


def compare_with_published(config: dict[str, Any], result: Path) -> None:
    """Run the trainer in this process, then load what it published with PEFT; write what differs to ``result``."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    from finetune_api.trainer_config import TrainerConfig
    from finetune_trainer.interruption import Interruption
    from finetune_trainer.run import Run, publishing

    captured: list[Any] = []
    write = publishing.write_adapter_folder

    def write_and_keep(folder: Path, adapted: Any, *others: Any) -> None:
        captured.append(adapted.model)
        write(folder, adapted, *others)

    publishing.write_adapter_folder = write_and_keep
    run = Run(TrainerConfig.model_validate(config), Interruption(), {})
    summary = run.execute()
    trained = captured[0].eval()

    folder = Path(config["model"]["uri"].removeprefix("file://"))
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )

    def load_base() -> Any:
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=quantization)
        for module in base.modules():  # the layers are narrower than bitsandbytes' fast kernel takes
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return base

    untouched = load_base()
    loaded_base = load_base()
    published = summary.artifacts[0].uri.removeprefix("file://")
    loaded = PeftModel.from_pretrained(loaded_base, published, autocast_adapter_dtype=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(published)
    inputs = tokenizer("What does the function do?\n", return_tensors="pt")
    ids = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours, theirs, base = trained(**ids).logits, loaded(**ids).logits, untouched(**ids).logits
    frozen = {name.replace(".base_layer", ""): p for name, p in trained.get_base_model().named_parameters() if "lora_" not in name}
    reference = dict(untouched.named_parameters())
    result.write_text(
        json.dumps(
            {
                "largest_difference": float((ours - theirs).abs().max()),
                "effect_of_adapter": float((ours - base).abs().max()),
                "same_names": sorted(frozen) == sorted(reference),
                "changed": [name for name, p in reference.items() if not torch.equal(p, frozen[name].to(p.dtype))],
                "finite": bool(torch.isfinite(ours).all()),
            }
        )
    )


def train_each(configs: list[dict[str, Any]], result: Path) -> None:
    """Run the trainer once for each of ``configs``, one after the other in this process; write how each ended to ``result``."""
    from finetune_api.trainer_config import TrainerConfig
    from finetune_trainer.ending import classify_exception
    from finetune_trainer.interruption import Interruption
    from finetune_trainer.logs import set_up_logging
    from finetune_trainer.run import Run

    set_up_logging()
    endings: list[dict[str, Any]] = []
    for config in configs:
        try:
            summary = Run(TrainerConfig.model_validate(config), Interruption(), {}).execute()
        except Exception as error:
            code, message = classify_exception(error)
            endings.append({"code": code, "message": message})
            logging.getLogger(__name__).exception("%s", config["job"]["name"])
        else:
            endings.append({"code": 0, **summary.metrics.model_dump(mode="json", by_alias=False)})
    result.write_text(json.dumps(endings))


def stall_while_loading(config: dict[str, Any]) -> None:
    """Run the trainer where the data never come."""
    import os
    import time

    from finetune_trainer.main import main
    from finetune_trainer.run import run

    def stall(*arguments: Any) -> None:
        sys.stderr.write(f"stalled, with {len(arguments)} arguments\n")
        sys.stderr.flush()
        time.sleep(600)

    run.load_examples = stall
    os.environ["FINETUNE_CONFIG"] = json.dumps(config)
    sys.argv = ["finetune-trainer"]
    main()


def die_while_publishing(config: dict[str, Any]) -> None:
    """Run the trainer, and kill it when every step is done and nothing is published yet."""
    import os
    import signal

    from finetune_trainer.main import main
    from finetune_trainer.run import publishing

    def die(*arguments: Any) -> None:
        del arguments
        os.kill(os.getpid(), signal.SIGKILL)

    publishing.write_adapter_folder = die
    os.environ["FINETUNE_CONFIG"] = json.dumps(config)
    sys.argv = ["finetune-trainer"]
    main()


def crash_as_all_do(config: dict[str, Any], rank: int) -> None:
    """Run the trainer of the ``rank``-th pod of several, in which the first step raises, as in all others."""
    import os

    from trl.trainer.sft_trainer import SFTTrainer

    from finetune_trainer.main import main

    def training_step(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError(f"a fault in all ({len(arguments)}, {len(options)})")

    SFTTrainer.training_step = training_step
    os.environ |= {"FINETUNE_CONFIG": json.dumps(config), "JOB_COMPLETION_INDEX": str(rank)}
    sys.argv = ["finetune-trainer"]
    main()


def fail_in_steps(config: dict[str, Any], faults: list[dict[str, Any]]) -> None:
    """Run the trainer, whose steps fail as ``faults`` say: at `step`, by `kind` (`nan`, `spike`, or `memory` where a batch has more than
    `above` examples, also in all later steps), at most `times` times.
    """
    import os

    import torch
    from trl.trainer.sft_trainer import SFTTrainer

    from finetune_trainer.main import main

    compute = SFTTrainer.training_step
    left = [fault.get("times", 1_000_000) for fault in faults]

    def training_step(self: Any, *arguments: Any, **options: Any) -> Any:
        at = self.state.global_step + 1
        for number, fault in enumerate(faults):
            if fault["kind"] == "memory" and at >= fault["step"] and self.args.per_device_train_batch_size > fault["above"]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if fault["kind"] != "memory" and at == fault["step"] and left[number] > 0:
                left[number] -= 1
                loss = compute(self, *arguments, **options)
                return loss * float("nan") if fault["kind"] == "nan" else loss * 100
        return compute(self, *arguments, **options)

    SFTTrainer.training_step = training_step  # type: ignore[method-assign]
    os.environ["FINETUNE_CONFIG"] = json.dumps(config)
    sys.argv = ["finetune-trainer"]
    main()
