"""The FineTuneJob as a whole, and reading one so that every fault is named at once."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from finetune_api.base import StoredModel
from finetune_api.rules import Rule
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus

_NAME_PATTERN: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"

NAME_RULE: Final = Rule(
    cel=f"self.metadata.name.size() <= 63 && self.metadata.name.matches('^{_NAME_PATTERN}$')",
    holds=lambda name: len(name) <= 63 and re.fullmatch(_NAME_PATTERN, name) is not None,
    message="must have at most 63 characters, begin with a letter, and hold only lower-case letters, digits and '-'",
    field="metadata.name",
)
"""Name of a FineTuneJob (RFC 1035): Jobs, pods and label values are made from it. In Python it is asked about the name."""


class SpecInvalid(ValueError):
    """A specification that can't be carried out. ``faults`` has one line for each field, `spec.…: what is wrong`."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class FineTuneJob(StoredModel):
    """One fine-tuning run."""

    api_version: Literal["finetune.dev/v1alpha1"] = "finetune.dev/v1alpha1"
    """API group and version."""
    kind: Literal["FineTuneJob"] = "FineTuneJob"
    """Kind of the resource."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Name, namespace, labels and the rest that every object has."""
    spec: FineTuneJobSpec
    """What to fine-tune."""
    status: FineTuneJobStatus = Field(default_factory=FineTuneJobStatus)
    """What the operator has seen."""


def parse_spec(spec: Mapping[str, Any]) -> FineTuneJobSpec:
    """Read a specification as strictly as the API server does: no text for numbers, no unknown fields.

    :raises SpecInvalid: with every fault found.
    """
    try:
        return FineTuneJobSpec.model_validate_json(json.dumps(spec), strict=True)
    except ValidationError as error:
        raise SpecInvalid([_describe(fault) for fault in error.errors(include_url=False)]) from None


def _describe(fault: ErrorDetails) -> str:
    path = "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        message = "unknown field; remove it or check its spelling"
    return f"{path}: {message}"
