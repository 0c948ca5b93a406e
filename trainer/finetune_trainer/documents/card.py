"""The model card: ``README.md`` of an artifact, with the metadata that hubs read at its head."""

from typing import Any, Final

import yaml

from finetune_api.spec import AdapterSpec
from finetune_api.spec.adapter import PROMPT_TYPES
from finetune_trainer.documents.facts import RunFacts, extract_series

_METHOD_NAMES: Final = {
    "lora": "LoRA",
    "adalora": "AdaLoRA",
    "ia3": "(IA)3",
    "prompt-tuning": "prompt-tuning",
    "p-tuning": "P-tuning",
    "prefix-tuning": "prefix-tuning",
}
_CURVE_ROWS: Final = 12


def name_base_model(uri: str) -> str:
    """Return what ``adapter_config.json`` calls the base model: a hub's own name for it, which PEFT and inference servers load by; else
    the URI.
    """
    return uri.removeprefix("hf://") if uri.startswith("hf://") else uri


def build_card(facts: RunFacts, kind: str = "adapter") -> str:
    """Return the card of the ``adapter``, or of the ``model`` after full fine-tuning."""
    config = facts.config
    job = config.job
    return (
        f"---\n{yaml.safe_dump(_build_head(facts, kind), sort_keys=False, allow_unicode=True)}---\n"
        f"# {job.name}\n\n{_describe(facts, kind)}\n\n"
        f"{_build_table(facts)}\n{_build_license(facts)}{_build_curve(facts)}{_build_tasks(facts)}{_build_harness(facts)}"
        "## Versions\n\n" + ", ".join(f"{name} {version}" for name, version in facts.versions.items()) + "\n\n"
        "`report.html` has curves and sample answers, `metrics.jsonl` the metrics of each logged step, `manifest.json` all settings and "
        "digests.\n"
    )


def _build_head(facts: RunFacts, kind: str) -> dict[str, Any]:
    config = facts.config
    head: dict[str, Any] = {}
    if config.model.uri.startswith("hf://"):
        head["base_model"] = name_base_model(config.model.uri)
        head["base_model_relation"] = {"adapter": "adapter", "model": "finetune"}[kind]
    if facts.base_license:
        head["license"] = facts.base_license
    head["library_name"] = {"adapter": "peft", "model": "transformers"}[kind]
    if config.dataset.uri.startswith("hf://"):
        head["datasets"] = [config.dataset.uri.removeprefix("hf://")]
    head["tags"] = [config.method.adapter.type, config.method.objective, "finetune-operator"]
    return head


def _describe(facts: RunFacts, kind: str) -> str:
    job = facts.config.job
    name = _METHOD_NAMES.get(facts.config.method.adapter.type, facts.config.method.adapter.type)
    what = {
        "adapter": f"A {name} adapter",
        "model": "The whole model, every weight trained",
    }[kind]
    return f"{what}, fine-tuned by the FineTuneJob `{job.namespace}/{job.name}`."


def _build_table(facts: RunFacts) -> str:
    config, metrics, counts = facts.config, facts.metrics, facts.dataset
    adapter, quantization, training = config.method.adapter, config.method.quantization, config.training
    precision = f"{quantization.type}{', double quantisation' if quantization.type in ('nf4', 'fp4') and quantization.double_quant else ''}"
    revision = f" at `{facts.base_revision}`" if facts.base_revision else ""
    rows = [
        ("Base model", f"`{config.model.uri}`{revision}"),
        ("Data", f"`{config.dataset.uri}`: {counts.examples} examples, {counts.eval_examples} held out"),
        ("Adapter", _describe_adapter(adapter)),
        ("Base precision while training", f"{precision}, compute in {quantization.compute_dtype}"),
        ("Learning rate", f"{training.learning_rate:g}, {training.lr_scheduler}"),
        ("Batch", f"{training.per_device_batch_size} x {training.gradient_accumulation_steps}, up to {training.max_length} tokens each"),
        ("Steps", f"{facts.steps}, on {facts.device}"),
    ]
    for name, value in (
        ("Held-out loss of the base", metrics.base_eval_loss),
        ("Held-out loss", metrics.eval_loss),
        ("Training loss, last step", metrics.loss),
    ):
        if value is not None:
            rows.append((name, f"{value:.4f} nats a token"))
    if metrics.base_perplexity is not None and metrics.perplexity is not None:
        rows.append(("Held-out perplexity, before and after", f"{metrics.base_perplexity:.4g}, {metrics.perplexity:.4g}"))
    return "| | |\n| --- | --- |\n" + "".join(f"| {name} | {_cell(value)} |\n" for name, value in rows)


def _describe_adapter(adapter: AdapterSpec) -> str:
    if adapter.type == "none":
        return "none: full fine-tuning"
    name = _METHOD_NAMES[adapter.type]
    if adapter.type in PROMPT_TYPES:
        encoder = f", by an {(adapter.encoder or 'mlp').upper()}" if adapter.type == "p-tuning" else ""
        return f"{name}, {adapter.resolved_virtual_tokens} learnt tokens{encoder}"
    if adapter.type == "ia3":
        return f"{name}, on {adapter.target_modules}"
    forms = [word for word, used in (("rsLoRA", adapter.rslora), ("DoRA", adapter.dora)) if used]
    if adapter.lora_plus_ratio is not None:
        forms.append(f"LoRA+ at {adapter.lora_plus_ratio:g}")
    if adapter.init != "default":
        forms.append(f"begun by {adapter.init}")
    if adapter.target_parameters is not None:
        forms.append(f"and on {adapter.target_parameters}")
    return ", ".join([f"{name}, r {adapter.r}, alpha {adapter.alpha}, on {adapter.target_modules}", *forms])


def _build_license(facts: RunFacts) -> str:
    if facts.base_license:
        return f"The base model's licence is `{facts.base_license}`; what is made from it is bound by it.\n\n"
    return "The base model's files name no licence; look it up before this is passed on.\n\n"


def _build_curve(facts: RunFacts) -> str:
    points = extract_series(facts.history, "loss")
    if not points:
        return ""
    rows = min(_CURVE_ROWS, len(points))
    chosen = sorted({round(number * (len(points) - 1) / max(rows - 1, 1)) for number in range(rows)})
    lines = "".join(f"| {points[index][0]:.0f} | {points[index][1]:.4f} |\n" for index in chosen)
    return f"## Loss curve\n\n| step | training loss |\n| --- | --- |\n{lines}\n"


def _build_tasks(facts: RunFacts) -> str:
    scores = facts.evaluation.score_tasks()
    if not scores:
        return ""
    lines = "".join(f"| {score.name} | {_share(score.base_score)} | {_share(score.score)} | {score.examples} |\n" for score in scores)
    return f"## Tasks\n\n| task | before | after | prompts |\n| --- | --- | --- | --- |\n{lines}\n"


def _build_harness(facts: RunFacts) -> str:
    scores = facts.evaluation.score_harness()
    if not scores:
        return ""
    lines = "".join(
        f"| {score.name} | {score.metric} | {_figure(score.base_score)} | {_figure(score.score)} | {score.examples} |\n" for score in scores
    )
    head = "| task | metric | before | after | questions |\n| --- | --- | --- | --- | --- |"
    return f"## lm-evaluation-harness\n\n{head}\n{lines}\n"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")
