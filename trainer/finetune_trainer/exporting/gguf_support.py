"""Which models can be written as GGUF, decided from small files before anything is trained."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_trainer.errors import ConfigInvalid

_ARCHITECTURES: Final = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}
"""Name of the architecture in GGUF, by transformers' own."""
_WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PRETOKENIZERS: Final = {rf"{_WORDS}\p{{N}}{{1,3}}{_REST}": "llama-bpe", rf"{_WORDS}\p{{N}}{_REST}": "qwen2"}
"""Names that GGUF has for ways to cut text into words, by the expression in ``tokenizer.json``."""


@dataclass(frozen=True, slots=True)
class GgufKind:
    """How a model is named in GGUF."""

    architecture: str
    pretokenizer: str


def check_gguf(folder: Path, uri: str) -> GgufKind:
    """Return how the model in ``folder`` is written as GGUF.

    :raises ConfigInvalid: it can't be, or only wrongly; says why.
    """

    def refuse(why: str) -> ConfigInvalid:
        return ConfigInvalid(f"output.gguf: {uri} {why}; remove output.gguf, and convert the merged model by llama.cpp's own tools")

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = (config.get("architectures") or ["(none)"])[0]
    architecture = _ARCHITECTURES.get(name)
    if architecture is None:
        raise refuse(f"has the architecture {name}, which is not written as GGUF here (only {', '.join(_ARCHITECTURES)})")
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise refuse(f"stretches its positions by {kind!r}, which is not written as GGUF here")
    if config.get("mlp_bias"):
        raise refuse("has biases in its MLP, which GGUF's architecture doesn't have")
    pretokenizer = _find_pretokenizer(folder)
    if pretokenizer is None:
        raise refuse("has a tokenizer that is not written as GGUF here (byte-level BPE as in GPT-2, Llama 3 and Qwen2 is)")
    return GgufKind(architecture, pretokenizer)


def _find_pretokenizer(folder: Path) -> str | None:
    try:
        tokenizer: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if tokenizer.get("model", {}).get("type") != "BPE" or tokenizer["model"].get("byte_fallback"):
        return None
    cutter = tokenizer.get("pre_tokenizer") or {}
    parts = cutter.get("pretokenizers", [cutter])
    if [part.get("type") for part in parts] == ["ByteLevel"]:
        return "gpt-2" if parts[0].get("use_regex", True) and not parts[0].get("add_prefix_space") else None
    if [part.get("type") for part in parts] == ["Split", "ByteLevel"]:
        return _PRETOKENIZERS.get((parts[0].get("pattern") or {}).get("Regex", ""))
    return None
