"""Weights packed as GPTQ and AWQ pack them, and tiny models of such. Functions here run where torch is loaded: tests alone load none."""

import json
import shutil
from pathlib import Path
from typing import Any

GROUP = 32
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": True, "sym": True}
"""What a model's configuration says of it."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack_words(numbers: Any, bits: int, order: tuple[int, ...] | None = None) -> Any:
    """Pack numbers (rows x numbers) into 32-bit words, the first in the lowest bits."""
    import torch

    count = 32 // bits
    parts = numbers.long().reshape(numbers.shape[0], -1, count)
    words = torch.zeros(parts.shape[:2], dtype=torch.int64)
    for place in range(count):
        words |= parts[..., order[place] if order else place] << (bits * place)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def pack_gptq(levels: Any, zeros: Any, scale: Any, order: Any, bits: int = 4, *, above: bool = True) -> dict[str, Any]:
    """Pack levels (outputs x inputs), zeros and scales (outputs x groups) as GPTQ does; ``above``: by its first version."""
    import torch

    return {
        "qweight": pack_words(levels, bits).T.contiguous(),
        "qzeros": pack_words((zeros - int(above)).T, bits),
        "scales": scale.T.contiguous(),
        "g_idx": order.to(torch.int32),
    }


def pack_awq(levels: Any, zeros: Any, scale: Any) -> dict[str, Any]:
    """Pack levels (outputs x inputs), zeros and scales (outputs x groups) as AutoAWQ's `gemm` does."""
    return {
        "qweight": pack_words(levels.T, 4, AWQ_ORDER),
        "qzeros": pack_words(zeros.T, 4, AWQ_ORDER),
        "scales": scale.T.contiguous(),
    }


def round_plainly(weight: Any, *, symmetric: bool) -> tuple[Any, Any, Any]:
    """Round a weight to levels of 4 bits, with zeros and scales (outputs x groups)."""
    import torch

    parts = weight.float().reshape(weight.shape[0], -1, GROUP)
    if symmetric:
        scale = (parts.abs().amax(-1) / 7.5).half()
        zeros = torch.full(scale.shape, 8)
    else:
        low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
        scale = ((high - low) / 15).half()
        zeros = (-low / scale.float()).round().clamp(1, 15).long()
    levels = ((parts / scale.float()[..., None]).round() + zeros[..., None]).clamp(0, 15).long()
    return levels.flatten(1), zeros, scale


def make_packed_bases(folder: Path) -> None:
    """Write ``folder``'s model as GPTQ (its inputs grouped in another order) and AWQ would, and each in 32 bits as it is then."""
    import torch
    from safetensors.torch import load_file, save_file

    dense = load_file(folder / "model" / "model.safetensors")
    settings = json.loads((folder / "model" / "config.json").read_text())
    described = {
        "gptq": GPTQ,
        "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
    }
    for method, found in described.items():
        packed: dict[str, Any] = {}
        restored: dict[str, Any] = {}
        for name, tensor in dense.items():
            if not name.endswith("_proj.weight"):
                packed[name] = restored[name] = tensor.clone()
                continue
            order = torch.arange(tensor.shape[1]) // GROUP
            if method == "gptq":
                order = order.flip(0)
            place = torch.argsort(order, stable=True)
            levels, zeros, scale = round_plainly(tensor[:, place], symmetric=method == "gptq")
            levels = levels[:, torch.argsort(place)]
            stem = name.removesuffix(".weight")
            tensors = pack_gptq(levels, zeros, scale, order) if method == "gptq" else pack_awq(levels, zeros, scale)
            packed |= {f"{stem}.{end}": each for end, each in tensors.items()}
            restored[name] = (levels - zeros[:, order]).float() * scale.float()[:, order]
        for kind, tensors, extra in ((method, packed, {"quantization_config": found}), (f"{method}-plain", restored, {})):
            shutil.copytree(folder / "model", folder / kind)
            save_file(tensors, folder / kind / "model.safetensors", metadata={"format": "pt"})
            (folder / kind / "config.json").write_text(json.dumps({**settings, **extra}))


def make_packed_experts(folder: Path) -> None:
    """Write a mixture of experts beside ``folder``'s model, every projection of every expert as GPTQ packs it: `experts`."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import MixtralConfig, MixtralForCausalLM

    shutil.copytree(folder / "model", folder / "experts")  # for its tokenizer
    vocabulary = json.loads((folder / "model" / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    MixtralForCausalLM(MixtralConfig(vocab_size=vocabulary, num_local_experts=2, **sizes)).save_pretrained(folder / "experts")
    file = folder / "experts" / "model.safetensors"
    packed: dict[str, Any] = {}
    for name, tensor in load_file(file).items():
        if ".experts." not in name:
            packed[name] = tensor
            continue
        order = torch.arange(tensor.shape[1]) // GROUP
        tensors = pack_gptq(*round_plainly(tensor, symmetric=True), order)
        packed |= {f"{name.removesuffix('.weight')}.{end}": each for end, each in tensors.items()}
    save_file(packed, file, metadata={"format": "pt"})
    settings = json.loads((folder / "experts" / "config.json").read_text())
    (folder / "experts" / "config.json").write_text(json.dumps({**settings, "quantization_config": GPTQ}))
