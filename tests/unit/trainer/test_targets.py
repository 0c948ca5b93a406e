"""What an adapter goes on, and what is refused, on models with parts of their own."""

from typing import Any

import pytest

from finetune_api.spec import AdapterSpec
from finetune_trainer.errors import ConfigInvalid

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def mixture() -> Any:
    """A mixture of experts with one that all tokens share."""
    from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    experts = {"n_routed_experts": 2, "n_shared_experts": 1, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    return Glm4MoeForCausalLM(Glm4MoeConfig(**sizes, **experts, head_dim=16, vocab_size=32, pad_token_id=0))


@pytest.fixture(scope="module")
def balanced() -> Any:
    """A mixture of experts whose configuration asks for the loss that balances them."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    return MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=2, num_experts_per_tok=1, vocab_size=32, pad_token_id=0))


def test_all_linear_is_every_layer_whose_name_is_not_taken_for_experts(mixture: Any) -> None:
    from finetune_trainer.model.targets import find_target_modules

    assert find_target_modules(mixture, AdapterSpec()) == ["k_proj", "o_proj", "q_proj", "v_proj"]


def test_layers_that_would_be_taken_for_experts_are_refused(mixture: Any) -> None:
    from finetune_trainer.model.targets import check_targets

    with pytest.raises(ConfigInvalid, match=r"PEFT takes gate_proj for the fused experts.*set targetParameters to experts"):
        check_targets(mixture, AdapterSpec(target_modules="q_proj,gate_proj"))


def test_experts_are_found_by_their_shape(mixture: Any) -> None:
    from finetune_trainer.model.targets import find_target_parameters

    spec = AdapterSpec(target_parameters="experts", dropout=0)
    assert find_target_parameters(mixture, spec) == ["experts.down_proj", "experts.gate_up_proj"]


def test_experts_are_not_balanced_while_their_router_is_frozen(balanced: Any) -> None:
    """The loss would be no likelihood any more."""
    from finetune_trainer.model.adapter import leave_routers_alone

    assert balanced.config.router_aux_loss_coef > 0
    leave_routers_alone(balanced)
    assert balanced.config.router_aux_loss_coef == 0


def test_packing_is_refused_where_attention_does_not_look_at_where_examples_begin(mixture: Any) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    from finetune_trainer.model.packing import check_packing

    check_packing(mixture, "hf://org/mixture")
    sizes = {
        "hidden_size": 16,
        "ffn_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 32,
        "word_embed_proj_dim": 16,
    }
    with pytest.raises(ConfigInvalid, match=r"training.packing: in hf://org/opt .model_type opt.*set training.packing to false"):
        check_packing(OPTForCausalLM(OPTConfig(**sizes, max_position_embeddings=32)), "hf://org/opt")


def test_a_base_that_bitsandbytes_passes_over_is_refused(mixture: Any) -> None:
    from finetune_trainer.model.loading import check_quantized

    with pytest.raises(ConfigInvalid, match="bitsandbytes quantises no layer of hf://org/mixture"):
        check_quantized(mixture, "hf://org/mixture")
