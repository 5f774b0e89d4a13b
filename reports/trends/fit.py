"""The alpha-beta fit, time = alpha + size / beta in one to three regimes, of each algorithm in each
state of the link, and the crossovers between algorithms. `lines` has the statistics."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations, pairwise, product
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd

from reports.store.case import CASE_KEY, TOGETHER, find_states
from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.store.stats import Interval
from reports.tables.rows import MIN_STATE_BLOCKS
from reports.tables.sentences import shape_words
from reports.trends import lines
from reports.verdicts.comparison import COMPARABLE, Incomparable
from reports.verdicts.sides import Key, key_of
from reports.verdicts.verdict import Floats, Integers

# A misfit that makes a break below five launches, which cannot average out one launch's noise.
FEW_LAUNCHES_MISFIT = 0.10
LEAST_TIME_US = 1e-6  # a line may cross 0 outside its sizes
STEPS_AN_OCTAVE, FINE_STEPS = 8, 64  # sizes that are compared, and those within a crossover
# The facts that the launches share.
SAME = {name: COMPARABLE[name] for name in ("machine", "clock", "world", "version")} | {
    "software": lambda result: result.run.software_id}


class Conditions(msgspec.Struct, kw_only=True):
    """The operation, machine and state of the link (by its median flag round trip) of a fit or
    crossover. `interval` says what intervals are over: `launches`, `this launch` (groups of its
    blocks), or None for two to four launches, which have no intervals."""

    schema: Literal[1] = 1
    machine_id: str
    software_id: str
    world_size: int
    collective: str
    shape: Any
    datatype: str
    redop: str
    mode: str
    in_place: bool
    link_rtt_ns: float | None
    run_ids: list[str]
    interval: str | None

    @property
    def title(self) -> str:
        """`all_reduce, float32 sum, isolated, 2 ranks; flag round trip 113 ns`."""
        words = [self.collective, f"{self.datatype} {self.redop}", self.mode,
                 *shape_words(self.shape), *["in place"] * self.in_place,
                 f"{self.world_size} ranks"]
        link = f"; flag round trip {self.link_rtt_ns:.0f} ns" if self.link_rtt_ns else ""
        return ", ".join(words) + link


class Fit(Conditions, kw_only=True, tag="fit", tag_field="kind"):
    """One algorithm in one state of the link; `cost` names the quantity that is fitted. `times_us`
    has a column for each of `sizes_bytes` and a row for each of `run_ids`: medians of a launch's
    blocks or, if `interval` is `this launch`, of one group of blocks (the id is repeated). Without
    regimes `reason` says why."""

    variant: str
    memory: str
    algorithm: str
    library: str | None
    cost: str
    sizes_bytes: list[int]
    times_us: list[list[float]]
    regimes: list[lines.Regime] = []
    reason: str | None = None

    @property
    def name(self) -> str:
        """`two_shot`, `two_shot registered`, `MPICH 5.0.2`."""
        variant = f" {self.variant}" if self.variant not in ("copied", "plain") else ""
        return (self.library or self.algorithm) + variant


class Crossover(Conditions, kw_only=True, tag="crossover", tag_field="kind"):
    """The size at which one of two algorithms, measured from `from_bytes` to `to_bytes`, overtakes
    the other. Without `size_bytes` there is no certain crossover: `faster_below` is certainly
    faster at the smallest size, `faster_above` at the largest, None if neither algorithm is."""

    first: str
    second: str
    from_bytes: int
    to_bytes: int
    faster_below: str | None
    faster_above: str | None
    size_bytes: lines.Estimate | None = None


def by_title(fits: Sequence[Fit]) -> dict[str, list[Fit]]:
    """The fits by their title, in the order of the first fit with each title."""
    groups: dict[str, list[Fit]] = {}
    for fit in fits:
        groups.setdefault(fit.title, []).append(fit)
    return groups


def fits_of(results: Sequence[Result]) -> list[Fit]:
    """The fits over these launches, in the order of their cases: for each case, over its sizes, and
    each state of the link in which a size has five blocks. Raises Incomparable if the launches
    measured different things, ResultError for a run twice."""
    run_ids = [result.run.run_id for result in results]
    if len({*run_ids}) < len(run_ids):
        raise ResultError(f"{max(run_ids, key=run_ids.count)} is given twice")
    for (name, fact), result in product(SAME.items(), results):
        if fact(result) != fact(results[0]):
            raise Incomparable(f"launches of different things: {name} differs between "
                               f"{run_ids[0]} and {result.run.run_id}")
    states = find_states([block for result in results for block in result.blocks], least_share=0.0)
    labels = iter(states.of_block if states.longest is not None else [0] * len(states.of_block))
    heads: dict[Key, Case] = {}
    blocks: dict[tuple[Key, int], list[tuple[int, int, float]]] = defaultdict(list)
    for launch, result in enumerate(results):
        keys = {case.case: key_of(case, ("size_bytes",)) for case in result.cases
                if case.status == "ok" and case.size_bytes and case.collective not in TOGETHER}
        heads |= {key: result.cases[number] for number, key in keys.items()}
        for block in result.blocks:
            case, state = result.cases[block.case], next(labels)
            if block.case in keys and state is not None and block.time_us:
                cost_us = block.time_us if case.mode == "chained" else block.cost_us
                blocks[keys[block.case], state].append((launch, case.size_bytes, cost_us))
    rtt_ns: Sequence[float | None] = states.rtt_ns or [None]
    fits = [_fit(results, case, rtt_ns[state], blocks[key, state])
            for key, case in heads.items() for state in range(len(rtt_ns))]
    return [fit for fit in fits if fit]


def _fit(results: Sequence[Result], case: Case, rtt_ns: float | None,
         blocks: Sequence[tuple[int, int, float]]) -> Fit | None:
    """The fit of one case, or None, from the launch, size and cost in us of its blocks."""
    frame = pd.DataFrame(blocks, columns=["launch", "size", "cost_us"])
    frame = frame[frame.groupby("size")["cost_us"].transform("size") >= MIN_STATE_BLOCKS]
    if frame.empty:
        return None
    costs = frame.groupby(["launch", "size"])["cost_us"].agg(list).unstack()
    while costs.isna().any(axis=None):  # drops the launch (axis 0) or size (axis 1) that lacks most
        shares = costs.notna().mean(axis=1), costs.notna().mean(axis=0)
        axis: Literal[0, 1] = 1 if shares[1].min() < shares[0].min() else 0
        costs = costs.drop(shares[axis].idxmin(), axis=axis)
    sizes = list(map(int, costs.columns))
    is_replicated = len(costs) >= lines.MIN_LAUNCHES
    groups = [lines.groups_of(of_launch, is_replicated) for of_launch in costs.to_numpy().tolist()]
    times_us = np.concatenate(groups)
    is_grouped = len(costs) == 1 and len(times_us) >= lines.MIN_LAUNCHES
    run, has_total = results[0].run, case.mode != "chained" and case.total_us is not None
    fit = Fit(
        run_ids=[results[launch].run.run_id
                 for launch, group in zip(costs.index, groups, strict=True) for _ in group],
        interval="launches" if is_replicated else "this launch" if is_grouped else None,
        machine_id=run.machine_id, software_id=run.software_id, world_size=run.world["size"],
        link_rtt_ns=rtt_ns, sizes_bytes=sizes, times_us=times_us.tolist(),
        cost="total_us" if has_total else "time_us",
        **{name: getattr(case, name) for name in CASE_KEY if name != "size_bytes"})
    if len(sizes) < lines.MIN_SIZES:
        fit.reason = (f"{len(sizes)} size{'s' * (len(sizes) > 1)} with {MIN_STATE_BLOCKS} blocks, "
                      "and a line takes three")
        return fit
    misfit = lines.LEAST_MISFIT if is_replicated else FEW_LAUNCHES_MISFIT
    at = lines.breaks(np.array(sizes, dtype=float), times_us[None], misfit)[0]
    fit.regimes = [
        lines.regime_of(sizes[i:j], times_us[:, i:j], fit.interval is not None, at != ())
        for i, j in pairwise([0, *at, len(sizes)])]
    return fit


def curves_us(fit: Fit, sizes: Floats | Sequence[float]) -> Floats:
    """The times in us on each row's lines at `sizes` in bytes, (rows, sizes). Between two regimes
    the time goes straight, in logarithms, from the end of one line to the start of the next; the
    outer lines extend beyond the measured sizes."""
    at = np.asarray(sizes, dtype=float)
    ends = np.array([(regime.from_bytes, regime.to_bytes) for regime in fit.regimes], dtype=float)
    # The number of the line; between two lines a fraction.
    place = np.interp(np.log(at), np.log(ends.ravel()), np.arange(ends.size) // 2)
    ends[0, 0], ends[-1, 1] = 0.0, np.inf
    curve_us = np.ones(1)
    for number, (regime, (start, end)) in enumerate(zip(fit.regimes, ends, strict=True)):
        line_us = np.array(regime.lines) @ np.stack([np.ones_like(at), np.clip(at, start, end)])
        share = np.clip(1 - np.abs(place - number), 0, 1)
        curve_us = curve_us * np.maximum(line_us, LEAST_TIME_US) ** share
    return curve_us


def predict_us(fit: Fit, size_bytes: float) -> Interval:
    """The time at this size in us, and its 95 % interval. Raises ValueError for no line."""
    if not fit.regimes:
        raise ValueError(f"no line: {fit.reason}")
    times_us = curves_us(fit, [size_bytes])[:, 0]
    time_us = lines.estimate(lines.walsh_means(times_us), len(times_us) * bool(fit.interval))
    return time_us.value or 0.0, time_us.low, time_us.high


def find_crossovers(fits: Sequence[Fit]) -> list[Crossover]:
    """The crossovers between the library and each of ours, and between any two of ours of one
    variant, without `auto`, which runs one of them; a record too for a pair without a crossover."""
    crossovers = []
    for group in by_title([fit for fit in fits if fit.regimes]).values():
        library_first = sorted(group, key=lambda fit: fit.library is None)
        for first, second in combinations(library_first, 2):
            is_one_variant = (first.variant, first.memory) == (second.variant, second.memory)
            is_auto = "auto" in (first.algorithm, second.algorithm)
            if second.library is None and (first.library or (is_one_variant and not is_auto)):
                crossovers += _crossovers(first, second)
    return crossovers


def _crossovers(first: Fit, second: Fit) -> list[Crossover]:
    """The interval over the launches' differences says which is certainly faster at a size; a
    crossover is a change from one certain order to the other."""
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
        ends = np.array(lines.interval(lines.walsh_means(shares), len(ours_us) * has_interval))
        return ends, (ends[1] > 0).astype(int) - (ends[2] < 0)

    grid = np.geomspace(low, high, 2 + round(STEPS_AN_OCTAVE * math.log2(high / low)))
    _, order = compare(partial(curves_us, sizes=grid))
    if common := sorted({*first.sizes_bytes} & {*second.sizes_bytes}):
        _, measured = compare(
            lambda fit: np.array(fit.times_us)[:, np.isin(fit.sizes_bytes, common)])
        nearest = np.argmin(np.abs(np.log(grid[:, None] / common)), axis=1)
        certain = np.flatnonzero(order)
        for stretch in np.split(certain, np.flatnonzero(np.diff(order[certain])) + 1):
            if not np.any(measured[nearest[stretch]] == order[stretch]):
                order[stretch] = 0  # no measured size confirms it
    faster = {1: second.name, -1: first.name, 0: None}
    head = {name: getattr(first, name) for name in Conditions.__struct_fields__} | {
        "run_ids": run_ids, "interval": first.interval if has_interval else None,
        "first": first.name, "second": second.name, "from_bytes": low, "to_bytes": high}
    changes = [(i, j) for i, j in pairwise(np.flatnonzero(order).tolist()) if order[i] != order[j]]
    return [Crossover(**head, faster_below=faster[order[i]], faster_above=faster[order[j]],
                      size_bytes=_zero(compare, grid[i], grid[j]) if changes else None)
            for i, j in changes or [(0, -1)]]


def _zero(compare: Any, low: float, high: float) -> lines.Estimate:
    """The sizes between two others at which the difference and both its ends cross 0."""
    sizes, zeros = np.geomspace(low, high, FINE_STEPS), []
    ends, _ = compare(partial(curves_us, sizes=sizes))
    for values in ends if ends[0, 0] > 0 else -ends[[0, 2, 1]]:  # now they fall
        at = int(np.argmax(values[1:] <= 0))
        before, after = values[at], values[at + 1]
        share = before / (before - after) if before > 0 >= after else 0.0
        zeros.append(float(sizes[at] * (sizes[at + 1] / sizes[at]) ** share))
    return lines.Estimate(*zeros)
