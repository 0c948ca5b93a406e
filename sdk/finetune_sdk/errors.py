"""What goes wrong between here and a cluster, in words for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_ADVICE: Final = {
    401: "the cluster doesn't know you: log in again, or check the user of your kubeconfig's context",
    403: "ask whoever runs the cluster for this right",
    429: "the API server has too much to do; try again in a moment",
}


class FinetuneError(Exception):
    """Base of everything that this package raises."""


class NoCluster(FinetuneError):
    """No kubeconfig, no ServiceAccount, or no answer from the API server."""


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One field that the API server refuses."""

    field: str
    """Path, as Kubernetes writes it: ``spec.training.epochs``; empty where the server names none."""
    message: str
    """What is wrong with it."""


class ApiError(FinetuneError):
    """The API server refused a request.

    :param status: HTTP status.
    :param body: the server's ``metav1.Status``.
    """

    def __init__(self, status: int, body: Mapping[str, Any], what: str) -> None:
        self.status = status
        self.reason = str(body.get("reason", ""))
        self.what = what
        self.server_message = str(body.get("message", ""))
        details = body.get("details") or {}
        causes = details.get("causes") or []
        self.faults = [FieldFault(str(cause.get("field", "")).lstrip("."), _clean(str(cause.get("message", "")))) for cause in causes]
        super().__init__(self.describe())

    def describe(self) -> str:
        """Return what happened as a person would want it: what was tried, what the server says, what to do."""
        if self.status == 422 and self.faults:
            return f"{self.what}: refused as invalid:\n" + "\n".join(
                f"  {fault.field}: {fault.message}" if fault.field else f"  {fault.message}" for fault in self.faults
            )
        advice = _ADVICE.get(self.status)
        return f"{self.what}: {self.server_message or self.reason or self.status}{f' ({advice})' if advice else ''}"


class NotFound(ApiError):
    """There is no such object."""

    def describe(self) -> str:
        """Return what is missing, and what that may mean."""
        if "the server could not find the requested resource" in self.server_message or not self.server_message:
            return f"{self.what}: the cluster doesn't know FineTuneJobs; the operator's CRD is not installed there"
        return f"{self.what}: {self.server_message}"


class Conflict(ApiError):
    """The object exists already, or changed meanwhile."""


class SpecDiffers(FinetuneError):
    """Another FineTuneJob of this name is there, and a specification can't be changed."""


class RunFailed(FinetuneError):
    """The run ended without a result."""

    def __init__(self, name: str, reason: str, message: str) -> None:
        self.name, self.reason, self.message = name, reason, message
        super().__init__(f"{name} failed ({reason}): {message}" if message else f"{name} failed ({reason})")


class WaitTimedOut(FinetuneError, TimeoutError):
    """What was waited for did not come in time."""


class ArtifactDamaged(FinetuneError):
    """A file doesn't match the digest that the run published it under."""


class ArtifactUnreachable(FinetuneError):
    """The store can't be reached from here, or refuses."""


def build_error(status: int, body: Mapping[str, Any], what: str) -> ApiError:
    """Return the error of the class that ``status`` calls for."""
    return {404: NotFound, 409: Conflict}.get(status, ApiError)(status, body, what)


def _clean(message: str) -> str:
    """Take the API server's own wrapping off a message of a CEL rule: ``Invalid value: "object": must …``."""
    head, quoted, rest = message.partition('Invalid value: "object": ')
    return rest if quoted and not head else message
