"""The folder that is published at the end: adapter, tokenizer, metrics and a card."""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from finetune_api.progress import DatasetCounts, Metrics
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.run.trainer import save_adapter

logger = logging.getLogger(__name__)

METRICS_FILE: Final = "metrics.jsonl"
_SUMMARY_KEYS: Final = ("train_runtime", "train_loss", "total_flos")


def name_base_model(uri: str) -> str:
    """Return what ``adapter_config.json`` calls the base model: a hub's own name for it, which PEFT and inference servers load by; else
    the URI.
    """
    return uri.removeprefix("hf://") if uri.startswith("hf://") else uri


def write_adapter_folder(
    folder: Path,
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    config: TrainerConfig,
    revision: str | None,
    history: Iterable[Mapping[str, Any]],
    metrics: Metrics,
    dataset: DatasetCounts,
) -> None:
    """Write all that belongs to the adapter into the empty or older ``folder``, which is replaced.

    :param history: the trainer's log of the whole run, from which ``metrics.jsonl`` is made: a line for each logged step.
    :raises LossDiverged: a weight is not finite.
    """
    shutil.rmtree(folder, ignore_errors=True)
    adapter = model.peft_config["default"]
    adapter.base_model_name_or_path = name_base_model(config.model.uri)
    adapter.revision = revision
    save_adapter(model, folder)
    tokenizer.save_pretrained(folder)
    (folder / METRICS_FILE).write_text("".join(build_metric_lines(history)), encoding="utf-8")
    (folder / "README.md").write_text(build_card(config, revision, metrics, dataset), encoding="utf-8")


def build_metric_lines(history: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Yield a line of JSON for each entry of the trainer's log but its closing words."""
    for entry in history:
        if not any(key in entry for key in _SUMMARY_KEYS):
            step = {"step": entry.get("step"), "epoch": entry.get("epoch")}
            yield json.dumps(step | {key: value for key, value in entry.items() if key not in step}) + "\n"


def build_card(config: TrainerConfig, revision: str | None, metrics: Metrics, dataset: DatasetCounts) -> str:
    """Build the model card: what the adapter is, from what, how, and how well."""
    adapter, quantization, training = config.method.adapter, config.method.quantization, config.training
    head = ["library_name: peft", "tags: [lora, sft]"]
    if config.model.uri.startswith("hf://"):
        head.insert(0, f"base_model: {name_base_model(config.model.uri)}")
    precision = f"{quantization.type}{', double quantisation' if quantization.type in ('nf4', 'fp4') and quantization.double_quant else ''}"
    rows = [
        ("Base model", f"`{config.model.uri}`{f' at `{revision}`' if revision else ''}"),
        ("Data", f"`{config.dataset.uri}`: {dataset.examples} examples, {dataset.eval_examples} held out"),
        ("Adapter", f"LoRA, r {adapter.r}, alpha {adapter.alpha}, on {adapter.target_modules}"),
        ("Base precision while training", f"{precision}, compute in {quantization.compute_dtype}"),
        ("Learning rate", f"{training.learning_rate:g}, {training.lr_scheduler}"),
        ("Batch", f"{training.per_device_batch_size} x {training.gradient_accumulation_steps}, up to {training.max_length} tokens each"),
    ]
    for name, value in (
        ("Held-out loss of the base", metrics.base_eval_loss),
        ("Held-out loss", metrics.eval_loss),
        ("Training loss, last step", metrics.loss),
    ):
        if value is not None:
            rows.append((name, f"{value:.4f} nats a token"))
    table = "\n".join(f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows)
    return (
        "---\n" + "\n".join(head) + "\n---\n"
        f"# {config.job.name}\n\nA LoRA adapter, fine-tuned by the FineTuneJob `{config.job.namespace}/{config.job.name}`.\n\n"
        f"| | |\n| --- | --- |\n{table}\n\n`{METRICS_FILE}` has the metrics of each logged step; "
        "`manifest.json` has all settings and digests.\n"
    )
