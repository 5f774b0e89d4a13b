"""The alpha-beta fit: time = alpha + size / beta, in one to three regimes.

Each algorithm in each state of the link has a fit. `lines` has the statistics, `fit_records` the
records. The command, the dashboard and the advice use it.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.store.case import CASE_KEY, TOGETHER, find_states
from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.store.stats import Interval
from reports.tables.rows import MIN_STATE_BLOCKS
from reports.trends import lines
from reports.trends.fit_records import Estimate, Fit, Regime
from reports.verdicts.comparison import COMPARABLE, Incomparable
from reports.verdicts.sides import Key, key_of
from reports.verdicts.verdict import Floats

# A misfit that makes a break below five launches, which cannot average out one launch's noise.
FEW_LAUNCHES_MISFIT = 0.10
MOST_GROUPS, GROUP_BLOCKS = 10, 3
LEAST_TIME_US = 1e-6  # a line may cross 0 outside its sizes
# The facts that the launches share.
SAME = {name: COMPARABLE[name] for name in ("machine", "clock", "world", "version")} | {
    "software": lambda result: result.run.software_id}

Costs = Mapping[int, Mapping[int, list[float]]]  # us, by size in bytes and launch


def fits_of(results: Sequence[Result]) -> list[Fit]:
    """The fits over these launches, in the order of their cases: for each case, over its sizes, and
    each state of the link in which a size has five blocks.

    Raises Incomparable if the launches measured different things, ResultError for a run twice."""
    _check_alike(results)
    states = find_states([block for result in results for block in result.blocks], least_share=0.0)
    one_state = [0] * len(states.of_block)
    labels = iter(states.of_block if states.longest is not None else one_state)
    heads: dict[Key, Case] = {}
    costs_us: dict[tuple[Key, int], Any] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list)))
    for launch, result in enumerate(results):
        keys = {case.case: key_of(case, ("size_bytes",)) for case in result.cases
                if case.status == "ok" and case.size_bytes and case.collective not in TOGETHER}
        for number, key in keys.items():
            heads.setdefault(key, result.cases[number])
        for block in result.blocks:
            case, state = result.cases[block.case], next(labels)
            if block.case in keys and state is not None and block.time_us:
                total_us = None if case.mode == "chained" else block.total_us
                of_size = costs_us[keys[block.case], state][case.size_bytes]
                of_size[launch].append(total_us or block.time_us)
    rtt_ns: Sequence[float | None] = states.rtt_ns or [None]
    fits = [_fit(results, case, rtt_ns[state], costs_us[key, state])
            for key, case in heads.items() for state in range(len(rtt_ns))]
    return [fit for fit in fits if fit]


def _check_alike(results: Sequence[Result]) -> None:
    run_ids = [result.run.run_id for result in results]
    if len({*run_ids}) < len(run_ids):
        raise ResultError(f"{max(run_ids, key=run_ids.count)} is given twice")
    for name, fact in SAME.items():
        for result in results:
            if fact(result) != fact(results[0]):
                raise Incomparable(f"launches of different things: {name} differs between "
                                   f"{run_ids[0]} and {result.run.run_id}")


def _fit(results: Sequence[Result], case: Case, rtt_ns: float | None, costs: Costs) -> Fit | None:
    sizes, launches = _complete(costs)
    if not sizes:
        return None
    is_replicated = len(launches) >= lines.MIN_LAUNCHES
    groups = [groups_of([costs[size][launch] for size in sizes], is_replicated)
              for launch in launches]
    times_us = np.concatenate(groups)
    is_grouped = len(launches) == 1 and len(times_us) >= lines.MIN_LAUNCHES
    run = results[0].run
    fit = Fit(run_ids=[results[launch].run.run_id
                       for launch, group in zip(launches, groups, strict=True) for _ in group],
              interval="launches" if is_replicated else "this launch" if is_grouped else None,
              machine_id=run.machine_id, software_id=run.software_id, world_size=run.world["size"],
              link_rtt_ns=rtt_ns, sizes_bytes=sizes, times_us=times_us.tolist(),
              cost="time_us" if case.mode == "chained" or case.total_us is None else "total_us",
              **{name: getattr(case, name) for name in CASE_KEY if name != "size_bytes"})
    if len(sizes) < lines.MIN_SIZES:
        fit.reason = (f"{len(sizes)} size{'s' * (len(sizes) > 1)} with {MIN_STATE_BLOCKS} blocks, "
                      "and a line takes three")
        return fit
    misfit = lines.LEAST_MISFIT if is_replicated else FEW_LAUNCHES_MISFIT
    at = lines.breaks(np.array(sizes, dtype=float), times_us[None], misfit)[0]
    fit.regimes = [regime_of(sizes[i:j], times_us[:, i:j], fit.interval is not None, at != ())
                   for i, j in lines.pieces(at, len(sizes))]
    return fit


def _complete(costs: Costs) -> tuple[list[int], list[int]]:
    """Sizes with five blocks and launches that have all of these sizes. While some pair is missing,
    the size or launch that lacks the most pairs is dropped."""
    sizes = sorted(size for size, by_launch in costs.items()
                   if sum(map(len, by_launch.values())) >= MIN_STATE_BLOCKS)
    launches = sorted({launch for size in sizes for launch in costs[size]})
    has = np.array([[launch in costs[size] for size in sizes] for launch in launches])
    while not has.all():
        of_launch, of_size = has.mean(axis=1), has.mean(axis=0)
        if of_size.min() < of_launch.min():
            del sizes[of_size.argmin()]
            has = np.delete(has, of_size.argmin(), axis=1)
        else:
            del launches[of_launch.argmin()]
            has = np.delete(has, of_launch.argmin(), axis=0)
    return sizes, launches


def groups_of(by_size: Sequence[Sequence[float]], is_one: bool) -> Floats:
    """Medians of a launch's blocks, (groups, sizes): of all blocks (`is_one`), or of five to ten
    groups of neighbours. Neighbouring blocks are correlated, groups hardly are (Schmeiser,
    Operations Research 30, 1982)."""
    n = min(map(len, by_size))
    count = 1 if is_one else min(MOST_GROUPS, max(n // GROUP_BLOCKS, min(lines.MIN_LAUNCHES, n)))
    return np.array([[np.median(group) for group in np.array_split(blocks, count)]
                     for blocks in by_size]).T


def regime_of(sizes: Sequence[int], times_us: Floats, has_interval: bool,
              is_piece: bool = False) -> Regime:
    """The line through these times, (rows, sizes); `is_piece`: one of several regimes."""
    at = np.array(sizes, dtype=float)
    alpha, slope = lines.fit_lines(at, times_us)
    alphas, slopes = lines.walsh_means(alpha), lines.walsh_means(slope)
    n = len(times_us) * has_interval
    beta, half_size = Estimate(), Estimate()
    if np.all(slopes > 0):
        beta = _estimate(1e-3 / slopes, n, is_piece)
        # size x slope < alpha where size < alpha / slope, so the ratio's interval is exact too.
        half = _estimate(alphas / slopes, n, is_piece)
        if half.value and half.value > 0:
            half_size = half
            half.low = None if half.low is None else max(half.low, 0.0)
    return Regime(from_bytes=sizes[0], to_bytes=sizes[-1], beta_gb_s=beta,
                  alpha_us=_estimate(alphas, n, is_piece), half_size_bytes=half_size,
                  lines=np.stack([alpha, slope], axis=-1).tolist(),
                  worst_residual=float(np.max(np.abs(lines.residuals(at, times_us)))))


def _estimate(walsh: Floats, launches: int, is_piece: bool = False) -> Estimate:
    ends = lines.interval(walsh, launches, is_piece)
    value, low, high = (float(end) if math.isfinite(end) else None for end in ends)
    return Estimate(value=value, low=low, high=high)


def curves_us(fit: Fit, sizes: NDArray[Any] | Sequence[float]) -> Floats:
    """The times on each row's lines at `sizes` in bytes, (rows, sizes).

    Between two regimes the time goes straight, in logarithms, from the end of one line to the start
    of the next; the outer lines extend beyond the measured sizes."""
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
    """The time at this size in us and its 95 % interval, None without one; the outer lines extend
    beyond the measured sizes. Raises ValueError for a fit without a line."""
    if not fit.regimes:
        raise ValueError(f"no line: {fit.reason}")
    times_us = curves_us(fit, [size_bytes])[:, 0]
    time_us = _estimate(lines.walsh_means(times_us), len(times_us) * bool(fit.interval))
    return time_us.value or 0.0, time_us.low, time_us.high
