"""The guide's signing with a key of one's own, run as it stands there: by cosign itself, against a real registry, without the Internet."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from finetune_devcluster.binaries import ensure_binaries
from release import sbom
from release.version import compute_semantic_version, read_version
from tests.support.registry_server import run_registry

pytestmark = [
    pytest.mark.cluster,  # no cluster is asked; its registry is
    pytest.mark.skipif(os.environ.get("FINETUNE_COSIGN") != "1", reason="needs cosign: make signatures"),
]

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "releasing.md"
VERSION = compute_semantic_version(read_version())


def read_commands(heading: str) -> list[str]:
    """Return the lines of the guide's block of commands after the line that begins with `heading`, without their comments."""
    _, found, rest = GUIDE.read_text().partition(f"\n{heading}")
    assert found, f"{GUIDE} has no line that begins with {heading!r}"
    block = rest.partition("```console\n")[2].partition("\n```")[0]
    return [re.sub(r"\s+# .*", "", line) for line in block.splitlines()]


@dataclass(frozen=True)
class Workplace:
    """A folder to sign in, as the guide's reader has it, with an image in a registry."""

    folder: Path
    image: str

    def run(self, command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run one line of the guide."""
        environment = {
            "PATH": f"{ensure_binaries(['cosign'])['cosign'].parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "COSIGN_PASSWORD": "correct-horse",
            # What reaches for the Internet all the same, fails at once and is seen.
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "IMAGE": self.image,
            "VERSION": VERSION,
            **variables,
        }
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def must(self, command: str) -> str:
        """Run one line of the guide, which has to work."""
        spoken = self.run(command)
        assert spoken.returncode == 0, f"{command}\n{spoken.stdout}{spoken.stderr}"
        return spoken.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    from finetune_trainer.storage import Credentials
    from finetune_trainer.storage.images import push_image
    from finetune_trainer.storage.registry import Registry

    folder = tmp_path_factory.mktemp("signing")
    (folder / "files").mkdir()
    (folder / "files" / "adapter_config.json").write_text("{}")
    (folder / "dist").mkdir()
    (folder / "dist" / "SHA256SUMS").write_text(f"{'0' * 64}  finetune-operator.whl\n")
    assert sbom.main(["--to", str(folder / "dist")]) == 0
    with run_registry(folder / "registry") as url:
        # For amd64 and arm64, as the images of a release are.
        digest = push_image(folder / "files", Registry("oci://registry.test/finetune-operator:v1", "output", Credentials(), url), {})
        workplace = Workplace(folder, f"{urlsplit(url).netloc}/finetune-operator@{digest}")
        for command in read_commands("With a key of your own"):
            workplace.must(command)
        yield workplace


@pytest.mark.parametrize("command", read_commands("Who has the public key verifies"))
def test_what_was_signed_is_verified(workplace: Workplace, command: str) -> None:
    workplace.must(command)


@pytest.mark.parametrize("command", read_commands("Who has the public key verifies"))
def test_another_key_is_refused(workplace: Workplace, command: str, tmp_path: Path) -> None:
    Workplace(tmp_path, workplace.image).must("cosign generate-key-pair")
    spoken = workplace.run(command.replace("cosign.pub", str(tmp_path / "cosign.pub")))
    assert spoken.returncode != 0, spoken.stdout
    assert "signature" in spoken.stderr


def test_a_file_that_was_changed_is_refused(workplace: Workplace) -> None:
    sums = workplace.folder / "dist" / "SHA256SUMS"
    (workplace.folder / "dist" / "changed").write_text(sums.read_text().replace("0", "1"))
    command = read_commands("Who has the public key verifies")[-1]
    assert "verify-blob" in command
    assert workplace.run(f"{command.removesuffix('SHA256SUMS')}changed").returncode != 0
