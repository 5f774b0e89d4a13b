"""The tables of all cases of a run, a row each, with every figure that schema.FIGURES declares."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from reports.store.schema import FIGURES, Case, Range, Result, Summary
from reports.store.stats import Interval
from reports.tables.rows import SUSPECT, ratio_text, speed_ups
from reports.tables.sentences import (
    algorithm_of,
    count,
    interval_text,
    number,
    plain_table,
    shape_text,
    size_text,
)

# Columns that stand in the title if all cells are alike, and those that others make superfluous.
FOLDED = ("type", "variant", "place", "chosen", "#wrong", "blocks", "status")
LEFT_OUT = {"mode", FIGURES["alg_bw_gb_s"].heading}


def long_tables(result: Result) -> list[tuple[str, Table]]:
    """A table for each mode, isolated before chained, with a row for each case, smaller sizes
    first; without columns that are empty in it. Ordinary runs take less than 140 columns."""
    ratios, tables = speed_ups(result), []
    for mode in sorted({case.mode for case in result.cases}, reverse=True):
        cases = [case for case in result.cases if case.mode == mode]
        cases.sort(key=lambda case: (case.size_bytes, case.in_place))
        rows = long_rows(cases, ratios)
        texts = {name: {row[name] for row in rows} for name in rows[0] if name not in LEFT_OUT}
        alike = [name for name in FOLDED if len(texts.get(name, ())) == 1]
        columns = [name for name in texts if name not in alike]
        title = ", ".join([mode, *(f"{name} {rows[0][name]}" for name in alike)])
        headings = [name.replace(" ", "\n", 1) for name in columns]
        cells = [[row[name] for name in columns] for row in rows]
        footnotes = [SUSPECT] * any(case.suspect for case in cases)
        tables.append((title, plain_table(headings, cells, footnotes=footnotes)))

    return tables


def long_rows(cases: Iterable[Case], ratios: Mapping[int, Interval | None]) -> list[dict[str, str]]:
    """The cells of each case by their headings, without figures that no case has; `ratios` of
    `speed_ups`."""
    rows = [
        _facts(case)
        | _figures(case)
        | {"library/ this": ratio_text(ratios.get(case.case)), "status": _status(case)}
        for case in cases
    ]
    shown = [name for name in rows[0] if any(row[name] != "-" for row in rows)] if rows else []
    return [{name: row[name] for name in shown} for row in rows]


def _facts(case: Case) -> dict[str, str]:
    name = f"{case.library or algorithm_of(case)} {shape_text(case.shape)}"
    return {
        "size": size_text(case.size_bytes),
        "algorithm": name.rstrip(),
        "type": f"{case.datatype} {case.redop}".removesuffix(" none"),
        "variant": case.variant,
        "mode": case.mode,
        "place": "in" if case.in_place else "out",
    }


def _figures(case: Case) -> dict[str, str]:
    cells = {shown.heading: _text(name, getattr(case, name)) for name, shown in FIGURES.items()}
    cells["blocks"] = str(case.time_us.n_blocks) if case.time_us else "-"

    if case.suspect:
        cells[FIGURES["share_of_bound"].heading] += "!"

    return cells


def _text(name: str, value: Any) -> str:
    """A figure in few digits: of a summary the median, with its interval for the whole cost."""
    if name == "total_us" and value:
        return interval_text((value.median, value.ci_low, value.ci_high))
    if isinstance(value, Summary | Range):
        return number(value.median)
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return " ".join(f"{part:.1f}" for part in value.values()) or "-"
    if isinstance(value, int):
        return count(value)
    if name.startswith("share") and value is not None:
        return f"{min(value, 9.99):.0%}"

    return number(value)


def _status(case: Case) -> str:
    return case.status + (f": {case.reason}" if case.reason else "")
