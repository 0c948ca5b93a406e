"""Prove every family and write its page: `python -m benchmarks.families [--family NAME]… [--page FILE]`.

Exits with 1 where a way was neither refused with a reason nor did what it promises.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.families.catalog import DEFAULT, EXPERTS, FAMILIES, MIXTURES, WAYS
from benchmarks.families.proof import Proof, list_pairs, prepare_and_prove, read_proofs

PAGE = Path("docs/reference/families.md")
_LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes")


def main() -> None:
    """Prove what is asked for."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--family", action="append", choices=list(FAMILIES), help="only this one; the page is then not written")
    arguments.add_argument("--page", type=Path, default=PAGE)
    options = arguments.parse_args()
    begun = time.monotonic()
    pairs = [pair for pair in list_pairs() if not options.family or pair[0] in options.family]
    with tempfile.TemporaryDirectory() as folder:
        proofs = dict(zip(pairs, _run(pairs, Path(folder)), strict=True))
    broken = [pair for pair in pairs if not proofs[pair].holds]
    for pair in broken:
        sys.stderr.write(f"{pair}: {proofs[pair]}\n")
    if not options.family:
        options.page.write_text(build_page(proofs, time.monotonic() - begun), encoding="utf-8")
    sys.exit(1 if broken else 0)


def _run(pairs: list[tuple[str, str]], folder: Path) -> list[Proof]:
    result = folder / "proofs.json"
    process = multiprocessing.get_context("spawn").Process(target=prepare_and_prove, args=(pairs, folder, result))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"the process that trains ended with {process.exitcode}")
    return read_proofs(result)


def build_page(proofs: Mapping[tuple[str, str], Proof], seconds: float) -> str:
    """Return the page: what the default finds in each family, and every way on every family."""
    reasons: dict[str, int] = {}
    others = [way for way in WAYS if way not in (DEFAULT, EXPERTS)]
    whole = sum(proof.holds and proof.refused is None for proof in proofs.values())
    refused = sum(proof.refused is not None for proof in proofs.values())
    lines = [
        "# Model families",
        "",
        f"Tiny random models of {len(FAMILIES)} kinds, each trained by the trainer's whole run on the CPU in {len(WAYS)} ways: {whole} "
        f"trained as promised, {refused} refused with a reason, {len(proofs) - whole - refused} failed. `trust_remote_code` is off.",
        "",
        "Trained as promised means: the held-out loss fell; no weight of the frozen base changed, to the last bit; what was published, "
        "loaded by PEFT and transformers alone, gives the same logits: to the last bit for LoRA on NF4, else within 5% of the adapter's "
        "own effect, since readers round; and where the way can be merged, the merged model in bfloat16 gives the adapter's logits within "
        "5% of its effect. In mixtures of experts, where a rounding can send a token to another expert, it is 10% throughout. All this "
        "shows that the code fits the architecture, not how well a large model of the family learns.",
        "",
        "Bases that GPTQ, AWQ or compressed-tensors has quantised already are no part of this page: what is tested of them is in "
        "[What is supported](support.md#bases-that-are-quantised-already).",
        "",
        "## The default: LoRA of rank 16 on all linear layers, NF4",
        "",
        "| family | class | embeddings | adapted layers | trained | packing | held-out loss |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for family in FAMILIES:
        proof = proofs[family, DEFAULT]
        lines.append(
            f"| {family} | {proof.architecture} | {'tied' if proof.tied else 'own head'} | {', '.join(proof.targets)} | "
            f"{proof.trained:,} | {'yes' if proof.packed else 'refused'} | {_show(proof, reasons)} |"
        )
    lines += [
        "",
        "- **Tied embeddings** are left as they are, and tied: no adapter goes on embeddings or head.",
        "- **Fused projections** (`query_key_value`, `qkv_proj`, `gate_up_proj`, `c_attn`) are adapted as the one layer that they are. "
        "GPT-2's layers are `Conv1D`, which hold their weights transposed; they are quantised and adapted all the same.",
        "- **Falcon's** own class of linear layers would not be quantised; the trainer builds torch's instead, which computes the same.",
        "- **Packing** is refused where packed examples would see each other, which is measured on the loaded model before the first step. "
        "Set `training.packing: false` for those.",
        "- **Experts** that are fused into one weight are no linear layers; `targetParameters: experts` with `dropout: 0` adapts them "
        "too. Where PEFT takes the names of other layers for those of experts (`gate_proj`, `up_proj`, `down_proj` of "
        "GLM-4.5's shared experts and dense layers), `all-linear` leaves them out, and naming them is refused. The loss that balances "
        "experts is off while the router is frozen.",
        "",
        "## Experts too",
        "",
        "| family | trained | held-out loss |",
        "| --- | --- | --- |",
        *(f"| {family} | {proofs[family, EXPERTS].trained:,} | {_show(proofs[family, EXPERTS], reasons)} |" for family in MIXTURES),
        "",
        "## Other ways",
        "",
        f"| family | {' | '.join(others)} |",
        "| --- |" + " --- |" * len(others),
        *(f"| {family} | " + " | ".join(_show(proofs[family, way], reasons) for way in others) + " |" for family in FAMILIES),
        "",
    ]
    if reasons:
        lines += ["## Reasons", "", *(f"{number}. {reason}" for reason, number in reasons.items()), ""]
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    lines += [f"Written by `make families` in {seconds:.0f} s, with {libraries}.", ""]
    return "\n".join(lines)


def _show(proof: Proof, reasons: dict[str, int]) -> str:
    if proof.refused is not None:
        return f"({reasons.setdefault(proof.refused, len(reasons) + 1)})"
    if proof.losses is None:
        return f"**failed**: {proof.failed}".replace("|", "\\|")
    text = f"{proof.losses[0]:.3f} → {proof.losses[1]:.3f}"
    return text if proof.holds else f"**{text}: {'; '.join(proof.faults)}**"


if __name__ == "__main__":
    main()
