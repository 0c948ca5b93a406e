"""The folder that is published at the end: adapter, tokenizer, metrics and a card."""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finetune_trainer.documents import RunFacts, build_card, build_report_page
from finetune_trainer.documents.card import name_base_model

if TYPE_CHECKING:  # whose module loads torch
    from finetune_trainer.model.adapted import AdaptedModel

logger = logging.getLogger(__name__)

METRICS_FILE: Final = "metrics.jsonl"
EVALUATION_FILE: Final = "evaluation.json"
REPORT_FILE: Final = "report.html"
CARD_FILE: Final = "README.md"
_SUMMARY_KEYS: Final = ("train_runtime", "train_loss", "total_flos")


def write_adapter_folder(
    folder: Path,
    adapted: "AdaptedModel",
    tokenizer: Any,  # noqa: ANN401
    facts: RunFacts,
) -> None:
    """Write the adapter (the whole model, where all of it was trained) and all that belongs to it into ``folder``, which is replaced.

    :raises LossDiverged: a weight is not finite.
    """
    shutil.rmtree(folder, ignore_errors=True)
    adapted.publish(folder, name_base_model(facts.config.model.uri), facts.base_revision)
    tokenizer.save_pretrained(folder)
    write_documents(folder, facts)


def write_documents(folder: Path, facts: RunFacts) -> None:
    """Write what tells people and programs of the run: metrics, answers, report and card."""
    kind = "model" if facts.config.method.adapter.type == "none" else "adapter"
    (folder / METRICS_FILE).write_text("".join(build_metric_lines(facts.history)), encoding="utf-8")
    (folder / EVALUATION_FILE).write_text(facts.evaluation.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")
    (folder / REPORT_FILE).write_text(build_report_page(facts), encoding="utf-8")
    (folder / CARD_FILE).write_text(build_card(facts, kind), encoding="utf-8")


def build_metric_lines(history: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Yield a line of JSON for each entry of the trainer's log but its closing words."""
    for entry in history:
        if not any(key in entry for key in _SUMMARY_KEYS):
            step = {"step": entry.get("step"), "epoch": entry.get("epoch")}
            yield json.dumps(step | {key: value for key, value in entry.items() if key not in step}) + "\n"
