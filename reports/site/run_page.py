"""The page of one run: its picture, its text, its fit and a row for each case."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reports.site import shared
from reports.site.page import Page, Row, Section, draw_picture
from reports.store.case import find_states
from reports.store.result import ResultError, read
from reports.store.schema import Result
from reports.tables import run_text, show
from reports.tables.kinds import is_sweep
from reports.tables.long import long_rows
from reports.tables.sentences import counted, machine
from reports.trends import fit as fitting
from reports.trends.alpha_beta import by_title
from reports.trends.fit import find_crossovers, fits_of


def run_page(path: Path, launches: Sequence[Path]) -> Page:
    """The page of a run, with a fit over `launches` of one command. Raises ResultError."""
    result = read(path)
    run = result.run
    head = [
        show.headline_of(result),
        f"Run of {shared.start_time(run)}: {shared.status_text(result)}",
        *run_text.opening(result),
        *run_text.link_lines(find_states(result.blocks)),
        *run.notes,
    ]
    sections = [Section("As the run printed it", text=show.text(result), folded=is_sweep(result))]

    if is_sweep(result):
        sections = [
            _attempt("Picture", _picture, result),
            *sections,
            _attempt("Regimes and crossovers", _fits, launches),
        ]

    facts: list[Row] = [
        {
            "name": name,
            "value": fact_text(fact),
            "source": str(fact.get("source", "-")) if isinstance(fact, dict) else "-",
        }
        for name, fact in run.environment.items()
    ]
    cases = sorted(
        result.cases, key=lambda case: (case.mode != "isolated", case.size_bytes, case.case)
    )
    sections += [
        Section("Every cell", table="cells", rows=[*long_rows(cases)]),
        Section("Environment", table="environment", rows=facts, folded=True),
    ]
    return Page(machine(result), head, sections, shared.how_to_reproduce(run))


def _attempt(heading: str, make: Callable[..., Section], *arguments: Any) -> Section:
    """A section, or the reason why it cannot be shown."""
    try:
        return make(heading, *arguments)
    except ResultError as error:
        return Section(heading, [f"This cannot be shown: {error}"])


def _picture(heading: str, result: Result) -> Section:
    title = machine(result)
    return Section(
        heading, pictures=[draw_picture("run", partial(show.plot, result), title, "cells")]
    )


def _fits(heading: str, paths: Sequence[Path]) -> Section:
    """Start-up time and bandwidth of each algorithm, and the crossovers between algorithms."""
    fits = fits_of([read(path) for path in paths])
    lines = [
        f"time = alpha + size / beta, over {counted(len(paths), 'launch')} of this command on this "
        "machine and software; in brackets 95 % intervals."
    ]
    crossovers = find_crossovers(fits)

    for members in by_title(fits).values():
        lines += [f"{members[0].mode}: {line}" for line in fitting.sentences(members, crossovers)]

    rows: list[Row] = [
        {"algorithm": fit.name, "mode": fit.mode, **fitting.cells(regime)}
        for fit in fits
        for regime in fit.regimes
    ]
    return Section(heading, lines, table="fits", rows=rows)


def fact_text(fact: Any) -> str:
    """The value of a fact of the environment, at most 500 characters."""
    value = fact.get("value") if isinstance(fact, dict) else fact
    return "-" if value is None else str(value)[:500]
