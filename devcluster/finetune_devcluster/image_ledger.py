"""What has been loaded into an image store and when: by it a cluster finds the fullest store, and old images go."""

import json
import time
from pathlib import Path
from typing import Any

from finetune_devcluster.files import write_json

KEPT_TAGS = 3
"""How many images of one repository a store keeps: the newest by their last load."""

_FILE = "loads.json"


def record_load(store: Path, names: list[str], size: int) -> None:
    """Note that images were loaded just now, or were asked for and there already.

    Args:
        size: bytes of all their layers.
    """
    ledger = _read(store)
    for name in names:
        ledger[name] = {"bytes": size, "loaded": time.time()}
    write_json(store / _FILE, ledger)


def forget(store: Path, names: list[str]) -> None:
    """Note that images are no longer there."""
    write_json(store / _FILE, {name: value for name, value in _read(store).items() if name not in names})


def read_size(store: Path) -> int:
    """Return how many bytes of layers have been loaded into a store."""
    return sum(int(value["bytes"]) for value in _read(store).values())


def find_outdated(store: Path) -> list[str]:
    """Return the images of which their repository has `KEPT_TAGS` that were loaded later."""
    ledger = _read(store)
    newest_first = sorted(ledger, key=lambda name: -float(ledger[name]["loaded"]))
    seen: dict[str, int] = {}
    outdated = []
    for name in newest_first:
        repository = _read_repository(name)
        seen[repository] = seen.get(repository, 0) + 1
        if seen[repository] > KEPT_TAGS:
            outdated.append(name)
    return outdated


def _read_repository(name: str) -> str:
    # A colon before a slash belongs to a port.
    head, _, last = name.rpartition("/")
    return f"{head}/{last.partition('@')[0].partition(':')[0]}"


def _read(store: Path) -> dict[str, Any]:
    try:
        value = json.loads((store / _FILE).read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
