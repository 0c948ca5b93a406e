"""Runs on this machine: the trainer as a process of its own, told the same as in a pod.

The command line imports no training library; what the two share is the configuration that goes in, the reports that come out in a file, and
the exit codes.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections import deque
from pathlib import Path
from typing import Any, Final

from finetune_api.names import ENV_REPORT_FILE
from finetune_api.report import JobReference, TrainerReport
from finetune_api.resource import FineTuneJob
from finetune_api.spec import FineTuneJobSpec
from finetune_api.summary import TrainerSummary, decode_summary
from finetune_api.trainer_config import DeviceConfig, GroupConfig, TrainerConfig

TRAINER_MODULE: Final = "finetune_trainer.main"
LOG_LINES: Final = 200
_NAMESPACE: Final = "local"
_IDENTITY: Final = uuid.UUID("6f1c1f3e-7a5b-4c59-9a2e-6d0f3c7f4b10")


def is_trainer_installed() -> bool:
    """Tell whether the training libraries are here, without loading them."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "trl", "peft", "transformers"))


def build_local_config(job: FineTuneJob, work_dir: Path, *, cpu: bool) -> TrainerConfig:
    """Return the trainer's configuration of a run on this machine.

    Its UID follows from name and output, so that the same command, given again, goes on from the last checkpoint.
    """
    spec = job.spec
    name = str(job.metadata.get("name") or "local-run")
    uid = uuid.uuid5(_IDENTITY, f"{name} {spec.output.uri}")
    shared = {field: getattr(spec, field) for field in TrainerConfig.model_fields if field in FineTuneJobSpec.model_fields}
    processes = 1 if cpu else max(1, spec.resources.gpus)
    absent = spec.resources.nodes * max(1, spec.resources.gpus) // processes
    if absent > 1:  # fewer processes than in the cluster, each of which accumulates what the others would have
        steps = spec.training.gradient_accumulation_steps * absent
        shared["training"] = spec.training.model_copy(update={"gradient_accumulation_steps": steps})
    return TrainerConfig(
        job=JobReference(namespace=_NAMESPACE, name=name, uid=str(uid)),
        device=DeviceConfig(gpus=0 if cpu else spec.resources.gpus),
        group=GroupConfig(nodes=1, processes=processes, address="127.0.0.1") if processes > 1 else None,
        work_dir=str(work_dir),
        **shared,
    )


class LocalTrainer:
    """The trainer's process. Ctrl-C does not reach it by itself: see :meth:`ask_to_stop`."""

    def __init__(self, config: TrainerConfig, folder: Path, *, text_log: bool) -> None:
        """Start it.

        :param folder: where its configuration and its reports lie.
        :param text_log: let it write its log, for people, straight to standard error.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._reports = folder / "report.json"
        self._reports.unlink(missing_ok=True)
        self.summary: TrainerSummary | None = None
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        """The newest lines of its log."""
        file = folder / "config.json"
        file.write_text(config.model_dump_json(exclude_none=True))
        environment = {**os.environ, ENV_REPORT_FILE: str(self._reports), "FINETUNE_LOG_FORMAT": "text"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", TRAINER_MODULE, "--config", str(file)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=None if text_log else subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._readers = [threading.Thread(target=self._read_result, daemon=True)]
        if not text_log:
            self._readers.append(threading.Thread(target=self._read_log, daemon=True))
        for reader in self._readers:
            reader.start()

    def poll(self, seconds: float) -> int | None:
        """Wait at most so long for its end, and return its exit code; None while it runs."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        for reader in self._readers:
            reader.join(5)
        return code if code >= 0 else 128 - code

    def read_report(self) -> TrainerReport | None:
        """Return its newest report."""
        try:
            return TrainerReport.model_validate_json(self._reports.read_text())
        except (OSError, ValueError):
            return None

    def ask_to_stop(self) -> None:
        """Let it write a checkpoint and leave."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def _read_result(self) -> None:
        for line in self._process.stdout or ():
            summary = decode_summary(line) if line.startswith("{") else None
            if summary is not None:
                self.summary = summary
            else:
                self.log.append(line.rstrip())

    def _read_log(self) -> None:
        for line in self._process.stderr or ():
            self.log.append(line.rstrip())


def build_local_body(
    config: TrainerConfig, report: TrainerReport | None, summary: TrainerSummary | None, code: int | None
) -> dict[str, Any]:
    """Return what a cluster would show of the run, so that it is shown alike."""
    phase = "Starting" if report is None or report.progress is None else "Running"
    reason, message = "Training", "" if report is None else str(report.stage)
    if code is not None:
        phase = "Succeeded" if code == 0 else "Failed"
        reason, message = (str(summary.reason), summary.message) if summary else ("TrainerCrashed", f"exit code {code}")
    latest = summary or report
    status: dict[str, Any] = {"phase": phase}
    status["conditions"] = [
        {"type": "Succeeded", "status": "Unknown", "reason": reason, "message": message, "lastTransitionTime": "1970-01-01T00:00:00Z"}
    ]
    for name in ("progress", "metrics", "dataset"):
        value = getattr(latest, name, None)
        if value is not None:
            status[name] = value.model_dump(mode="json", exclude_none=True)
    if summary is not None:
        status["artifacts"] = [each.model_dump(mode="json") for each in summary.artifacts]
    spec = {"resources": {"gpus": config.device.gpus}}
    return {"metadata": {"name": config.job.name, "namespace": _NAMESPACE, "uid": config.job.uid}, "spec": spec, "status": status}
