"""``python -m finetune_api.generate [--check]``: writes the generated files, or says which are stale."""

import argparse
import difflib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import yaml

from finetune_api.generate.crd import build_crd
from finetune_api.generate.editor_schema import build_editor_schema
from finetune_api.generate.kinds import KINDS, ResourceKind
from finetune_api.generate.reference import build_job_reference, build_sweep_reference

_HEADER: Final = "Generated from api/finetune_api by `python -m finetune_api.generate`. Do not edit."


class _Dumper(yaml.SafeDumper):
    """Writes no anchors: the API server's own tools don't, and a reader shouldn't have to follow them."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  # the name is PyYAML's
        return True


def render_crd(kind: ResourceKind) -> str:
    """Return the CRD of ``kind`` as YAML."""
    # As a document of its own: `helm show crds` puts the files one after the other, and without the line the last one would win.
    return f"# {_HEADER}\n---\n{yaml.dump(build_crd(kind), Dumper=_Dumper, sort_keys=False, width=128, allow_unicode=True)}"


def render_editor_schema(kind: ResourceKind) -> str:
    """Return the editors' schema of ``kind`` as JSON."""
    return json.dumps({"$comment": _HEADER, **build_editor_schema(kind)}, indent=2, ensure_ascii=False) + "\n"


def render_reference(build: Callable[[], str]) -> str:
    """Return a page of the reference."""
    return f"<!-- {_HEADER} -->\n{build()}"


FILES: Final[dict[str, Callable[[], str]]] = {
    **{f"crds/{kind.plural}.yaml": partial(render_crd, kind) for kind in KINDS},
    # Helm reads CRDs from the chart alone.
    **{f"charts/finetune-operator/crds/{kind.plural}.yaml": partial(render_crd, kind) for kind in KINDS},
    **{f"crds/{kind.singular}.schema.json": partial(render_editor_schema, kind) for kind in KINDS},
    "docs/reference/api.md": partial(render_reference, build_job_reference),
    "docs/reference/sweeps.md": partial(render_reference, build_sweep_reference),
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
