"""Faults that the trainer foresees: each carries the exit code that it ends the pod with, and words for the person who mends it."""

from typing import ClassVar

from finetune_api.exit_codes import ExitCode


class TrainerError(Exception):
    """A foreseen fault. The message says what is wrong and how to mend it; it never carries a secret."""

    exit_code: ClassVar[ExitCode] = ExitCode.CRASHED

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigInvalid(TrainerError):
    """The configuration can't work, for this model or at all."""

    exit_code = ExitCode.CONFIG_INVALID


class DataInvalid(TrainerError):
    """The dataset can't be read, or has nothing to learn from."""

    exit_code = ExitCode.DATA_INVALID


class SourceUnavailable(TrainerError):
    """Model or dataset don't exist, or the credentials don't reach them."""

    exit_code = ExitCode.SOURCE_UNAVAILABLE


class StorageFailed(TrainerError):
    """The store failed after retries, or has no room."""

    exit_code = ExitCode.STORAGE_FAILED


class OutOfMemory(TrainerError):
    """The device's memory was not enough."""

    exit_code = ExitCode.OUT_OF_MEMORY


class LossDiverged(TrainerError):
    """The loss is no longer a finite number."""

    exit_code = ExitCode.LOSS_DIVERGED


class AcceleratorMissing(TrainerError):
    """A GPU was asked for, and CUDA finds none."""

    exit_code = ExitCode.ACCELERATOR_MISSING


class Interrupted(TrainerError):
    """Asked to stop; a checkpoint is published, and the next pod resumes from it."""

    exit_code = ExitCode.INTERRUPTED


class PeerLost(TrainerError):
    """Another process of the run has ended, or never came."""

    exit_code = ExitCode.PEER_LOST
