"""``python -m finetune_api.generate [--check]``: writes the generated files, or says which are stale."""

import argparse
import difflib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import yaml

from finetune_api.generate.crd import build_crd
from finetune_api.generate.editor_schema import build_editor_schema
from finetune_api.generate.reference import build_reference

_HEADER: Final = "Generated from api/finetune_api by `python -m finetune_api.generate`. Do not edit."


class _Dumper(yaml.SafeDumper):
    """Writes no anchors: the API server's own tools don't, and a reader shouldn't have to follow them."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  # the name is PyYAML's
        return True


def render_crd() -> str:
    """Return `crds/finetunejobs.yaml`."""
    return f"# {_HEADER}\n{yaml.dump(build_crd(), Dumper=_Dumper, sort_keys=False, width=128, allow_unicode=True)}"


def render_editor_schema() -> str:
    """Return `crds/finetunejob.schema.json`."""
    return json.dumps({"$comment": _HEADER, **build_editor_schema()}, indent=2, ensure_ascii=False) + "\n"


def render_reference() -> str:
    """Return `docs/reference/api.md`."""
    return f"<!-- {_HEADER} -->\n{build_reference()}"


FILES: Final[dict[str, Callable[[], str]]] = {
    "crds/finetunejobs.yaml": render_crd,
    # Helm reads CRDs from the chart alone.
    "charts/finetune-operator/crds/finetunejobs.yaml": render_crd,
    "crds/finetunejob.schema.json": render_editor_schema,
    "docs/reference/api.md": render_reference,
}
"""The generated files, by path from the repository's root."""


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or with ``--check`` compare them. Returns 1 if a file is stale."""
    parser = argparse.ArgumentParser(prog="python -m finetune_api.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; print what would change, and exit 1 if anything would")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[3], help="the repository's root (default: %(default)s)")
    options = parser.parse_args(arguments)
    stale = [path for path, render in FILES.items() if not _is_current(options.root / path, render(), write=not options.check)]
    for path in stale:
        sys.stderr.write(f"{path} is stale; run `python -m finetune_api.generate`\n")
    return 1 if stale else 0


def _is_current(path: Path, text: str, *, write: bool) -> bool:
    present = path.read_text() if path.exists() else ""
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        if present != text:
            path.write_text(text)
        return True
    sys.stdout.writelines(difflib.unified_diff(present.splitlines(keepends=True), text.splitlines(keepends=True), str(path), "generated"))
    return present == text


if __name__ == "__main__":
    sys.exit(main())
