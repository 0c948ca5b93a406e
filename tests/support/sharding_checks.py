"""What a divided model's run published, against what an undivided one did.

Functions here run in a process of their own: the tests load no torch.
"""

import json
from pathlib import Path
from typing import Any

PROMPT = "What does the function do?\n"


def compare_published(base: Path, ours: Path, theirs: Path, result: Path) -> None:
    """Load both artifacts as anyone would; write the largest difference of their logits, and how far the base's are from them."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    logits = [_compute(folder, base, ids) for folder in (ours, theirs, base)]
    seen = {"difference": float((logits[0] - logits[1]).abs().max()), "effect": float((logits[0] - logits[2]).abs().max())}
    result.write_text(json.dumps(seen))


def _compute(folder: Path, base: Path, ids: Any) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = (folder / "adapter_config.json").is_file()
    model: Any = AutoModelForCausalLM.from_pretrained(base if adapter else folder, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, folder)
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits
