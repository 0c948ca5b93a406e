"""What the CRD's rules cost the API server: runs the Go benchmark beside this file. ``--crd FILE`` measures another CRD in its place."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from finetune_devcluster.go_toolchain import ensure_go
from tests.support.manifests import build_minimal_manifest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def main() -> int:
    """Run it and return Go's exit status."""
    parser = argparse.ArgumentParser(prog="make bench-rules", description=__doc__)
    parser.add_argument("--crd", type=Path, default=ROOT / "crds" / "finetunejobs.yaml", help="CRD to measure")
    parser.add_argument("--count", type=int, default=3, help="times that each is measured (3)")
    options = parser.parse_args()
    minimal = build_minimal_manifest()
    full = minimal | {"spec": yaml.safe_load((ROOT / "tests/integration/api/full_spec.yaml").read_text())}
    with tempfile.TemporaryDirectory() as folder:
        manifests = {"three-uris": minimal, "every-field": full}
        for name, manifest in manifests.items():
            Path(folder, f"{name}.yaml").write_text(yaml.safe_dump(manifest))
        paths = os.pathsep.join(str(Path(folder, f"{name}.yaml")) for name in manifests)
        environment = {**os.environ, "CRD": str(options.crd.resolve()), "MANIFESTS": paths, "GOTOOLCHAIN": "local", "GOWORK": "off"}
        words = [ensure_go(), "test", "-run=^$", "-bench=.", f"-count={options.count}", "."]
        return subprocess.run(words, cwd=HERE, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
