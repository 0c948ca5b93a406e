"""Run the matrix and write its page: `python -m benchmarks.matrix [--adapter NAME]… [--page FILE]`.

Exits with 1 where a cell was neither refused with a reason nor learnt something.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.matrix.axes import ADAPTERS, OBJECTIVES, PROCESSES, QUANTIZATIONS
from benchmarks.matrix.cells import Cell, Ending, list_cells, prepare_and_run, read_endings

PAGE = Path("docs/reference/matrix.md")
_LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes")


def main() -> None:
    """Run the cells that are asked for."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--adapter", action="append", choices=list(ADAPTERS), help="only this one; the page is then not written")
    arguments.add_argument("--objective", action="append", choices=list(OBJECTIVES), help="only this one; the page is then not written")
    arguments.add_argument("--page", type=Path, default=PAGE)
    options = arguments.parse_args()
    begun = time.monotonic()
    adapters, objectives = options.adapter or ADAPTERS, options.objective or OBJECTIVES
    cells = [cell for cell in list_cells() if cell.choices[0] in adapters and cell.choices[2] in objectives]
    with tempfile.TemporaryDirectory() as folder:
        endings = _run(cells, Path(folder))
    broken = [cell.name for cell in cells if not endings[cell.name].as_promised]
    for name in broken:
        sys.stderr.write(f"{name}: {endings[name]}\n")
    if not (options.adapter or options.objective):
        options.page.write_text(build_page(cells, endings, time.monotonic() - begun), encoding="utf-8")
    sys.exit(1 if broken else 0)


def _run(cells: Sequence[Cell], folder: Path) -> dict[str, Ending]:
    """Run ``cells`` in a process of their own, so that this one needs no training library."""
    result = folder / "endings.json"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=prepare_and_run, args=(cells, folder, result))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"the process that trains ended with {process.exitcode}")
    return read_endings(result)


def build_page(cells: Sequence[Cell], endings: Mapping[str, Ending], seconds: float) -> str:
    """Return the page: a table for each objective and number of processes, and the reasons below."""
    reasons: dict[str, int] = {}
    trained = sum(endings[cell.name].losses is not None or endings[cell.name].reward is not None for cell in cells)
    refused = sum(endings[cell.name].refused is not None for cell in cells)
    lines = [
        "# What trains with what",
        "",
        f"{len(cells)} cells: {trained} trained for real on the CPU, {refused} refused where a manifest is applied, "
        f"{len(cells) - trained - refused} failed. No cell is left out.",
        "",
        "A cell that trains shows the held-out loss before the first step and after the last of 2 to 20, as the objective defines it; "
        "**bold** where it did not fall. `grpo`, whose loss says nothing, shows the mean reward of its answers in the end. "
        "The model is a random Llama of two layers, which shows that a method works, not how well: see "
        "[Choosing a method](../guide/methods.md). A number in parentheses is the reason below for which the API server refuses the "
        "manifest.",
        "",
    ]
    for objective in OBJECTIVES:
        for processes in PROCESSES:
            lines += [f"## {objective}, {processes}", "", f"| | {' | '.join(QUANTIZATIONS)} |", "| --- |" + " --- |" * len(QUANTIZATIONS)]
            for adapter in ADAPTERS:
                row = [_show(endings[Cell((adapter, kind, objective, processes)).name], reasons) for kind in QUANTIZATIONS]
                lines.append(f"| {adapter} | {' | '.join(row)} |")
            lines.append("")
    lines += ["## Reasons", "", *(f"{number}. {reason}" for reason, number in reasons.items()), ""]
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    lines += [f"Written by `make matrix` in {seconds:.0f} s, with {libraries}.", ""]
    return "\n".join(lines)


def _show(ending: Ending, reasons: dict[str, int]) -> str:
    if ending.refused is not None:
        return f"({reasons.setdefault(ending.refused, len(reasons) + 1)})"
    if ending.reward is not None:
        return f"reward {ending.reward:.2f}"
    if ending.losses is None:
        return f"**failed**: {json.dumps(ending.failed)}".replace("|", "\\|")
    text = f"{ending.losses[0]:.3f} → {ending.losses[1]:.3f}"
    return text if ending.as_promised else f"**{text}**"


if __name__ == "__main__":
    main()
