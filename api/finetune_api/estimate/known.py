"""Shapes of well-known models of the hub, for who may not read a ``config.json``: the operator, which fetches nothing.

A name stands for the weights that its owner published under it. Numbers of parameters are held to the published ones by a test.
"""

import re
from functools import cache
from typing import Any, Final

from finetune_api.estimate.shape import ModelShape, read_shape
from finetune_api.uri import parse_uri

_Row = tuple[int, int, int, int, int, int]
"""Hidden size, intermediate size, layers, heads, key and value heads, vocabulary."""

_LLAMA: Final[dict[str, tuple[_Row, dict[str, Any]]]] = {
    "meta-llama/llama-2-7b": ((4096, 11_008, 32, 32, 32, 32_000), {}),
    "meta-llama/llama-2-13b": ((5120, 13_824, 40, 40, 40, 32_000), {}),
    "meta-llama/llama-2-70b": ((8192, 28_672, 80, 64, 8, 32_000), {}),
    "meta-llama/meta-llama-3-8b": ((4096, 14_336, 32, 32, 8, 128_256), {}),
    "meta-llama/meta-llama-3-70b": ((8192, 28_672, 80, 64, 8, 128_256), {}),
    "meta-llama/llama-3.1-8b": ((4096, 14_336, 32, 32, 8, 128_256), {}),
    "meta-llama/llama-3.1-70b": ((8192, 28_672, 80, 64, 8, 128_256), {}),
    "meta-llama/llama-3.2-1b": ((2048, 8192, 16, 32, 8, 128_256), {"tie_word_embeddings": True}),
    "meta-llama/llama-3.2-3b": ((3072, 8192, 28, 24, 8, 128_256), {"tie_word_embeddings": True, "head_dim": 128}),
    "meta-llama/llama-3.3-70b": ((8192, 28_672, 80, 64, 8, 128_256), {}),
    "tinyllama/tinyllama-1.1b": ((2048, 5632, 22, 32, 4, 32_000), {}),
    "huggingfacetb/smollm2-135m": ((576, 1536, 30, 9, 3, 49_152), {"tie_word_embeddings": True}),
    "huggingfacetb/smollm2-360m": ((960, 2560, 32, 15, 5, 49_152), {"tie_word_embeddings": True}),
    "huggingfacetb/smollm2-1.7b": ((2048, 8192, 24, 32, 32, 49_152), {"tie_word_embeddings": True}),
}
_MISTRAL: Final[dict[str, tuple[_Row, dict[str, Any]]]] = {
    "mistralai/mistral-7b-v0.1": ((4096, 14_336, 32, 32, 8, 32_000), {}),
    "mistralai/mistral-7b-v0.3": ((4096, 14_336, 32, 32, 8, 32_768), {}),
    "mistralai/mistral-nemo-2407": ((5120, 14_336, 40, 32, 8, 131_072), {"head_dim": 128}),
}
_MIXTRAL: Final[dict[str, tuple[_Row, dict[str, Any]]]] = {
    "mistralai/mixtral-8x7b-v0.1": ((4096, 14_336, 32, 32, 8, 32_000), {"num_local_experts": 8, "num_experts_per_tok": 2}),
}
_QWEN2: Final[dict[str, tuple[_Row, dict[str, Any]]]] = {
    "qwen/qwen2.5-0.5b": ((896, 4864, 24, 14, 2, 151_936), {"tie_word_embeddings": True}),
    "qwen/qwen2.5-1.5b": ((1536, 8960, 28, 12, 2, 151_936), {"tie_word_embeddings": True}),
    "qwen/qwen2.5-3b": ((2048, 11_008, 36, 16, 2, 151_936), {"tie_word_embeddings": True}),
    "qwen/qwen2.5-7b": ((3584, 18_944, 28, 28, 4, 152_064), {}),
    "qwen/qwen2.5-14b": ((5120, 13_824, 48, 40, 8, 152_064), {}),
    "qwen/qwen2.5-32b": ((5120, 27_648, 64, 40, 8, 152_064), {}),
    "qwen/qwen2.5-72b": ((8192, 29_568, 80, 64, 8, 152_064), {}),
}
_QWEN3: Final[dict[str, tuple[_Row, dict[str, Any]]]] = {
    "qwen/qwen3-0.6b": ((1024, 3072, 28, 16, 8, 151_936), {"tie_word_embeddings": True, "head_dim": 128}),
    "qwen/qwen3-1.7b": ((2048, 6144, 28, 16, 8, 151_936), {"tie_word_embeddings": True, "head_dim": 128}),
    "qwen/qwen3-4b": ((2560, 9728, 36, 32, 8, 151_936), {"tie_word_embeddings": True, "head_dim": 128}),
    "qwen/qwen3-8b": ((4096, 12_288, 36, 32, 8, 151_936), {"head_dim": 128}),
    "qwen/qwen3-14b": ((5120, 17_408, 40, 40, 8, 151_936), {"head_dim": 128}),
    "qwen/qwen3-32b": ((5120, 25_600, 64, 64, 8, 151_936), {"head_dim": 128}),
}
_GEMMA: Final[dict[str, tuple[_Row, dict[str, Any]]]] = {
    "google/gemma-2b": ((2048, 16_384, 18, 8, 1, 256_000), {"tie_word_embeddings": True, "head_dim": 256}),
    "google/gemma-7b": ((3072, 24_576, 28, 16, 16, 256_000), {"tie_word_embeddings": True, "head_dim": 256}),
}
_PHI3: Final[dict[str, tuple[_Row, dict[str, Any]]]] = {
    "microsoft/phi-3-mini-4k": ((3072, 8192, 32, 32, 32, 32_064), {}),
    "microsoft/phi-3-mini-128k": ((3072, 8192, 32, 32, 32, 32_064), {}),
    "microsoft/phi-3.5-mini": ((3072, 8192, 32, 32, 32, 32_064), {}),
    "microsoft/phi-4": ((5120, 17_920, 40, 40, 10, 100_352), {}),
}
_BY_TYPE: Final = {
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "mixtral": _MIXTRAL,
    "qwen2": _QWEN2,
    "qwen3": _QWEN3,
    "gemma": _GEMMA,
    "phi3": _PHI3,
}
_TUNED: Final = re.compile(r"-(?:instruct|chat|it|base|hf|intermediate-step-[\w-]+)(?=-|$)")
"""What in a name says how the weights were trained, not how many there are."""
_RELEASE: Final = re.compile(r"(?<=tinyllama-1\.1b)-v1\.0$")
_RENAMED: Final = {
    "mistralai/mistral-7b-v0.2": "mistralai/mistral-7b-v0.1",
    "qwen/qwen3-4b-2507": "qwen/qwen3-4b",
}


def list_known() -> list[str]:
    """Return the names that are known, without what says how the weights were tuned."""
    return sorted(name for table in _BY_TYPE.values() for name in table)


def find_known_shape(uri: str) -> ModelShape | None:
    """Return the shape of the model at ``uri``, where it is a well-known one of the hub."""
    try:
        location = parse_uri(uri)
    except ValueError:
        return None
    if location.scheme != "hf":
        return None
    return _find(f"{location.authority}/{location.path.strip('/')}".lower())


@cache
def _build(name: str, kind: str) -> ModelShape:
    (hidden, intermediate, layers, heads, kv_heads, vocabulary), others = _BY_TYPE[kind][name]
    config = {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
    }
    return read_shape(config | others)


def _find(repository: str) -> ModelShape | None:
    plain = _RELEASE.sub("", _TUNED.sub("", repository))
    plain = _RENAMED.get(plain, plain)
    return next((_build(plain, kind) for kind, table in _BY_TYPE.items() if plain in table), None)
