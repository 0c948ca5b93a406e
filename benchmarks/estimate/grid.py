"""Holds the memory estimate against measured peaks and writes the table of errors.

python -m benchmarks.estimate.grid                 # prints the table
python -m benchmarks.estimate.grid --write         # and writes docs/reference/estimate.md
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.estimate.fake_training import measure
from finetune_api.estimate import compute_estimate, read_shape
from finetune_api.resource import parse_spec
from finetune_api.spec import FineTuneJobSpec

TARGET = Path(__file__).parents[2] / "docs" / "reference" / "estimate.md"
BUDGET = 0.05


def llama(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int, **others: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131072,
        **others,
    }


QWEN = llama(896, 4864, 24, 14, 2, 151_936, model_type="qwen2", tie_word_embeddings=True)
MODELS: dict[str, dict[str, Any]] = {
    "0.5B (Qwen2.5)": QWEN,
    "1.2B (Llama 3.2)": llama(2048, 8192, 16, 32, 8, 128_256, tie_word_embeddings=True),
    "7B (Mistral)": llama(4096, 14_336, 32, 32, 8, 32_768, model_type="mistral", sliding_window=None),
    "8B (Llama 3.1)": llama(4096, 14_336, 32, 32, 8, 128_256),
    "8B (Qwen3)": llama(4096, 12_288, 36, 32, 8, 151_936, model_type="qwen3", head_dim=128),
    "33B (Llama 1)": llama(6656, 17_920, 60, 52, 52, 32_000),
    "65B (Llama 1)": llama(8192, 22_016, 80, 64, 64, 32_000),
}
"""Shapes by their published ``config.json``."""


def build_spec(length: int, batch: int, rank: int, **changes: Any) -> FineTuneJobSpec:
    training = {"maxLength": length, "perDeviceBatchSize": batch, **changes.pop("training", {})}
    method = {"adapter": {"r": rank, **changes.pop("adapter", {})}, "quantization": changes.pop("quantization", {})}
    sources = {"model": {"uri": "hf://a/b"}, "dataset": {"uri": "hf://a/b"}, "output": {"uri": "s3://a/b"}}
    return parse_spec({**sources, "training": training, "method": method})


def cells() -> Iterator[tuple[str, str, FineTuneJobSpec]]:
    """Yield name of the model, what is special, and specification."""
    for name in MODELS:
        for length, batch in ((512, 1), (2048, 4), (8192, 1)):
            yield name, "", build_spec(length, batch, 16)
    small = ("0.5B (Qwen2.5)", "1.2B (Llama 3.2)")
    special: list[tuple[str, dict[str, Any]]] = [
        ("r 64", {"adapter": {"r": 64}}),
        ("no dropout", {"adapter": {"dropout": 0}}),
        ("attention only", {"adapter": {"targetModules": "q_proj,k_proj,v_proj,o_proj"}}),
        ("no checkpointing", {"training": {"gradientCheckpointing": False}}),
        ("no checkpointing, no dropout", {"training": {"gradientCheckpointing": False}, "adapter": {"dropout": 0}}),
        ("one constant a block", {"quantization": {"doubleQuant": False}}),
        ("not packed", {"training": {"packing": False}}),
        ("16 bits", {"quantization": {"type": "none"}}),
        ("16 bits, no checkpointing", {"quantization": {"type": "none"}, "training": {"gradientCheckpointing": False}}),
        ("AdamW in 32 bits", {"training": {"optimizer": "paged_adamw_32bit"}}),
    ]
    for (what, changes), name, (length, batch) in itertools.product(special, small, ((1024, 4),)):
        copied = {key: dict(value) for key, value in changes.items()}
        rank = copied.get("adapter", {}).pop("r", 16)
        yield name, what, build_spec(length, batch, rank, **copied)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/reference/estimate.md")
    parser.add_argument("--model", help="only models whose name holds this")
    options = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    errors: list[float] = []
    for name, what, spec in cells():
        if options.model and options.model not in name:
            continue
        began = time.monotonic()
        measured = measure(MODELS[name], spec)
        estimate = compute_estimate(read_shape(MODELS[name]), spec)
        error = estimate.allocated_bytes / measured.peak - 1
        errors.append(error)
        training = spec.training
        rows.append(
            (
                name,
                what or "defaults",
                str(training.max_length),
                str(training.per_device_batch_size),
                f"{estimate.allocated_bytes / 2**30:.2f}",
                f"{measured.peak / 2**30:.2f}",
                f"{error:+.1%}",
            )
        )
        mark = "" if abs(error) <= BUDGET else "  <-- beyond the budget"
        sys.stdout.write(f"{' | '.join(rows[-1])}  ({time.monotonic() - began:.1f} s){mark}\n")
        sys.stdout.flush()
    worst, middle = max(errors, key=abs), statistics.median(map(abs, errors))
    beyond = sum(abs(error) > BUDGET for error in errors)
    summary = f"{len(errors)} runs: largest error {worst:+.1%}, median {middle:.1%}; {beyond} beyond {BUDGET:.0%}."
    sys.stdout.write(f"{summary}\n")
    if options.write and not options.model:
        TARGET.write_text(render(rows, summary))
    return 1 if beyond else 0


def render(rows: list[tuple[str, ...]], summary: str) -> str:
    titles = ("model's shape", "settings", "maxLength", "batch", "estimate, GiB", "measured, GiB", "error")
    lines = [titles, tuple("---" for _ in titles), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{_HEAD}\n{summary}\n\n{_TEXT}\n{table}\n"


_HEAD = """\
<!-- Generated by `python -m benchmarks.estimate.grid --write`. Do not edit. -->
# The memory estimate, held against a measurement
"""
_TEXT = """\
Estimated is what `finetune estimate` says that PyTorch's allocator gives out at the peak; CUDA context and the allocator's slack,
which it adds to that as assumptions, are left out. Measured is the peak of the storages alive during two micro-batches of the real
libraries' step, on tensors without contents (`benchmarks/estimate/fake_training.py` says what that sees and what not). No GPU was
used for this table: memory that CUDA kernels allocate inside themselves is not in it.

Defaults are QLoRA's: NF4 with double quantisation, r 16 on all linear layers, dropout 0.05, gradient checkpointing, packing, 8-bit
AdamW. Packed rows are laid out as one row of batch x maxLength tokens.
"""


if __name__ == "__main__":
    sys.exit(main())
