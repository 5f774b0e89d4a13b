"""The page of one run: its picture, its text, its fit, its iterations and a row for each case."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.site import shared
from reports.site.page import Page, Row, Section, draw_picture
from reports.store.case import find_states
from reports.store.result import ResultError, SamplesGone, read, read_samples
from reports.store.schema import Case, Result
from reports.tables import plot, run_text, show
from reports.tables.kinds import is_sweep
from reports.tables.long import long_rows
from reports.tables.rows import views
from reports.tables.sentences import TOKEN_CALL_SIZE_BYTES, counted, machine, number, size_text
from reports.trends import fit as fitting
from reports.trends.alpha_beta import by_title
from reports.trends.fit import find_crossovers, fits_of

SLOW_RANK_RATIO = 1.05  # of a rank's median time to the median of the other ranks

Times = NDArray[Any]  # of a case, shape (ranks, iterations), in microseconds


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
            _attempt("Iterations and stragglers", iterations, result),
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


def iterations(heading: str, result: Result) -> Section:
    """The stored iterations at decode's size and at the largest, a row for each case. Raises
    ResultError for samples that cannot be read."""
    cases = [case for case in plot.drawn_cases(result, views(result)[0]) if case.samples]
    sizes = sorted({case.size_bytes for case in cases})
    near = sorted(sizes, key=lambda size: abs(size - TOKEN_CALL_SIZE_BYTES))
    rows, notes = list[Row](), list[str]()

    for size in dict.fromkeys([*near[:1], *sizes[-1:]]):
        ratios = []
        for case in cases:
            times_us = _read_times_us(result, case) if case.size_bytes == size else None
            if times_us is not None:
                rows.append(_iteration_cells(case, times_us))
                medians_us = np.median(times_us, axis=1)
                ratios.append(medians_us / np.median(medians_us))
        notes += [
            f"Rank {rank} is slow at {size_text(size)}: {ratio:.2f}x the median rank's time, "
            "in the median of the algorithms."
            for rank, ratio in enumerate(np.median(ratios, axis=0) if ratios else ())
            if ratio > SLOW_RANK_RATIO
        ]

    if not rows:
        return Section(heading, ["The run stored no single iterations."])

    return Section(
        heading,
        [
            *notes,
            "Times are of the slowest rank; arrival skew is the time from the first rank's arrival "
            "to the last rank's; last, by rank, is how often each rank took longest.",
        ],
        table="iterations",
        rows=rows,
    )


def _read_times_us(result: Result, case: Case) -> Times | None:
    """The times of a case, or None without valid samples."""
    try:
        samples = read_samples(result, case)
    except SamplesGone:
        return None

    if samples is None:
        return None

    ranks, counts = np.unique(samples[:, 1], return_counts=True)
    if len(ranks) != result.run.world["size"] or len(set(counts.tolist())) != 1:
        return None

    # The sort is stable and keeps the order of iterations within a block and rank.
    by_rank = samples[np.lexsort((samples[:, 0], samples[:, 1]))]
    times_us = by_rank[:, 2].reshape(len(ranks), -1).astype(float)
    return times_us if np.isfinite(times_us).all() and (times_us > 0).all() else None


def _iteration_cells(case: Case, times_us: Times) -> Row:
    low, middle, high, longest = map(number, np.percentile(times_us.max(axis=0), [5, 50, 95, 100]))
    skew, (n_ranks, n) = case.arrival_skew_us, times_us.shape
    last = np.bincount(times_us.argmax(axis=0), minlength=n_ranks) / n
    return {
        "size": size_text(case.size_bytes),
        "algorithm": case.library or case.algorithm,
        "variant": case.variant,
        "iterations": str(n),
        "5 %, us": low,
        "median, us": middle,
        "95 %, us": high,
        "longest, us": longest,
        "arrival skew, us": number(skew.median if skew else None),
        "skew 95 %, us": number(skew.p95 if skew else None),
        "last, by rank": " ".join(f"{share:.0%}" for share in last),
        "median by rank, us": " ".join(map(number, np.median(times_us, axis=1))),
    }
