"""The bad-input table, read as the operator and the command line read it."""

import pytest

from finetune_api.resource import SpecInvalid, parse_manifest, parse_spec
from tests.support.bad_manifests import BadManifest, load_bad_manifests
from tests.support.manifests import build_minimal_manifest

TABLE = load_bad_manifests("parse")


def test_the_minimal_manifest_that_the_table_starts_from_is_right() -> None:
    assert parse_manifest(build_minimal_manifest()).metadata == {"name": "minimal"}


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
def test_it_is_refused_by_name(bad: BadManifest) -> None:
    with pytest.raises(SpecInvalid) as refusal:
        parse_manifest(bad.manifest)
    assert all(fault.startswith(f"{bad.field}: ") for fault in refusal.value.faults)
    assert bad.phrases["parse"] in str(refusal.value)


@pytest.mark.parametrize("bad", [bad for bad in TABLE if bad.field.startswith("spec.")], ids=lambda bad: bad.name)
def test_it_is_refused_where_only_the_spec_is_read(bad: BadManifest) -> None:
    with pytest.raises(SpecInvalid, match="spec"):
        parse_spec(bad.manifest["spec"])


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(SpecInvalid) as refusal:
        parse_manifest(
            {
                "apiVersion": "v1",
                "kind": "FineTuneJob",
                "metadata": {"name": "8b"},
                "spec": {"model": {"uri": "hf://a/b"}, "dataset": {"uri": "x"}, "training": {"epochs": 0, "seed": -1}},
            }
        )
    assert [fault.partition(":")[0] for fault in refusal.value.faults] == [
        "apiVersion",
        "metadata.name",
        "spec.dataset.uri",
        "spec.training.epochs",
        "spec.training.seed",
        "spec.output",
    ]


@pytest.mark.parametrize("spec", [[], "text", 7, None], ids=str)
def test_a_spec_that_is_no_object_is_refused(spec: object) -> None:
    with pytest.raises(SpecInvalid, match="spec: Input should be an object"):
        parse_spec(spec)  # type: ignore[arg-type]
