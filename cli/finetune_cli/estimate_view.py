"""An estimate for people, and for scripts."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from finetune_api.estimate import Change, Estimate, ModelShape
from finetune_cli.output import build_table, print_table
from finetune_cli.words import say_bytes


def print_estimate(shape: ModelShape, estimate: Estimate, limit: int | None, changes: Sequence[Change], console: Console) -> None:
    """Print every term, the sum, and what would make it fit."""
    console.print(Text(f"{shape.model_type}, {shape.parameters / 1e9:.2f} billion parameters, one GPU", style="bold"))
    console.print()
    rows: list[list[str | Text]] = [[term.name, say_bytes(term.size_bytes), Text(term.why, style="dim")] for term in estimate.terms]
    rows.append([Text("in all", style="bold"), Text(say_bytes(estimate.total_bytes), style="bold"), ""])
    print_table(build_table(("TERM", "SIZE", "WHAT"), rows, right=("SIZE",)), console)
    for note in estimate.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    if limit is None:
        return
    console.print()
    if estimate.total_bytes <= limit:
        console.print(Text(f"fits into {say_bytes(limit)}, with {say_bytes(limit - estimate.total_bytes)} to spare", style="green"))
        return
    console.print(Text(f"does not fit into {say_bytes(limit)}: {say_bytes(estimate.total_bytes - limit)} too much", style="red"))
    if not changes:
        console.print("no single change is enough; take a larger GPU or a smaller model")
    for keeps, words in ((True, "would fit, with the same result:"), (False, "would fit, as another run:")):
        chosen = [change for change in changes if change.keeps_result is keeps]
        if chosen:
            console.print(f"\n{words}")
            for change in chosen:
                console.print(f"  {change}  ({say_bytes(change.total_bytes)})", soft_wrap=True)


def build_estimate_report(shape: ModelShape, estimate: Estimate, limit: int | None, changes: Sequence[Change]) -> dict[str, Any]:
    """Return all of it as one object of JSON."""
    return {
        "modelType": shape.model_type,
        "parameters": shape.parameters,
        "totalBytes": estimate.total_bytes,
        "allocatedBytes": estimate.allocated_bytes,
        "limitBytes": limit,
        "fits": None if limit is None else estimate.total_bytes <= limit,
        "terms": [{"name": term.name, "kind": term.kind, "bytes": term.size_bytes, "why": term.why} for term in estimate.terms],
        "notes": list(estimate.notes),
        "changes": [
            {"fields": dict(change.fields), "totalBytes": change.total_bytes, "sameResult": change.keeps_result} for change in changes
        ],
    }
