"""Exit codes of the trainer: what each means, and whether another try can mend it.

The trainer exits by this table and the Job's pod failure policy is built from it. The values follow ``sysexits.h`` where it has
one that fits; 1 and 2 are left to Python, 128 and above to signals.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

from finetune_api.reasons import Reason

Retry = Literal["never", "counted", "free"]
"""``never``: fail the run. ``counted``: try again within ``backoffLimit``. ``free``: try again, budget untouched."""


class ExitCode(IntEnum):
    """Codes that the trainer exits with."""

    COMPLETED = 0
    """Trained, and every artifact published and verified."""
    CRASHED = 1
    """An error that nobody foresaw."""
    CONFIG_INVALID = 64
    """The configuration can't work, for this model or at all."""
    DATA_INVALID = 65
    """The dataset can't be read, or has nothing to learn from."""
    SOURCE_UNAVAILABLE = 66
    """Model or dataset don't exist, or the credentials don't reach them."""
    ACCELERATOR_MISSING = 69
    """A GPU was asked for, and CUDA finds none."""
    OUT_OF_MEMORY = 71
    """The device's memory was not enough."""
    LOSS_DIVERGED = 72
    """The loss is no longer a finite number."""
    STORAGE_FAILED = 74
    """The store failed, after retries, in reading or writing."""
    INTERRUPTED = 75
    """Asked to stop; a checkpoint is published, and the next pod resumes from it."""
    PEER_LOST = 76
    """Another process of the run has ended; what it ended by is what counts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an exit code means to the operator."""

    reason: Reason
    retry: Retry
    advice: str
    """What a person can do about it, as a sentence."""


OUTCOMES: Final[dict[ExitCode, Outcome]] = {
    ExitCode.COMPLETED: Outcome(Reason.COMPLETED, "never", ""),
    ExitCode.CRASHED: Outcome(Reason.TRAINER_CRASHED, "counted", "See the trainer's log."),
    ExitCode.CONFIG_INVALID: Outcome(Reason.CONFIG_INVALID, "never", "Create the FineTuneJob anew with the setting mended."),
    ExitCode.DATA_INVALID: Outcome(Reason.DATA_INVALID, "never", "Mend the dataset and create the FineTuneJob anew."),
    ExitCode.SOURCE_UNAVAILABLE: Outcome(
        Reason.SOURCE_UNAVAILABLE,
        "never",
        "Check the URI, the revision and the Secret in credentialsSecret, and create the FineTuneJob anew.",
    ),
    ExitCode.ACCELERATOR_MISSING: Outcome(
        Reason.ACCELERATOR_MISSING, "never", "Check the NVIDIA driver and container toolkit on the node, or set resources.gpus to 0."
    ),
    ExitCode.OUT_OF_MEMORY: Outcome(
        Reason.OUT_OF_MEMORY,
        "never",
        "Lower training.perDeviceBatchSize or training.maxLength, or ask for a larger GPU or more resources.memory.",
    ),
    ExitCode.LOSS_DIVERGED: Outcome(Reason.LOSS_DIVERGED, "never", "Lower training.learningRate, or look at the rows near the step named."),
    ExitCode.STORAGE_FAILED: Outcome(Reason.STORAGE_FAILED, "counted", "Check that the store answers and has room."),
    ExitCode.INTERRUPTED: Outcome(Reason.INTERRUPTED, "free", ""),
    ExitCode.PEER_LOST: Outcome(Reason.PEER_LOST, "free", "See the other pods of the run."),
}


def codes_with_retry(retry: Retry) -> list[int]:
    """Return the failing exit codes that are retried as ``retry`` says, in ascending order."""
    return sorted(code for code, outcome in OUTCOMES.items() if outcome.retry == retry and code is not ExitCode.COMPLETED)
