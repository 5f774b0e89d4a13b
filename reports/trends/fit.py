"""`fit`: fits time = alpha + size / beta to the latency-bound and the bandwidth-bound sizes of each
algorithm. `alpha_beta` has the statistics."""

import argparse
import sys
from collections.abc import Sequence
from operator import attrgetter

import msgspec
import numpy as np

from reports.store.case import CASE_KEY, COMPUTE_BENCHMARKS, Key
from reports.store.folder import in_order
from reports.store.grouped import grouped
from reports.store.observations import alike_of, costs_of, entry_of, in_one_state
from reports.store.program import complain
from reports.store.report_json import write_json
from reports.store.result import ResultError
from reports.store.schema import Result
from reports.tables.headline import lines_text
from reports.tables.sentences import interval_text, lay_out, plain_table, tick_text, wrapped
from reports.trends.alpha_beta import MIN_SIZES, Estimate, Fit, Regime, regimes_of
from reports.verdicts.judge import Incomparable
from reports.verdicts.sides import notes_of, side_of
from reports.verdicts.verdict import MIN_PAIRS


def fits_of(results: Sequence[Result]) -> list[Fit]:
    """A fit for each case, over its sizes, from the launches in one state of the link that
    count. Raises Incomparable for launches of different things."""
    entries = [entry for entry in in_order(map(entry_of, results)) if not entry.left_out]
    kinds = {(alike_of(entry), entry.run.software_id): entry.run.run_id for entry in entries}
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        raise Incomparable(
            f"{first} and {second} are launches of different things: machine, software, world, "
            "benchmark or method differ"
        )

    entries, _ = in_one_state(entries)
    costs_us, keys = costs_of(entries)
    cases: dict[Key, dict[int, int]] = {}  # by key without a size: the column of each size
    for column, key in enumerate(keys):
        fields = dict(zip(CASE_KEY, key, strict=True))
        size = fields.pop("size_bytes")
        if size and fields["collective"] not in COMPUTE_BENCHMARKS:
            cases.setdefault(tuple(fields.items()), {})[size] = column

    fits = []
    for case, columns in cases.items():
        sizes = np.array(sorted(columns))
        times_us = costs_us[:, [columns[size] for size in sizes.tolist()]]
        has_time = np.isfinite(times_us)
        is_there = has_time.any(axis=1)
        # Sizes that half of the launches lack go first, then launches that lack a size.
        has_size = has_time.sum(axis=0) > is_there.sum() / 2
        is_whole = is_there & has_time[:, has_size].all(axis=1)
        if has_size.sum() >= MIN_SIZES and is_whole.any():
            whole = [entries[row].run for row in np.flatnonzero(is_whole).tolist()]
            times_us, sizes = times_us[np.ix_(is_whole, has_size)], sizes[has_size]
            run, fields = whole[0], dict(case)
            shape = fields.pop("shape")
            fits.append(
                Fit(
                    **fields,
                    shape=msgspec.json.decode(shape) if shape else None,
                    run_ids=[run.run_id for run in whole],
                    machine_id=run.machine_id,
                    software_id=run.software_id,
                    world_size=run.world["size"],
                    hosts=run.world.get("hosts", 1),
                    sizes_bytes=sizes.tolist(),
                    times_us=times_us.tolist(),
                    regimes=regimes_of(sizes, times_us),
                )
            )

    return fits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="launches of one thing: runs, folders, quoted globs, FOLDER/VARIANT of a campaign",
    )


def fit(arguments: argparse.Namespace) -> int:
    """Prints the fits and returns 0. Raises Incomparable for runs of different things, ResultError
    if a file cannot be read, and if there is nothing to fit."""
    sides = [side_of(argument) for argument in arguments.runs]
    results = [result for side in sides for result in side.launches]
    fits = fits_of(results)
    entries = in_order(map(entry_of, results))
    notes = notes_of(sides) + [
        f"{entry.path} is left out: {entry.left_out}" for entry in entries if entry.left_out
    ]
    notes += in_one_state([entry for entry in entries if not entry.left_out])[1]

    if not fits:
        problem = "nothing to fit: no case has three sizes with five blocks"
        raise ResultError("; ".join([problem, *notes]))

    for note in notes:
        complain(note)

    if arguments.json:
        write_json("fit", fits=fits)
    else:
        sys.stdout.write(text(fits))

    return 0


def text(fits: Sequence[Fit]) -> str:
    """A table for each title, with sentences below it, in 80 columns."""
    texts = []
    for title, group in grouped(fits, attrgetter("title")).items():
        rows = [
            {"algorithm": fit.name, "runs": str(len(fit.run_ids)), **cells(regime)}
            for fit in group
            for regime in fit.regimes
        ]
        table = plain_table(rows[0], [row.values() for row in rows])
        for column in table.columns:
            column.no_wrap = False  # a cut figure would be wrong
        few = min(len(fit.run_ids) for fit in group) < MIN_PAIRS
        sentences = [f"Fewer than {MIN_PAIRS} launches have no intervals."] if few else []
        texts.append(lay_out([], [title], [("", table)], sentences))

    return "\n".join([*wrapped([lines_text(fits)]), "", *texts])


def cells(regime: Regime) -> dict[str, str]:
    """A regime as cells of a table by column."""
    return {
        "sizes": f"{tick_text(regime.from_bytes)}-{tick_text(regime.to_bytes)}",
        "alpha us [95 %]": _with_interval(regime.alpha_us),
        "beta GB/s [95 %]": _with_interval(regime.beta_gb_s),
        "miss": f"{regime.worst_residual:.1%}",
    }


def _with_interval(estimate: Estimate) -> str:
    if not estimate.is_resolved:
        return "-"

    return interval_text(msgspec.structs.astuple(estimate))
