"""Packed rows by attention of variable lengths: through models of every family, on a stand-in for the kernel that is for GPUs alone.

It computes in 32 bits here, so that what differs from a mask's attention is no rounding.
"""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.families.catalog import FAMILIES
from finetune_trainer.configuration import read_packed_attention
from finetune_trainer.device import Device
from finetune_trainer.errors import ConfigInvalid
from tests.support.varlen_kernel import stand_in

pytestmark = pytest.mark.torch

CPU, GPU = Device("cpu", "cpu"), Device("cuda", "a GPU")
SIZES = {"vocab_size": 48, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LENGTHS = ((5, 1, 17), (9, 14))
"""Tokens of the examples of two rows."""
BY_IT = {
    "llama": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 8},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "gemma3_text": {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_neox": {},
    "deepseek_v3": {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 12,
        "first_k_dense_replace": 2,
        "num_key_value_heads": 4,
    },
}
"""Model types that go by it, and what of their attention is special."""


def build(kind: str, **changes: Any) -> Any:
    """Return a random model by torch's own attention, in 32 bits and training."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    settings = {**SIZES, "pad_token_id": 0, "use_cache": False, **changes}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), dtype=torch.float32).train()


def make_rows(lengths: tuple[tuple[int, ...], ...] = LENGTHS, seed: int = 0) -> dict[str, Any]:
    import torch

    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in lengths])
    ids = torch.randint(1, SIZES["vocab_size"], positions.shape, generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "position_ids": positions}


def go_by_lengths(model: Any) -> Any:
    from finetune_trainer.model.varlen import NAME

    model.set_attn_implementation(NAME)
    return model


def learn(model: Any, rows: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return logits, and the gradients of a loss on them."""
    model.zero_grad()
    logits = model(**rows).logits
    (logits.log_softmax(-1)[..., 1] * (1 + rows["position_ids"])).mean().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def kernel() -> Iterator[dict[str, int]]:
    with stand_in() as calls:
        yield calls


@pytest.mark.parametrize("kind", BY_IT)
def test_logits_and_gradients_are_those_of_a_mask(kind: str, kernel: dict[str, int]) -> None:
    """Of two rows at once: with heads that share keys, windows shorter than the examples, heads wider than their share of the model, and
    values narrower than their keys.
    """
    import torch

    model, rows = build(kind, **BY_IT[kind]), make_rows()
    logits, gradients = learn(model, rows)
    found, others = learn(go_by_lengths(model), rows)
    assert kernel == {"forward": 2, "backward": 2}
    torch.testing.assert_close(found, logits)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("kind", BY_IT)
def test_an_example_s_logits_hang_on_no_other_example(kind: str, kernel: dict[str, int]) -> None:
    import torch

    model, rows = go_by_lengths(build(kind, **BY_IT[kind])).eval(), make_rows()
    with torch.no_grad():
        before = model(**rows).logits
        rows["input_ids"][0, :6] = 7
        after = model(**rows).logits
    assert kernel["forward"] == 4
    assert torch.equal(before[0, 6:], after[0, 6:])
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[0, :6], after[0, :6])


def test_layers_that_are_computed_twice_give_the_same(kernel: dict[str, int]) -> None:
    """Gradient checkpointing: what the layers know of the rows is still there in the backward pass."""
    import torch

    model, rows = go_by_lengths(build("llama", **BY_IT["llama"])), make_rows()
    _, gradients = learn(model, rows)
    model.activation_checkpointing_enable({"use_reentrant": False})
    kernel.update(forward=0, backward=0)
    _, others = learn(model, rows)
    assert kernel == {"forward": 4, "backward": 2}
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient)


def test_no_mask_is_built(kernel: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_trainer.model import varlen_rows

    def build_mask(**told: Any) -> None:
        raise AssertionError(f"a mask of {told['q_length']} tokens")

    model = go_by_lengths(build("mistral", **BY_IT["mistral"]))
    monkeypatch.setattr(varlen_rows, "sdpa_mask", build_mask)
    learn(model, make_rows())
    assert kernel["backward"] == 2


def test_an_example_alone_in_its_row_takes_torch_s_own_attention(kernel: dict[str, int]) -> None:
    """It needs no mask there either."""
    import torch

    model, rows = build("llama"), make_rows(((23,),))
    logits, _ = learn(model, rows)
    found, _ = learn(go_by_lengths(model), rows)
    assert kernel["forward"] == 0
    assert torch.equal(found, logits)


def test_an_example_alone_in_its_row_that_is_longer_than_the_window_needs_no_mask(kernel: dict[str, int]) -> None:
    import torch

    model, rows = build("mistral", **BY_IT["mistral"]), make_rows(((23,),))
    logits, _ = learn(model, rows)
    found, _ = learn(go_by_lengths(model), rows)
    assert kernel == {"forward": 2, "backward": 2}
    torch.testing.assert_close(found, logits)


def test_padding_goes_by_a_mask(kernel: dict[str, int]) -> None:
    import torch

    model, rows = build("mistral", **BY_IT["mistral"]).eval(), make_rows(((23,), (23,)))
    rows["attention_mask"] = torch.ones_like(rows["input_ids"])
    rows["attention_mask"][1, :9] = 0
    with torch.no_grad():
        expected, found = model(**rows).logits, go_by_lengths(model)(**rows).logits
    assert kernel["forward"] == 0
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3_text"])
def test_what_it_generates_is_the_same(kind: str) -> None:
    """With padding before the shorter prompt, a cache, and more tokens than the window has."""
    import torch

    model = build(kind, **BY_IT[kind]).eval()
    ids = torch.randint(1, 48, (2, 11), generator=torch.Generator().manual_seed(3))
    seen = torch.ones_like(ids)
    seen[0, :4] = 0
    options = {"attention_mask": seen, "max_new_tokens": 9, "do_sample": False, "use_cache": True, "eos_token_id": None}
    expected = model.generate(ids, **options)
    assert torch.equal(go_by_lengths(model).generate(ids, **options), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dropout": 0.1}, "its probabilities are dropped out"),
        ({"softcap": 30.0}, "its scores are capped"),
        ({"size": 20}, "its heads have 20 numbers, and 20 of values"),
        ({"size": 264}, "its heads have 264 numbers"),
        ({"of_value": 24}, "its heads have 16 numbers, and 24 of values"),
        ({"kind": "float64"}, "it computes in float64"),
    ],
)
def test_what_the_kernel_can_not_do_is_told(change: dict[str, Any], words: str) -> None:
    import torch

    from finetune_trainer.model.varlen import find_obstacle

    kind, size = getattr(torch, change.pop("kind", "bfloat16")), change.pop("size", 16)
    of_value, dropout = change.pop("of_value", size), change.pop("dropout", 0.0)
    query, key, value = (torch.zeros(1, 2, 4, last, dtype=kind) for last in (size, size, of_value))
    assert words in (find_obstacle(query, key, value, dropout, {"softcap": None, **change}) or "")
    assert find_obstacle(*(torch.zeros(1, 2, 4, 16, dtype=torch.bfloat16) for _ in range(3)), 0.0, {"sliding_window": 4}) is None


def test_a_layer_that_the_kernel_can_not_do_goes_by_a_mask(kernel: dict[str, int]) -> None:
    """Here, its heads have 20 numbers."""
    import torch

    model, rows = build("llama", hidden_size=40, num_attention_heads=2, head_dim=20), make_rows()
    logits, _ = learn(model, rows)
    found, _ = learn(go_by_lengths(model), rows)
    assert kernel["forward"] == 0
    torch.testing.assert_close(found, logits)


def test_mixed_precision_reaches_the_kernel() -> None:
    """Of weights in 32 bits, queries and keys come in 32 bits, and values in 16."""
    import torch

    with stand_in() as calls, torch.autocast("cpu", torch.bfloat16):
        model, rows = build("llama"), make_rows()
        expected = model(**rows).logits
        found = go_by_lengths(model)(**rows).logits
    assert calls["forward"] == 2
    assert float((found - expected).detach().abs().mean() / expected.detach().abs().mean()) < 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_by_it_or_says_why_not(family: str, kernel: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    """Either way its logits stay what they are."""
    import torch

    from finetune_trainer.model.varlen_choice import settle_attention

    kind, settings = FAMILIES[family]
    model, rows = build(kind, **{"vocab_size": 48, **settings}).eval(), make_rows()
    with torch.no_grad():
        expected = model(**rows).logits
        with caplog.at_level(logging.INFO):
            taken = settle_attention(model, "hf://org/model", CPU, "bfloat16", "auto")
        kernel.update(forward=0)
        found = model(**rows).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert kernel["forward"] == (2 if taken else 0)
    said = caplog.messages[-1]
    reason = REASONS.get(kind)
    assert said == "hf://org/model: packed examples are told apart by " + (
        "variable lengths in all 2 layers; held against a mask on this device" if reason is None else f"a mask: {reason}"
    )


REASONS = {
    "gemma2": "the attention of gemma2 is its own",
    "bloom": "the attention of bloom is its own",
    "falcon": "falcon computes otherwise where its attention is not torch's",
    "opt": "examples see by rules of the model's own",
    "gpt2": "gpt2 drops out some of its attention, which the kernel can't",
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", BY_IT)
def test_the_proof_changes_nothing_but_the_attention(kind: str, training: bool, kernel: dict[str, int]) -> None:
    """Neither weights, nor gradients, nor random numbers, nor whether the model is training."""
    import torch

    from finetune_trainer.model.varlen import NAME
    from finetune_trainer.model.varlen_choice import settle_attention

    model = build(kind, **BY_IT[kind]).train(training)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert settle_attention(model, "hf://org/model", CPU, "bfloat16", "auto")
    assert kernel["backward"] >= 1
    assert model.config._attn_implementation == NAME
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("leak", "off in the attention of one of the layers"),
        ("window", "off in attention, with heads of 8"),
        ("gradient", "the kernel is 100.0% off in the gradient of each "),
        ("nan", "on cpu:0 the kernel is inf% off in the attention of one of the layers"),
        ("missing", "there is no kernel"),
    ],
)
def test_a_kernel_that_is_not_right_is_not_used(wrong: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    """A run never ends for it."""
    import torch

    from finetune_trainer.model.varlen_choice import settle_attention

    model, rows = build("mistral", **{**BY_IT["mistral"], "head_dim": 8, "sliding_window": 20}).eval(), make_rows()
    with stand_in(wrong=wrong), torch.no_grad():
        expected = model(**rows).logits
        assert not settle_attention(model, "hf://org/model", CPU, "bfloat16", "auto")
        assert torch.equal(model(**rows).logits, expected)
    assert model.config._attn_implementation == "sdpa"
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert words in record.message
    assert "\n" not in record.message


def test_where_torch_has_no_kernel_its_words_are_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU too old says, a processor says: with torch's own operation, and no stand-in."""
    import torch

    from finetune_trainer.model import varlen_choice

    monkeypatch.setattr(varlen_choice, "KERNELS", ("cpu",))
    assert not varlen_choice.settle_attention(build("llama").to(torch.bfloat16), "hf://org/model", CPU, "bfloat16", "auto")
    assert "not by variable lengths, which take less memory: Could not run 'aten::_flash_attention_forward'" in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": CPU}, "torch has a kernel for it on GPUs alone"),
        ({"compute_dtype": "float32"}, "its kernel computes in 16 bits, and method.quantization.computeDtype is float32"),
        ({"wanted": "mask"}, "PACKED_ATTENTION is set to mask"),
        ({"compiles": True}, "its layers are compiled"),
        ({}, None),
    ],
)
def test_a_run_is_told_which_it_takes(changes: dict[str, Any], words: str | None) -> None:
    from finetune_trainer.model.varlen_choice import choose_attention

    told: dict[str, Any] = {"device": GPU, "compute_dtype": "bfloat16", "wanted": "auto", **changes}
    assert choose_attention(build("llama"), **told) == words


def test_a_word_that_is_not_known_is_refused() -> None:
    assert [read_packed_attention(environ) for environ in ({}, {"PACKED_ATTENTION": "auto"}, {"PACKED_ATTENTION": "mask"})] == [
        "auto",
        "auto",
        "mask",
    ]
    with pytest.raises(ConfigInvalid, match="PACKED_ATTENTION is flash; set it to auto or mask"):
        read_packed_attention({"PACKED_ATTENTION": "flash"})


def test_the_check_for_leaks_goes_through_it(kernel: dict[str, int]) -> None:
    from finetune_trainer.model.packing import measure_leak

    model = go_by_lengths(build("llama"))
    assert measure_leak(model) == 0
    assert kernel["forward"] == 4
    with stand_in(wrong="leak"):
        assert measure_leak(model) > 0.01


def test_no_file_tells_of_it(tmp_path: Any) -> None:
    go_by_lengths(build("llama")).save_pretrained(tmp_path)
    assert "varlen" not in (tmp_path / "config.json").read_text()


# Where examples begin


def sees_by(examples: list[int], window: int = 1000) -> Any:
    import torch

    told = torch.tensor(examples)

    def sees(places: Any, others: Any) -> Any:
        return (told[places] == told[others]) & (others <= places) & (others > places - window)

    return sees


def find(sees: Any, length: int, window: int | None = None, rows: int = 1) -> Any:
    from finetune_trainer.model.varlen_rows import find_starts

    found = find_starts(sees, rows, length, window, "cpu")
    return found if found is None else (found[0].tolist(), found[1])


def test_an_example_begins_where_the_token_before_is_not_seen() -> None:
    assert find(sees_by([0, 0, 0, 1, 2, 2]), 6) == ([0, 3, 4, 6], 3)
    assert find(sees_by([0, 0, 0, 1, 2, 2]), 6, rows=2) == ([0, 3, 4, 6, 9, 10, 12], 3)
    assert find(sees_by([0, 0, 0, 0, 0, 1], window=2), 6, window=2) == ([0, 5, 6], 5)


def test_rules_that_are_not_the_order_of_tokens_are_seen_through() -> None:
    """Windows of another size, or none; tokens that see the next, or not themselves. Blocks are as good as examples."""
    assert find(sees_by([0] * 6, window=3), 6, window=2) is None
    assert find(sees_by([0] * 6, window=2), 6, window=3) is None
    assert find(sees_by([0] * 6, window=3), 6) is None
    assert find(lambda places, others: (others <= places) & (others // 3 == places // 3), 6, window=3) == ([0, 3, 6], 3)
    assert find(lambda _, others: others >= 0, 6) is None
    assert find(lambda places, others: others < places, 6) is None
