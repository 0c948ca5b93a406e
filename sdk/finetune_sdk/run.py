"""A FineTuneJob as it stands in a cluster."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from finetune_api.artifact import Artifact
from finetune_api.resource import parse_spec, write_out
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Condition, ConditionType, FineTuneJobStatus, Phase


@dataclass(frozen=True)
class Run:
    """One FineTuneJob at one moment. ``body`` is all that the server says; the properties are typed views of it.

    Fields that a newer operator has written are left out of the views, and stay in ``body``.
    """

    body: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the FineTuneJob."""
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.body["metadata"].get("namespace", ""))

    @property
    def uid(self) -> str:
        """Its UID."""
        return str(self.body["metadata"].get("uid", ""))

    @property
    def created(self) -> datetime | None:
        """When it was created."""
        text = self.body["metadata"].get("creationTimestamp")
        return None if text is None else datetime.fromisoformat(str(text))

    @cached_property
    def spec(self) -> FineTuneJobSpec:
        """What was asked for.

        :raises SpecInvalid: a newer release's field is in it; see :attr:`body`.
        """
        return parse_spec(self.body["spec"])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What was asked for, in the manifest's own names and with every default; as stored, where :attr:`spec` can't be read."""
        return write_out(self.body.get("spec") or {})

    @cached_property
    def status(self) -> FineTuneJobStatus:
        """What the operator has seen."""
        given = dict(self.body.get("status") or {})
        while True:
            try:
                return FineTuneJobStatus.model_validate(given)
            except ValidationError as error:
                unreadable = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]} & set(given)
                if not unreadable:
                    return FineTuneJobStatus()
                given = {name: value for name, value in given.items() if name not in unreadable}

    @property
    def phase(self) -> Phase | None:
        """Where it stands; None before the operator has seen it."""
        return self.status.phase

    @property
    def finished(self) -> bool:
        """True once it has succeeded or failed."""
        return self.phase is not None and self.phase.is_terminal

    @property
    def succeeded(self) -> bool:
        """True of a run whose artifact is published and verified."""
        return self.phase is Phase.SUCCEEDED

    def condition(self, kind: str = ConditionType.SUCCEEDED) -> Condition | None:
        """Return one of its conditions."""
        return next((each for each in self.status.conditions if each.type == kind), None)

    @property
    def reason(self) -> str:
        """Why it stands where it stands, for machines; empty before the operator has seen it."""
        condition = self.condition()
        return condition.reason if condition else ""

    @property
    def message(self) -> str:
        """Why it stands where it stands, for people."""
        condition = self.condition()
        return condition.message if condition else ""

    @property
    def artifact(self) -> Artifact | None:
        """The adapter, once it is published and verified."""
        return next((each for each in self.status.artifacts if each.name == "adapter"), next(iter(self.status.artifacts), None))

    def get(self, path: str) -> Any:  # noqa: ANN401  # any value of JSON
        """Return the value at a dotted path of :attr:`body`, such as ``status.progress.step``; None where there is none.

        Below ``spec`` of :attr:`settings`, so that a default is found that nobody has written.
        """
        value: Any = {**self.body, "spec": self.settings}
        for part in path.split("."):
            if not isinstance(value, dict):
                return None
            value = value.get(part)
        return value


@dataclass(frozen=True, slots=True)
class RunEvent:
    """An Event about a run, its Job or one of its pods."""

    time: datetime | None
    """When it was last seen."""
    kind: str
    """`Normal` or `Warning`."""
    reason: str
    """Why, for machines."""
    message: str
    """Why, for people."""
    about: str
    """What it is about: ``FineTuneJob/support-bot``."""
    count: int = 1
    """How often it was seen."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a trainer's log."""

    pod: str
    """Name of the pod."""
    rank: int
    """Index of the pod in its Job; 0 where there is one only."""
    text: str
    """The line, as it was written: JSON in a cluster."""
