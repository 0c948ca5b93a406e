"""A small process that outlives its starter and takes a cluster down when the starter has ended, however it ended."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path


class Reaper:
    """Watches over the process that makes it: when that process is gone, the cluster in `folder` is taken down."""

    def __init__(self, folder: Path) -> None:
        """Start the watching process, which reads a pipe whose other end closes with this process."""
        source = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from finetune_devcluster import reaper; reaper.main()", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """End the watch, the cluster being gone already."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(b"done\n", timeout=30)


def main() -> None:
    """Wait for the starter's end, or for its word that nothing is left to do."""
    from finetune_devcluster.cluster import take_down  # noqa: PLC0415 - cluster imports this module

    if not sys.stdin.buffer.readline():
        take_down(Path(sys.argv[1]))
