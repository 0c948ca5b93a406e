"""Holds the memory estimate against measured peaks and writes the table of errors.

python -m benchmarks.estimate.grid                 # prints the table
python -m benchmarks.estimate.grid --write         # and writes docs/reference/estimate.md
python -m benchmarks.estimate.grid --anew --write  # measures all of it anew, half an hour on one core: after an upgrade of the libraries
"""

import argparse
import copy
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api.estimate import compute_estimate, read_shape
from finetune_api.resource import parse_spec
from finetune_api.spec import FineTuneJobSpec

TARGET = Path(__file__).parents[2] / "docs" / "reference" / "estimate.md"
KEPT = Path(__file__).with_name("measured.json")
"""Peaks measured before, in bytes: they depend on the libraries and the settings, not on the estimate."""
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
    """Return a specification: defaults, ``changes`` of training, adapter, quantization and resources, and of the method what is left."""
    resources = changes.pop("resources", {})
    training = {"maxLength": length, "perDeviceBatchSize": batch, **changes.pop("training", {})}
    adapter = {"r": rank, **changes.pop("adapter", {})}
    method = {"adapter": adapter, "quantization": changes.pop("quantization", {}), **changes}
    sources = {"model": {"uri": "hf://a/b"}, "dataset": {"uri": "hf://a/b"}, "output": {"uri": "s3://a/b"}}
    return parse_spec({**sources, "training": training, "method": method, "resources": resources})


PLAIN: dict[str, Any] = {"packing": False}
UNQUANTISED: dict[str, Any] = {"type": "none"}
NO_CHECKPOINTING: dict[str, Any] = {"gradientCheckpointing": False}
REWARDS = [{"name": "short", "type": "length", "maxTokens": 64}]
TEACHER = {"teacher": {"uri": "hf://a/teacher"}}
SPECIAL: list[tuple[str, dict[str, Any]]] = [
    ("r 64", {"adapter": {"r": 64}}),
    ("no dropout", {"adapter": {"dropout": 0}}),
    ("attention only", {"adapter": {"targetModules": "q_proj,k_proj,v_proj,o_proj"}}),
    ("no checkpointing", {"training": NO_CHECKPOINTING}),
    ("no checkpointing, no dropout", {"training": NO_CHECKPOINTING, "adapter": {"dropout": 0}}),
    ("one constant a block", {"quantization": {"doubleQuant": False}}),
    ("FP4", {"quantization": {"type": "fp4"}}),
    ("not packed", {"training": PLAIN}),
    ("16 bits", {"quantization": UNQUANTISED}),
    ("16 bits, no checkpointing", {"quantization": UNQUANTISED, "training": NO_CHECKPOINTING}),
    ("AdamW in 32 bits", {"training": {"optimizer": "paged_adamw_32bit"}}),
    ("AdaLoRA", {"adapter": {"type": "adalora"}}),
    ("AdaLoRA, no checkpointing", {"adapter": {"type": "adalora"}, "training": NO_CHECKPOINTING}),
    ("AdaLoRA, 16 bits", {"adapter": {"type": "adalora"}, "quantization": UNQUANTISED}),
    ("(IA)3", {"adapter": {"type": "ia3"}}),
    ("(IA)3, no checkpointing", {"adapter": {"type": "ia3"}, "training": NO_CHECKPOINTING}),
    ("(IA)3, 16 bits", {"adapter": {"type": "ia3"}, "quantization": UNQUANTISED}),
    ("prompt tuning", {"adapter": {"type": "prompt-tuning"}, "training": PLAIN}),
    ("prompt tuning, no checkpointing", {"adapter": {"type": "prompt-tuning"}, "training": {**PLAIN, **NO_CHECKPOINTING}}),
    ("P-tuning", {"adapter": {"type": "p-tuning"}, "training": PLAIN}),
    ("P-tuning by LSTM", {"adapter": {"type": "p-tuning", "encoder": "lstm"}, "training": PLAIN}),
    ("prefix tuning", {"adapter": {"type": "prefix-tuning"}, "training": {**PLAIN, **NO_CHECKPOINTING}}),
    ("full", {"adapter": {"type": "none"}, "quantization": UNQUANTISED}),
    ("full, no checkpointing", {"adapter": {"type": "none"}, "quantization": UNQUANTISED, "training": NO_CHECKPOINTING}),
    ("full, Adafactor", {"adapter": {"type": "none"}, "quantization": UNQUANTISED, "training": {"optimizer": "adafactor"}}),
    ("full, AdamW in 32 bits", {"adapter": {"type": "none"}, "quantization": UNQUANTISED, "training": {"optimizer": "adamw_torch"}}),
    ("DPO", {"objective": "dpo", "training": PLAIN}),
    ("DPO, no checkpointing", {"objective": "dpo", "training": {**PLAIN, **NO_CHECKPOINTING}}),
    ("KTO", {"objective": "kto", "training": PLAIN}),
    ("ORPO", {"objective": "orpo", "training": PLAIN}),
    ("reward", {"objective": "reward", "training": PLAIN}),
    ("reward, no checkpointing", {"objective": "reward", "training": {**PLAIN, **NO_CHECKPOINTING}}),
    ("distillation from the same shape", {"objective": "distill", "distill": TEACHER}),
    ("distillation, no checkpointing", {"objective": "distill", "distill": TEACHER, "training": NO_CHECKPOINTING}),
    ("GRPO", {"objective": "grpo", "grpo": {"rewards": REWARDS}, "training": PLAIN}),
    (
        "GRPO, 64 answers a step",
        {"objective": "grpo", "grpo": {"rewards": REWARDS}, "training": {**PLAIN, "gradientAccumulationSteps": 16}},
    ),
]
"""What is special, and the changes that it takes."""
FULL: dict[str, Any] = {"adapter": {"type": "none"}, "quantization": UNQUANTISED, "training": {"optimizer": "adamw_torch"}}
IN_32_BITS: dict[str, Any] = {**FULL, "quantization": {"type": "none", "computeDtype": "float32"}}
PARTS_OFFLOADED: dict[str, Any] = {"shardOffloading": True}


def train(changes: dict[str, Any], **training: Any) -> dict[str, Any]:
    """Return ``changes`` with some more of training."""
    return {**changes, "training": {**changes["training"], **training}}


GRADIENTS = train(FULL, sharding="gradients")
LINEUP = tuple(name for name in MODELS if name not in ("7B (Mistral)", "8B (Qwen3)"))
TINY, SMALL, LARGE = "0.5B (Qwen2.5)", "1.2B (Llama 3.2)", "8B (Llama 3.1)"
DIVIDED: list[tuple[str, tuple[str, ...], tuple[int, int], int, dict[str, Any]]] = [
    ("", LINEUP, (512, 1), 4, {}),
    ("", (LARGE,), (2048, 4), 2, {}),
    ("", (LARGE,), (2048, 4), 8, {}),
    ("no checkpointing", (SMALL,), (1024, 4), 4, {"training": NO_CHECKPOINTING}),
    ("r 64, one constant a block", (SMALL,), (1024, 4), 4, {"adapter": {"r": 64}, "quantization": {"doubleQuant": False}}),
    ("16 bits", (TINY, SMALL, LARGE), (1024, 4), 8, {"quantization": UNQUANTISED}),
    ("16 bits, no checkpointing", (SMALL,), (1024, 4), 4, {"quantization": UNQUANTISED, "training": NO_CHECKPOINTING}),
    ("AdaLoRA", (SMALL,), (1024, 4), 4, {"adapter": {"type": "adalora"}}),
    ("P-tuning", (SMALL,), (1024, 4), 4, {"adapter": {"type": "p-tuning"}, "training": PLAIN}),
    ("DPO", (SMALL,), (1024, 4), 4, {"objective": "dpo", "training": PLAIN}),
    ("ORPO", (SMALL,), (1024, 4), 4, {"objective": "orpo", "training": PLAIN}),
    ("reward", (SMALL,), (1024, 4), 4, {"objective": "reward", "training": PLAIN}),
    ("distillation from the same shape", (SMALL,), (1024, 4), 4, {"objective": "distill", "distill": TEACHER}),
    ("full, AdamW in 32 bits", (TINY, SMALL, LARGE), (512, 1), 8, FULL),
    ("full, AdamW in 32 bits", (TINY, SMALL, LARGE), (1024, 4), 8, FULL),
    ("full, no checkpointing", (SMALL,), (1024, 4), 4, {**FULL, "training": {"optimizer": "adamw_torch", **NO_CHECKPOINTING}}),
    ("full, in 32 bits", (SMALL,), (1024, 4), 4, IN_32_BITS),
    ("full, weights kept", (TINY, SMALL, LARGE), (512, 1), 8, GRADIENTS),
    ("full, weights kept", (SMALL,), (1024, 4), 4, GRADIENTS),
    ("full, weights kept, no checkpointing", (SMALL,), (1024, 4), 4, train(GRADIENTS, **NO_CHECKPOINTING)),
    ("full, weights kept, in 32 bits", (SMALL,), (1024, 4), 4, train(IN_32_BITS, sharding="gradients")),
    ("parts offloaded", (SMALL,), (1024, 4), 4, {"training": PARTS_OFFLOADED}),
    ("16 bits, parts offloaded", (TINY, SMALL, LARGE), (1024, 4), 8, {"quantization": UNQUANTISED, "training": PARTS_OFFLOADED}),
    ("full, parts offloaded", (TINY, SMALL, LARGE), (512, 1), 8, train(FULL, **PARTS_OFFLOADED)),
    ("full, parts offloaded", (SMALL,), (1024, 4), 4, train(FULL, **PARTS_OFFLOADED)),
    ("full, parts offloaded, in 32 bits", (SMALL,), (1024, 4), 4, train(IN_32_BITS, **PARTS_OFFLOADED)),
    ("full, weights kept, parts offloaded", (SMALL, LARGE), (1024, 4), 4, train(GRADIENTS, **PARTS_OFFLOADED)),
]
"""Runs that divide the model: what is special, shapes, maxLength and batch, GPUs, and the changes that it takes."""
JOINED: list[tuple[str, tuple[str, ...], tuple[int, int], dict[str, Any]]] = [
    ("", (TINY, SMALL), (1024, 4), {}),
    ("r 64", (SMALL,), (1024, 4), {"adapter": {"r": 64}}),
    ("16 bits", (TINY,), (1024, 4), {"quantization": UNQUANTISED}),
    ("DPO", (TINY,), (1024, 4), {"objective": "dpo", "training": PLAIN}),
    ("full, AdamW in 32 bits", (TINY, SMALL), (1024, 4), FULL),
]
"""Runs on two GPUs of which each holds the whole model: what is special, shapes, maxLength and batch, and the changes that it takes."""
OFFLOADED: list[tuple[str, tuple[str, ...], tuple[int, int], dict[str, Any]]] = [
    ("", (TINY, SMALL, LARGE), (2048, 4), {}),
    ("16 bits", (TINY,), (1024, 4), {"quantization": UNQUANTISED}),
    ("not packed", (SMALL,), (1024, 4), {"training": PLAIN}),
    ("DPO", (SMALL,), (1024, 4), {"objective": "dpo", "training": PLAIN}),
    ("reward", (TINY,), (1024, 4), {"objective": "reward", "training": PLAIN}),
    ("distillation from the same shape", (TINY,), (1024, 4), {"objective": "distill", "distill": TEACHER}),
    ("full", (TINY, SMALL), (1024, 4), {"adapter": {"type": "none"}, "quantization": UNQUANTISED}),
    ("over 4 GPUs", (SMALL,), (1024, 4), {"training": {"sharding": "full"}, "resources": {"gpus": 4}}),
]
"""Runs that hold activations in the node's memory, likewise."""
SMALLER, LARGER = TINY, SMALL
ON_BOTH = (
    *("r 64", "no dropout", "attention only", "not packed", "16 bits", "AdaLoRA", "(IA)3", "prompt tuning", "P-tuning", "prefix tuning"),
    *("full", "DPO", "ORPO", "reward", "distillation from the same shape", "GRPO"),
)
"""What is measured on both of the small shapes."""


def cells() -> Iterator[tuple[str, str, FineTuneJobSpec]]:
    """Yield name of the model, what is special, and specification."""
    for name in MODELS:
        for length, batch in ((512, 1), (2048, 4), (8192, 1)):
            yield name, "", build_spec(length, batch, 16)
    for (what, changes), name in itertools.product(SPECIAL, (LARGER, SMALLER)):
        if name == SMALLER and what not in ON_BOTH:
            continue
        copied = copy.deepcopy(changes)
        rank = copied.get("adapter", {}).pop("r", 16)
        yield name, what, build_spec(1024, 4, rank, **copied)
    for what, names, (length, batch), gpus, changes in DIVIDED:
        for name in names:
            copied = copy.deepcopy(changes)
            rank = copied.get("adapter", {}).pop("r", 16)
            copied.setdefault("training", {}).setdefault("sharding", "full")
            yield name, f"{what or 'defaults'}, over {gpus} GPUs", build_spec(length, batch, rank, resources={"gpus": gpus}, **copied)

    for what, names, (length, batch), changes in JOINED:
        for name in names:
            copied = copy.deepcopy(changes)
            rank = copied.get("adapter", {}).pop("r", 16)
            yield name, f"{what or 'defaults'}, on 2 GPUs", build_spec(length, batch, rank, resources={"gpus": 2}, **copied)
    for what, names, (length, batch), changes in OFFLOADED:
        for name in names:
            copied = copy.deepcopy(changes)
            copied.setdefault("training", {})["activationOffloading"] = True
            yield name, f"{what or 'defaults'}, activations offloaded", build_spec(length, batch, 16, **copied)


def build_key(name: str, what: str, spec: FineTuneJobSpec) -> str:
    """Return what a measurement is kept by."""
    return f"{name} | {what or 'defaults'} | {spec.training.max_length} | {spec.training.per_device_batch_size}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/reference/estimate.md")
    parser.add_argument("--model", default="", help="only models whose name holds this")
    parser.add_argument("--what", default="", help="only settings whose name holds this")
    parser.add_argument("--kept", action="store_true", help="only what was measured before: seconds")
    parser.add_argument("--anew", action="store_true", help="measure what was measured before, too")
    options = parser.parse_args()
    kept: dict[str, int] = {} if options.anew or not KEPT.is_file() else json.loads(KEPT.read_text())
    rows: list[tuple[str, ...]] = []
    errors: list[float] = []
    missing = 0
    for name, what, spec in cells():
        if options.model not in name or options.what not in what:
            continue
        began = time.monotonic()
        teacher = MODELS[name] if spec.method.distill is not None else None
        key = build_key(name, what, spec)
        if key not in kept and options.kept:
            missing += 1
            continue
        if key not in kept:
            from benchmarks.estimate.fake_training import measure  # noqa: PLC0415  half a minute, which a table from what is kept needn't wait

            kept[key] = measure(MODELS[name], spec, teacher).peak
            KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        peak = kept[key]
        shape = read_shape(MODELS[name])
        estimate = compute_estimate(shape, spec, shape if teacher is not None else None)
        error = estimate.allocated_bytes / peak - 1
        errors.append(error)
        training = spec.training
        rows.append(
            (
                name,
                what or "defaults",
                str(training.max_length),
                str(training.per_device_batch_size),
                f"{estimate.allocated_bytes / 2**30:.2f}",
                f"{peak / 2**30:.2f}",
                f"{error:+.1%}",
            )
        )
        mark = "" if abs(error) <= BUDGET else "  <-- beyond the budget"
        sys.stdout.write(f"{' | '.join(rows[-1])}  ({time.monotonic() - began:.1f} s){mark}\n")
        sys.stdout.flush()
    worst, middle = max(errors, key=abs), statistics.median(map(abs, errors))
    beyond = sum(abs(error) > BUDGET for error in errors)
    summary = f"{len(errors)} runs: largest error {worst:+.1%}, median {middle:.1%}; {beyond} beyond {BUDGET:.0%}."
    if missing:
        summary += f" {missing} more are in the benchmark and were not measured for this table."
    sys.stdout.write(f"{summary}\n")
    if options.write and not (options.model or options.what):
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

Settings "over N GPUs" divide the model (`training.sharding: full`; with "weights kept", `gradients`): what one of them holds. The
trainer's own code divides it and torch's FSDP2 gathers it, among processes that only it is told of;
`python -m benchmarks.estimate.two_processes` holds that against two real ones over gloo. Where the base is quantised on the GPU before
it is divided, and that is the highest point, it is what is measured; what bitsandbytes takes besides while it quantises a matrix is not
in it, and neither are NCCL's own buffers.

Settings "on 2 GPUs" hold the whole model on each (DDP), with the buckets of gradients that torch's own reducer makes. "Activations
offloaded" (`training.activationOffloading`) are TRL's own hooks at work, between two devices that both have no contents; "parts
offloaded" (`training.shardOffloading`) is FSDP2's own way to the node's memory, likewise.

The loss of ORPO and distillation is held against torch's own operations: kernels by Triton, which ORPO has on a GPU, take less. GRPO
is held against its steps and against reading the prompts of all answers of a step with keys and values of whole answers. Not in the
table are int8, FP8 (a test holds it to the same budget), DoRA, experts and initialisations: the output says so.

Defaults are QLoRA's: NF4 with double quantisation, r 16 on all linear layers, dropout 0.05, gradient checkpointing, packing, 8-bit
AdamW. Packed rows are laid out as one row of batch x maxLength tokens.
"""


if __name__ == "__main__":
    sys.exit(main())
