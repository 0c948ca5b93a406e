"""Starting one process for each GPU of a pod, and ending as they end.

Not torchrun's agent: that gives processes that are asked to stop 30 s, and a checkpoint takes as long as it takes.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from finetune_api.exit_codes import OUTCOMES, ExitCode
from finetune_api.names import ENV_CONFIG, ENV_LOCAL_RANK
from finetune_api.summary import TrainerSummary, decode_summary
from finetune_api.trainer_config import GroupConfig, TrainerConfig
from finetune_trainer.ending import ENV_TERMINATION_MESSAGE, build_failure
from finetune_trainer.interruption import Interruption

logger = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.1
_LINGER_SECONDS: Final = 90.0
"""Longest life of the others after one has failed: they notice within a minute at the most."""


def needs_launch(config: TrainerConfig, environ: Mapping[str, str]) -> bool:
    """Whether this process is to start those of its pod, and is none of them itself."""
    return config.group is not None and config.group.processes > 1 and ENV_LOCAL_RANK not in environ


def run_processes(config: TrainerConfig, group: GroupConfig, interruption: Interruption) -> tuple[ExitCode, TrainerSummary]:
    """Start the processes of this pod, wait for all, and return how the pod ends: by what matters most of how they ended."""
    folder = Path(config.work_dir, config.job.uid, "last-words")
    folder.mkdir(parents=True, exist_ok=True)
    if group.nodes == 1:  # none comes from elsewhere, and two runs may share a machine
        config = config.model_copy(update={"group": group.model_copy(update={"port": find_free_port()})})
    words = [folder / f"process-{number}" for number in range(group.processes)]
    processes = [_start(config, number, file) for number, file in enumerate(words)]
    try:
        codes = _wait(processes, interruption)
    finally:
        for process in processes:
            with contextlib.suppress(OSError):
                process.kill()
    chosen = choose_process(codes)
    text = words[chosen].read_text() if words[chosen].exists() else ""
    summary = decode_summary(text)
    known = set(ExitCode)
    code = ExitCode(codes[chosen]) if codes[chosen] in known else ExitCode.CRASHED
    if summary is None:
        number = codes[chosen]
        how = f"was killed by {signal.Signals(-number).name}" if number < 0 else f"left with exit code {number} and no word"
        summary = build_failure(code, f"process {chosen} of {group.processes} in this pod {how}")
    return code, summary


def find_free_port() -> int:
    """Return a port of this machine that nobody listens at now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def choose_process(codes: Sequence[int]) -> int:
    """Return the number of the process whose code the pod ends by; below 0 they are signals.

    What no retry mends comes first, then what is counted, then a request to stop, then the loss of another; all is well only where all are.
    """

    def weigh(code: int) -> int:
        if code not in set(ExitCode):
            return 1
        if code == ExitCode.COMPLETED:
            return 4
        if code == ExitCode.PEER_LOST:
            return 3
        return {"never": 0, "counted": 1, "free": 2}[OUTCOMES[ExitCode(code)].retry]

    return min(range(len(codes)), key=lambda number: (weigh(codes[number]), number))


def _start(config: TrainerConfig, number: int, words: Path) -> subprocess.Popen[bytes]:
    words.write_text("")  # so that the process takes it for its kubelet's file
    environ = {
        **os.environ,
        ENV_CONFIG: config.model_dump_json(exclude_none=True),
        ENV_LOCAL_RANK: str(number),
        ENV_TERMINATION_MESSAGE: str(words),
    }
    # The configuration goes by the environment, whichever way it came here
    return subprocess.Popen([sys.executable, "-m", "finetune_trainer.main"], env=environ, stdout=sys.stderr)


def _wait(processes: Sequence[subprocess.Popen[bytes]], interruption: Interruption) -> list[int]:
    told, deadline = False, float("inf")
    while any(process.poll() is None for process in processes):
        if interruption.requested and not told:
            told = True
            for process in processes:
                process.send_signal(signal.SIGTERM)
        failed = [code for process in processes if (code := process.poll()) not in (None, ExitCode.COMPLETED, ExitCode.INTERRUPTED)]
        if failed and deadline == float("inf"):
            logger.warning("a process of this pod ended by %s; the others end, too", failed[0])
            deadline = time.monotonic() + _LINGER_SECONDS
        if time.monotonic() > deadline:
            for process in processes:
                if process.poll() is None:
                    process.kill()
        time.sleep(_POLL_SECONDS)
    return [process.wait() for process in processes]
