"""The house: what may import what, and that Python's own `operator` stays Python's own."""

import operator
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT / "operator").with_suffix("").parts)
    for path in (ROOT / "operator" / "finetune_operator").rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)
BLOCK_TRAINING = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "finetune_trainer"}:
            raise ImportError(f"{name} is not for the operator")
        return None

sys.meta_path.insert(0, Blocked())
for module in sys.argv[1:]:
    importlib.import_module(module)
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("folder", ["operator", "trainer", "api", "sdk", "cli"])
def test_the_folder_is_no_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_operator_is_the_standard_library_s() -> None:
    assert Path(operator.__file__).parent == Path(sysconfig.get_path("stdlib"))


def test_no_module_is_called_operator() -> None:
    folders = ("api", "operator", "trainer", "sdk", "cli", "devcluster", "tests")
    assert [path for folder in folders for path in (ROOT / folder).rglob("operator.py")] == []


@pytest.mark.parametrize("cwd", [ROOT, ROOT / "operator", ROOT / "tests"], ids=str)
def test_operator_is_the_standard_library_s_wherever_python_starts(cwd: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import operator; print(operator.itemgetter(0)('x'))"], cwd=cwd, capture_output=True, text=True, check=True
    )
    assert told.stdout == "x\n"


def test_imports_go_one_way() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    told = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert " 0 broken" in told.stdout


def test_the_operator_imports_without_any_training_library() -> None:
    told = subprocess.run([sys.executable, "-c", BLOCK_TRAINING, *MODULES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


def test_the_check_for_training_libraries_can_fail() -> None:
    told = subprocess.run([sys.executable, "-c", BLOCK_TRAINING, "torch"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "torch is not for the operator" in told.stderr


@pytest.mark.parametrize("part", ["plan", "desired", "status"])
def test_decisions_import_neither_kopf_nor_a_client(part: str) -> None:
    """They are pure functions: what they need comes in as parameters."""
    source = "\n".join(path.read_text() for path in (ROOT / "operator" / "finetune_operator" / part).rglob("*.py"))
    for module in ("kopf", "kubernetes", "aiohttp", "asyncio", "time", "finetune_operator.kube"):
        assert f"import {module}\n" not in source
        assert f"from {module}" not in source
