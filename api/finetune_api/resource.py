"""The FineTuneJob as a whole, and reading one so that every fault is named at once."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from finetune_api.base import StoredModel
from finetune_api.names import API_VERSION, KIND
from finetune_api.rules import Rule, RulesBroken
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus

Model = TypeVar("Model", bound=BaseModel)
Spec = TypeVar("Spec")

NAME_PATTERN: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"


def build_name_rule(longest: int) -> Rule:
    """Return the rule that a resource's name is one of RFC 1035 of at most ``longest`` characters."""
    return Rule(
        cel=f"self.metadata.name.size() <= {longest} && self.metadata.name.matches('^{NAME_PATTERN}$')",
        holds=lambda name: len(name) <= longest and re.fullmatch(NAME_PATTERN, name) is not None,
        message=f"must have at most {longest} characters, begin with a letter, and hold only lower-case letters, digits and '-'",
        field="metadata.name",
    )


MAX_NAME: Final = 63
NAME_RULE: Final = build_name_rule(MAX_NAME)
"""Name of a FineTuneJob: Jobs, pods and label values are made from it. In Python it is asked about the name."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a manifest."""

    path: tuple[str | int, ...]
    """Where: JSON names and indices from the manifest's root."""
    message: str
    """What is wrong there, and how to mend it."""
    unknown: bool = False
    """Nothing but that this release has no such field."""

    @property
    def field(self) -> str:
        """The path as Kubernetes writes it: `spec.pod.env[0].name`."""
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).removeprefix(".")

    def __str__(self) -> str:
        """Return the fault as a line, `spec.…: what is wrong`."""
        return f"{self.field}: {self.message}"


class SpecInvalid(ValueError):
    """A manifest that can't be carried out. ``faults`` has one line for each field, `spec.…: what is wrong`."""

    def __init__(self, details: Sequence[Fault]) -> None:
        self.details = tuple(details)
        self.faults = [str(fault) for fault in details]
        self.is_newer = bool(details) and all(fault.unknown for fault in details)
        """The fields that this release doesn't know are all that is wrong: in a stored object, another release's."""
        super().__init__("; ".join(self.faults))


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
    """Read a specification as strictly as the API server does: no text for numbers, no unknown fields, no Python names.

    :raises SpecInvalid: with every fault found.
    """
    return parse_strictly(FineTuneJobSpec, spec)


def write_out(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored specification with every default in it: the API server stores no section that was left out.

    As it is where this release can't read it, since a newer one's field is in it, say.
    """
    try:
        return parse_spec(spec).model_dump(mode="json", exclude_none=True)
    except SpecInvalid:
        return dict(spec)


def parse_manifest(manifest: Mapping[str, Any]) -> FineTuneJob:
    """Read a manifest as a person writes it. Its status, if it has one, is not read.

    :raises SpecInvalid: with every fault found, in the specification and around it.
    """
    spec = parse_envelope(manifest, KIND, NAME_RULE, parse_spec)
    return FineTuneJob(metadata=dict(manifest["metadata"]), spec=spec)


def parse_strictly(model: type[Model], spec: Mapping[str, Any]) -> Model:
    """Read ``spec`` as ``model``, by JSON names and exact types.

    :raises SpecInvalid: with every fault found.
    """
    try:
        return model.model_validate_json(json.dumps(spec), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise SpecInvalid([fault for detail in error.errors(include_url=False) for fault in _describe(detail)]) from None


def parse_envelope(manifest: Mapping[str, Any], kind: str, name_rule: Rule, parse: Callable[[Mapping[str, Any]], Spec]) -> Spec:
    """Read the specification of a manifest of ``kind``, and hold what is around it to the rules of every manifest.

    :raises SpecInvalid: with every fault found, in the specification and around it.
    """
    faults: list[Fault] = []
    for field, expected in (("apiVersion", API_VERSION), ("kind", kind)):
        if manifest.get(field) != expected:
            faults.append(Fault((field,), f"must be {expected}"))
    faults += [
        Fault((field,), "unknown field; remove it or check its spelling")
        for field in manifest
        if field not in ("apiVersion", "kind", "metadata", "spec", "status")
    ]
    metadata = manifest.get("metadata")
    if not isinstance(metadata, Mapping) or not ("name" in metadata or "generateName" in metadata):
        faults.append(Fault(("metadata", "name"), "must be given"))
    elif "name" in metadata and not (isinstance(metadata["name"], str) and name_rule.holds(metadata["name"])):
        faults.append(Fault(("metadata", "name"), name_rule.message))
    if "spec" not in manifest:
        faults.append(Fault(("spec",), "must be given"))
        raise SpecInvalid(faults)
    try:
        spec = parse(manifest["spec"])
    except SpecInvalid as error:
        raise SpecInvalid([*faults, *error.details]) from None
    if faults:
        raise SpecInvalid(faults)
    return spec


def _describe(detail: ErrorDetails) -> list[Fault]:
    path = ("spec", *detail["loc"])
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, RulesBroken):
        return [Fault((*path, *(rule.field.split(".") if rule.field else ())), rule.message) for rule in cause.rules]
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = "unknown field; remove it or check its spelling"
    elif detail["type"] == "missing":
        message = "must be given"
    if path[-1] == "[key]":
        return [Fault(path[:-2], f"the key {path[-2]!r} is not allowed: {message}")]
    return [Fault(path, message, unknown=detail["type"] == "extra_forbidden")]
