"""`fit`: fits time = alpha + size / beta to the latency-bound and the bandwidth-bound sizes of each
algorithm, and finds the sizes at which one overtakes another."""

import argparse
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

import pandas as pd

from reports.tables.sentences import (
    interval_text,
    lay_out,
    left_out_lines,
    plain_table,
    some,
    tick_text,
)
from reports.trends.alpha_beta import MIN_SIZES, Fit, Regime, regimes_of
from reports.trends.crossovers import Crossover, crossovers_of
from reports.trends.fit_figure import draw
from reports.verdicts.judge import Incomparable
from reports.verdicts.verdict import MIN_PAIRS
from wiretax.common.grouped import grouped
from wiretax.common.program import answer, complain
from wiretax.record.case import CASE_KEY, COMPUTE_BENCHMARKS, key_of
from wiretax.record.folder import in_order
from wiretax.record.manifest import files_of
from wiretax.record.observations import alike_of, costs_of, entry_of, in_one_state
from wiretax.record.result import ResultError, read
from wiretax.record.schema import Result
from wiretax.record.stats import Interval


def fits_of(results: Sequence[Result]) -> tuple[list[Fit], list[str]]:
    """A fit for each case, over its sizes, from the launches in one state of the link that
    count, and a sentence on each of the others. Raises Incomparable for launches of different
    things."""
    every = in_order(map(entry_of, results))
    left_out = left_out_lines((entry.path, entry.left_out) for entry in every)
    entries = [entry for entry in every if not entry.left_out]
    kinds = {
        (alike_of(entry), entry.run.software_id): (
            f"{entry.run.benchmark} of {entry.run.imported_from or entry.run.run_id}"
        )
        for entry in entries
    }
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        raise Incomparable(
            f"{first} and {second} are launches of different things: machine, software, world, "
            "benchmark or method differ"
        )

    entries, notes = in_one_state(entries)
    costs_us, planned = costs_of(entries)
    cases = [*planned.values()]
    timed = [
        number
        for number, case in enumerate(cases)
        if case.size_bytes and case.collective not in COMPUTE_BENCHMARKS
    ]
    named = [name for name in CASE_KEY if name != "size_bytes"]
    fits = []
    for own in grouped(timed, lambda number: key_of(cases[number], ("size_bytes",))).values():
        sizes_bytes = [cases[number].size_bytes for number in own]
        times = pd.DataFrame(costs_us[:, own], columns=sizes_bytes).dropna(how="all")
        # Sizes that half of the launches lack go first, then launches that lack a size.
        times = times.loc[:, times.notna().mean() > 0.5].dropna().sort_index(axis=1)
        if times.shape[1] < MIN_SIZES or times.empty:
            continue

        sizes, times_us = times.columns.to_numpy(), times.to_numpy()
        runs = [entries[row].run for row in times.index]
        fits.append(
            Fit(
                **{name: getattr(cases[own[0]], name) for name in named},
                run_ids=[run.run_id for run in runs],
                machine_id=runs[0].machine_id,
                software_id=runs[0].software_id,
                world_size=runs[0].world_size,
                hosts=runs[0].hosts,
                sizes_bytes=sizes.tolist(),
                times_us=times_us.tolist(),
                regimes=regimes_of(sizes, times_us),
            )
        )

    return fits, left_out + notes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="launches of one thing: runs, folders (also of a campaign's variant), quoted globs",
    )
    parser.add_argument(
        "--plot", metavar="OUT", type=Path, help="draw the times and the lines; .svg or .png"
    )


def fit(arguments: argparse.Namespace) -> int:
    """Prints the fits and returns 0. Raises Incomparable for runs of different things, ResultError
    if a file cannot be read or drawn, and if there is nothing to fit."""
    results = [read(file) for name in arguments.runs for file in files_of(name)]
    fits, notes = fits_of(results)

    if not fits:
        problem = "nothing to fit: no case has three sizes with five blocks"
        raise ResultError("; ".join([problem, *notes]))

    days = {run_id[:10] for fit in fits for run_id in fit.run_ids}
    if len(days) > 1:
        notes.append(
            f"the launches are of {len(days)} days: days differ by more than launches of a day, "
            "which no interval here allows for"
        )
    crossovers = crossovers_of(fits)
    if arguments.plot:
        draw(fits, crossovers, arguments.plot)

    complain(*notes)
    answer(arguments, text(fits, crossovers), fits=fits, crossovers=crossovers)
    return 0


def text(fits: Sequence[Fit], crossovers: Sequence[Crossover]) -> str:
    """For each title a table of lines, one of n_1/2 and one of crossovers, with sentences below
    them, in 80 columns."""
    texts = []
    for title, group in grouped(fits, attrgetter("title")).items():
        regimes = [(fit, regime) for fit in group for regime in fit.regimes]
        lines = [
            {
                "algorithm": fit.name,
                "runs": str(len(fit.run_ids)),
                "sizes": sizes_text(regime),
                "alpha us [95 %]": interval_text(regime.alpha_us),
                "beta GB/s [95 %]": interval_text(regime.beta_gb_s),
                "miss": f"{regime.worst_residual:.1%}",
            }
            for fit, regime in regimes
        ]
        halves = [
            {
                "algorithm": fit.name,
                "sizes": sizes_text(regime),
                "n_1/2 [95 %]": size_interval_text(regime.half_bytes) or "not resolved",
                "": "extrapolated" if regime.is_half_extrapolated else "",
            }
            for fit, regime in regimes
        ]
        own = [each for each in crossovers if each.title == title]
        overtakes = [
            {
                "algorithm": each.faster_above or "",
                "overtakes": each.faster_below or "",
                "at [95 %]": size_interval_text(each.size_bytes),
            }
            for each in own
            if each.size_bytes
        ]
        tables = [("", plain_table(rows[0], rows)) for rows in (lines, halves, overtakes) if rows]
        texts.append(lay_out([], [title], tables, [*remarks(group), *orders(own)]))

    return "\n".join(texts)


def sizes_text(regime: Regime) -> str:
    """`16K-512K`."""
    return f"{tick_text(regime.from_bytes)}-{tick_text(regime.to_bytes)}"


def size_interval_text(size_bytes: Interval | None) -> str:
    """`62.5K [60.1K 64.8K]`; empty for None."""
    return interval_text(size_bytes, lambda each: tick_text(round(each))) if size_bytes else ""


def remarks(fits: Sequence[Fit]) -> list[str]:
    """What the figures of these fits do not say."""
    regimes = [regime for fit in fits for regime in fit.regimes]
    few = min(len(fit.run_ids) for fit in fits) < MIN_PAIRS
    remarks = []
    if few:
        remarks.append(f"Fewer than {MIN_PAIRS} launches have no intervals.")
    if any(not regime.half_bytes for regime in regimes):
        remarks.append("- or not resolved: the interval is not wholly above 0.")
    if any(regime.is_half_extrapolated for regime in regimes):
        remarks.append("Extrapolated: this size is not among those of the line.")
    return remarks


def orders(crossovers: Sequence[Crossover]) -> list[str]:
    """A sentence on the pairs without a crossover for each algorithm that is faster, and those of
    which none is known to be."""
    without = [each for each in crossovers if not each.size_bytes]

    def others(pairs: Sequence[Crossover], faster: str | None) -> str:
        names = [each.second if each.first == faster else each.first for each in pairs]
        return some(names, 4)

    texts = []
    for faster, pairs in grouped(without, attrgetter("faster_below")).items():
        if faster is None:
            names = [f"{each.first} and {each.second}" for each in pairs]
            texts.append(f"Which is faster is not resolved at any size: {some(names, 4)}.")
            continue
        wholly = [each for each in pairs if not each.open_bytes]
        partly = [each for each in pairs if each.open_bytes]
        if wholly:
            texts.append(
                f"Never within the measured sizes is {faster} overtaken by: "
                f"{others(wholly, faster)}."
            )
        if partly:
            texts.append(
                f"{faster} is faster, but at some sizes not resolved, than: "
                f"{others(partly, faster)}."
            )
    return texts
