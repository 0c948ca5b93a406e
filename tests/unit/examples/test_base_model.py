"""The quick start's base model loads like any other, and lies in its cache whole or not at all."""

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import base_model
import pytest

pytestmark = pytest.mark.torch
RECIPE = base_model.Recipe(hidden=64, layers=2, heads=2, key_value_heads=1, intermediate=128, steps=3, batch=2, length=32, vocabulary=600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason="needs the trainer's extra")
    place = tmp_path_factory.mktemp("base") / "key" / "model"
    base_model.build_model(place, RECIPE)
    return place


def test_model_and_tokenizer_load(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (base_model.END, base_model.PAD, None)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == model.config.eos_token_id
    text = "Ünïcode, `code` and\n  spaces survive."
    encoded = tokenizer(text, return_tensors="pt")
    assert tokenizer.decode(encoded["input_ids"][0]) == text
    with torch.inference_mode():
        assert torch.isfinite(model(input_ids=encoded["input_ids"]).logits).all()
    assert (folder / "model.safetensors").is_file()


def test_chat_template_marks_what_the_assistant_says(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    expected = "<|user|>\nWhy?<|end|>\n<|assistant|>\nBecause.<|end|>\n"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == expected
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert expected.startswith(prompt)
    marked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    learnt = [token for token, mark in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if mark]
    assert tokenizer.decode(learnt) == "Because.<|end|>"


def test_a_whole_model_is_complete_and_a_broken_one_is_not(folder: Path, tmp_path: Path) -> None:
    assert base_model.is_complete(folder)
    assert not base_model.is_complete(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    assert base_model.is_complete(broken)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert not base_model.is_complete(broken)


def test_same_seed_same_model_and_a_rebuild_replaces(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "model"
    again.mkdir()
    (again / "left-over").touch()
    (tmp_path / ".model-killed" / "model").mkdir(parents=True)
    base_model.build_model(again, RECIPE)
    digests = [json.loads((place / base_model.BUILD_FILE).read_text())["files"] for place in (folder, again)]
    assert digests[0] == digests[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.lock", "model"]
    assert not (again / "left-over").exists()


def test_a_found_model_is_not_built_again(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["base_model.py", "--output", str(folder), "--if-missing"])
    before = (folder / base_model.BUILD_FILE).stat().st_mtime_ns
    base_model.main()
    assert capsys.readouterr().out.strip() == str(folder)
    assert (folder / base_model.BUILD_FILE).stat().st_mtime_ns == before


def test_of_two_builders_one_waits_and_takes_what_the_other_made(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "model"
    waiting = threading.Event()
    monkeypatch.setattr(base_model, "_say", lambda message: waiting.set() if "waiting" in message else None)
    monkeypatch.setattr(base_model, "_build", lambda *_: pytest.fail("built again"))
    with ThreadPoolExecutor(1) as pool:
        with base_model._locked(place):
            second = pool.submit(base_model.ensure_model, place, RECIPE)
            assert waiting.wait(timeout=30)
            shutil.copytree(folder, place)
        assert second.result(timeout=30) is None


def test_a_build_that_is_told_to_stop_leaves_nothing_half_made(tmp_path: Path) -> None:
    command = [sys.executable, base_model.__file__, "--output", str(tmp_path / "model"), "--steps", "100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "learning a tokenizer" in line:
                process.terminate()
                break
        process.stderr.read()
        assert process.wait(timeout=120) == 143
    assert [path.name for path in tmp_path.iterdir()] == [".model.lock"]


def test_cache_key_changes_with_the_recipe() -> None:
    assert base_model.compute_key(RECIPE) != base_model.compute_key(base_model.Recipe())


def test_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("FINETUNE_CACHE", raising=False)
    assert base_model.locate_cache() == tmp_path / "finetune-operator" / "quickstart"
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "own"))
    assert base_model.locate_cache() == tmp_path / "own" / "quickstart"
