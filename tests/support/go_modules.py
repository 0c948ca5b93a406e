"""Files that a program's Go module carries beside its source: charts, resource definitions, configurations."""

import json
import os
import subprocess
from pathlib import Path

from finetune_devcluster.binaries import MODULES
from finetune_devcluster.go_toolchain import ensure_go


def find_module(name: str, path: str) -> Path:
    """Return the folder of the Go module ``path``, at the version from which the development cluster's ``name`` is built."""
    (module,) = (module for module in MODULES if module.name == name)
    # Not `go list`: that knows no folder where the program was kept from earlier, but Go's cache of modules was not.
    words = [ensure_go(), "mod", "download", "-json", path]
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off"}
    answer = subprocess.run(words, cwd=module.folder, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return Path(json.loads(answer.stdout)["Dir"])
