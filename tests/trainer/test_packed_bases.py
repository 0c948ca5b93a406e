"""Bases that GPTQ, AWQ or this trainer itself has packed: trained as they are, to what the same weights in 32 bits give."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.packed_model import make_packed_bases, make_packed_experts
from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import make_config, train_each
from tests.trainer.test_groups import end, read_losses, start_group

pytestmark = pytest.mark.torch

STEPS = {
    "maxSteps": 6,
    "learningRate": 1e-2,
    "evalSteps": None,
    "packing": False,
    "optimizer": "adamw_torch",
    "checkpoint": {"everySteps": 100},
}
EXACT = {"type": "none", "computeDtype": "float32"}
ADAPTERS: dict[str, dict[str, Any]] = {
    "gptq": {"r": 8, "alpha": 16, "dropout": 0},
    "awq": {"r": 4, "dropout": 0, "dora": True},
}
OTHERS: dict[str, dict[str, Any]] = {
    "adalora": {"adapter": {"type": "adalora", "r": 4, "initR": 8}},
    "ia3": {"adapter": {"type": "ia3"}},
    "prompt-tuning": {"adapter": {"type": "prompt-tuning"}},
    "eva": {"adapter": {"init": "eva"}},
}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "type": ({"quantization": {"type": "nf4"}}, {}, "by gptq in 4 bits, and stays so; set method.quantization.type to none"),
    "full": ({"adapter": {"type": "none"}, "quantization": EXACT}, {}, "method.adapter.type none trains the base itself"),
    "pissa": ({"adapter": {"init": "pissa"}, "quantization": EXACT}, {}, "init pissa changes the base weights"),
    "loftq": ({"adapter": {"init": "loftq"}, "quantization": {"type": "nf4"}}, {}, "by gptq in 4 bits, and stays so"),
    "merged": ({"quantization": EXACT}, {"merged": True}, "need the weights before quantisation"),
}


def build(workspace: Path, name: str, base: str, method: dict[str, Any], **output: Any) -> dict[str, Any]:
    config = make_config(workspace, name, method=method, training=STEPS, model={"uri": f"file://{workspace}/{base}"})
    config["output"] |= output
    return config


@pytest.fixture(scope="module")
def endings(trainers: Trainers, workspace: Path) -> dict[str, dict[str, Any]]:
    """How each run ended, one after the other in one process. The last one's base is what the one before it published."""
    made = trainers.call(make_packed_bases, workspace)
    assert made.wait() == 0, made.log
    configs = {
        f"packed-{base}{suffix}": build(
            workspace, f"packed-{base}{suffix}", f"{base}{suffix}", {"adapter": ADAPTERS[base], "quantization": EXACT}
        )
        for base in ADAPTERS
        for suffix in ("", "-plain")
    }
    for name, (method, output, _) in REFUSED.items():
        configs[f"packed-refused-{name}"] = build(workspace, f"packed-refused-{name}", "gptq", method, **output)
    for name, method in OTHERS.items():
        for base in ("gptq", "gptq-plain"):
            configs[f"{base}-{name}"] = build(workspace, f"{base}-{name}", base, {**method, "quantization": EXACT})
    narrow = {"quantization": {"type": "none"}}
    configs["packed-export"] = build(workspace, "packed-export", "model", narrow, gptq={"groupSize": 32})
    # a reward model: its head is new, and stays in 32 bits
    pairs = {"uri": f"file://{workspace}/pairs.jsonl", "evalFraction": 0.2}
    configs["packed-reward"] = build(workspace, "packed-reward", "gptq", {"objective": "reward", "quantization": EXACT}) | {
        "dataset": pairs
    }
    configs["packed-again"] = build(workspace, "packed-again", "out/packed-export/gptq", narrow)
    result = workspace / "packed.json"
    done = trainers.call(train_each, list(configs.values()), result)
    assert done.wait() == 0, done.log
    return dict(zip(configs, json.loads(result.read_text()), strict=True))


@pytest.mark.parametrize("base", ADAPTERS)
def test_the_curve_is_that_of_the_same_weights_in_32_bits(base: str, endings: dict[str, dict[str, Any]]) -> None:
    """LoRA with gradient checkpointing on GPTQ, DoRA on AWQ."""
    packed, plain = endings[f"packed-{base}"], endings[f"packed-{base}-plain"]
    assert packed["code"] == plain["code"] == 0, packed
    assert packed["base_eval_loss"] == pytest.approx(plain["base_eval_loss"], rel=1e-6)
    losses = [[point["loss"] for point in each["history"]] for each in (packed, plain)]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert packed["eval_loss"] < packed["base_eval_loss"]


def test_a_published_4_bit_model_can_be_trained_on(endings: dict[str, dict[str, Any]]) -> None:
    """`output.gptq` of one run is the base of the next: it says what the first one's model did, but for what rounding costs."""
    first, again = endings["packed-export"], endings["packed-again"]
    assert first["code"] == again["code"] == 0, again
    assert again["base_eval_loss"] == pytest.approx(first["eval_loss"], abs=0.2)
    assert again["base_eval_loss"] < first["base_eval_loss"]
    assert again["eval_loss"] < again["base_eval_loss"]


@pytest.mark.parametrize("name", OTHERS)
def test_other_adapters_learn_what_they_learn_on_the_same_weights(name: str, endings: dict[str, dict[str, Any]]) -> None:
    packed, plain = endings[f"gptq-{name}"], endings[f"gptq-plain-{name}"]
    assert packed["code"] == plain["code"] == 0, packed
    losses = [[point["loss"] for point in each["history"]] for each in (packed, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert packed["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-3)


def test_it_becomes_a_reward_model(endings: dict[str, dict[str, Any]]) -> None:
    ending = endings["packed-reward"]
    assert ending["code"] == 0, ending
    assert ending["history"][-1]["loss"] < ending["history"][0]["loss"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_such_a_base_can_not_give_is_refused(name: str, endings: dict[str, dict[str, Any]]) -> None:
    ending = endings[f"packed-refused-{name}"]
    assert ending["code"] == ExitCode.CONFIG_INVALID, ending
    assert REFUSED[name][2] in ending["message"]


@pytest.mark.usefixtures("endings")  # which write the base
def test_it_is_not_divided_over_processes(trainers: Trainers, workspace: Path) -> None:
    config = build(workspace, "packed-divided", "gptq", {"quantization": EXACT})
    config["training"] |= {"sharding": "full"}
    config |= {"group": {"nodes": 1, "processes": 2, "address": "127.0.0.1"}, "device": {"gpus": 2, "allowCpu": True}}
    code, process = trainers.run(config, {"CUDA_VISIBLE_DEVICES": ""})
    assert code == ExitCode.CONFIG_INVALID, process.log
    assert "its packed weights can't be divided" in process.summary.message
    assert "training.sharding to none" in process.summary.message


def test_packed_experts_that_the_model_has_as_one_weight_are_refused_by_name(trainers: Trainers, workspace: Path) -> None:
    made = trainers.call(make_packed_experts, workspace)
    assert made.wait() == 0, made.log
    code, process = trainers.run(build(workspace, "packed-experts", "experts", {"quantization": EXACT}))
    assert code == ExitCode.CONFIG_INVALID, process.log
    assert re.search(r"a quantised model\.layers\.0\.\S+\.experts\.0\.\w+, and the model has no linear layer", process.summary.message)
    assert "fused experts are none" in process.summary.message
    assert "name the model in 16 bits" in process.summary.message


@pytest.mark.usefixtures("endings")  # which write the base
def test_two_processes_learn_what_one_does(trainers: Trainers, workspace: Path) -> None:
    """Packed numbers go from the first to the other as they are."""
    for size in (1, 2):
        group = start_group(trainers, workspace, f"packed-group-{size}", size, model={"uri": f"file://{workspace}/gptq"})
        assert end(group) == [0] * size, "\n".join(process.log for process in group)
    alone, together = (read_losses(workspace, f"packed-group-{size}") for size in (1, 2))
    assert len(alone) == 4
    assert together == pytest.approx(alone, rel=1e-4)
