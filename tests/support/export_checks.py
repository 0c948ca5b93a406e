"""Checks of exported models. Functions here run in a trainer's process: the tests themselves load no torch."""

import json
import os
import signal
from pathlib import Path
from typing import Any


def compare_forms(base: Path, output: Path, result: Path) -> None:
    """Compare next-token log-probabilities of adapter, merged model, GGUF file, 4-bit model and base; write the largest differences to
    ``result``, and of the 4-bit model's linear layers how many are packed.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    [gguf] = [file.name for file in (output / "gguf").glob("*.gguf")]
    text = "What does the function do? Return the sum of two numbers. hello fox"
    tokenizer = AutoTokenizer.from_pretrained(output / "adapter")
    ids = tokenizer(text, return_tensors="pt")["input_ids"]

    def predict(model: Any) -> Any:
        with torch.no_grad():
            return torch.log_softmax(model.eval()(input_ids=ids).logits[0], dim=-1)

    def load(folder: Path, **options: Any) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)

    plain = predict(load(base))
    adapter = predict(PeftModel.from_pretrained(load(base), output / "adapter"))
    merged, read = predict(load(output / "merged")), predict(load(output / "gguf", gguf_file=gguf))
    rounded = AutoModelForCausalLM.from_pretrained(output / "gptq", dtype=torch.float32)
    packed = [name for name, _ in rounded.named_parameters() if name.endswith("weight_packed")]
    linear = [module for module in rounded.model.layers.modules() if isinstance(module, torch.nn.Linear)]
    four_bits = predict(rounded)
    from_gguf = AutoTokenizer.from_pretrained(output / "gguf", gguf_file=gguf)
    result.write_text(
        json.dumps(
            {
                "effect": float((adapter - plain).abs().max()),
                "merged": float((adapter - merged).abs().max()),
                "gguf": float((adapter - read).abs().max()),
                "gptq": float((adapter - four_bits).abs().max()),
                "packed": len(packed),
                "linear": len(linear),
                "same_tokens": from_gguf(text)["input_ids"] == ids[0].tolist(),
            }
        )
    )


def die_before(config: dict[str, Any], moment: str) -> None:
    """Run the trainer, and kill it by SIGKILL as it publishes the form ``moment``: its files are there, its manifest isn't; or as it pushes
    the tag of an image.
    """
    from finetune_trainer.storage import Store
    from finetune_trainer.storage.local import LocalStore
    from finetune_trainer.storage.registry import Registry

    def die(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "push":
        Registry.put_manifest = die  # type: ignore[method-assign]
    else:
        write = Store.write

        def write_or_die(self: Store, content: bytes, path: str) -> None:
            if path == f"{moment}/manifest.json":
                die()
            write(self, content, path)

        LocalStore.write = write_or_die  # type: ignore[method-assign]
    _run(config)


def break_merge(config: dict[str, Any]) -> None:
    """Run the trainer with a merge that leaves the adapter out."""
    from peft import PeftModel

    PeftModel.merge_and_unload = lambda self, **_: self.unload()
    _run(config)


def _run(config: dict[str, Any]) -> None:
    import sys

    from finetune_trainer.main import main

    os.environ.update({"FINETUNE_CONFIG": json.dumps(config), "FINETUNE_LOG_FORMAT": "text"})
    sys.argv = ["finetune-trainer"]
    main()
