"""`fit`: fits alpha and beta to runs, prints a table with sentences on crossovers, and draws a
panel for each table. The dashboard uses the same cells, sentences and picture."""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from rich.table import Table

from reports.store.result import ResultError
from reports.store.writing import to_line, write_named
from reports.tables.figure import Style, dress, figure, styles_of
from reports.tables.sentences import lay_out, number, tick_text
from reports.trends.fit import Crossover, Fit, by_title, curves_us, find_crossovers, fits_of
from reports.trends.lines import Estimate, Regime, interval, walsh_means
from reports.verdicts.sides import notes_of, side_of

FAR = 0.2  # a miss, as a share, at which a line describes the times poorly
COLUMNS = ("algorithm\nlaunches", "sizes\n", "alpha us\n[95 %]", "beta GB/s\n[95 %]", "n 1/2\n",
           "worst\nmiss")
MEANINGS = {
    "up to": "alpha up to a limit: the start-up cost is not certainly above 0.",
    "steeper": "steeper: these times grow faster than the size; their line crosses 0 above size 0.",
    "flat": "flat: the times do not certainly grow with the size."}
INTERVALS = {
    "this launch": "Intervals are of this launch alone: another may lie outside.",
    None: "Fewer than five launches have no intervals: which algorithm is faster is not certain."}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+",
                        help="launches of one thing: runs, folders of runs, quoted globs, "
                             "FOLDER/VARIANT of a campaign")
    parser.add_argument("--out", metavar="FITS", type=Path,
                        help="store the fits and crossovers; .jsonl")
    parser.add_argument("--plot", metavar="OUT", type=Path,
                        help="draw times and lines against size; .svg or .png")


def fit(arguments: argparse.Namespace) -> int:
    """Prints the fits and returns 0. Raises Incomparable for runs of different things, ResultError
    if a file cannot be read or written, and if there is nothing to fit or draw."""
    sides = [side_of(argument) for argument in arguments.runs]
    results = [launch.result for side in sides for launch in side.launches]
    for note in notes_of(sides):
        print(f"reports: {note}", file=sys.stderr)
    fits = fits_of(results)
    if not fits:
        raise ResultError("nothing to fit: no case has five blocks in one state of the link")
    crossovers = find_crossovers(fits)
    if arguments.plot:
        plot(fits, arguments.plot)
    if arguments.out:
        run_ids = list(dict.fromkeys(run_id for fit in fits for run_id in fit.run_ids))
        records: list[Any] = [{"kind": "fits", "schema": 1, "run_ids": run_ids}, *fits, *crossovers]
        write_named(arguments.out, b"".join(map(to_line, records)))
    sys.stdout.write(text(fits, crossovers))
    return 0


def text(fits: Sequence[Fit], crossovers: Sequence[Crossover]) -> str:
    """A table for each title, with sentences below it, in 80 columns."""
    texts = []
    for title, group in by_title(fits).items():
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for column in COLUMNS:
            table.add_column(column, justify="left" if column == COLUMNS[0] else "right")
        for fit in group:
            name = f"{fit.name}, {len({*fit.run_ids})}"
            for regime in fit.regimes:
                table.add_row(name, *cells(regime).values())
                name = ""
        tables = [("", table)] if table.rows else []
        texts.append(lay_out(None, [title], tables, sentences(group, crossovers)))
    return "\n".join(texts)


def cells(regime: Regime) -> dict[str, str]:
    """A regime as cells of a table by column."""
    alpha, beta, half_size = regime.alpha_us, regime.beta_gb_s, regime.half_size_bytes
    low, high = (end if end is not None else alpha.value or 0.0 for end in (alpha.low, alpha.high))
    alpha_text = _with_interval(alpha) if low > 0 else f"up to {number(high)}"
    return {"sizes": f"{tick_text(regime.from_bytes)}-{tick_text(regime.to_bytes)}",
            "alpha, us": alpha_text if high > 0 else "steeper",
            "beta, GB/s": _with_interval(beta) if beta.value else "flat",
            "n 1/2": tick_text(round(half_size.value)) if half_size.value else "-",
            "worst miss": f"{regime.worst_residual:.1%}"}


def _with_interval(estimate: Estimate) -> str:
    value, low, high = map(number, msgspec.structs.astuple(estimate))
    return value if estimate.low is None else f"{value} [{low} {high}]"


def sentences(fits: Sequence[Fit], crossovers: Sequence[Crossover]) -> list[str]:
    """Sentences on fits with one title: words of the table, limits, and how the pairs compare."""
    words = str([cells(regime) for fit in fits for regime in fit.regimes])
    lines = [meaning for word, meaning in MEANINGS.items() if word in words]
    lines += [f"{fit.name} has no line: {fit.reason}." for fit in fits if fit.reason]
    missed = ", ".join(fit.name for fit in fits
                       if any(regime.worst_residual > FAR for regime in fit.regimes))
    if missed:
        lines.append(f"No line goes through all sizes of {missed}: more sizes would show a break.")
    intervals = {fit.interval for fit in fits}
    lines += [meaning for interval, meaning in INTERVALS.items() if interval in intervals]
    faster_than, uncertain = defaultdict[str, list[str]](list), list[str]()
    for pair in crossovers:
        below, above = pair.faster_below, pair.faster_above
        if not pair.interval or pair.title != fits[0].title:
            continue
        if pair.size_bytes:
            sizes = [tick_text(round(size)) for size in msgspec.structs.astuple(pair.size_bytes)]
            lines.append(f"{above} overtakes {below} at {sizes[0]} [{sizes[1]} {sizes[2]}].")
        elif below and below == above:
            faster_than[pair.second if below == pair.first else pair.first].append(below)
        else:
            at_smallest = f" ({below} is at the smallest size)" if below else ""
            at_largest = f" ({above} is at the largest size)" if above else ""
            uncertain.append(f"{pair.first} or {pair.second}{at_smallest}{at_largest}")
    lines += [f"Faster than {name} over all measured sizes: {', '.join(faster)}."
              for name, faster in faster_than.items()]
    return lines + [f"Not certain which is faster: {'; '.join(uncertain)}."] * bool(uncertain)


def plot(fits: Sequence[Fit], target: Path | IO[str]) -> None:
    """Draws time in us against size into an .svg or .png file, or a stream. Raises ResultError for
    another suffix, without a line, and if the file cannot be written."""
    groups = by_title([fit for fit in fits if fit.regimes])
    if not groups:
        raise ResultError("nothing to draw: no case has the three sizes that a line takes")
    algorithms = list(dict.fromkeys(fit.algorithm for group in groups.values() for fit in group))
    styles = dict(zip(algorithms, styles_of(algorithms), strict=True))
    columns, rows = min(2, len(groups)), -(-len(groups) // 2)
    with figure(target, rows, columns, (7.5 * columns, 1 + 5.5 * rows)) as (made, axes):
        handles = {}
        for panel, (title, group) in zip(axes.flat, groups.items(), strict=False):
            for fit in group:
                handles[fit.name] = _draw(panel, fit, styles[fit.algorithm])
            panel.set_title(title.replace("; ", "\n"), fontsize=10, loc="left")
            panel.set_ylabel("time, us")
            dress(panel, sorted({size for fit in group for size in fit.sizes_bytes}))
        for panel in axes.flat[len(groups) :]:
            panel.set_axis_off()
        made.legend(handles.values(), handles, loc="outside lower center", ncols=5, frameon=False)
        made.suptitle("Medians with 95 % intervals, lines alpha + size / beta, bars at breaks")


def _draw(panel: Any, fit: Fit, style: Style) -> Any:
    """Draws one fit, a registered variant with hollow marks and a thin line; returns its handle."""
    is_plain = fit.variant in ("copied", "plain")
    line = {"color": style["color"], "zorder": style["zorder"]}
    times_us = np.array(fit.times_us)
    median, low, high = interval(walsh_means(times_us.T), len(times_us) * bool(fit.interval))
    bars = [median - low, high - median] if fit.interval else None
    handle = panel.errorbar(fit.sizes_bytes, median, yerr=bars, linestyle="none", elinewidth=1,
                            marker=style["marker"], markersize=5, **line,
                            markerfacecolor=style["color"] if is_plain else "white")
    at = np.geomspace(fit.sizes_bytes[0], fit.sizes_bytes[-1], 256)
    width = 1.5 if is_plain else 0.9
    panel.plot(at, np.median(curves_us(fit, at), axis=0), linewidth=width, **line)
    breaks = [math.sqrt(before.to_bytes * after.from_bytes)
              for before, after in pairwise(fit.regimes)]
    panel.plot(breaks, np.median(curves_us(fit, breaks), axis=0), "|", markersize=14,
               markeredgewidth=1.6, **line)
    return handle
