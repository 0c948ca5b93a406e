"""The page of the chart's values, from values.yaml itself: each value with its default and the comment above it."""

import json
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).parents[2] / "charts" / "finetune-operator"
PAGE: Final = CHART.parents[1] / "docs" / "reference" / "chart-values.md"
_INTRODUCTION: Final = """# Values of the chart

Generated from `charts/finetune-operator/values.yaml`; `values.schema.json` holds the types, and a misspelt name is refused. Whole sets for
common cases (air-gapped, monitored, queued, smallest) are in `charts/finetune-operator/ci/`.

| value | default | for |
| --- | --- | --- |
"""


def render_page() -> str:
    """Return the page."""
    text = (CHART / "values.yaml").read_text()
    comments = read_comments(text)
    rows: list[str] = []
    _add_rows(yaml.safe_load(text), "", comments, rows)
    return _INTRODUCTION + "\n".join(rows) + "\n"


def read_comments(text: str) -> dict[str, str]:
    """Return the comment above each key of a YAML text, by the key's path."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    pending: list[str] = []
    for line in text.splitlines():
        words = line.strip()
        if not words:
            pending = []
        elif words.startswith("#"):
            pending.append(words.removeprefix("#").strip())
        else:
            depth, name = len(line) - len(line.lstrip()), words.split(":", 1)[0]
            path = [*(each for each in path if each[0] < depth), (depth, name)]
            found[".".join(each for _, each in path)] = " ".join(pending)
            pending = []
    return found


def _add_rows(node: dict[str, Any], prefix: str, comments: dict[str, str], rows: list[str]) -> None:
    for name, value in node.items():
        path = prefix + name
        comment = comments.get(path, "").replace("|", "\\|")
        if isinstance(value, dict) and value and path not in ("resources", "monitoring.dashboard.labels"):
            if comment:
                rows.append(f"| `{path}` | | {comment} |")
            _add_rows(value, f"{path}.", comments, rows)
        else:
            rows.append(f"| `{path}` | `{json.dumps(value, ensure_ascii=False)}` | {comment} |")
