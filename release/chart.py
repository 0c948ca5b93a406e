"""The chart as a file, with the version of the tag: ``python -m release.chart --to FOLDER``.

In the tree the chart is of version ``0.0.0-dev``: what is installed from there names images that nobody publishes, and says so by its tag.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

from finetune_devcluster.binaries import ensure_binaries
from release.version import ROOT, compute_semantic_version, read_version

CHART: Final = ROOT / "charts" / "finetune-operator"
_SECONDS: Final = 120


def package_chart(version: str, to: Path) -> Path:
    """Write the chart into the folder ``to`` with ``version`` as its own and as the tag of both images; return the archive.

    Raises:
        subprocess.CalledProcessError: Helm refuses; its words are on stderr.
    """
    to.mkdir(parents=True, exist_ok=True)
    helm = str(ensure_binaries(["helm"])["helm"])
    argv = [helm, "package", str(CHART), "--version", version, "--app-version", version, "--destination", str(to)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=_SECONDS)
    return to / f"finetune-operator-{version}.tgz"


def main(arguments: list[str] | None = None) -> int:
    """Package the chart and print where it lies."""
    parser = argparse.ArgumentParser(prog="python -m release.chart", description="Package the chart with the version of this tree.")
    parser.add_argument("--to", type=Path, default=Path("dist"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    sys.stdout.write(f"{package_chart(compute_semantic_version(read_version()), options.to)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
