"""The page of one run: its headline, its speed and time against size, a row for each size, and,
folded, what explains them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reports.site import shared
from reports.site.chart import Chart, Line
from reports.site.page import Banner, Page, Row, Section
from reports.store.case import find_states
from reports.store.result import read
from reports.store.schema import Case, Result, Run
from reports.tables import run_text, show
from reports.tables.figure import lines_of
from reports.tables.headline import Point
from reports.tables.kinds import is_sweep, kind_of
from reports.tables.long import long_rows
from reports.tables.plot import drawn_cases, factors, interval
from reports.tables.rows import default_rows, named_in, ratio_text, speed_ups, views
from reports.tables.sentences import algorithm_of, machine, number, start_time

MOST_SHOWN = 3  # named algorithms in a chart at first


def run_page(path: Path) -> Page:
    """The page of a run. Raises ResultError."""
    result = read(path)
    run = result.run
    cases = sorted(
        result.cases, key=lambda case: (case.mode != "isolated", case.size_bytes, case.case)
    )
    sections = sweep_sections(result) if is_sweep(result) else []
    sections += [
        Section("As the run printed it", text=show.text(result), folded=bool(sections)),
        Section("Every cell", table="cells", rows=[*long_rows(cases)], folded=True),
        Section("Notes", run.notes, folded=True),
        environment(run),
    ]
    return Page(machine(result), banner_of(result), sections, shared.how_to_reproduce(run))


def environment(run: Run) -> Section:
    """The facts of the machine."""
    rows: list[Row] = [
        {
            "name": name,
            "value": shared.fact_text(fact),
            "source": str(fact.get("source", "-")) if isinstance(fact, dict) else "-",
        }
        for name, fact in run.environment.items()
    ]
    return Section("Environment", table="environment", rows=rows, folded=True)


def banner_of(result: Result) -> Banner:
    """The first figure of the headline, the headline, and what limits it."""
    facts = [
        f"{machine(result)}. Run of {start_time(result.run)}.",
        *run_text.opening(result),
        *run_text.link_lines(find_states(result.blocks)),
    ]
    points = kind_of(result).points(result)
    if "wrong" in {case.status for case in result.cases}:
        return Banner("WRONG RESULTS", show.headline_of(result), facts)
    if not points:
        return Banner("Nothing was measured", show.headline_of(result), facts, "unsure")

    first, *others = points
    texts = [f"{number(first.ratio)}x as fast as {first.other}"] if first.ratio else []
    texts[:1] = [text + " (unclear)" * (not first.is_clear) for text in texts[:1]]
    for point in others:
        ratio = f" ({number(point.ratio)}x)" if point.ratio else ""
        texts.append(f"{number(point.value)} {point.unit} at {point.label}{ratio}")

    role = _role(first) if result.complete else "unsure"
    word = f"{number(first.value)} {first.unit} at {first.label}"
    return Banner(word, "; ".join(texts) or show.headline_of(result), facts, role)


def _role(point: Point) -> str:
    if not point.ratio or not point.is_clear:
        return "steady"

    return "better" if point.ratio > 1 else "worse"


def sweep_sections(result: Result) -> list[Section]:
    """The two charts and a row for each size, of the first view."""
    view = views(result)[0]
    rows = [
        {
            "size": row.label,
            "ours, us": number(row.ours_us),
            "library, us": number(row.library_us),
            "library / ours [95 %]": ratio_text(row.ratio),
            "verdict": row.verdict or "-",
            "algorithm": (row.ours.chosen or algorithm_of(row.ours)) if row.ours else "-",
        }
        for row in default_rows(result, view, find_states(result.blocks))
    ]
    return [
        Section("Speed and time at each size", charts=charts_of(result)),
        Section("Each size", table="sizes", rows=rows),
    ]


def charts_of(result: Result) -> list[Chart]:
    """Speed against the library, and time, over the sizes of the first view. The library, `auto`
    and named algorithms are shown at first."""
    view, ratios, named = views(result)[0], speed_ups(result), named_in(result)
    drawn = lines_of(drawn_cases(result, view), named)
    cases = [case for line in drawn for case in line.cases]
    sizes = sorted({case.size_bytes for case in cases})
    if not sizes:
        return []

    factor = 0.0 if ratios else factors(view, drawn, result.run.world["size"]).get("busbw", 0.0)
    shown = {"library", "auto", *named[:MOST_SHOWN]}
    firsts = [line.cases[0] for line in drawn]
    roles = shared.line_roles(firsts, [case.algorithm in shown for case in firsts])

    def speed_of(case: Case) -> Any:
        if factor:
            return interval(case, factor)[[0, 2, 1]]  # a slow end in time is a low one here
        middle, low, high = ratios.get(case.case) or (np.nan,) * 3
        return middle, low or middle, high or middle

    speeds, times = (
        [
            Line(line.name, role, points, line.cases[0].algorithm in shown)
            for line, role in zip(drawn, roles, strict=True)
            for points in [_at_sizes(line.cases, sizes, figure)]
            if np.isfinite(points).any()
        ]
        for figure in (speed_of, interval)
    )
    bounds = np.full(len(sizes), np.nan)
    for case in cases:
        at = sizes.index(case.size_bytes)
        bounds[at] = np.fmin(bounds[at], case.bound_us or np.nan)

    times += [Line("bound", "bound", bounds)] * bool(np.isfinite(bounds).any())
    speeds += [Line("library", "library", np.ones(len(sizes)))] * bool(speeds and not factor)
    title, unit = ("Bus bandwidth", "GB/s") if factor else ("Times as fast as the library", "x")
    charts = Chart(title, sizes, speeds, unit), Chart("Time of a call", sizes, times, "us")
    return [chart for chart in charts if chart.lines]


def _at_sizes(cases: Iterable[Case], sizes: Sequence[int], figure: Callable[[Case], Any]) -> Any:
    """A figure of a line's cases and the ends of its interval at each size, (3, n)."""
    rows = np.full((len(sizes), 3), np.nan)
    for case in cases:
        rows[sizes.index(case.size_bytes)] = figure(case)

    return rows.T
