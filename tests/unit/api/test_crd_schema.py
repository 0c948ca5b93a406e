"""Properties of the CRD's schema that the API server or its users rely on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.generate.crd import build_crd, build_openapi_schema
from finetune_api.generate.kinds import FINETUNE_JOB

Schema = dict[str, Any]
SCHEMA = build_openapi_schema(FINETUNE_JOB)


def walk(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Yield every schema below ``schema`` with its path."""
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from walk(below, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from walk(schema["additionalProperties"], f"{path}{{}}")


SPEC = dict(walk(SCHEMA["properties"]["spec"], "spec"))
STATUS = dict(walk(SCHEMA["properties"]["status"], "status"))


def test_the_committed_crd_is_what_is_built() -> None:
    committed = yaml.safe_load((Path(__file__).parents[3] / "crds/finetunejobs.yaml").read_text())
    assert committed == build_crd(FINETUNE_JOB)


@pytest.mark.parametrize("path", [*SPEC, *STATUS])
def test_it_is_structural(path: str) -> None:
    schema = (SPEC | STATUS)[path]
    assert not {"$ref", "$defs", "title", "const", "oneOf", "allOf", "not", "patternProperties", "propertyNames"} & set(schema)
    assert schema.get("additionalProperties") is not False
    if schema.get("x-kubernetes-int-or-string"):
        assert schema["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    else:
        assert "anyOf" not in schema
        assert isinstance(schema["type"], str)
    assert isinstance(schema.get("exclusiveMinimum", True), bool)
    assert isinstance(schema.get("exclusiveMaximum", True), bool)


@pytest.mark.parametrize("path", SPEC)
def test_every_value_of_the_spec_is_bounded(path: str) -> None:
    schema = SPEC[path]
    kind = schema.get("type")
    if kind == "array":
        assert schema["maxItems"] <= 64
    elif "additionalProperties" in schema:
        assert schema["maxProperties"] <= 32
    elif kind == "string" or schema.get("x-kubernetes-int-or-string"):
        assert "enum" in schema or schema["maxLength"] <= 4096
    elif kind in ("integer", "number") and "enum" not in schema:
        ruled = " ".join(rule["rule"] for rule in schema.get("x-kubernetes-validations", []))
        assert "minimum" in schema or "self >=" in ruled
        assert "maximum" in schema or "self <=" in ruled


@pytest.mark.parametrize("path", [path for path in [*SPEC, *STATUS] if not path.endswith(("[]", "{}"))])
def test_every_field_is_documented(path: str) -> None:
    description = (SPEC | STATUS)[path]["description"]
    assert description == " ".join(description.split())
    assert description.endswith((".", ")"))


@pytest.mark.parametrize("path", [path for path in SPEC if not path.endswith(("[]", "{}"))])
def test_every_optional_field_of_the_spec_may_be_left_out(path: str) -> None:
    """It has a default, or its object has a rule against adding and removing it, or it may change."""
    mutable = ("spec", "spec.activeDeadlineSeconds", "spec.ttlSecondsAfterFinished", "spec.scheduling.priorityClassName")
    mutable += ("spec.scheduling.workloadPriorityClassName",)
    parent, _, name = path.rpartition(".")
    if path in mutable or "[]" in parent:
        return
    rules = " ".join(rule["rule"] for rule in SPEC[parent].get("x-kubernetes-validations", []))
    presence = f"has(self.{name}) == has(oldSelf.{name})" in rules
    assert ("default" in SPEC[path]) + (name in SPEC[parent].get("required", ())) + presence == 1


@pytest.mark.parametrize("path", [path for path, schema in SPEC.items() if "dyn(" in str(schema.get("x-kubernetes-validations"))])
def test_an_object_is_bare_that_has_what_is_always_there_and_no_more(path: str) -> None:
    """Otherwise a field that comes as another goes would be overlooked."""
    fields, required = SPEC[path]["properties"], SPEC[path].get("required", ())
    always = sum("default" in field or name in required for name, field in fields.items())
    (rule,) = (rule["rule"] for rule in SPEC[path]["x-kubernetes-validations"] if "dyn(" in rule["rule"])
    assert rule.startswith(f"dyn(self).size() == {always} && dyn(oldSelf).size() == {always} || (")


def test_nothing_is_null_but_where_null_differs_from_absent() -> None:
    assert [path for path, schema in SPEC.items() if schema.get("nullable")] == ["spec.ttlSecondsAfterFinished"]


def test_status_has_no_defaults_but_that_nobody_has_seen_it() -> None:
    assert {path: schema["default"] for path, schema in STATUS.items() if "default" in schema} == {"status": {"observedGeneration": -1}}


def test_times_are_times() -> None:
    times = [schema for path, schema in STATUS.items() if path.endswith("Time")]
    assert len(times) >= 6
    assert all(schema["format"] == "date-time" for schema in times)


def test_the_crd_fits_where_kubectl_keeps_a_copy() -> None:
    """`kubectl apply` puts the whole CRD as JSON in an annotation of at most 256 KiB, and Helm in a Secret of 1 MiB with all the rest."""
    for crd in (Path(__file__).parents[3] / "crds").glob("*.yaml"):
        assert len(json.dumps(yaml.safe_load(crd.read_text()), separators=(",", ":"))) < 192 * 1024
