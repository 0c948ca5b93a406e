"""The bad-input table: wrong manifests, and what every reader of them must say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from tests.support.manifests import Manifest, build_minimal_manifest, merge

TABLE = Path(__file__).parents[1] / "integration" / "api" / "bad_manifests.yaml"
Reader = Literal["server", "parse"]


@dataclass(frozen=True)
class BadManifest:
    name: str
    manifest: Manifest
    field: str
    phrases: dict[Reader, str]
    """What each reader that refuses the manifest says."""


def load_bad_manifests(reader: Reader) -> list[BadManifest]:
    """Return the entries that ``reader`` refuses."""
    return [bad for bad in map(_read, yaml.safe_load(TABLE.read_text())) if reader in bad.phrases]


def _read(entry: dict[str, Any]) -> BadManifest:
    manifest = merge(build_minimal_manifest(), entry["manifest"] if "manifest" in entry else {"spec": entry["spec"]})
    readers: tuple[Reader, ...] = (entry["only"],) if "only" in entry else ("server", "parse")
    if "only" in entry:
        assert entry["because"], f"{entry['name']}: say why only one reader refuses it"
    return BadManifest(entry["name"], manifest, entry["field"], {reader: entry.get(reader, entry.get("phrase")) for reader in readers})
