"""Names that follow from the FineTuneJob alone, so that a second attempt to create the same thing meets the first."""

import hashlib
from typing import Final

MAX_JOB_NAME: Final = 63
"""The Job controller puts the name into a label of the pods."""


def build_job_name(name: str, uid: str, attempt: int, *, nodes: int = 1) -> str:
    """Return the name of the Job of ``attempt``: ``<name>-<five characters of the UID's hash>-<attempt>``.

    The hash keeps a FineTuneJob that was deleted and made anew apart from the Job of its namesake, which may still be ending.
    """
    longest = MAX_JOB_NAME
    if nodes > 1:  # with a pod's number behind it, it is a host's name
        longest -= len(f"-{nodes - 1}")
    suffix = f"-{hashlib.sha256(uid.encode()).hexdigest()[:5]}-{attempt}"
    return name[: longest - len(suffix)].rstrip("-.") + suffix


def build_service_name(uid: str) -> str:
    """Return the name of a run's headless Service, which all of its attempts have in common."""
    return f"ftj-{hashlib.sha256(uid.encode()).hexdigest()[:10]}"
