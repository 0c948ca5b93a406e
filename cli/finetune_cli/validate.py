"""``finetune validate``: checks manifests as the API server and the operator will, without either."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from finetune_api.names import GROUP, KIND, SWEEP_KIND
from finetune_api.resource import SpecInvalid, parse_manifest
from finetune_api.sweep import parse_sweep_manifest
from finetune_cli.yaml_reader import YamlInvalid, read_documents


@dataclass(frozen=True)
class FaultFound:
    """One fault and where it stands."""

    message: str
    path: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one document; or of a file, where no document could be read in it."""

    source: str
    line: int | None = None
    name: str | None = None
    namespace: str | None = None
    faults: list[FaultFound] = field(default_factory=list)
    kind: str = KIND
    """What it was held to."""
    skipped: str | None = None
    """What the document is, where it is no business of this project."""


def read_source(path: Path) -> bytes:
    """Return the content of a file, or of standard input for ``-``."""
    return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()


def compute_verdicts(source: str, content: bytes) -> Iterator[Verdict]:
    """Yield a verdict on each document of ``content``; what follows one that is no YAML can't be read."""
    found = False
    try:
        for document in read_documents(decode(content)):
            verdict = _judge(source, document.value, document.find_line)
            found = found or verdict.skipped is None
            yield verdict
    except YamlInvalid as error:
        yield Verdict(source, error.line, faults=[FaultFound(str(error), line=error.line)])
        return
    if not found:
        yield Verdict(source, faults=[FaultFound(f"holds no {KIND} and no {SWEEP_KIND}")])


def decode(content: bytes) -> str:
    """Return what is written in UTF-8, with or without a byte order mark.

    :raises YamlInvalid: it is no text.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlInvalid(f"is not text in UTF-8: {error.reason} at byte {error.start}", None) from None


def _judge(source: str, value: Any, find_line: Any) -> Verdict:  # noqa: ANN401  # any YAML
    line = find_line(())
    if not isinstance(value, dict):
        return Verdict(
            source, line, faults=[FaultFound("is no manifest: it must be a map with apiVersion, kind, metadata and spec", line=line)]
        )
    kind, group = value.get("kind"), str(value.get("apiVersion", "")).partition("/")[0]
    metadata = value.get("metadata")
    name, namespace = (metadata.get("name"), metadata.get("namespace")) if isinstance(metadata, dict) else (None, None)
    name, namespace = (part if isinstance(part, str) else None for part in (name, namespace))
    if kind is not None and kind not in (KIND, SWEEP_KIND) and group != GROUP:
        return Verdict(source, line, name, namespace, skipped=str(kind))
    held_to = SWEEP_KIND if kind == SWEEP_KIND else KIND
    try:
        if held_to == SWEEP_KIND:
            parse_sweep_manifest(value)
        else:
            parse_manifest(value)
    except SpecInvalid as error:
        faults = [FaultFound(fault.message, fault.field, find_line(fault.path)) for fault in error.details]
        return Verdict(source, line, name, namespace, sorted(faults, key=lambda fault: fault.line or 0), held_to)
    return Verdict(source, line, name, namespace, kind=held_to)


def print_text(verdicts: list[Verdict], console: Console) -> None:
    """Print a line for each fault, ``file:line: field: what is wrong``, and one for each document that has none."""
    for verdict in verdicts:
        for fault in verdict.faults:
            _print_line(console, _place(verdict, fault.line), f"{fault.path}: " if fault.path else "", fault.message, style="red")
        if verdict.skipped is not None:
            _print_line(console, _place(verdict, verdict.line), f"{verdict.skipped}: ", "not checked", style="dim")
        elif not verdict.faults:
            _print_line(
                console, _place(verdict, verdict.line), f"{verdict.kind} {verdict.name or '(named later)'} ", "is valid", style="green"
            )


def _place(verdict: Verdict, line: int | None) -> str:
    return verdict.source if line is None else f"{verdict.source}:{line}"


def _print_line(console: Console, place: str, subject: str, text: str, *, style: str) -> None:
    line = Text.assemble((_escape(place), "bold"), ": ", (_escape(subject), style), _escape(text))
    console.print(line, soft_wrap=True)


def _escape(text: str) -> str:
    """Keep what a manifest says from steering the terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def build_report(verdicts: list[Verdict]) -> dict[str, Any]:
    """Return all verdicts as one object of JSON: ``valid``, and ``documents`` in order."""
    documents = [asdict(verdict) | {"valid": None if verdict.skipped else not verdict.faults} for verdict in verdicts]
    return {"valid": is_valid(verdicts), "documents": documents}


def is_valid(verdicts: list[Verdict]) -> bool:
    """Tell whether nothing is wrong."""
    return not any(verdict.faults for verdict in verdicts)
