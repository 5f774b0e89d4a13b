"""The page of one run: its figures, its text, and a row for each of its cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reports.site import words
from reports.site.figures import drawn_views, iterations, time_and_bandwidth
from reports.site.page import Page, Row, Section
from reports.site.svg import draw_picture
from reports.store.case import find_states
from reports.store.result import ResultError, read
from reports.store.schema import Case, Result, Run
from reports.tables import sentences
from reports.tables.plot import own_picture
from reports.tables.sentences import number
from reports.tables.show import text
from reports.tables.table import LONG_COLUMNS, long_cells
from reports.trends import fit as fitting
from reports.trends.fit import find_crossovers, fits_of
from reports.trends.lines import by_title

MOST_FACT_CHARACTERS = 500  # of a value of the environment


def run_page(path: Path, launches: Sequence[Path]) -> Page:
    """The page of a run; the fit uses `launches`, which ran the same command. Raises ResultError
    for a run that cannot be read or shown."""
    result = read(path)
    run = result.run
    head = [f"Run of {words.start_time(run)}: {words.status_text(result)}",
            *sentences.opening(result), *sentences.link_lines(find_states(result.blocks)),
            *run.notes]
    summary = " ".join(line if line.endswith(".") else f"{line}." for line in head if line)
    draw = own_picture(result)
    printed = Section("As the run printed it", text=text(result), folded=draw is None)
    if draw:
        sections = [_attempt("Picture", _own_picture, result, draw), printed]
    else:
        drawn = drawn_views(result)
        sections = [time_and_bandwidth(drawn, run.world["size"]), printed,
                    _attempt("Regimes and crossovers", _fits, launches),
                    _attempt("Iterations and stragglers", iterations, result, drawn)]
    sections += [_cells(result), _environment(run)]
    return Page(sentences.machine(result), [summary], sections, words.how_to_reproduce([run]))


def _attempt(heading: str, make: Callable[..., Section], *arguments: Any) -> Section:
    """A section, or the reason why it cannot be shown."""
    try:
        return make(heading, *arguments)
    except ResultError as error:
        return Section(heading, [f"This cannot be shown: {error}"])


def _own_picture(heading: str, result: Result, draw: Callable[..., None]) -> Section:
    """The picture of a benchmark other than a sweep over sizes."""
    return Section(heading, pictures=[draw_picture(
        "own", lambda target: draw(result, target), sentences.machine(result),
        "The figures stand in the text below and in the table of every cell.", "cells")])


def _fits(heading: str, paths: Sequence[Path]) -> Section:
    """Start-up time and bandwidth of each algorithm, and the crossovers between algorithms."""
    fits = fits_of([read(path) for path in paths])
    fitted = [fit for fit in fits if fit.regimes]
    if not fitted:
        raise ResultError("no algorithm has five blocks at three sizes")
    lines = [f"time = alpha + size / beta, over {len(paths)} launches of this command on this "
             "machine and software."]
    crossovers = find_crossovers(fits)
    for members in by_title(fits).values():
        lines += [f"{members[0].mode}: {line}"
                  for line in fitting.sentences(members, crossovers)]
    rows: list[Row] = [{"algorithm": fit.name, "mode": fit.mode, **fitting.cells(regime)}
                       for fit in fitted for regime in fit.regimes]
    picture = draw_picture(
        "fits", lambda target: fitting.plot(fitted, target),
        "Fits: time against size, a line for each regime",
        f"{len(fitted)} fits with {len(rows)} regimes; a bar marks the change from one regime to "
        "the next. Logarithmic axes.", "fits")
    return Section(heading, lines, [picture], table="fits",
                   caption="Fits over these launches, with 95 % intervals", rows=rows)


def _cells(result: Result) -> Section:
    """A row for each case; a sentence has the columns in which all cases are equal."""
    cases = sorted(result.cases, key=lambda case: (case.mode != "isolated", case.size_bytes,
                                                   case.case))
    rows = [_case_row(case) for case in cases]
    values = {name: {row[name] for row in rows} for name in (rows[0] if rows else ())}
    equal = [name for name, texts in values.items() if len(texts) == 1
             and name not in ("cell", "size", "algorithm", "mode", "status", "time us", "[95 %]")]
    shared = [f"{name} {rows[0][name]}" for name in equal if rows[0][name] not in ("-", "")]
    return Section(
        "Every cell", [f"In every cell: {'; '.join(shared)}."] if shared else [],
        table="cells", caption="Every cell; its number is a link to it",
        rows=[{name: cell for name, cell in row.items() if name not in equal} for row in rows],
        filters=[name for name in ("algorithm", "mode") if len(values.get(name, ())) > 1])


def _case_row(case: Case) -> Row:
    exposed_us = case.exposed_us.median if case.exposed_us else None
    return {"cell": (str(case.case), f"#case-{case.case}"),
            **dict(zip(LONG_COLUMNS, long_cells(case), strict=True)),
            "place": "in place" if case.in_place else "out of place",
            "exposed us": number(exposed_us), "collective": case.collective,
            "type": f"{case.datatype} {case.redop}", "memory": case.memory}


def _environment(run: Run) -> Section:
    rows: list[Row] = [
        {"name": name, "value": fact_text(fact),
         "source": str(fact.get("source", "-")) if isinstance(fact, dict) else "-"}
        for name, fact in run.environment.items()]
    return Section("Environment", table="environment", rows=rows, folded=True,
                   caption="The machine and its software, as the run read them")


def fact_text(fact: Any) -> str:
    """The value of a fact of the environment."""
    value = fact.get("value") if isinstance(fact, dict) else fact
    return "-" if value is None else str(value)[:MOST_FACT_CHARACTERS]
