"""The models' JSON Schema, made plain: no references, no titles, defaults of nested objects included."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, NoDefault
from pydantic_core import core_schema

from finetune_api.generate.field_docs import read_field_docs

Schema = dict[str, Any]


class _WithDocsAndDefaults(GenerateJsonSchema):
    """Also shows the docstrings of fields, and the defaults that a factory makes.

    A model's default is written in full: `{}` would be filled from the defaults of its fields, but the API server holds a default to the
    CEL rules before it fills it.
    """

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        shown = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        docs = read_field_docs(model)
        for name, field in model.model_fields.items():
            if name in docs and (own := shown["properties"].get(field.alias or name)) is not None:
                own.setdefault("description", docs[name])
        return shown

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> object:
        factory = schema.get("default_factory")
        if factory is None:
            return super().get_default_value(schema)
        value = factory()  # type: ignore[call-arg]  # no field of the API has a factory that takes the validated data
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json", by_alias=True, exclude_none=True)
        return value if value in ([], {}) else NoDefault


def build_model_schema(model: type[BaseModel]) -> Schema:
    """Return the JSON Schema (draft 2020-12) of ``model`` by its JSON names, with every reference inlined."""
    raw = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_WithDocsAndDefaults)
    definitions: Mapping[str, Schema] = raw.pop("$defs", {})
    return _inline(raw, definitions)


def _inline(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    merged = dict(schema)
    reference = merged.pop("$ref", None)
    if reference is not None:
        merged = {**definitions[reference.removeprefix("#/$defs/")], **merged}
    merged.pop("title", None)
    if "description" in merged:
        merged["description"] = " ".join(merged["description"].split())
    for keyword in ("properties", "patternProperties"):
        if keyword in merged:
            merged[keyword] = {name: _inline(value, definitions) for name, value in merged[keyword].items()}
    for keyword in ("items", "additionalProperties"):
        if isinstance(merged.get(keyword), dict):
            merged[keyword] = _inline(merged[keyword], definitions)
    if "anyOf" in merged:
        merged["anyOf"] = [_inline(option, definitions) for option in merged["anyOf"]]
    return merged
