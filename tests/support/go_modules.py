"""Files that a program's Go module carries beside its source: charts, resource definitions, configurations."""

import os
import subprocess
from pathlib import Path

from finetune_devcluster.binaries import MODULES
from finetune_devcluster.go_toolchain import ensure_go


def find_module(name: str, path: str) -> Path:
    """Return the folder of the Go module ``path``, at the version from which the development cluster's ``name`` is built."""
    (module,) = (module for module in MODULES if module.name == name)
    words = [ensure_go(), "list", "-m", "-f", "{{.Dir}}", path]
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off"}
    answer = subprocess.run(words, cwd=module.folder, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return Path(answer.stdout.strip())
