"""What a finished run says to do next: commands that can be copied into a shell as they are."""

import shlex
from typing import Any

import pytest

from finetune_cli.next_steps import build_next_steps
from finetune_sdk.run import Run
from tests.support.manifests import build_minimal_manifest, merge


def build_run(*artifacts: str, phase: str = "Succeeded", **spec: Any) -> Run:
    manifest = merge(build_minimal_manifest("support-bot", "team-a"), {"spec": {"model": {"uri": "hf://org/base"}, **spec}})
    common = {
        "format": "peft",
        "digest": "sha256:" + "0" * 64,
        "sizeBytes": 1,
        "baseModel": "hf://org/base",
        "createdTime": "2026-01-01T00:00:00Z",
    }
    listed = [{"name": name, "uri": f"s3://b/{name}", **common} for name in artifacts]
    return Run({**manifest, "status": {"phase": phase, "artifacts": listed}})


def test_an_adapter_is_downloaded_and_served_on_its_base() -> None:
    assert build_next_steps(build_run("adapter", method={"adapter": {"r": 64}})) == [
        "finetune artifacts download support-bot --namespace team-a",
        "vllm serve org/base --enable-lora --max-lora-rank 64 --lora-modules support-bot=./support-bot-adapter",
    ]


def test_a_base_that_vllm_cannot_name_is_left_to_the_reader() -> None:
    steps = build_next_steps(build_run("adapter", model={"uri": "s3://models/base"}))
    assert steps[1] == "vllm serve BASE_MODEL --enable-lora --lora-modules support-bot=./support-bot-adapter"


@pytest.mark.parametrize("name", ["merged", "model", "gptq"])
def test_whole_models_are_served_by_the_run_s_name(name: str) -> None:
    assert build_next_steps(build_run(name)) == [
        f"finetune artifacts download support-bot --namespace team-a --artifact {name}",
        f"vllm serve ./support-bot-{name} --served-model-name support-bot",
    ]


def test_a_gguf_file_is_named_as_the_trainer_names_it() -> None:
    steps = build_next_steps(build_run("gguf", output={"uri": "s3://b/out", "gguf": {"type": "q8_0"}}))
    assert steps[1] == "llama-server --model ./support-bot-gguf/support-bot-q8_0.gguf"


@pytest.mark.parametrize("phase", ["Pending", "Running", "Failed"])
def test_nothing_is_served_that_has_not_succeeded(phase: str) -> None:
    assert build_next_steps(build_run("adapter", phase=phase)) == []


def test_names_are_quoted_for_the_shell() -> None:
    run = build_run("adapter", model={"uri": "hf://org/base; rm -rf ~"})
    assert shlex.split(build_next_steps(run)[1])[2] == "org/base; rm -rf ~"
