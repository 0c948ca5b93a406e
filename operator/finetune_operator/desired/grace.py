"""How long a trainer that is asked to stop may take: from what its steps and checkpoints were measured to take."""

import math
from typing import Final

from finetune_api.progress import Metrics
from finetune_api.spec import FineTuneJobSpec

MARGIN: Final = 2.0
"""The measured times may double: a store that many runs are preempted into at once is slower than it was."""
REST_SECONDS: Final = 30
"""For what is not measured: noticing the signal, leaving the loop, the summary."""
MAX_SECONDS: Final = 3600
"""Nobody's preemption waits longer than this on a measurement; what the specification or the chart asks for is asked for knowingly."""


def compute_grace_seconds(spec: FineTuneJobSpec, metrics: Metrics | None, default: int) -> int:
    """Return the time between SIGTERM and SIGKILL of the next attempt, in seconds.

    At least what the specification asks for, or else ``default``. More where the slowest step seen and the slowest checkpoint, one after
    the other as a stop takes them, were measured to need more.
    """
    floor = spec.scheduling.termination_grace_period_seconds or default
    if metrics is None or metrics.checkpoint_seconds is None:
        return floor
    measured = MARGIN * ((metrics.step_seconds or 0.0) + metrics.checkpoint_seconds) + REST_SECONDS
    return max(floor, min(MAX_SECONDS, math.ceil(measured)))
