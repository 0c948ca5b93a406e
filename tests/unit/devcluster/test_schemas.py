"""Schemas for kubeconform, made from OpenAPI documents."""

import jsonschema
import pytest

from finetune_devcluster.schemas import build_schemas

DOCUMENT = {
    "components": {
        "schemas": {
            "Thing": {
                "type": "object",
                "description": "a thing",
                "properties": {
                    "spec": {"allOf": [{"$ref": "#/components/schemas/Spec"}], "default": {}},
                    # Kinds that describe schemas have properties of these names.
                    "properties": {"type": "string"},
                    "description": {"type": "string"},
                },
                "x-kubernetes-group-version-kind": [{"group": "a.dev", "version": "v1", "kind": "Thing"}],
            },
            "Spec": {
                "type": "object",
                "properties": {
                    "count": {"type": "integer"},
                    "inner": {"$ref": "#/components/schemas/Spec"},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
            "Core": {"type": "object", "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Core"}]},
        }
    }
}
SCHEMAS = build_schemas(DOCUMENT)


def test_each_kind_has_a_file_named_as_kubeconform_looks_for_it() -> None:
    assert set(SCHEMAS) == {"a.dev_v1_thing.json", "v1_v1_core.json"}


@pytest.mark.parametrize(
    "thing",
    [{"spec": {"count": 1, "inner": {"count": 2}}}, {"properties": "p", "description": "d"}, {"spec": {"labels": {"any": "thing"}}}],
)
def test_what_the_kind_has_is_taken(thing: dict[str, object]) -> None:
    jsonschema.validate(thing, SCHEMAS["a.dev_v1_thing.json"])


@pytest.mark.parametrize("thing", [{"specs": {}}, {"spec": {"inner": {"counts": 1}}}, {"spec": {"count": "many"}}])
def test_what_it_has_not_is_refused(thing: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(thing, SCHEMAS["a.dev_v1_thing.json"])
