"""The shape of a decoder: what of ``config.json`` decides how much memory it takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

SUPPORTED: Final = ("gemma", "llama", "mistral", "mixtral", "phi3", "qwen2", "qwen3")
"""Values of ``model_type`` whose layers are known: decoders with RMSNorm, rotary positions and a gated feed-forward part."""
_EXPERTS: Final = ("mixtral",)

Slot = Literal["attention", "output", "feed", "down"]
"""What a linear layer reads: the first norm's output, the heads' output, the second norm's output, the gated product."""


class ShapeUnknown(ValueError):
    """A ``config.json`` from which no shape can be read; says why."""


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of a decoder layer."""

    name: str
    """Last part of its path, as in ``targetModules``: ``q_proj``."""
    inputs: int
    outputs: int
    bias: bool
    slot: Slot

    @property
    def weights(self) -> int:
        """Numbers in its matrix."""
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class Packing:
    """How the weights of the linear layers are packed already, by GPTQ, AWQ or compressed-tensors."""

    bits: int
    group: int | None
    """Inputs that share a scale and a zero; None: all of a row."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder. All are counts of numbers, not bytes."""

    model_type: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    """The head is the embedding: one matrix, not two."""
    linears: tuple[Linear, ...]
    """Linear layers of one decoder layer that can be quantised and adapted."""
    head_norms: bool = False
    """Queries and keys are normalised by head (Qwen3)."""
    experts: int = 0
    """Experts of a layer, fused into two tensors that can't be quantised; 0 of a dense model."""
    experts_per_token: int = 0
    packing: Packing | None = None
    """Set of a base that is quantised already."""

    @property
    def query(self) -> int:
        """Width of all heads' queries."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of all heads' keys, and of their values."""
        return self.kv_heads * self.head_dim

    @property
    def linear_parameters(self) -> int:
        """Weights of all layers that can be quantised, biases left out."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def expert_parameters(self) -> int:
        """Weights of all fused experts."""
        return self.layers * self.experts * 3 * self.hidden * self.intermediate

    @property
    def embedding_parameters(self) -> int:
        """Embedding and head."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def other_parameters(self) -> int:
        """Norms, biases, routers."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.head_norms else 0)
        biases = sum(linear.outputs for linear in self.linears if linear.bias)
        return self.layers * (norms + biases + self.experts * self.hidden) + self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.linear_parameters + self.expert_parameters + self.embedding_parameters + self.other_parameters


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """Read the shape from a ``config.json``.

    :raises ShapeUnknown: the architecture is not one of :data:`SUPPORTED`, a size is missing, or the weights are quantised already in a way
        that is not counted.
    """
    kind = str(config.get("model_type", ""))
    if kind not in SUPPORTED:
        raise ShapeUnknown(f"the layers of model_type {kind or '(none)'} are not known; known are {', '.join(SUPPORTED)}")
    packing = _read_packing(config.get("quantization_config"))
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    head_dim = int(config.get("head_dim") or hidden // heads)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    intermediate = _size(config, "intermediate_size")
    experts = _size(config, "num_local_experts") if kind in _EXPERTS else 0
    tied = config.get("tie_word_embeddings")
    return ModelShape(
        model_type=kind,
        hidden=hidden,
        intermediate=intermediate,
        layers=_size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=_size(config, "vocab_size"),
        tied=bool(tied) if tied is not None else kind == "gemma",
        linears=_build_linears(kind, config, hidden, heads * head_dim, kv_heads * head_dim, intermediate),
        head_norms=kind == "qwen3",
        experts=experts,
        experts_per_token=_size(config, "num_experts_per_tok") if experts else 0,
        packing=packing,
    )


def _read_packing(found: Any) -> Packing | None:  # noqa: ANN401  whatever a file holds
    if not found:
        return None
    if isinstance(found, Mapping):
        weights: Any = found
        if found.get("quant_method") == "compressed-tensors":
            groups = [*(found.get("config_groups") or {}).values()]
            weights = groups[0].get("weights") or {} if len(groups) == 1 and found.get("format") == "pack-quantized" else {}
        bits, group = weights.get("num_bits", weights.get("bits")), weights.get("group_size")
        if found.get("quant_method") in ("gptq", "awq", "compressed-tensors") and bits in (4, 8):
            return Packing(bits, group if isinstance(group, int) and group > 0 else None)
    raise ShapeUnknown("the weights are quantised already; estimate with the config.json of the model in 16 bits")


def _build_linears(kind: str, config: Mapping[str, Any], hidden: int, query: int, key_value: int, intermediate: int) -> tuple[Linear, ...]:
    attention_bias = kind == "qwen2" or bool(config.get("attention_bias", False))
    output_bias = kind != "qwen2" and bool(config.get("attention_bias", False))
    feed_bias = bool(config.get("mlp_bias", False))
    output = Linear("o_proj", query, hidden, output_bias, "output")
    if kind == "phi3":
        return (
            Linear("qkv_proj", hidden, query + 2 * key_value, bias=False, slot="attention"),
            output,
            Linear("gate_up_proj", hidden, 2 * intermediate, bias=False, slot="feed"),
            Linear("down_proj", intermediate, hidden, bias=False, slot="down"),
        )
    attention = (
        Linear("q_proj", hidden, query, attention_bias, "attention"),
        Linear("k_proj", hidden, key_value, attention_bias, "attention"),
        Linear("v_proj", hidden, key_value, attention_bias, "attention"),
        output,
    )
    if kind in _EXPERTS:
        return attention
    return (
        *attention,
        Linear("gate_proj", hidden, intermediate, feed_bias, "feed"),
        Linear("up_proj", hidden, intermediate, feed_bias, "feed"),
        Linear("down_proj", intermediate, hidden, feed_bias, "down"),
    )


def _size(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ShapeUnknown(f"config.json has no usable {name}: {value!r}")
    return value
