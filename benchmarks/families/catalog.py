"""The families of models and the ways of training them. To add a family, add an entry."""

from typing import Any, Final

_PLAIN: Final[dict[str, Any]] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}
_GROUPED: Final = {**_PLAIN, "num_key_value_heads": 1}
_HEADS: Final = {**_GROUPED, "head_dim": 16}
_EXPERTS: Final = {"num_experts_per_tok": 2}
_FALCON: Final = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128}

FAMILIES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "Llama": ("llama", _GROUPED),
    "Mistral": ("mistral", {**_GROUPED, "sliding_window": 32}),
    "Mixtral": ("mixtral", {**_GROUPED, **_EXPERTS, "num_local_experts": 4}),
    "Qwen2": ("qwen2", _GROUPED),
    "Qwen2, tied": ("qwen2", {**_GROUPED, "tie_word_embeddings": True}),
    "Qwen2-MoE": (
        "qwen2_moe",
        {**_GROUPED, **_EXPERTS, "num_experts": 4, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64},
    ),
    "Qwen3": ("qwen3", _HEADS),
    "Qwen3-MoE": ("qwen3_moe", {**_HEADS, **_EXPERTS, "num_experts": 4, "moe_intermediate_size": 64}),
    "Gemma": ("gemma", _HEADS),
    "Gemma 2": ("gemma2", _HEADS),
    "Gemma 3": ("gemma3_text", _HEADS),
    "Phi": ("phi", _PLAIN),
    "Phi-3": ("phi3", _GROUPED),
    "GLM": ("glm", _HEADS),
    "GLM-4": ("glm4", _HEADS),
    "GLM-4.5": (
        "glm4_moe",
        {**_HEADS, **_EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 64, "first_k_dense_replace": 1},
    ),
    "Falcon": ("falcon", _FALCON),
    "Falcon, new": ("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "GPT-NeoX": ("gpt_neox", _PLAIN),
    "BLOOM": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.1}),
    "OPT": ("opt", {**_PLAIN, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "GPT-2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}),
}
"""Name: transformers' model type, and the configuration of a tiny one."""
MIXTURES: Final = ("Mixtral", "Qwen2-MoE", "Qwen3-MoE", "GLM-4.5")
"""Families whose experts are fused into one weight."""


def _way(
    quantization: str, rate: float = 1e-2, *, merged: bool = False, training: dict[str, Any] | None = None, **adapter: Any
) -> dict[str, Any]:
    return {
        "method": {"adapter": {"type": "lora", **adapter}, "quantization": {"type": quantization}},
        "training": {"learningRate": rate, **(training or {})},
        "output": {"merged": True} if merged else {},
    }


_UNPACKED: Final = {"packing": False}
DEFAULT: Final = "LoRA, NF4"
EXPERTS: Final = "LoRA on experts too"
WAYS: Final[dict[str, dict[str, Any]]] = {
    DEFAULT: _way("nf4", merged=True),
    EXPERTS: _way("none", merged=True, targetParameters="experts", dropout=0),
    "LoRA, int8": _way("int8"),
    "LoRA, 16 bits": _way("none"),
    "DoRA": _way("none", merged=True, dora=True),
    "AdaLoRA": _way("none", 0.05, merged=True, type="adalora", r=4),
    "(IA)3": _way("nf4", 0.1, merged=True, type="ia3"),
    "prompt tuning": _way("none", 0.1, training=_UNPACKED, type="prompt-tuning"),
    "P-tuning": _way("none", training=_UNPACKED, type="p-tuning"),
    "prefix tuning": _way("none", 0.1, training={**_UNPACKED, "gradientCheckpointing": False}, type="prefix-tuning"),
    "all weights": _way("none", 1e-3, type="none"),
}
"""Name: changes to a run's configuration."""
