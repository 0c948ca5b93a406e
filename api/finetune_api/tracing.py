"""The trace of an attempt. Its identifiers follow from run and attempt alone: nobody has to remember them, and nobody to hand them on."""

import hashlib
from dataclasses import dataclass
from typing import Final, Self

from finetune_api.names import GROUP

_SAMPLED: Final = 1 << 64
"""Values of the half that decides."""


@dataclass(frozen=True, slots=True)
class AttemptTrace:
    """The trace that operator and trainer write the spans of one attempt into."""

    trace_id: int
    """16 bytes, of which the lower half is as good as random: samplers go by it."""
    root_id: int
    """8 bytes: the span of the whole attempt, which is parent to all that was done for it."""

    @classmethod
    def of(cls, uid: str, attempt: int) -> Self:
        """Return the trace of ``attempt`` of the FineTuneJob with this UID."""
        digest = hashlib.sha256(f"{GROUP}/trace/{uid}/{attempt}".encode()).digest()
        return cls(int.from_bytes(digest[:16]), int.from_bytes(digest[16:24]))

    def is_sampled(self, ratio: float) -> bool:
        """Say whether it is in the share ``ratio`` (0 to 1) of traces that are kept: as OpenTelemetry's ``TraceIdRatioBased`` decides."""
        return self.trace_id % _SAMPLED < round(ratio * _SAMPLED)

    @property
    def traceparent(self) -> str:
        """The attempt's span as W3C Trace Context writes it, sampled."""
        return f"00-{self.trace_id:032x}-{self.root_id:016x}-01"
