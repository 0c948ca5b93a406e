"""The JSON Schema (draft 2020-12) of a manifest, for editors: completion, descriptions, and most faults as they are typed."""

from typing import Any

from finetune_api.generate.kinds import ResourceKind
from finetune_api.generate.model_schema import Schema, build_model_schema
from finetune_api.names import API_VERSION, GROUP, VERSION
from finetune_api.resource import NAME_PATTERN


def build_editor_schema(kind: ResourceKind) -> dict[str, Any]:
    """Return the schema of what a person writes: no status, and no field that the API doesn't have."""
    root = build_model_schema(kind.model)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"https://{GROUP}/{VERSION}/{kind.singular}.schema.json",
        "title": kind.kind,
        "description": root["description"],
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind.kind},
            "metadata": _build_metadata(kind),
            "spec": _without_extensions(root["properties"]["spec"]),
        },
    }


def _build_metadata(kind: ResourceKind) -> Schema:
    longest = kind.longest_name
    name = {"description": f"Name of the {kind.kind}.", "type": "string", "maxLength": longest, "pattern": f"^{NAME_PATTERN}$"}
    # The API server appends five characters.
    generated = {"description": "Beginning of a name that the API server makes.", "type": "string", "maxLength": longest - 5}
    return {
        "description": "Name, namespace, labels and annotations, as of every object in Kubernetes.",
        "type": "object",
        "properties": {
            "name": name,
            "generateName": generated,
            "namespace": {"description": "Namespace that the object lies in.", "type": "string", "maxLength": 63},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }


def _without_extensions(schema: Schema) -> Schema:
    plain = {keyword: value for keyword, value in schema.items() if not keyword.startswith("x-kubernetes-")}
    if schema.get("default", ...) is None:
        plain.pop("default")
    if "properties" in plain:
        plain["properties"] = {name: _without_extensions(value) for name, value in plain["properties"].items()}
    if "patternProperties" in plain:
        plain["additionalProperties"] = False
    if "items" in plain:
        plain["items"] = _without_extensions(plain["items"])
    if "anyOf" in plain:
        plain["anyOf"] = [_without_extensions(option) for option in plain["anyOf"]]
    return plain
