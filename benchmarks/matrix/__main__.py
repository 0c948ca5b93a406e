"""Run the matrix and write its page: `python -m benchmarks.matrix [--adapter NAME]… [--objective NAME]… [--processes NAME]…`.

Every cell's ending is kept in a file as it comes; a run that was interrupted goes on where it was. Exits with 1 where a cell was neither
refused with a reason nor learnt something.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.matrix.axes import ADAPTERS, OBJECTIVES, PROCESSES, QUANTIZATIONS
from benchmarks.matrix.cells import Cell, list_cells
from benchmarks.matrix.endings import Ending, EndingBook
from benchmarks.matrix.page import build_page
from benchmarks.matrix.runner import CellRunner, look_up
from benchmarks.matrix.workspace import make_matrix_workspace
from tests.support.trainer_process import run_trainers

PAGE = Path("docs/reference/matrix.md")
ENDINGS = Path("build/matrix.jsonl")


def main() -> None:
    """Run the cells that are asked for."""
    arguments = argparse.ArgumentParser(description=__doc__)
    for name, axis in (("adapter", ADAPTERS), ("quantization", QUANTIZATIONS), ("objective", OBJECTIVES), ("processes", PROCESSES)):
        arguments.add_argument(f"--{name}", action="append", choices=list(axis), help="only this one; the page is then not written")
    arguments.add_argument("--jobs", type=int, default=2, help="cells that are trained at a time")
    arguments.add_argument("--endings", type=Path, default=ENDINGS, help="where the cells' endings are kept")
    arguments.add_argument("--fresh", action="store_true", help="forget what is kept: after a change of the trainer")
    arguments.add_argument("--page", type=Path, default=PAGE)
    arguments.add_argument("--page-only", action="store_true", help="train nothing: write the page of what is kept")
    options = arguments.parse_args()
    chosen = (options.adapter, options.quantization, options.objective, options.processes)
    every = list(list_cells())
    cells = [cell for cell in every if all(not of or choice in of for choice, of in zip(cell.choices, chosen, strict=True))]
    if options.fresh:
        options.endings.unlink(missing_ok=True)
    if options.page_only:
        options.page.write_text(
            build_page(every, look_up(every, Path("/workspace"), EndingBook(options.endings), again=False)[0]), encoding="utf-8"
        )
        return
    endings = run_cells(cells, options.jobs, EndingBook(options.endings))
    broken = [cell.name for cell in cells if not endings[cell.name].as_promised]
    for name in broken:
        sys.stderr.write(f"{name}: {endings[name]}\n")
    if len(cells) == len(every):
        options.page.write_text(build_page(cells, endings), encoding="utf-8")
    sys.exit(1 if broken else 0)


def run_cells(cells: list[Cell], jobs: int, book: EndingBook) -> dict[str, Ending]:
    """Return what became of ``cells``."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        workspace, processes = Path(folder, "workspace"), Path(folder, "processes")
        workspace.mkdir()
        processes.mkdir()
        with run_trainers(processes) as trainers:
            made = trainers.call(make_matrix_workspace, workspace)
            if made.wait() != 0:
                raise SystemExit(made.log)
            return CellRunner(trainers, workspace, book).run_all(cells, jobs, _tell)


def _tell(cell: Cell, ending: Ending) -> None:
    if ending.refused is None:
        measured = ending.losses or ending.rewards
        words = "failed" if measured is None else f"{measured[0]:.4f} → {measured[1]:.4f}"
        sys.stderr.write(f"{', '.join(cell.choices)}: {words}{'' if ending.as_promised else ' ***'}, {ending.seconds:.1f} s\n")


if __name__ == "__main__":
    main()
