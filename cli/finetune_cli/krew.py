"""``python -m finetune_cli.krew --url URL --to FOLDER``: the archive and the manifest by which krew installs the plugin.

The archive holds a launcher (`cli/krew/kubectl-finetune`): krew distributes single files for a platform, and the command is a Python
program with compiled parts, so the launcher runs an installed ``finetune``, or has uv or pipx fetch it. The same input gives the same
archive.
"""

import argparse
import gzip
import hashlib
import io
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
ARCHIVE: Final = "kubectl-finetune.tar.gz"
_PLATFORMS: Final = ("linux", "darwin")


def build_archive(release: str) -> bytes:
    """Return the archive of a release: launcher and licence, without times or owners."""
    files = {"kubectl-finetune": (ROOT / "cli/krew/kubectl-finetune").read_text().replace("@VERSION@", release).encode()}
    files["LICENSE"] = (ROOT / "LICENSE").read_bytes()
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if name == "kubectl-finetune" else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


def build_manifest(release: str, url: str, archive: bytes) -> dict[str, Any]:
    """Return krew's manifest of the plugin, whose archive lies at ``url``."""
    platforms = [
        {
            "selector": {"matchLabels": {"os": system}},
            "uri": url,
            "sha256": hashlib.sha256(archive).hexdigest(),
            "bin": "kubectl-finetune",
            "files": [{"from": "kubectl-finetune", "to": "."}, {"from": "LICENSE", "to": "."}],
        }
        for system in _PLATFORMS
    ]
    return {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "finetune"},
        "spec": {
            "version": f"v{release}",
            "shortDescription": "Fine-tune language models as FineTuneJobs",
            "description": "Submits FineTuneJobs, shows them live, compares them, and downloads their adapters with verified digests.\n",
            "caveats": "Runs an installed `finetune`, or fetches it by uv or pipx: one of the three is needed.\n",
            "platforms": platforms,
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """Write archive and manifest."""
    parser = argparse.ArgumentParser(prog="python -m finetune_cli.krew", description=__doc__)
    parser.add_argument("--url", required=True, help="where the archive will lie")
    parser.add_argument("--to", type=Path, default=Path("dist"), help="folder for the two files (default: %(default)s)")
    parser.add_argument("--release", default=version("finetune-operator"), help="version (default: %(default)s)")
    options = parser.parse_args(arguments)
    archive = build_archive(options.release)
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / ARCHIVE).write_bytes(archive)
    (options.to / "finetune.yaml").write_text(yaml.safe_dump(build_manifest(options.release, options.url, archive), sort_keys=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
