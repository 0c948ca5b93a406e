"""Every objective learns what it is for: several runs one after the other in one process, on a base in four bits and on a whole one."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import SPEC_METHOD, make_config, train_each

pytestmark = pytest.mark.torch

WHOLE = {"type": "none", "computeDtype": "float32"}
GRPO = {
    "numGenerations": 4,
    "maxCompletionLength": 12,
    "rewards": [
        {"name": "short", "type": "length", "maxTokens": 4},
        {"name": "digit", "type": "regex", "pattern": "[0-9]", "weight": 0.5},
        {"name": "answer", "type": "numeric"},
        {"name": "json", "type": "json", "weight": -0.1},
    ],
}
CASES: dict[str, dict[str, Any]] = {
    "pretrain": {"file": "texts.jsonl", "method": {"objective": "pretrain"}},
    "neftune": {"file": "train.jsonl", "method": {"objective": "sft"}, "training": {"neftuneNoiseAlpha": 5}},
    "dpo": {"file": "pairs.jsonl", "method": {"objective": "dpo", "dpo": {"beta": 0.5}}},
    "dpo-robust": {"file": "pairs.jsonl", "method": {"objective": "dpo", "dpo": {"loss": "robust", "labelSmoothing": 0.1}}},
    "orpo": {"file": "pairs.jsonl", "method": {"objective": "orpo"}},
    "kto": {"file": "labelled.jsonl", "method": {"objective": "kto", "kto": {"beta": 0.5, "undesirableWeight": 1.2}}},
    "kto-of-pairs": {"file": "pairs.jsonl", "method": {"objective": "kto"}},
    "reward": {"file": "pairs.jsonl", "method": {"objective": "reward", "reward": {"centerCoefficient": 0.01}}},
    "reward-int8": {"file": "pairs.jsonl", "method": {"objective": "reward", "quantization": {"type": "int8"}}},
    "dpo-whole": {"file": "pairs.jsonl", "method": {"objective": "dpo", "quantization": WHOLE}},
    "reward-whole": {"file": "pairs.jsonl", "method": {"objective": "reward", "quantization": WHOLE}},
    "distill": {"file": "train.jsonl", "method": {"objective": "distill"}, "teacher": {"temperature": 1.5}},
    "distill-reverse": {
        "file": "train.jsonl",
        "method": {"objective": "distill"},
        "teacher": {"beta": 1.0},
        "training": {"packing": False},
    },
    "distill-by-a-prompt": {
        "file": "train.jsonl",
        "method": {"objective": "distill", "adapter": {"type": "prompt-tuning"}},
        "teacher": {},
        "training": {"packing": False, "learningRate": 0.1},
    },
    "grpo": {"file": "prompts.jsonl", "method": {"objective": "grpo", "grpo": GRPO}},
    "grpo-held": {"file": "prompts.jsonl", "method": {"objective": "grpo", "grpo": {**GRPO, "beta": 0.1}}},
}
PAIRWISE = ("dpo", "dpo-robust", "orpo", "reward", "reward-int8", "dpo-whole", "reward-whole")


@pytest.fixture(scope="module")
def endings(trainers: Trainers, workspace: Path) -> dict[str, dict[str, Any]]:
    configs = {}
    for name, case in CASES.items():
        method = {**SPEC_METHOD, **case["method"]}
        if "teacher" in case:
            method["distill"] = {"teacher": {"uri": f"file://{workspace}/teacher"}, **case["teacher"]}
        grpo = "grpo" in method
        training = {
            "maxSteps": 2 if grpo else 5,
            "lrScheduler": "constant",
            "warmupRatio": 0,
            "learningRate": 1e-2,
            "evalSteps": 100,
            "checkpoint": {"everySteps": 100},
            "perDeviceBatchSize": 4,
            "maxLength": 64,
            **case.get("training", {}),
        }
        dataset = {"uri": f"file://{workspace}/{case['file']}", "evalFraction": 0.1}
        whole = {"dataset": dataset, "method": method, "training": training, "evaluation": {"samples": {"count": 0}}}
        configs[name] = make_config(workspace, f"objective-{name}", **whole)
    endings: dict[str, dict[str, Any]] = {}
    names = list(CASES)
    for begin in range(0, len(names), 5):  # a few to a process, each of which has a deadline
        part, result = names[begin : begin + 5], workspace / f"objectives-{begin}.json"
        done = trainers.call(train_each, [configs[name] for name in part], result)
        assert done.wait() == 0, done.log
        endings |= dict(zip(part, json.loads(result.read_text()), strict=True))
    return endings


@pytest.mark.parametrize("name", CASES)
def test_objective_trains(name: str, endings: dict[str, dict[str, Any]]) -> None:
    ending = endings[name]
    assert ending["code"] == 0, ending
    assert ending["tokens_seen"] > 0
    assert ending["history"]
    if not name.startswith("grpo"):
        assert ending["eval_loss"] < ending["base_eval_loss"]


@pytest.mark.parametrize("name", PAIRWISE)
def test_chosen_answers_win(name: str, endings: dict[str, dict[str, Any]]) -> None:
    figures = endings[name]
    assert figures["eval_reward_accuracy"] > 0.7
    assert figures["eval_reward_margin"] > 0


def test_good_answers_are_told_from_bad_ones(endings: dict[str, dict[str, Any]]) -> None:
    for name in ("kto", "kto-of-pairs"):
        assert endings[name]["eval_reward_margin"] > 0


def test_rewards_are_in_status(endings: dict[str, dict[str, Any]]) -> None:
    for name in ("grpo", "grpo-held"):
        figures = endings[name]
        assert 0 < figures["completion_tokens"] <= 12
        assert -0.1 <= figures["reward"] <= 2.5
        assert "eval_reward" in figures


def test_only_likelihoods_have_a_perplexity(endings: dict[str, dict[str, Any]]) -> None:
    with_one = {name for name, ending in endings.items() if "perplexity" in ending and ending["perplexity"] is not None}
    assert with_one == {"pretrain", "neftune"}


@pytest.mark.parametrize("name", ["dpo", "kto", "grpo-held"])
def test_reference_is_not_published(name: str, endings: dict[str, dict[str, Any]], workspace: Path) -> None:
    assert endings[name]["code"] == 0
    folder = workspace / "out" / f"objective-{name}" / "adapter"
    assert not (folder / "ref").exists()
    assert (folder / "adapter_model.safetensors").exists()
