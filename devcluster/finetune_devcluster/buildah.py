"""buildah, with a storage of its own in the cache and its progress on the terminal."""

import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from finetune_devcluster.errors import DevClusterError

_BUILD_TIMEOUT = 3600.0
_REPORT_INTERVAL = 10.0
_KEPT_LINES = 40
_WIDTH = 120


class Buildah:
    """buildah over one folder. Two processes must not build in it at the same time: hold a lock."""

    def __init__(self, folder: Path) -> None:
        """Use the storage in `folder`.

        Raises:
            DevClusterError: buildah is not installed, or this is not root.
        """
        program = shutil.which("buildah")
        if program is None:
            raise DevClusterError("buildah is not installed: `python -m finetune_devcluster packages` says how to install it")
        if os.geteuid() != 0:
            raise DevClusterError("images are built as root here; run as root, or build with Docker (see the Dockerfile) and push")
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self._words = [program, f"--root={folder / 'storage'}", f"--runroot={folder / 'run'}"]
        self._words.append(f"--storage-driver={self._find_driver()}")

    def has(self, reference: str) -> bool:
        """Tell whether the storage has an image of that name."""
        return self._try(["images", "--quiet", reference]).returncode == 0

    def clean(self, limit: int) -> None:
        """Remove what a build that died has left, and empty a storage of more than `limit` bytes."""
        self._run(["rm", "--all"])
        for path in self.temporary.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        storage = self.folder / "storage"
        if storage.exists():
            spoken = subprocess.run(["du", "-sx", "--block-size=1", str(storage)], capture_output=True, text=True, timeout=300, check=False)
            if spoken.stdout and int(spoken.stdout.split()[0]) > limit:
                print(f"emptying buildah's storage: more than {limit >> 30} GiB", file=sys.stderr, flush=True)
                self._run(["rmi", "--all", "--force"], timeout=600)

    def import_base(self, archive: Path, reference: str) -> None:
        """Make an image of one layer from the archive of a root file system."""
        container = self._run(["from", "scratch"]).strip()
        try:
            self._run(["add", "--quiet", container, str(archive), "/"], timeout=600)
            self._run(["config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container])
            self._run(["commit", "--quiet", container, reference], timeout=600)
        finally:
            self._try(["rm", container])

    def build(self, context: Path, reference: str, arguments: Sequence[str]) -> None:
        """Build an image by the Dockerfile of `context`; layers that the storage has are taken from there.

        Raises:
            DevClusterError: the build failed; the message has the end of its output.
        """
        words = ["bud", "--isolation=chroot", "--network=host", "--layers", "--pull=false", f"--tag={reference}", *arguments, str(context)]
        self.run_shown([*self._words, *words], reference.rsplit("/", 1)[-1])

    def copy(self, source: str, target: str, doing: str) -> None:
        """Copy an image of the storage (or `oci:…`) to a registry or a layout, its layers uncompressed in a layout."""
        if source.startswith("oci:"):
            source = self._run(["pull", "--quiet", source], timeout=_BUILD_TIMEOUT).split()[-1]
        flags = ["--disable-compression"] if target.startswith("oci:") else []
        self.run_shown([*self._words, "push", *flags, source, target if ":/" in target else f"docker://{target}"], doing)

    def run_shown(self, words: Sequence[str], name: str) -> None:
        """Run a long command, its steps and the time on the terminal.

        Raises:
            DevClusterError: it failed or took more than an hour; the message has the end of its output.
        """
        started = time.monotonic()
        tail: deque[str] = deque(maxlen=_KEPT_LINES)
        process = subprocess.Popen(
            ["nice", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read_lines, args=(process, lines), daemon=True).start()
        step = "started"
        try:
            while True:
                try:
                    line = lines.get(timeout=_REPORT_INTERVAL)
                except queue.Empty:
                    _show(name, time.monotonic() - started, f"… {step}")
                else:
                    if line is None:
                        break
                    tail.append(line)
                    if "STEP " in line or line.startswith("I: "):
                        step = line.strip()
                        _show(name, time.monotonic() - started, step)
                if time.monotonic() - started > _BUILD_TIMEOUT:
                    raise DevClusterError(f"{name}: not done after {_BUILD_TIMEOUT:.0f} s:\n" + "\n".join(tail))
            code = process.wait(timeout=60)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=60)
        if code != 0:
            raise DevClusterError(f"{name}: {Path(words[0]).name} ended with {code}:\n" + "\n".join(tail))

    def _find_driver(self) -> str:
        """Return overlay where the kernel and the file system allow it, else vfs, which copies every layer."""
        probe = [*self._words, "--storage-driver=overlay", "images", "--quiet"]
        spoken = subprocess.run(probe, capture_output=True, timeout=60, check=False)
        return "overlay" if spoken.returncode == 0 else "vfs"

    def _try(self, words: Sequence[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._words, *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            check=False,
        )

    def _run(self, words: Sequence[str], timeout: float = 120) -> str:
        spoken = self._try(words, timeout)
        if spoken.returncode != 0:
            raise DevClusterError(f"buildah {' '.join(words)}: {spoken.stderr.strip()[-2000:]}")
        return spoken.stdout


def _read_lines(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    if process.stdout is not None:
        for line in process.stdout:
            lines.put(line.rstrip())
    lines.put(None)


def _show(name: str, seconds: float, text: str) -> None:
    shown = text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"
    print(f"  {name} {seconds:4.0f} s  {shown}", file=sys.stderr, flush=True)
