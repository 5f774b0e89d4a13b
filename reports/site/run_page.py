"""The page of one run: its pictures, its text, and a row for each of its cases."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from reports.site import shared
from reports.store.case import find_states
from reports.store.result import ResultError, SamplesGone, read, read_samples
from reports.store.schema import Case, Result
from reports.tables import plot, run_text, sentences, show
from reports.tables.figure import Line, figure, legend_below, lines_of, round_ticks
from reports.tables.kinds import kind_of
from reports.tables.long import long_rows
from reports.tables.page import Page, Picture, Row, Section, draw_picture
from reports.tables.rows import View, view_of, views
from reports.tables.sentences import TOKEN_CALL_SIZE_BYTES, number, shape_words, size_text
from reports.trends import fit as fitting
from reports.trends import fit_figure
from reports.trends.alpha_beta import by_title
from reports.trends.fit import find_crossovers, fits_of

PANEL_INCHES = (5.6, 4.1)
PANEL_MARGINS = (0.14, 0.12, 0.92, 0.985)  # fixed: matplotlib's search takes as long as the drawing
SCALES = {"log": "logarithmic", "linear": "linear"}
SLOW_RANK_RATIO = 1.05  # of a rank's median time to the median of the other ranks

Drawn = Sequence[tuple[View, Sequence[Line]]]  # each view with all lines of the run
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
    draw = kind_of(result).draw
    printed = Section("As the run printed it", text=show.text(result), folded=draw is None)
    if draw:
        own = partial(
            draw_picture,
            "own",
            partial(draw, result),
            sentences.machine(result),
            "The figures stand in the text below and in the table.",
            "cells",
        )
        sections = [
            _attempt("Picture", lambda heading: Section(heading, pictures=[own()])),
            printed,
        ]
    else:
        drawn = drawn_views(result)
        sections = [
            time_and_bandwidth(drawn, run.world["size"]),
            printed,
            _attempt("Regimes and crossovers", _fits, launches),
            _attempt("Iterations and stragglers", iterations, result, drawn),
        ]
    facts: list[Row] = [
        {
            "name": name,
            "value": fact_text(fact),
            "source": str(fact.get("source", "-")) if isinstance(fact, dict) else "-",
        }
        for name, fact in run.environment.items()
    ]
    environment = Section("Environment", table="environment", rows=facts, folded=True)
    return Page(
        sentences.machine(result),
        head,
        [*sections, _cells(result), environment],
        shared.how_to_reproduce([run]),
    )


def _attempt(heading: str, make: Callable[..., Section], *arguments: Any) -> Section:
    """A section, or the reason why it cannot be shown."""
    try:
        return make(heading, *arguments)
    except ResultError as error:
        return Section(heading, [f"This cannot be shown: {error}"])


def _fits(heading: str, paths: Sequence[Path]) -> Section:
    """Start-up time and bandwidth of each algorithm, and the crossovers between algorithms."""
    fits = fits_of([read(path) for path in paths])
    launches = f"{len(paths)} launch{'es' * (len(paths) > 1)}"
    lines = [
        f"time = alpha + size / beta, over {launches} of this command on this machine and "
        "software; in brackets 95 % intervals."
    ]
    crossovers = find_crossovers(fits)
    for members in by_title(fits).values():
        lines += [f"{members[0].mode}: {line}" for line in fitting.sentences(members, crossovers)]
    rows: list[Row] = [
        {"algorithm": fit.name, "mode": fit.mode, **fitting.cells(regime)}
        for fit in fits
        for regime in fit.regimes
    ]
    picture = draw_picture(
        "fits",
        partial(fit_figure.plot, fits),
        "Fits: time against size, a line for each regime",
        f"{len(fits)} fits with {len(rows)} regimes. Logarithmic axes.",
        "fits",
    )
    return Section(heading, lines, [picture], table="fits", rows=rows)


def _cells(result: Result) -> Section:
    """A row for each case; a sentence has the columns in which all cases are equal."""
    cases = sorted(
        result.cases, key=lambda case: (case.mode != "isolated", case.size_bytes, case.case)
    )
    rows: list[Row] = [
        {
            "cell": (str(case.case), f"#case-{case.case}"),
            **cells,
            "collective": case.collective,
            "memory": case.memory,
        }
        for case, cells in zip(cases, long_rows(cases), strict=True)
    ]
    values = {name: {row[name] for row in rows} for name in (rows[0] if rows else ())}
    equal = [
        name
        for name, texts in values.items()
        if len(texts) == 1
        and name not in ("cell", "size", "algorithm", "mode", "status", "time us")
    ]
    common = [f"{name} {rows[0][name]}" for name in equal if rows[0][name] not in ("-", "")]
    return Section(
        "Every cell",
        [f"In every cell: {'; '.join(common)}."] if common else [],
        table="cells",
        rows=[{name: cell for name, cell in row.items() if name not in equal} for row in rows],
        filters=[name for name in ("algorithm", "mode") if len(values.get(name, ())) > 1],
    )


def fact_text(fact: Any) -> str:
    """The value of a fact of the environment, at most 500 characters."""
    value = fact.get("value") if isinstance(fact, dict) else fact
    return "-" if value is None else str(value)[:500]


def drawn_views(result: Result) -> Drawn:
    """The first four views; each has all lines of the run in order, with its own cases."""
    shown = [(view, plot.drawn_cases(result, view)) for view in views(result)[:4]]
    lines = lines_of([case for _, cases in shown for case in cases])
    return [
        (
            view,
            [
                replace(line, cases=[case for case in line.cases if view_of(case) == view])
                for line in lines
            ],
        )
        for view, cases in shown
        if cases
    ]


def time_and_bandwidth(drawn: Drawn, world_size: int) -> Section:
    """Time and busbw against size for each view, with both vertical axes."""
    if not drawn:
        return Section("Time and bandwidth", ["The run has no measured case."])
    pictures = []
    for place, (view, lines) in enumerate(drawn):
        words = ", ".join([view[0], *shape_words(view[1])])
        for quantity, factor in plot.factors(view, lines, world_size).items():
            title = f"{plot.axis_title(lines, factor)}, against size, {words}"
            pictures += [
                _against_size(f"{quantity}{place}{scale}", title, lines, factor, scale)
                for scale in SCALES
            ]
    samples = [
        (line.name, draw_picture(f"sample{place}", partial(_draw_sample, line)).svg, line.is_main)
        for place, line in enumerate(drawn[0][1])
    ]
    return Section("Time and bandwidth", pictures=pictures, lines=samples)


def _draw_sample(line: Line, target: IO[str]) -> None:
    with figure(target, 1, 1, (0.6, 0.22), margins=(0, 0, 1, 1)) as (_, ((axes,),)):
        axes.set_axis_off()
        axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **line.style)


def _against_size(
    name: str, title: str, lines: Sequence[Line], factor: float, scale: str
) -> Picture:
    def draw(target: IO[str]) -> None:
        with figure(target, 1, 1, PANEL_INCHES, margins=PANEL_MARGINS) as (_, ((axes,),)):
            plot.draw_against_size(axes, lines, factor, scale)
            axes.tick_params(labelsize=8)
            for place, line in enumerate(lines):
                numbers = [str(case.case) for case in line.cases]
                axes.lines[place].set_gid("-".join([f"line{place}", *numbers]))
                axes.collections[place].set_gid(f"line{place}")

    cases = [case for line in lines for case in line.cases]
    ends = np.concatenate([plot.interval(case, factor) for case in cases])
    sizes = sorted({case.size_bytes for case in cases})
    return draw_picture(
        name,
        draw,
        title,
        f"{sum(bool(line.cases) for line in lines)} lines over {len(sizes)} "
        f"sizes from {size_text(sizes[0])} to {size_text(sizes[-1])}; the figures go from "
        f"{number(float(ends.min()))} to {number(float(ends.max()))}; {SCALES[scale]} vertical "
        "axis. Dashed: the bound of the machine's own measured parts.",
        "cells",
        scale,
    )


def iterations(heading: str, result: Result, drawn: Drawn) -> Section:
    """The stored iterations at decode's size and at the largest: a picture for each size and a row
    for each case. Raises ResultError for samples that cannot be read."""
    lines = drawn[0][1] if drawn else []
    sizes = sorted({case.size_bytes for line in lines for case in line.cases if case.samples})
    near = sorted(sizes, key=lambda size: abs(size - TOKEN_CALL_SIZE_BYTES))
    pictures, rows, notes = list[Picture](), list[Row](), list[str]()
    for size in dict.fromkeys([*near[:1], *sizes[-1:]]):
        times_us: dict[int, Times] = {}
        for place, line in enumerate(lines):
            for case in line.cases:
                times = _read_times_us(result, case) if case.size_bytes == size else None
                if times is not None:
                    times_us[place] = times
                    rows.append(
                        {
                            "size": size_text(size),
                            "algorithm": line.name,
                            **_iteration_cells(case, times),
                        }
                    )
        if times_us:
            pictures.append(_distribution(f"ecdf{len(pictures)}", size, times_us, lines))
            ratios = [
                [
                    np.median(times[rank]) / np.median(np.delete(times, rank, axis=0))
                    for rank in range(len(times))
                ]
                for times in times_us.values()
                if len(times) > 1
            ]
            notes += [
                f"Rank {rank} is slow at {size_text(size)}: {ratio:.2f}x the others' time, "
                "in the median of the algorithms."
                for rank, ratio in enumerate(np.median(ratios, axis=0) if ratios else ())
                if ratio > SLOW_RANK_RATIO
            ]
    if not rows:
        return Section(heading, ["The run stored no single iterations."])
    return Section(
        heading,
        [
            *(notes or [f"No rank takes more than {SLOW_RANK_RATIO:.2f}x the others' time."]),
            "Times are of the slowest rank; arrival skew is the time from the first rank's arrival "
            "to the last rank's; last, by rank, is how often each rank took longest.",
        ],
        pictures,
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


def _distribution(
    name: str, size_bytes: int, times_us: Mapping[int, Times], lines: Sequence[Line]
) -> Picture:
    def draw(target: IO[str]) -> None:
        with figure(target, 1, 1, PANEL_INCHES) as (drawing, ((axes,),)):
            shares = np.linspace(0, 1, 41)
            for place, times in times_us.items():
                style = lines[place].style | {"linewidth": 1.6, "markersize": 5}
                axes.plot(
                    np.quantile(times.max(axis=0), shares),
                    shares,
                    drawstyle="steps-post",
                    markevery=8,
                    **style,
                    label=lines[place].name,
                    gid=f"line{place}",
                )
            axes.set(
                xscale="log",
                xlabel="time of an iteration, its slowest rank, us",
                ylabel="part of the iterations",
            )
            round_ticks(axes.xaxis)
            axes.minorticks_off()
            axes.grid(True, alpha=0.25)
            axes.tick_params(labelsize=8)
            legend = legend_below(drawing, *axes.get_legend_handles_labels(), fontsize=8)
            for place, *parts in zip(times_us, legend.legend_handles, legend.texts, strict=True):
                for part in parts:
                    part.set_gid(f"line{place}")

    return draw_picture(
        name,
        draw,
        f"Iterations at {size_text(size_bytes)}: the part that took no longer",
        f"{len(times_us)} lines, each from its fastest iteration to its slowest; the further left, "
        "the faster, and the steeper, the steadier. Logarithmic horizontal axis.",
        "iterations",
    )
