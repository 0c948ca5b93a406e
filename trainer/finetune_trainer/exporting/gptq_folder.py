"""A merged model as a folder of 4-bit weights in the format of compressed-tensors, judged as transformers reads it back."""

import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_trainer.data.calibration import CalibrationRows, TokenRow
from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.exporting.gguf_file import read_tensors
from finetune_trainer.exporting.gptq import Rounded, find_layers, quantize_layers
from finetune_trainer.exporting.merging import choose_device, load_folder, release

logger = logging.getLogger(__name__)

MAX_LOSS: Final = 0.2
"""What rounding may cost on held-out rows, in nats a token: a fifth of the perplexity. In the paper, OPT-6.7B loses 0.05."""
_SHARD: Final = "5GB"


@dataclass(frozen=True, slots=True)
class Distance:
    """Perplexities of the held-out rows, over the tokens that are learnt."""

    merged: float
    quantized: float

    @property
    def loss(self) -> float:
        """What rounding costs, in nats a token; below 0 where it happens to help."""
        return math.log(self.quantized / self.merged)

    @property
    def holds(self) -> bool:
        """Whether the 4-bit model may be published."""
        return self.loss <= MAX_LOSS


def check_gptq(config: Any, group: int, uri: str) -> None:  # noqa: ANN401  transformers has no one type for it
    """Refuse a model that is not rounded here, by its shapes alone, before anything is trained.

    :raises ConfigInvalid: says why.
    """
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    layers = find_layers(model, config.get_text_config().num_hidden_layers)
    linear = [module for module in layers.modules() if isinstance(module, nn.Linear)]
    widths = sorted({module.in_features for module in linear if module.in_features % group})
    if not linear:
        why = "has no linear layers that can be rounded"
    elif any(parameter.dim() == 3 and "conv" not in name for name, parameter in layers.named_parameters()):
        why = "holds its experts in one tensor, which is not rounded"
    elif widths:
        why = f"has linear layers of width {widths[0]}, which output.gptq.groupSize {group} does not divide; set a divisor"
    else:
        return
    raise ConfigInvalid(f"output.gptq: {uri} {why}; remove output.gptq, or serve the merged model or the adapter")


def write_gptq(merged: Path, target: Path, rows: CalibrationRows, group: int, check: Callable[[], None] = lambda: None) -> Distance:
    """Write the model in ``merged`` to ``target`` with the linear layers of its layers in 4 bits, and prove that it is close.

    Holds one copy of the merged model in memory at a time, on the GPU where it fits.

    :param check: called between layers; raises where the run is to end.
    :raises ConfigInvalid: it can't be rounded, or rounding costs more than :data:`MAX_LOSS`.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    device = choose_device(merged)
    model = load_folder(merged, device)
    before = _measure_perplexity(model, rows.held_out, device)
    layers = find_layers(model, model.config.get_text_config().num_hidden_layers)
    tensors: dict[str, torch.Tensor] = {}
    try:
        for name, rounded in quantize_layers(model, layers, [row.input_ids for row in rows.train], group, check):
            tensors |= pack_weight(name, rounded)
    except ValueError as error:
        raise ConfigInvalid(f"output.gptq: the merged model can't be rounded: {error}; the adapter is published") from error
    rest = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and f"{name}.weight_packed" not in tensors]
    del model, layers
    release()
    _write_weights(merged, target, tensors)
    _write_config(merged, target, group, rest)
    AutoTokenizer.from_pretrained(merged, trust_remote_code=False, local_files_only=True).save_pretrained(target)
    if (merged / "generation_config.json").is_file():
        shutil.copyfile(merged / "generation_config.json", target / "generation_config.json")
    reloaded = load_folder(target, device)
    distance = Distance(before, _measure_perplexity(reloaded, rows.held_out, device))
    del reloaded
    release()
    logger.info(
        "4-bit model: perplexity %.5g on %d rows, merged %.5g (%.2g nats a token, allowed %.2g)",
        distance.quantized,
        len(rows.held_out),
        distance.merged,
        distance.loss,
        MAX_LOSS,
    )
    if not distance.holds:
        raise ConfigInvalid(
            f"output.gptq: rounding to 4 bits costs {distance.loss:.3g} nats a token on held-out rows (perplexity {distance.quantized:.4g} "
            f"instead of {distance.merged:.4g}; at most {MAX_LOSS} are let through), so it is not published; the adapter is. "
            "Set output.gptq.groupSize lower"
        )
    return distance


def pack_weight(name: str, rounded: Rounded) -> dict[str, torch.Tensor]:
    """Return what the file holds for the linear layer ``name``: eight numbers in 32 bits."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32  # noqa: PLC0415  for runs that use it

    return {
        f"{name}.weight_packed": pack_to_int32(rounded.levels, 4).contiguous(),
        f"{name}.weight_scale": rounded.scale.to(torch.bfloat16).contiguous(),
        f"{name}.weight_shape": torch.tensor(rounded.levels.shape),
    }


def _write_weights(merged: Path, target: Path, packed: dict[str, torch.Tensor]) -> None:
    from huggingface_hub import save_torch_state_dict  # noqa: PLC0415

    tensors = dict(packed)
    missing = {name.removesuffix("_packed") for name in packed if name.endswith("_packed")}
    for name, tensor in read_tensors(merged):
        if name in missing:
            missing.discard(name)
        else:
            tensors[name] = tensor
    if missing:
        raise ConfigInvalid(f"output.gptq: the file of the merged model has no {min(missing)}; remove output.gptq")
    save_torch_state_dict(tensors, target, max_shard_size=_SHARD, metadata={"format": "pt"})


def _write_config(merged: Path, target: Path, group: int, rest: Sequence[str]) -> None:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme  # noqa: PLC0415

    weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=group)
    described = QuantizationConfig(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=weights)},
        format="pack-quantized",
        quantization_status="compressed",
        ignore=list(rest),
    )
    config = json.loads((merged / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = described.model_dump(mode="json")
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _measure_perplexity(model: Any, rows: Sequence[TokenRow], device: torch.device) -> float:  # noqa: ANN401
    loss, tokens = 0.0, 0
    with torch.no_grad():
        for row in rows:
            inputs = torch.tensor([row.input_ids], device=device)
            labels = torch.tensor(row.labels[1:], device=device)
            logits = model(input_ids=inputs, use_cache=False).logits[0, :-1].float()
            loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            tokens += int((labels != -100).sum())
    return math.exp(min(loss / max(tokens, 1), 700.0))
