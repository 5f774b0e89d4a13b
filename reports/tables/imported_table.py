"""An imported run as a table of at most 80 columns, with where it comes from and how it ended."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from reports.imports.imported import Imported, ImportedCase
from reports.tables.console import plain_console, printed
from reports.tables.sentences import number, size_text
from reports.tables.table import WIDTH


def render(imported: Imported) -> str:
    """The run as a table of at most 80 columns with its head; ends with a newline."""
    run, console = imported.run, plain_console(WIDTH)
    origin = run.imported_from
    size, gpus = run.world["size"], dict.fromkeys(rank["gpu"] for rank in run.world["ranks"])
    for line in (f"{run.benchmark}: {size or 'an unknown number of'} {'rank' if size == 1 else 'ranks'}"
                 f"{' on ' * bool(gpus)}{' and '.join(gpus)}",
                 f"imported from {origin.file}, lines {origin.first_line} to {origin.last_line}, by {origin.format}: "
                 "shown, never judged",
                 f"{imported.end.status}{': ' * bool(imported.end.reason)}{imported.end.reason or ''}",
                 f"us = {run.statistic}"):
        console.print(Text(line))
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    checked = any(case.n_wrong is not None for case in imported.cases)
    for name in ("size", "collective", "type", "redop", "place", "us", "algbw\nGB/s", "busbw\nGB/s",
                 "#wrong" if checked else "max\nerror"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", vertical="bottom",
                         justify="left" if name in ("collective", "type", "redop", "place") else "right")
    for case in imported.cases:
        table.add_row(*(Text(cell) for cell in _cells(case, checked)))
    console.print(table)
    marks = [("! suspect: one rank alone, or a busbw that no machine has", any(c.suspect for c in imported.cases)),
             ("WRONG: its bandwidth counts for nothing", any(c.status == "wrong" for c in imported.cases)),
             (f"as printed: average busbw {run.footer_avg_bus_bw} GB/s", run.footer_avg_bus_bw is not None),
             (f"as printed: out of bounds values {run.out_of_bounds}", run.out_of_bounds is not None)]
    for line in [text for text, holds in marks if holds]:
        console.print(Text(line))
    return printed(console)


def _cells(case: ImportedCase, checked: bool) -> list[str]:
    wrong = case.status == "wrong"
    errors = case.n_wrong if checked else case.max_error
    return ["-" if case.size_bytes is None else size_text(case.size_bytes), case.collective or "-",
            case.datatype or "-", case.redop or "-", "in" if case.in_place else "out",
            number(case.time_us.mean if case.time_us else None), number(case.alg_bw_gb_s),
            "WRONG" if wrong else number(case.bus_bw_gb_s) + "!" * case.suspect,
            "-" if errors is None else f"{errors:g}"]
