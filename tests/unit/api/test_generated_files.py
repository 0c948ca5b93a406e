"""The generated files are current, and what is wrong with them is said."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from finetune_api.exit_codes import OUTCOMES
from finetune_api.generate.__main__ import FILES, main
from finetune_api.generate.reference import read_member_docstrings
from finetune_api.reasons import Reason
from finetune_api.status import ConditionType, Phase
from tests.support.bad_manifests import BadManifest, load_bad_manifests
from tests.support.manifests import build_minimal_manifest

ROOT = Path(__file__).parents[3]


def test_the_generated_files_are_current() -> None:
    run = subprocess.run([sys.executable, "-m", "finetune_api.generate", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, ""), run.stdout


@pytest.mark.parametrize("path", FILES)
def test_a_stale_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str) -> None:
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--check", "--root", str(tmp_path)]) == 0
    (tmp_path / path).write_text((tmp_path / path).read_text() + "# edited by hand\n")
    capsys.readouterr()
    assert main(["--check", "--root", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert shown.err == f"{path} is stale; run `python -m finetune_api.generate`\n"
    assert "-# edited by hand" in shown.out
    assert (tmp_path / path).read_text().endswith("# edited by hand\n"), "--check writes nothing"


def test_a_missing_file_is_stale(tmp_path: Path) -> None:
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("enum", [Reason, Phase, ConditionType])
def test_every_member_is_documented(enum: Any) -> None:
    assert set(read_member_docstrings(enum)) == {member.name for member in enum}


def test_the_reference_speaks_of_every_reason_and_exit_code() -> None:
    reference = (ROOT / "docs/reference/api.md").read_text()
    assert all(f"| `{reason.value}` |" in reference for reason in Reason)
    assert all(f"\n| {int(code)} | `{outcome.reason.value}` |" in reference for code, outcome in OUTCOMES.items())


EDITOR_SCHEMA = json.loads((ROOT / "crds/finetunejob.schema.json").read_text())
IN_EDITOR = jsonschema.Draft202012Validator(EDITOR_SCHEMA)


def test_the_editors_schema_is_a_schema_and_takes_good_manifests() -> None:
    jsonschema.Draft202012Validator.check_schema(EDITOR_SCHEMA)
    IN_EDITOR.validate(build_minimal_manifest())
    IN_EDITOR.validate(build_minimal_manifest() | {"spec": yaml.safe_load((ROOT / "tests/integration/api/full_spec.yaml").read_text())})


BEYOND_JSON_SCHEMA = (
    "a divided model that writes answers of its own",
    "all pods or none of one",
    "YAML of a harness task on the hub",
    "data of a harness task without its YAML",
    "harness tasks of a reward model",
    "several nodes of which one goes back",
    "DoRA on int8",
    "rank of learnt tokens",
    "scale of full fine-tuning",
    "dropout of (IA)3",
    "targets of learnt tokens",
    "DoRA with AdaLoRA",
    "rsLoRA with (IA)3",
    "LoRA+ with AdaLoRA",
    "initialisation of AdaLoRA",
    "first rank of LoRA",
    "first rank below the last",
    "learnt tokens of LoRA",
    "encoder of prompt tuning",
    "experts with dropout",
    "experts with DoRA",
    "experts from the data",
    "DoRA from singular values",
    "rsLoRA from singular values",
    "PiSSA on four bits",
    "LoftQ on sixteen bits",
    "full fine-tuning of four bits",
    "FP8 beside 32 bits",
    "LoftQ on FP8",
    "full fine-tuning of FP8",
    "learnt tokens in packed rows",
    "prefix tuning with checkpointing",
    "merged tokens",
    "tokens in 4 bits",
    "full model as GGUF",
    "full model pushed",
    "revision of an object store",
    "split of an object store",
    "compiled layers whose activations are offloaded",
    "compiled layers with a prefix",
    "compiled layers with adapted experts",
    "half precision without a GPU",
    "GPU memory without a GPU",
    "no such regular expression",
    "memory without a unit",
    "memory in text without a unit",
    "memory as processor time",
    "white space",
    "URI too long in bytes",
    "invisible character",
    "label of the operator",
    "label of Kueue",
    "label of Kubernetes",
    "variable twice",
    "toleration of everything with a value",
    "toleration without a key",
    "seconds of a taint that does not evict",
    "topK without a temperature",
    "topP without a temperature",
    "beams drawn at random",
    "task twice",
    "push of a merged model that is not made",
    "push of a GGUF file that is not made",
    "push of a 4-bit model that is not made",
    "GPU product without a GPU",
    "claim without a GPU",
    "claim beside a resource",
    "claim beside a memory",
    "claim beside a product",
    "push to the same place twice",
    "long output with several artifacts",
    "MLflow without a server",
    "TensorBoard with a server",
    "MLflow offline",
    "Weights and Biases without a key",
    "tracker twice",
    "settings of another objective",
    "distillation without a teacher",
    "rewards missing",
    "regex without a pattern",
    "length without bounds",
    "length from more to less",
    "reward twice",
    "answers that do not fill steps",
    "label smoothing without robust",
    "format that the objective does not learn from",
    "preferences for fine-tuning",
    "KTO with one answer at a time",
    "tasks for a reward model",
    "noise for another objective",
    "merged reward model",
    "reward model in 4 bits",
    "preferences by another adapter",
    "spikes of GRPO",
    "a model divided over one process",
    "gradients of an adapter divided",
    "parts of a whole model offloaded",
    "parts offloaded without a GPU",
    "int8 weights divided",
    "FP8 weights divided",
    "a divided model in float16",
    "an adapter of weights that are divided",
    "a paged optimizer of parts",
    "the harness on a part of a model",
    "activations offloaded without a GPU",
    "activations offloaded by ORPO",
    "early stopping without held-out data",
    "best adapter without held-out data",
)
"""Faults that an editor doesn't show; the API server and `finetune validate` do."""


@pytest.mark.parametrize("bad", load_bad_manifests("parse"), ids=lambda bad: bad.name)
def test_an_editor_shows_the_fault(bad: BadManifest) -> None:
    assert IN_EDITOR.is_valid(bad.manifest) is (bad.name in BEYOND_JSON_SCHEMA)
