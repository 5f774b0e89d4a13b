"""`fit`: fits time = alpha + size / beta, in one or two regimes, to each algorithm in each state
of the link; finds the crossovers, prints and draws. `alpha_beta` has the statistics."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from reports.store.case import (
    CASE_KEY,
    COMPUTE_BENCHMARKS,
    Key,
    find_states,
    key_of,
    least_blocks,
    method_of,
    world_of,
)
from reports.store.folder import in_order
from reports.store.observations import Costs, costs_of, entry_of
from reports.store.report_json import write_json
from reports.store.result import ResultError
from reports.store.schema import Result, Run
from reports.tables.headline import lines_text
from reports.tables.sentences import lay_out, number, plain_table, spoken, tick_text, wrapped
from reports.trends.alpha_beta import (
    LAUNCHES,
    MIN_LAUNCHES,
    MIN_SIZES,
    ONE_LAUNCH,
    Crossover,
    Estimate,
    Fit,
    Regime,
    by_title,
    curves_us,
    interval,
    regimes_of,
    walsh_means,
)
from reports.trends.fit_figure import plot
from reports.verdicts.judge import Incomparable
from reports.verdicts.sides import notes_of, side_of
from reports.verdicts.verdict import Floats, Integers

FINE_STEPS = 64  # sizes within a crossover
INTERVALS = {
    ONE_LAUNCH: "Intervals are of this launch alone: another may lie outside.",
    None: "Fewer than five launches have no intervals: which algorithm is faster is not certain.",
}


def fits_of(results: Sequence[Result]) -> list[Fit]:
    """A fit for each case, over its sizes, and each state of the link, from the launches that
    count. Raises Incomparable for launches of different things."""
    entries = [entry for entry in in_order(map(entry_of, results)) if not entry.left_out]
    runs = [entry.run for entry in entries]

    for run in runs:
        first, other = (
            (r.machine_id, r.software_id, world_of(r), method_of(r)) for r in (runs[0], run)
        )
        if first != other:
            raise Incomparable(
                f"{runs[0].run_id} and {run.run_id} are launches of different things: machine, "
                "software, world or method differ"
            )

    if len(entries) == 1:
        costs = _costs_of_groups(
            next(result for result in results if result.path == entries[0].path)
        )
        runs = runs * MIN_LAUNCHES
    else:
        costs = costs_of(entries)

    cases: dict[Key, dict[int, int]] = {}  # by key without a size: the column of each size
    for column, key in enumerate(costs.keys):
        fields = dict(zip(CASE_KEY, key, strict=True))
        size = fields.pop("size_bytes")
        if size and fields["collective"] not in COMPUTE_BENCHMARKS:
            cases.setdefault(tuple(fields.items()), {})[size] = column

    fits = []
    for (case, columns), state in product(cases.items(), range(costs.us.shape[2])):
        sizes = np.array(sorted(columns))
        times_us = costs.us[:, [columns[size] for size in sizes.tolist()], state]
        has_time = np.isfinite(times_us)
        is_there = has_time.any(axis=1)
        # Sizes that half of the launches lack go first, then launches that lack a size.
        has_size = has_time.sum(axis=0) > is_there.sum() / 2
        is_whole = is_there & has_time[:, has_size].all(axis=1)
        if has_size.sum() >= MIN_SIZES and is_whole.any():
            whole = [runs[row] for row in np.flatnonzero(is_whole).tolist()]
            times_us = times_us[np.ix_(is_whole, has_size)]
            rtt_ns = costs.rtt_ns[state] if costs.rtt_ns else None
            fits.append(_fit(whole, dict(case), rtt_ns, sizes[has_size], times_us))

    return fits


def _costs_of_groups(result: Result) -> Costs:
    """The costs of a launch in the state of the link that it was in longest, as if each of five
    groups of neighbouring blocks were a launch. Neighbouring blocks are correlated, groups hardly
    are (Schmeiser, Operations Research 30, 1982)."""
    states = find_states(result.blocks)
    blocks_us = defaultdict[int, list[float]](list)

    for block, state in zip(result.blocks, states.of_block, strict=True):
        if state == states.longest and block.cost_us > 0:
            blocks_us[block.case].append(block.cost_us)

    cases = [
        case
        for case in result.cases
        if case.status == "ok" and len(blocks_us[case.case]) >= least_blocks(result.run)
    ]
    costs_us = np.empty((MIN_LAUNCHES, len(cases), 1))

    for column, case in enumerate(cases):
        groups = np.array_split(blocks_us[case.case], MIN_LAUNCHES)
        costs_us[:, column, 0] = list(map(np.median, groups))

    rtt_ns = states.rtt_ns[states.longest :][:1] if states.longest is not None else []
    return Costs(list(map(key_of, cases)), rtt_ns, costs_us)


def _fit(
    runs: Sequence[Run],
    case: dict[str, Any],
    link_rtt_ns: float | None,
    sizes: Integers,
    times_us: Floats,
) -> Fit:
    """The fit of one case from its times, (runs, sizes); a run is repeated for groups of blocks."""
    run, over, shape = runs[0], None, case.pop("shape")
    if len(runs) >= MIN_LAUNCHES:
        over = LAUNCHES if run is not runs[1] else ONE_LAUNCH

    return Fit(
        **case,
        shape=msgspec.json.decode(shape) if shape else None,
        run_ids=[run.run_id for run in runs],
        interval=over,
        machine_id=run.machine_id,
        software_id=run.software_id,
        world_size=run.world["size"],
        hosts=run.world.get("hosts", 1),
        link_rtt_ns=link_rtt_ns,
        sizes_bytes=sizes.tolist(),
        times_us=times_us.tolist(),
        regimes=regimes_of(sizes, times_us, over),
    )


def find_crossovers(fits: Sequence[Fit]) -> list[Crossover]:
    """The crossovers between the library and each of ours, and between any two of ours of one
    variant, without `auto`, which runs one of them; a record too for a pair without a crossover."""
    crossovers = []
    for group in by_title(fits).values():
        for first, second in combinations(sorted(group, key=lambda fit: fit.library is None), 2):
            is_one_variant = (first.variant, first.memory) == (second.variant, second.memory)
            is_auto = "auto" in (first.algorithm, second.algorithm)
            if second.library is None and (first.library or (is_one_variant and not is_auto)):
                crossovers += _crossovers(first, second)

    return crossovers


def _crossovers(first: Fit, second: Fit) -> list[Crossover]:
    """A crossover is a change from one certain order to the other, each at a size at which both the
    lines and the measured times have it."""
    sizes = sorted({*first.sizes_bytes} & {*second.sizes_bytes})
    run_ids = [run_id for run_id in dict.fromkeys(first.run_ids) if run_id in second.run_ids]

    if not sizes or not run_ids:
        return []

    over = first.interval and second.interval
    rows = [(fit, np.isin(fit.run_ids, run_ids)) for fit in (first, second)]

    def by_lines(sizes: Any) -> Floats:
        return _differences(over, *(curves_us(fit, sizes)[row] for fit, row in rows))

    by_times = _differences(
        over,
        *(np.array(fit.times_us)[row][:, np.isin(fit.sizes_bytes, sizes)] for fit, row in rows),
    )
    order = _order(by_times)
    order[order != _order(by_lines(sizes))] = 0
    faster = {1: second.name, -1: first.name, 0: None}
    head = first.title, over, first.name, second.name
    crossovers = []

    for i, j in pairwise(np.flatnonzero(order).tolist()):
        if order[i] != order[j]:
            between = np.geomspace(sizes[i], sizes[j], FINE_STEPS)
            estimate, low, high = order[i] * by_lines(between)
            ends = (low, high) if order[i] > 0 else (high, low)
            zeros = [_zero(between, falling) for falling in (estimate, *ends)]
            names = faster[order[i]], faster[order[j]]
            crossovers.append(Crossover(*head, *names, Estimate(*zeros)))

    return crossovers or [Crossover(*head, faster[order[0]], faster[order[-1]])]


def _differences(over: str | None, ours_us: Floats, theirs_us: Floats) -> Floats:
    """(estimate, low, high) of the difference over the sum, (3, sizes)."""
    walsh = walsh_means(((ours_us - theirs_us) / (ours_us + theirs_us)).T)
    return np.array(interval(walsh, len(ours_us) if over else 0))


def _order(ends: Floats) -> Integers:
    """1 where the first is certainly slower, -1 where it is certainly faster, otherwise 0."""
    return np.asarray(np.where(ends[1] > 0, 1, 0) - np.where(ends[2] < 0, 1, 0))


def _zero(sizes: Floats, falling: Floats) -> float:
    """The size at which a falling curve first crosses 0."""
    return float(np.exp(np.interp(0.0, -np.minimum.accumulate(falling), np.log(sizes))))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="launches of one thing: runs, folders, quoted globs, FOLDER/VARIANT of a campaign",
    )
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw the fits; .svg or .png")


def fit(arguments: argparse.Namespace) -> int:
    """Prints the fits and returns 0. Raises Incomparable for runs of different things, ResultError
    if a file cannot be read or written, and if there is nothing to fit or draw."""
    sides = [side_of(argument) for argument in arguments.runs]
    results = [result for side in sides for result in side.launches]
    fits = fits_of(results)
    notes = notes_of(sides) + [
        f"{entry.path} is left out: {entry.left_out}"
        for entry in in_order(map(entry_of, results))
        if entry.left_out
    ]

    if not fits:
        problem = "nothing to fit: no case has three sizes with five blocks in one link state"
        raise ResultError("; ".join([problem, *notes]))

    crossovers = find_crossovers(fits)
    if arguments.plot:
        plot(fits, arguments.plot)

    for note in notes:
        print(f"reports: {note}", file=sys.stderr)

    if arguments.json:
        write_json("fit", fits=fits, crossovers=crossovers)
    else:
        sys.stdout.write(text(fits, crossovers))

    return 0


def text(fits: Sequence[Fit], crossovers: Sequence[Crossover]) -> str:
    """A table for each title, with sentences below it, in 80 columns."""
    texts = []
    for title, group in by_title(fits).items():
        rows = [
            {"algorithm": fit.name, "runs": str(len({*fit.run_ids})), **cells(regime)}
            for fit in group
            for regime in fit.regimes
        ]
        table = plain_table(rows[0], [row.values() for row in rows])
        for column in table.columns:
            column.no_wrap = False  # a cut figure would be wrong
        texts.append(lay_out([], [title], [("", table)], sentences(group, crossovers)))

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

    value, low, high = map(number, msgspec.structs.astuple(estimate))
    return value if estimate.low is None else f"{value} [{low} {high}]"


def sentences(fits: Sequence[Fit], crossovers: Sequence[Crossover]) -> list[str]:
    """Sentences on fits with one title: their limits, and how the pairs compare."""
    bent = [
        f"{spoken(fit.name)} at {cells(regime)['sizes']}"
        for fit in fits
        for regime in fit.regimes
        if regime.alpha_us.value is None
    ]
    texts = [f"No line, the times bend; measure more sizes: {', '.join(bent)}."] * bool(bent)
    intervals = {fit.interval for fit in fits}
    texts += [meaning for interval, meaning in INTERVALS.items() if interval in intervals]
    faster_than = defaultdict[str, list[str]](list)

    for pair in (each for each in crossovers if each.interval and each.title == fits[0].title):
        below, above = (name and spoken(name) for name in (pair.faster_below, pair.faster_above))
        if pair.size_bytes:
            sizes = [tick_text(round(size)) for size in msgspec.structs.astuple(pair.size_bytes)]
            texts.append(f"{above} overtakes {below} at {sizes[0]} [{sizes[1]} {sizes[2]}].")
        elif below and below == above:
            slower = pair.second if pair.faster_below == pair.first else pair.first
            faster_than[spoken(slower)].append(below)

    return texts + [
        f"Faster than {slower} over all measured sizes: {', '.join(names)}."
        for slower, names in faster_than.items()
    ]
