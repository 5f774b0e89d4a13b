"""The table of all cases of a run, a row each, with every figure that schema.FIGURES declares."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from reports.store.schema import FIGURES, Case, Range, Result, Summary
from reports.tables.sentences import (
    count,
    interval_text,
    number,
    plain_table,
    shape_text,
    size_text,
)

OTHER_STATES = {"own": " (another state of the link)", "mixed": " (the link never settled)"}


def long_table(result: Result) -> Table:
    """A row for each case, smaller sizes first, isolated before chained."""
    cases = sorted(
        result.cases,
        key=lambda case: (case.size_bytes, case.mode != "isolated", case.in_place),
    )
    rows = long_rows(cases)
    return plain_table(dict.fromkeys(rows[0], 0), [row.values() for row in rows], gap=2)


def long_rows(cases: Iterable[Case]) -> list[dict[str, str]]:
    """The cells of each case by their headings, without figures that no case has."""
    rows = [_facts(case) | _figures(case) | {"status": _status(case)} for case in cases]
    shown = [name for name in rows[0] if any(row[name] != "-" for row in rows)] if rows else []
    return [{name: row[name] for name in shown} for row in rows]


def _facts(case: Case) -> dict[str, str]:
    chosen = f": {case.chosen}" if case.chosen else ""
    name = f"{case.library or case.algorithm}{chosen} {shape_text(case.shape)}"
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
    """A figure in few digits: of a summary the median with its interval and 95th percentile."""
    if isinstance(value, Summary):
        tail = "" if value.p95 is None else f" p95 {number(value.p95)}"
        return interval_text(value.median, value.ci_low, value.ci_high) + tail

    if isinstance(value, Range):
        return number(value.median)
    if isinstance(value, dict):
        return " ".join(f"{part:.1f}" for part in value.values()) or "-"
    if isinstance(value, int):
        return count(value)
    if name.startswith("share") and value is not None:
        return f"{min(value, 9.99):.0%}"

    return number(value)


def _status(case: Case) -> str:
    reason = f": {case.reason}" if case.reason else ""
    state = OTHER_STATES.get(case.state, "") if case.time_us else ""
    return case.status + reason + state
