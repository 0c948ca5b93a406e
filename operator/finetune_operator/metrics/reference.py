"""Writes docs/reference/metrics.md from the catalogue: ``python -m finetune_operator.metrics.reference [--check]``."""

import argparse
import sys
from pathlib import Path
from typing import Final

from finetune_operator.metrics.catalogue import SECTIONS, Metric

PAGE: Final = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
_INTRODUCTION: Final = """# Metrics

Generated from the operator's code. The operator serves them at `/metrics` on its health port (8080), each replica for itself. Replicas
that do not lead watch along, so the gauges under *Runs now* and *Each run that trains now* come from every one of them: take `max by (…)`
of them, not a sum. Counters and histograms of usage are counted by the leader alone: sum them. How to have them scraped, and what to do
with them, is in [Monitoring](../guide/monitoring.md).

Series of single runs exist while the run trains, for at most 500 runs at a time, and go with it.
`process_*` (memory, CPU, open files) are there as in any program with Prometheus' Python client.
"""


def render() -> str:
    """Return the page."""
    parts = [_INTRODUCTION]
    for title, metrics in SECTIONS.items():
        rows = "\n".join(map(_render_row, metrics))
        parts.append(f"## {title}\n\n| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n{rows}\n")
    return "\n".join(parts)


def _render_row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    bounds = f" Buckets to {', '.join(f'{bound:g}' for bound in metric.buckets)} s." if metric.buckets else ""
    return f"| `{metric.exposed_name}` | {metric.kind} | {labels} | {metric.meaning}{bounds} |"


def main() -> None:
    """Write the page, or check that it is as generated."""
    parser = argparse.ArgumentParser(description="Write docs/reference/metrics.md.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the page is out of date")
    if not parser.parse_args().check:
        PAGE.write_text(render())
    elif not PAGE.exists() or PAGE.read_text() != render():
        sys.exit(f"{PAGE} is not as generated: run python -m finetune_operator.metrics.reference")


if __name__ == "__main__":
    main()
