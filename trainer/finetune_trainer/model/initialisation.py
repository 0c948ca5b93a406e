"""First values of a LoRA adapter that come from the base weights or from the data."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from peft import initialize_lora_eva_weights
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from finetune_trainer.errors import ConfigInvalid

logger = logging.getLogger(__name__)

EVA_ROWS: Final = 256
"""Most examples whose activations EVA looks at; it stops sooner where its directions no longer change."""
_EVA_BATCH: Final = 4


def initialise_loftq(model: Any, folder: Path) -> None:  # noqa: ANN401
    """Set the adapter of ``model``, whose base is in 4 bits, to what quantisation has taken from the weights in ``folder``.

    One step of LoftQ (arXiv 2310.08659): the singular vectors of the difference between each weight as it was and as it is now. The base
    stays as it is. The adapter's own scale is taken into account.

    :raises ConfigInvalid: the files do not hold the weights by the model's own names.
    """
    from bitsandbytes.functional import dequantize_4bit  # noqa: PLC0415  loaded with the model
    from bitsandbytes.nn.modules import Linear4bit  # noqa: PLC0415  loaded with the model

    files = _map_weights(folder)
    prefix = "base_model.model."
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        layer: Any = module.get_base_layer()
        if not isinstance(layer, Linear4bit):
            continue
        held: Any = layer.weight
        path = f"{name.removeprefix(prefix)}.weight"
        short = path.removeprefix(f"{model.get_base_model().base_model_prefix}.")
        found = path if path in files else short
        if found not in files:
            raise ConfigInvalid(f"method.adapter.init loftq: the model's files have no weight named {path}; set init to default")
        with safe_open(files[found], framework="pt", device="cpu") as tensors:
            weight = tensors.get_tensor(found).to(held.device, torch.float32)
        lost = weight - dequantize_4bit(held.data, held.quant_state).to(torch.float32)
        left, values, right = torch.linalg.svd(lost, full_matrices=False)
        rank = min(module.r["default"], len(values))
        root = values[:rank].sqrt()
        down: Any = module.lora_A["default"].weight
        up: Any = module.lora_B["default"].weight
        with torch.no_grad():
            down[:rank].copy_(root[:, None] * right[:rank])
            up[:, :rank].copy_(left[:, :rank] * root / module.scaling["default"])


def initialise_eva(model: Any, rows: Iterable[Mapping[str, list[int]]], device: torch.device) -> None:  # noqa: ANN401
    """Set the adapter of ``model`` to the main directions of what its layers are given by ``rows`` of token numbers."""
    taken = [row for row, _ in zip(rows, range(EVA_ROWS), strict=False)]
    loader = [_pad(taken[begin : begin + _EVA_BATCH], device) for begin in range(0, len(taken), _EVA_BATCH)]
    logger.info("EVA looks at the activations of %d examples", len(taken))
    cache = model.config.use_cache
    model.eval()
    try:
        initialize_lora_eva_weights(model, loader, show_progress_bar=False)
    finally:
        model.train()
        model.config.use_cache = cache


def _pad(rows: list[Mapping[str, list[int]]], device: torch.device) -> dict[str, torch.Tensor]:
    length = max(len(row["input_ids"]) for row in rows)

    def fill(name: str, filler: int) -> torch.Tensor:
        return torch.tensor([[*row[name], *[filler] * (length - len(row[name]))] for row in rows], device=device)

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows], device=device)
    labels = fill("labels", -100) if "labels" in rows[0] else torch.where(mask == 1, fill("input_ids", 0), -100)
    return {"input_ids": fill("input_ids", 0), "attention_mask": mask, "labels": labels}


def _map_weights(folder: Path) -> dict[str, Path]:
    """Return the file that holds each weight of the model in ``folder``."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return {name: folder / file for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()}
    files: dict[str, Path] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt", device="cpu") as tensors:
            files |= dict.fromkeys(tensors.keys(), file)
    return files


def subtract_initial(tensors: Mapping[str, torch.Tensor], initial: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the LoRA tensors, of twice the rank, of the difference between two values of one adapter.

    ``B A - B0 A0`` is the product of the two side by side. PiSSA and OLoRA take ``B0 A0`` out of the base; the difference is what goes on
    the base as it was.
    """
    difference: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        first = initial[name].to(tensor)
        difference[name] = torch.cat([tensor, first], dim=0) if ".lora_A." in name else torch.cat([tensor, -first], dim=1)
    return difference
