"""`fit`: fits time = alpha + size / beta, in one or two regimes, to each algorithm in each state
of the link; finds the crossovers, prints and draws. `alpha_beta` has the statistics."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd

from reports.store.case import (
    CASE_KEY,
    COMPUTE_BENCHMARKS,
    MIN_STATE_BLOCKS,
    Key,
    find_states,
    key_of,
)
from reports.store.report_json import write_json
from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.store.writing import to_line, write_named
from reports.tables.headline import lines_text
from reports.tables.sentences import lay_out, number, plain_table, spoken, tick_text, wrapped
from reports.trends import alpha_beta
from reports.trends.alpha_beta import Crossover, Estimate, Fit, Regime, by_title, curves_us
from reports.trends.fit_figure import plot
from reports.verdicts.judge import Incomparable
from reports.verdicts.sides import COMPARABLE, notes_of, side_of
from reports.verdicts.verdict import Floats, Integers

# A misfit that makes a bend below five launches, which cannot average out one launch's noise.
FEW_LAUNCHES_MISFIT = 0.10
STEPS_AN_OCTAVE, FINE_STEPS = 8, 64  # sizes that are compared, and those within a crossover
SHARED_FACTS = {name: COMPARABLE[name] for name in ("machine", "clock", "world", "version")} | {
    "software": lambda result: result.run.software_id
}
INTERVALS = {
    "this launch": "Intervals are of this launch alone: another may lie outside.",
    None: "Fewer than five launches have no intervals: which algorithm is faster is not certain.",
}


def fits_of(results: Sequence[Result]) -> list[Fit]:
    """A fit for each case, over its sizes, and each state of the link in which a size has five
    blocks. Raises Incomparable for launches of different things, ResultError for a run twice."""
    run_ids = [result.run.run_id for result in results]
    if len({*run_ids}) < len(run_ids):
        raise ResultError(f"{max(run_ids, key=run_ids.count)} is given twice")
    for (name, fact), result in product(SHARED_FACTS.items(), results):
        if fact(result) != fact(results[0]):
            raise Incomparable(
                f"launches of different things: {name} differs between "
                f"{run_ids[0]} and {result.run.run_id}"
            )
    states = find_states([block for result in results for block in result.blocks], least_share=0.0)
    labels = iter(states.of_block if states.longest is not None else [0] * len(states.of_block))
    heads: dict[Key, Case] = {}
    rows = []
    for launch, result in enumerate(results):
        keys = {
            case.case: key_of(case, ("size_bytes",))
            for case in result.cases
            if case.status == "ok" and case.size_bytes and case.collective not in COMPUTE_BENCHMARKS
        }
        heads |= {key: result.cases[number] for number, key in keys.items()}
        places = {key: place for place, key in enumerate(heads)}
        for block in result.blocks:
            case, state = result.cases[block.case], next(labels)
            if block.case in keys and state is not None and block.time_us:
                cost_us = block.time_us if case.mode == "chained" else block.cost_us
                rows.append((places[keys[block.case]], state, launch, case.size_bytes, cost_us))
    blocks: Any = pd.DataFrame(rows, columns=["case", "state", "launch", "size", "cost_us"])
    n_blocks = blocks.groupby(["case", "state", "size"])["cost_us"].transform("size")
    cases, rtt_ns = list(heads.values()), dict(enumerate(states.rtt_ns))
    return [
        _fit(results, cases[case], rtt_ns.get(state), of_case)
        for (case, state), of_case in blocks[n_blocks >= MIN_STATE_BLOCKS].groupby(
            ["case", "state"]
        )
    ]


def _fit(results: Sequence[Result], case: Case, rtt_ns: float | None, blocks: pd.DataFrame) -> Fit:
    """The fit of one case from the launch, size and cost in us of its blocks."""
    costs = blocks.groupby(["launch", "size"])["cost_us"].agg(list).unstack()
    while costs.isna().any(axis=None):  # drops the launch (axis 0) or size (axis 1) that lacks most
        shares = costs.notna().mean(axis=1), costs.notna().mean(axis=0)
        axis: Literal[0, 1] = 1 if shares[1].min() < shares[0].min() else 0
        costs = costs.drop(shares[axis].idxmin(), axis=axis)
    sizes = list(map(int, costs.columns))
    is_replicated = len(costs) >= alpha_beta.MIN_LAUNCHES
    groups = [
        alpha_beta.groups_of(of_launch, is_replicated) for of_launch in costs.to_numpy().tolist()
    ]
    times_us = np.concatenate(groups)
    is_grouped = len(costs) == 1 and len(times_us) >= alpha_beta.MIN_LAUNCHES
    run, has_total = results[0].run, case.mode != "chained" and case.total_us is not None
    fit = Fit(
        run_ids=[
            results[launch].run.run_id
            for launch, group in zip(costs.index, groups, strict=True)
            for _ in group
        ],
        interval="launches" if is_replicated else "this launch" if is_grouped else None,
        machine_id=run.machine_id,
        software_id=run.software_id,
        world_size=run.world["size"],
        hosts=run.world.get("hosts", 1),
        link_rtt_ns=rtt_ns,
        sizes_bytes=sizes,
        times_us=times_us.tolist(),
        cost="total_us" if has_total else "time_us",
        **{name: getattr(case, name) for name in CASE_KEY if name != "size_bytes"},
    )
    if len(sizes) < alpha_beta.MIN_SIZES:
        fit.reason = f"a line takes three sizes with five blocks, not {len(sizes)}"
        return fit
    misfit = alpha_beta.LEAST_MISFIT if is_replicated else FEW_LAUNCHES_MISFIT
    at = alpha_beta.breaks(np.array(sizes, dtype=float), times_us[None], misfit)[0]
    fit.regimes = [
        alpha_beta.regime_of(sizes[i:j], times_us[:, i:j], fit.interval is not None, misfit)
        for i, j in pairwise([0, *at, len(sizes)])
    ]
    return fit


def find_crossovers(fits: Sequence[Fit]) -> list[Crossover]:
    """The crossovers between the library and each of ours, and between any two of ours of one
    variant, without `auto`, which runs one of them; a record too for a pair without a crossover."""
    crossovers = []
    for group in by_title([fit for fit in fits if fit.regimes]).values():
        for first, second in combinations(sorted(group, key=lambda fit: fit.library is None), 2):
            is_one_variant = (first.variant, first.memory) == (second.variant, second.memory)
            is_auto = "auto" in (first.algorithm, second.algorithm)
            if second.library is None and (first.library or (is_one_variant and not is_auto)):
                crossovers += _crossovers(first, second)
    return crossovers


def _crossovers(first: Fit, second: Fit) -> list[Crossover]:
    """A crossover is a change from one certain order to the other."""
    low = max(first.sizes_bytes[0], second.sizes_bytes[0])
    high = min(first.sizes_bytes[-1], second.sizes_bytes[-1])
    run_ids = [run_id for run_id in dict.fromkeys(first.run_ids) if run_id in second.run_ids]
    if low >= high or not run_ids:
        return []
    has_interval = first.interval is not None and second.interval is not None

    def compare(times_of: Callable[[Fit], Floats]) -> tuple[Floats, Integers]:
        """(estimate, low, high) of the difference over the sum, (3, sizes); and 1 where the first
        is certainly slower, -1 where it is certainly faster, otherwise 0."""
        rows = [times_of(fit)[np.isin(fit.run_ids, run_ids)] for fit in (first, second)]
        ours_us, theirs_us = (times_us[: min(map(len, rows))] for times_us in rows)
        shares = ((ours_us - theirs_us) / (ours_us + theirs_us)).T
        ends = np.array(
            alpha_beta.interval(alpha_beta.walsh_means(shares), len(ours_us) * has_interval)
        )
        return ends, (ends[1] > 0).astype(int) - (ends[2] < 0)

    grid = np.geomspace(low, high, 2 + round(STEPS_AN_OCTAVE * np.log2(high / low)))
    _, order = compare(lambda fit: curves_us(fit, grid))
    if common := sorted({*first.sizes_bytes} & {*second.sizes_bytes}):
        _, measured = compare(
            lambda fit: np.array(fit.times_us)[:, np.isin(fit.sizes_bytes, common)]
        )
        nearest = np.argmin(np.abs(np.log(grid[:, None] / common)), axis=1)
        certain = np.flatnonzero(order)
        for stretch in np.split(certain, np.flatnonzero(np.diff(order[certain])) + 1):
            if not np.any(measured[nearest[stretch]] == order[stretch]):
                order[stretch] = 0  # no measured size confirms it
    faster = {1: second.name, -1: first.name, 0: None}
    head = {name: getattr(first, name) for name in alpha_beta.Conditions.__struct_fields__} | {
        "run_ids": run_ids,
        "interval": first.interval if has_interval else None,
        "first": first.name,
        "second": second.name,
        "from_bytes": low,
        "to_bytes": high,
    }
    changes = [(i, j) for i, j in pairwise(np.flatnonzero(order).tolist()) if order[i] != order[j]]
    return [
        Crossover(
            **head,
            faster_below=faster[order[i]],
            faster_above=faster[order[j]],
            size_bytes=_zero(compare, grid[i], grid[j]) if changes else None,
        )
        for i, j in changes or [(0, -1)]
    ]


def _zero(compare: Any, low: float, high: float) -> Estimate:
    """The sizes between two others at which the difference and both its ends cross 0."""
    sizes, zeros = np.geomspace(low, high, FINE_STEPS), []
    ends, _ = compare(lambda fit: curves_us(fit, sizes))
    for values in ends if ends[0, 0] > 0 else -ends[[0, 2, 1]]:  # now they fall
        at = int(np.argmax(values[1:] <= 0))
        before, after = values[at], values[at + 1]
        share = before / (before - after) if before > 0 >= after else 0.0
        zeros.append(float(sizes[at] * (sizes[at + 1] / sizes[at]) ** share))
    return Estimate(*zeros)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help=("launches of one thing: runs, folders, quoted globs, FOLDER/VARIANT of a campaign"),
    )
    parser.add_argument("--out", metavar="FITS", type=Path, help="store the fits; .jsonl")
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw the fits; .svg or .png")


def fit(arguments: argparse.Namespace) -> int:
    """Prints the fits and returns 0. Raises Incomparable for runs of different things, ResultError
    if a file cannot be read or written, and if there is nothing to fit or draw."""
    sides = [side_of(argument) for argument in arguments.runs]
    results = [launch for side in sides for launch in side.launches]
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
    for note in notes_of(sides):
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
        table = plain_table(dict.fromkeys(next(iter(rows), ()), 0), [row.values() for row in rows])
        for column in table.columns:
            column.no_wrap = False  # a cut figure would be wrong
        texts.append(
            lay_out(None, [title], [("", table)] if rows else [], sentences(group, crossovers))
        )
    return "\n".join([*wrapped([lines_text(fits)]), "", *texts])


def cells(regime: Regime) -> dict[str, str]:
    """A regime as cells of a table by column."""
    alpha, beta, half_size = regime.alpha_us, regime.beta_gb_s, regime.half_size_bytes
    is_bent = alpha.value is None
    return {
        "sizes": f"{tick_text(regime.from_bytes)}-{tick_text(regime.to_bytes)}",
        "alpha us [95 %]": (
            _with_interval(alpha) if alpha.is_resolved or is_bent else "not resolved"
        ),
        "beta GB/s [95 %]": _with_interval(beta) if beta.value or is_bent else "flat",
        "n 1/2": tick_text(round(half_size.value)) if half_size.value else "-",
        "miss": f"{regime.worst_residual:.1%}",
    }


def _with_interval(estimate: Estimate) -> str:
    value, low, high = map(number, msgspec.structs.astuple(estimate))
    return value if estimate.low is None else f"{value} [{low} {high}]"


def sentences(fits: Sequence[Fit], crossovers: Sequence[Crossover]) -> list[str]:
    """Sentences on fits with one title: their limits, and how the pairs compare."""
    texts = [f"{spoken(fit.name)} has no line: {fit.reason}." for fit in fits if fit.reason]
    bent = [
        f"{spoken(fit.name)} at {cells(regime)['sizes']}"
        for fit in fits
        for regime in fit.regimes
        if regime.alpha_us.value is None
    ]
    texts += [f"No line, the times bend; measure more sizes: {', '.join(bent)}."] * bool(bent)
    intervals = {fit.interval for fit in fits}
    texts += [meaning for interval, meaning in INTERVALS.items() if interval in intervals]
    pairs = defaultdict[str, list[str]](list)
    for pair in (each for each in crossovers if each.interval and each.title == fits[0].title):
        below, above = (name and spoken(name) for name in (pair.faster_below, pair.faster_above))
        if pair.size_bytes:
            sizes = [tick_text(round(size)) for size in msgspec.structs.astuple(pair.size_bytes)]
            texts.append(f"{above} overtakes {below} at {sizes[0]} [{sizes[1]} {sizes[2]}].")
        elif below and below == above:
            slower = spoken(pair.second if pair.faster_below == pair.first else pair.first)
            pairs[f"Faster than {slower} over all measured sizes"].append(below)
        else:
            end = f" ({below} is at the smallest size)" if below else ""
            end += f" ({above} is at the largest size)" if above else ""
            pairs["Not certain which is faster"].append(
                f"{spoken(pair.first)} or {spoken(pair.second)}{end}"
            )
    return texts + [f"{relation}: {', '.join(names)}." for relation, names in pairs.items()]
