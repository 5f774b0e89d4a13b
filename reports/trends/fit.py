"""`fit`: fits time = alpha + size / beta to the latency-bound and the bandwidth-bound sizes of each
algorithm. `times_us` is (launches, sizes), `sizes` (sizes,) in bytes, ascending. Nothing assumes a
distribution of the launches."""

import argparse
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from reports.store.case import CASE_KEY, COMPUTE_BENCHMARKS, key_of
from reports.store.folder import in_order
from reports.store.grouped import grouped
from reports.store.manifest import files_of
from reports.store.observations import alike_of, costs_of, entry_of, in_one_state
from reports.store.program import answer, complain
from reports.store.result import ResultError, read
from reports.store.schema import Result
from reports.store.stats import Interval
from reports.tables.sentences import (
    algorithm_of,
    interval_text,
    lay_out,
    left_out_lines,
    plain_table,
    shape_words,
    tick_text,
    type_text,
)
from reports.verdicts.judge import Incomparable
from reports.verdicts.verdict import MIN_PAIRS, Floats, Integers, evidence

MIN_SIZES = 3  # of a line
LATENCY_BOUND_BYTES = 512 << 10  # up to here a call takes its start-up, above it its bytes


class Regime(msgspec.Struct, kw_only=True):
    """Measured sizes and the line that fits them best, a miss of 1 % at any size counting the same.
    `worst_residual` is the largest distance of the launches' median from its own line, as a
    share. A figure that is not above 0 with its whole interval is None."""

    from_bytes: int
    to_bytes: int
    worst_residual: float
    alpha_us: Interval | None
    beta_gb_s: Interval | None


class Fit(msgspec.Struct, kw_only=True):
    """One algorithm. `times_us` are median costs: a column for each of `sizes_bytes`, and a row for
    each launch of `run_ids`."""

    machine_id: str
    software_id: str
    world_size: int
    hosts: int | None
    collective: str
    shape: Any
    datatype: str
    redop: str
    mode: str
    in_place: bool
    variant: str
    memory: str
    algorithm: str
    library: str | None
    run_ids: list[str]
    sizes_bytes: list[int]
    times_us: list[list[float]]
    regimes: list[Regime]

    @property
    def title(self) -> str:
        """`all_reduce, float32 sum, isolated, 2 ranks`."""
        words = [
            self.collective,
            type_text(self),
            self.mode,
            *shape_words(self.shape),
            *["in place"] * self.in_place,
            f"{self.world_size} ranks"
            + ("" if self.hosts in (1, None) else f" on {self.hosts} hosts"),
        ]
        return ", ".join(words)

    @property
    def name(self) -> str:
        """`two_shot`, `two_shot registered`, `MPICH 5.0.2`."""
        variant = f" {self.variant}" if self.variant not in ("copied", "plain") else ""
        return (self.library or algorithm_of(self)) + variant


def regime_of(sizes: Integers, times_us: Floats) -> Regime:
    """The line through these times: each launch has its own, by least squares relative to the
    median over launches, so that each size counts the same."""
    median_us = np.median(times_us, axis=0)
    fitted = partial(np.polyfit, sizes, deg=1, w=1 / median_us)
    slope, alpha_us = map(resolved, fitted(times_us.T))
    residuals = 1 - np.polyval(fitted(median_us), sizes) / median_us
    beta_gb_s = None
    if slope:
        value, *ends = slope
        high, low = (end and 1e-3 / end for end in ends)
        beta_gb_s = 1e-3 / value, low, high
    return Regime(
        from_bytes=int(sizes[0]),
        to_bytes=int(sizes[-1]),
        worst_residual=float(np.max(np.abs(residuals))),
        alpha_us=alpha_us,
        beta_gb_s=beta_gb_s,
    )


def resolved(values: Floats) -> Interval | None:
    """The figure of values of launches, Hodges and Lehmann's, as of log ratios, with its 95 %
    interval, which six launches have; None if it is not above 0, with its whole interval."""
    columns = ["log_ratio", "log_low", "log_high"]
    [[value, low, high]] = evidence(values[None])[columns].to_numpy().tolist()
    ends = (low, high) if np.isfinite(low) else (None, None)
    return (value, *ends) if (ends[0] or value) > 0 else None


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
        # Latency-bound and bandwidth-bound sizes, or all if either are too few for a line.
        at = int(np.searchsorted(sizes, LATENCY_BOUND_BYTES, side="right"))
        parts = [slice(at), slice(at, None)]
        if min(at, len(sizes) - at) < MIN_SIZES:
            parts = [slice(None)]
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
                regimes=[regime_of(sizes[part], times_us[:, part]) for part in parts],
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


def fit(arguments: argparse.Namespace) -> int:
    """Prints the fits and returns 0. Raises Incomparable for runs of different things, ResultError
    if a file cannot be read, and if there is nothing to fit."""
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
    complain(*notes)

    answer(arguments, text(fits), fits=fits)
    return 0


def text(fits: Sequence[Fit]) -> str:
    """A table for each title, with sentences below it, in 80 columns."""
    texts = []
    for title, group in grouped(fits, attrgetter("title")).items():
        rows = [
            {
                "algorithm": fit.name,
                "runs": str(len(fit.run_ids)),
                "sizes": f"{tick_text(regime.from_bytes)}-{tick_text(regime.to_bytes)}",
                "alpha us [95 %]": interval_text(regime.alpha_us),
                "beta GB/s [95 %]": interval_text(regime.beta_gb_s),
                "miss": f"{regime.worst_residual:.1%}",
            }
            for fit in group
            for regime in fit.regimes
        ]
        table = plain_table(rows[0], rows)
        few = min(len(fit.run_ids) for fit in group) < MIN_PAIRS
        sentences = [f"Fewer than {MIN_PAIRS} launches have no intervals."] if few else []
        texts.append(lay_out([], [title], [("", table)], sentences))

    return "\n".join(texts)
