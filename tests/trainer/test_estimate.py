"""The memory estimate against the real libraries: parameters to the last one, and peaks within the budget of 5 %.

A slice of `benchmarks/estimate`; the whole grid, up to 65B, is in docs/reference/estimate.md.
"""

import copy
from typing import Any

import pytest

from finetune_api.estimate import compute_estimate, read_shape
from finetune_api.estimate.shape import SUPPORTED

pytestmark = pytest.mark.torch
BUDGET = 0.05
SMALL: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 4000,
    "pad_token_id": 0,
}
SPECIAL: dict[str, dict[str, Any]] = {"mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2}}


@pytest.mark.parametrize("kind", SUPPORTED)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "two matrices"])
def test_parameters_are_counted_to_the_last_one(kind: str, tied: bool) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **SMALL, **SPECIAL.get(kind, {}), tie_word_embeddings=tied)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    shape = read_shape(config.to_dict())
    assert shape.parameters == model.num_parameters()
    quantisable = {
        module.weight.numel()
        for module in model.modules()
        if type(module) is torch.nn.Linear and module is not model.get_output_embeddings()
    }
    assert {linear.weights for linear in shape.linears} == quantisable - ({4 * 512} if kind == "mixtral" else set())


PLAIN = {"packing": False}
BARE = {"type": "none"}
OFFLOADED = {"sharding": "gradients", "shardOffloading": True, "optimizer": "adamw_torch"}
REWARDS = [{"name": "short", "type": "length", "maxTokens": 64}]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"training": {"gradientCheckpointing": False}}),
        ("llama", {"adapter": {"dropout": 0}, "training": PLAIN}),
        ("qwen3", {"training": {"gradientCheckpointing": False}}),
        ("qwen2", {"adapter": {"targetModules": "q_proj,v_proj", "r": 64}}),
        ("phi3", {}),
        ("llama", {"quantization": BARE}),
        ("llama", {"quantization": {"type": "fp8"}}),
        ("llama", {"quantization": {"type": "fp8"}, "adapter": {"type": "ia3"}}),
        ("gemma", {}),
        ("llama", {"adapter": {"type": "adalora"}}),
        ("llama", {"adapter": {"type": "p-tuning"}, "training": PLAIN}),
        ("llama", {"adapter": {"type": "prefix-tuning"}, "training": {**PLAIN, "gradientCheckpointing": False}}),
        ("llama", {"adapter": BARE, "quantization": BARE}),
        ("llama", {"objective": "dpo", "training": PLAIN}),
        ("llama", {"objective": "orpo", "training": PLAIN}),
        ("llama", {"objective": "reward", "training": PLAIN}),
        ("llama", {"objective": "distill", "distill": {"teacher": {"uri": "hf://a/teacher"}}}),
        ("llama", {"training": {"activationOffloading": True}}),
        ("llama", {"resources": {"gpus": 2}}),
        ("llama", {"adapter": BARE, "quantization": BARE, "training": OFFLOADED, "resources": {"gpus": 4}}),
        ("llama", {"objective": "grpo", "grpo": {"rewards": REWARDS}, "training": PLAIN}),
    ],
    ids=str,
)
def test_the_peak_is_within_the_budget(kind: str, changes: dict[str, Any]) -> None:
    from benchmarks.estimate.fake_training import measure
    from benchmarks.estimate.grid import build_spec

    patch = copy.deepcopy(changes)
    spec = build_spec(1024, 4, patch.get("adapter", {}).pop("r", 16), **patch)
    config = {"model_type": kind, **SMALL, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 3584}
    teacher = config if spec.method.distill is not None else None
    shape = read_shape(config)
    estimated = compute_estimate(shape, spec, shape if teacher is not None else None).allocated_bytes
    measured = measure(config, spec, teacher).peak
    assert estimated / measured == pytest.approx(1, abs=BUDGET), f"{estimated / 2**20:.0f} MiB against {measured / 2**20:.0f} MiB"
