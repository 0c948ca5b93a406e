"""Sections that a manifest leaves out: the API server stores none of them, so that what they mean must never change."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.generate.crd import build_openapi_schema
from finetune_api.generate.kinds import FINETUNE_JOB, KINDS, ResourceKind
from finetune_api.generate.model_schema import build_model_schema
from finetune_api.resource import parse_spec, write_out
from tests.support.manifests import build_minimal_manifest

Schema = dict[str, Any]
URIS: Schema = build_minimal_manifest()["spec"]
STORED = build_openapi_schema(FINETUNE_JOB)["properties"]["spec"]["properties"]
SECTIONS = {
    f"{name}.{below}" if below else name: part
    for name, field in STORED.items()
    if "properties" in field
    for below, part in [("", field), *field["properties"].items()]
    if "properties" in part
}


def test_a_section_is_stored_only_if_it_is_given_or_fields_of_it_may_change() -> None:
    assert {name for name, section in SECTIONS.items() if "default" in section} == {"scheduling"}


def test_the_defaults_of_this_version_of_the_api_never_change() -> None:
    """A run is tried again, by a later release too, with what is left out of it read anew.

    A field may come, with a default that leaves a run as it was. For another default make another version of the API, whose conversion
    writes this one's out; a platform's own defaults are the chart's `defaults`.
    """
    promised = yaml.safe_load((Path(__file__).parent / "defaults_of_v1alpha1.yaml").read_text())
    assert write_out(URIS) == promised


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_a_section_that_is_empty_says_what_one_says_that_is_left_out(kind: ResourceKind) -> None:
    """The API server fills the first in, field by field, and the models the second."""
    assert list(_differences(build_model_schema(kind.model)["properties"]["spec"], "spec")) == []


def _differences(schema: Schema, path: str) -> list[str]:
    found: list[str] = []
    for name, field in schema.get("properties", {}).items():
        if "properties" in field:
            if field.get("default") is not None and field["default"] != _fill_in(field):
                found.append(f"{path}.{name}")
            found += _differences(field, f"{path}.{name}")
    return found


def _fill_in(section: Schema) -> Schema:
    defaults = {
        name: _fill_in(field) if "properties" in field and field.get("default") is not None else field.get("default")
        for name, field in section["properties"].items()
    }
    return {name: value for name, value in defaults.items() if value is not None}


def test_a_specification_is_written_out_as_it_is_carried_out() -> None:
    given = {**URIS, "training": {"epochs": 1.0}}
    assert parse_spec(write_out(given)) == parse_spec(given)


def test_a_specification_of_a_newer_release_is_left_as_it_is() -> None:
    given = {**URIS, "training": {"fromTomorrow": 1}}
    assert write_out(given) == given
