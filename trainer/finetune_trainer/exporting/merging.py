"""Merging the adapter into the base model as it was before quantisation, and proving that the result answers as the adapter does."""

import gc
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_trainer.errors import ConfigInvalid

logger = logging.getLogger(__name__)

KL_FLOOR: Final = 0.002
"""Divergence of the merged model from the adapter, in nats a token, that is always let through: bfloat16 rounds each weight."""
KL_SHARE: Final = 0.05
"""Beyond the floor, the share of the adapter's own effect (its divergence from the base) that merging may cost."""
_PROBE_TOKENS: Final = 256
_SHARD: Final = "5GB"


@dataclass(frozen=True, slots=True)
class Parity:
    """How close a merged model is to the base with its adapter, over the tokens of some texts."""

    divergence: float
    """Mean KL divergence of the merged model from the adapter, in nats a token."""
    effect: float
    """Mean KL divergence of the base from the adapter, in nats a token: what the adapter changes."""
    agreement: float
    """Share of the tokens at which both have the same likeliest next token."""

    @property
    def allowed(self) -> float:
        """Largest divergence that passes."""
        return KL_FLOOR + KL_SHARE * self.effect

    @property
    def holds(self) -> bool:
        """Whether the merged model may be published."""
        return self.divergence <= self.allowed


def merge_adapter(base: Path, adapter: Path, target: Path, texts: Sequence[str]) -> Parity:
    """Write the model in ``base`` with ``adapter`` merged into it to ``target``, in bfloat16, with the adapter's tokenizer.

    Both sides are computed in bfloat16 on the same texts; the merged side is loaded from the files that were written. Holds one copy of
    the base model in memory at a time.

    :raises ConfigInvalid: the adapter can't be merged, or the merged model answers differently; the adapter itself is not touched.
    """
    shutil.rmtree(target, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(adapter, trust_remote_code=False, local_files_only=True)
    device = choose_device(base)
    model = load_folder(base, device)
    probes = [ids for text in texts if (ids := tokenizer(text)["input_ids"][:_PROBE_TOKENS])]
    plain = _predict(model, probes, device)
    adapted = PeftModel.from_pretrained(model, str(adapter), local_files_only=True).eval()
    expected = _predict(adapted, probes, device)
    try:
        merged = adapted.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise ConfigInvalid(f"output.merged: this adapter can't be merged: {error}") from error
    merged.save_pretrained(target, max_shard_size=_SHARD)
    tokenizer.save_pretrained(target)
    del model, adapted, merged
    release()
    reloaded = load_folder(target, device)
    parity = compare(expected, _predict(reloaded, probes, device), plain)
    del reloaded
    release()
    logger.info(
        "merged model: %.2g nats a token from the adapter (allowed %.2g; the adapter's own effect is %.2g), %.1f%% same next tokens",
        parity.divergence,
        parity.allowed,
        parity.effect,
        100 * parity.agreement,
    )
    if not parity.holds:
        raise ConfigInvalid(
            f"output.merged: the merged model answers differently from the adapter ({parity.divergence:.3g} nats a token, at most "
            f"{parity.allowed:.3g} are let through), so it is not published; the adapter is. Load the adapter beside its base instead"
        )
    return parity


def compare(adapter: Sequence[torch.Tensor], merged: Sequence[torch.Tensor], base: Sequence[torch.Tensor]) -> Parity:
    """Compare log-probabilities (tokens x vocabulary, one tensor a text) of the three."""
    tokens = sum(len(part) for part in adapter)

    def divergence(others: Sequence[torch.Tensor]) -> float:
        return sum(float((one.exp() * (one - other)).sum()) for one, other in zip(adapter, others, strict=True)) / tokens

    same = sum(int((one.argmax(-1) == other.argmax(-1)).sum()) for one, other in zip(adapter, merged, strict=True))
    return Parity(max(0.0, divergence(merged)), max(0.0, divergence(base)), same / tokens)


def load_folder(folder: Path, device: torch.device) -> Any:  # noqa: ANN401
    """Load the causal language model in ``folder`` in bfloat16, ready to be asked."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    return model.to(device).eval()


def choose_device(folder: Path) -> torch.device:
    """Return the GPU where the model in ``folder`` fits into what is free there, else the CPU."""
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 1.3 * size + 2**30:
        return torch.device("cuda", 0)
    return torch.device("cpu")


def _predict(model: Any, probes: Sequence[Sequence[int]], device: torch.device) -> list[torch.Tensor]:  # noqa: ANN401
    with torch.no_grad():
        return [
            torch.log_softmax(model(input_ids=torch.tensor([list(ids)], device=device)).logits[0].float(), dim=-1).cpu() for ids in probes
        ]


def release() -> None:
    """Give back the memory of models that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
