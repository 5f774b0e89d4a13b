"""An imported run as a table of at most 80 columns, with its origin and its status."""

from __future__ import annotations

from reports.imports.imported import Imported, ImportedCase
from reports.tables.console import lay_out, plain_table
from reports.tables.sentences import number, ranks_text, size_text


def render(imported: Imported) -> str:
    """The run as a table of at most 80 columns with its head; ends with a newline."""
    run, end, origin = imported.run, imported.end, imported.run.imported_from
    head = [machine(imported),
            f"imported from {origin.file}, lines {origin.first_line} to {origin.last_line}, by "
            f"{origin.format}: shown, never judged",
            f"{end.status}: {end.reason}" if end.reason else end.status,
            f"us = {run.statistic}"]
    is_checked = any(case.n_wrong is not None for case in imported.cases)
    errors = "#wrong" if is_checked else "max\nerror"
    columns = ("size", "collective", "type", "redop", "place", "us", "algbw\nGB/s", "busbw\nGB/s",
               errors)
    table = plain_table(dict.fromkeys(columns, 0),
                        [_cells(case, is_checked) for case in imported.cases], gap=2)
    marks = []
    if any(case.suspect for case in imported.cases):
        marks.append("! suspect: one rank alone, or a busbw that no machine has")
    if any(case.status == "wrong" for case in imported.cases):
        marks.append("WRONG: its bandwidth counts for nothing")
    if run.footer_avg_bus_bw is not None:
        marks.append(f"as printed: average busbw {run.footer_avg_bus_bw} GB/s")
    if run.out_of_bounds is not None:
        marks.append(f"as printed: out of bounds values {run.out_of_bounds}")
    return lay_out(None, head, [("", table)], marks)


def machine(imported: Imported) -> str:
    """The benchmark and its ranks, as the log names them."""
    world = imported.run.world
    gpus = " and ".join(dict.fromkeys(rank["gpu"] for rank in world["ranks"]))
    ranks = "an unknown number of ranks" if world["size"] is None else ranks_text(world["size"])
    return f"{imported.run.benchmark}: {ranks}{' on ' * bool(gpus)}{gpus}"


def _cells(case: ImportedCase, is_checked: bool) -> list[str]:
    errors = case.n_wrong if is_checked else case.max_error
    bus_bw = number(case.bus_bw_gb_s) + "!" * case.suspect
    return ["-" if case.size_bytes is None else size_text(case.size_bytes), case.collective or "-",
            case.datatype or "-", case.redop or "-", "in" if case.in_place else "out",
            number(case.time_us.mean if case.time_us else None), number(case.alg_bw_gb_s),
            "WRONG" if case.status == "wrong" else bus_bw,
            "-" if errors is None else f"{errors:g}"]
