"""What must hold for every adapter, seen from inside a run. Functions here run in a trainer's process: the tests load no torch."""

import hashlib
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.matrix.cells import Cell, build_trainer_config, check

PROMPT = "What does the function do?\n"


def run_and_observe(cells: Iterable[Cell], workspace: Path, result: Path) -> None:
    """Run ``cells`` one after the other; write what was seen of each to ``result``, by name."""
    seen: dict[str, Any] = {}
    for cell in cells:
        spec = check(cell, workspace)
        assert not isinstance(spec, str), spec
        seen[cell.name] = observe_run(build_trainer_config(cell, spec, workspace))
        result.write_text(json.dumps(seen))


def observe_run(config: dict[str, Any]) -> dict[str, Any]:
    """Run the trainer in this process, and compare what it trained with what it published and with the base."""
    import torch

    from finetune_api.trainer_config import TrainerConfig
    from finetune_trainer.interruption import Interruption
    from finetune_trainer.run import Run, publishing

    seen: dict[str, Any] = {}
    kept: list[Any] = []
    write = publishing.write_adapter_folder

    def write_and_keep(folder: Path, adapted: Any, *others: Any) -> None:
        kept.append(adapted)
        write(folder, adapted, *others)

    from finetune_trainer.model import adapter as module

    add = module.add_adapter

    def add_and_look(model: Any, *others: Any, **options: Any) -> Any:
        before = (
            {id(parameter): digest(parameter) for parameter in model.parameters()} if config["method"]["adapter"]["type"] != "none" else {}
        )
        adapted = add(model, *others, **options)
        seen["after_init"] = sum(digest(p) != before[id(p)] for p in adapted.model.parameters() if id(p) in before)
        seen["frozen"] = [(p, digest(p)) for p in adapted.model.parameters() if not p.requires_grad]
        return adapted

    publishing.write_adapter_folder, module.add_adapter = write_and_keep, add_and_look
    try:
        summary = Run(TrainerConfig.model_validate(config), Interruption(), {}).execute()
    finally:
        publishing.write_adapter_folder, module.add_adapter = write, add
    adapted = kept[0]
    frozen = seen.pop("frozen")
    trained = adapted.model.eval()
    artifact, *others = summary.artifacts
    published = Path(artifact.uri.removeprefix("file://"))
    ids = torch.tensor([load_tokenizer(published)(PROMPT)["input_ids"]])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = compute_logits(trained, ids)
        theirs = compute_logits(load_published(published, config, artifact.name), ids)
        base = compute_logits(load_base(Path(config["model"]["uri"].removeprefix("file://")), config), ids)
    layers = {
        name.rsplit(".", 1)[-1] + "/" + name: [int(module.lora_A["default"].weight.shape[0]), float(module.scaling["default"])]
        for name, module in trained.named_modules()
        if hasattr(module, "scaling") and hasattr(module, "lora_A") and hasattr(module.lora_A["default"], "weight")
    }
    pattern = getattr(getattr(trained, "peft_config", {}).get("default"), "rank_pattern", None)
    return {
        **seen,
        "losses": [summary.metrics.base_eval_loss, summary.metrics.eval_loss],
        "trained": sum(p.numel() for p in trained.parameters() if p.requires_grad),
        "base_changed": sum(digest(p) != then for p, then in frozen),
        "difference": float((ours - theirs).abs().max()),
        "effect": float((ours - base).abs().max()),
        "merged_difference": compare_merged(config, published, others, ids),
        "artifact": [artifact.name, artifact.format],
        "files": sorted(file.name for file in published.iterdir()),
        "layers": layers,
        "ranks": {name: sum(kept) for name, kept in pattern.items() if isinstance(kept, list)} if isinstance(pattern, dict) else None,
    }


def digest(tensor: Any) -> str:
    """Digest of the bytes of ``tensor``."""
    import torch

    return hashlib.sha256(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def load_base(folder: Path, config: dict[str, Any]) -> Any:
    """Load the base as the run did."""
    from finetune_api.spec import QuantizationSpec
    from finetune_trainer.device import Device
    from finetune_trainer.model.loading import load_model

    spec = QuantizationSpec.model_validate(config["method"]["quantization"])
    return load_model(folder, str(folder), spec, Device("cpu", "cpu"), trains_all=config["method"]["adapter"]["type"] == "none").eval()


def load_published(folder: Path, config: dict[str, Any], kind: str) -> Any:
    """Load what was published, by PEFT or transformers alone, onto a fresh base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from finetune_trainer.model.adapter import keep_types

    if kind == "model":
        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").float().eval()
    base = load_base(Path(config["model"]["uri"].removeprefix("file://")), config)
    lifted = config["method"]["adapter"]["type"] != "lora"  # as they were trained: in 32 bits, which is what readers do unless told not to
    loaded = PeftModel.from_pretrained(base, str(folder), autocast_adapter_dtype=lifted).eval()
    keep_types(loaded)
    return loaded


def compare_merged(config: dict[str, Any], adapter: Path, others: list[Any], ids: Any) -> float | None:
    """Return the largest difference of a merged model's logits from those of the adapter on the base as it was; None where none was asked
    for. Both are in bfloat16, and multiplied in 32 bits.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merged = [artifact for artifact in others if artifact.name == "merged"]
    if not merged:
        return None
    base = AutoModelForCausalLM.from_pretrained(config["model"]["uri"].removeprefix("file://"), dtype=torch.bfloat16).float().eval()
    whole = AutoModelForCausalLM.from_pretrained(merged[0].uri.removeprefix("file://"), dtype="auto")
    assert whole.dtype == torch.bfloat16
    expected = compute_logits(PeftModel.from_pretrained(base, str(adapter)).eval(), ids)
    return float((compute_logits(whole.float().eval(), ids) - expected).abs().max())


def compute_logits(model: Any, ids: Any) -> Any:
    import torch

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=False):
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1] :].float()
