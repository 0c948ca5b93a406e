"""What every contender trains: one model, one dataset, one set of settings."""

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.tiny_model import CORPUS, TEMPLATE_WITH_MARKERS, build_tokenizer


@dataclass(frozen=True, slots=True)
class Workload:
    """QLoRA of a Llama with random weights. The tokenizer and the rows are made up."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int | None
    """None: as many as the tokenizer has."""
    steps: int
    batch: int
    accumulation: int
    max_length: int
    gpu: bool = False
    quantization: str = "nf4"
    compile: bool = False
    """Of ours alone."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


_CPU: Final = (256, 1024, 4, 8, 4, None, 13, 4, 2, 128)
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("cpu", *_CPU),
        Workload("cpu-none", *_CPU, quantization="none"),
        Workload("cpu-compiled", *_CPU, compile=True),
        Workload("cpu-none-compiled", *_CPU, quantization="none", compile=True),
        Workload("8b", 4096, 14336, 32, 32, 8, 128_256, steps=40, batch=1, accumulation=4, max_length=2048, gpu=True),
        Workload("33b", 6656, 17920, 60, 52, 52, 32_000, steps=20, batch=1, accumulation=4, max_length=512, gpu=True),
        Workload("65b", 8192, 22016, 80, 64, 64, 32_000, steps=10, batch=1, accumulation=4, max_length=512, gpu=True),
    )
}


def write_workspace(workload: Workload, folder: Path) -> None:
    """Write the model and the rows into ``folder``. Loads torch."""
    import torch  # noqa: PLC0415  seconds to import
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    tokenizer = build_tokenizer(TEMPLATE_WITH_MARKERS)
    torch.manual_seed(7)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=workload.vocabulary or len(tokenizer),
            hidden_size=workload.hidden,
            intermediate_size=workload.intermediate,
            num_hidden_layers=workload.layers,
            num_attention_heads=workload.heads,
            num_key_value_heads=workload.kv_heads,
            max_position_embeddings=8192,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder / "model", max_shard_size="2GB")
    tokenizer.save_pretrained(folder / "model")
    generator = random.Random(7)  # noqa: S311  made-up rows, no secret
    words = sorted({word for line in CORPUS for word in line.split()})
    rows = workload.steps * workload.batch * workload.accumulation * max(1, workload.max_length // 64) + 64
    with (folder / "train.jsonl").open("w") as file:
        for _ in range(rows):
            prompt, completion = (" ".join(generator.choices(words, k=generator.randint(8, 20))) for _ in range(2))
            file.write(json.dumps({"prompt": prompt + "\n", "completion": completion}) + "\n")
