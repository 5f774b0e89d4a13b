"""The alpha-beta fit: of an algorithm in a state of the link, time = alpha + size / beta, in as many regimes as the
data ask for; and the sizes at which one algorithm overtakes another. The statistics are in `lines`.

Fits are stored apart from runs, in a file of JSON lines of their own: a `fits` line, then a line a fit and a crossover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.store.case import CASE_KEY, find_states
from reports.store.exposed import TOGETHER
from reports.store.records import Record, to_line
from reports.store.result import ResultError, read_lines
from reports.store.schema import Case, Result
from reports.store.writing import write_named
from reports.tables.rows import MIN_STATE_BLOCKS
from reports.tables.sentences import shape_words
from reports.trends.lines import (
    LEAST_MISFIT,
    MIN_LAUNCHES,
    MIN_SIZES,
    breaks,
    interval,
    lines,
    pieces,
    residuals,
    walsh_means,
)
from reports.verdicts.comparison import COMPARABLE, Incomparable
from reports.verdicts.sides import key_of
from reports.verdicts.verdict import Floats

FITS_SCHEMA = 1
LAUNCH_MISFIT = 0.10  # what a line may miss by where too few launches tell what is one launch's whim
MOST_GROUPS, GROUP_BLOCKS = 10, 3
NO_TIME_US = 1e-6  # what a line says at least: it may meet 0 outside its sizes
STEPS_AN_OCTAVE, FINE_STEPS = 8, 64  # at which two algorithms are held against each other; within a crossover
SAME = ("machine", "clock", "world", "version")  # of COMPARABLE, what launches of a fit have in common

Costs = dict[int, dict[int, list[float]]]  # of a case's sizes, by launch, in us


class Estimate(Record, kw_only=True):
    """A figure with its 95 % interval; None for an end that the data do not bound, and for what cannot be told."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Regime(Record, kw_only=True):
    """The measured sizes that one line goes through. `alpha_us` is as fitted, so it may lie below 0; `half_size_bytes`
    is n_1/2 = alpha x beta, where half of beta is reached. `lines` has [alpha in us, us a byte] of each row of the
    fit's times. `worst_residual` is the furthest that the median of the rows lies from its own line, as a share."""

    from_bytes: int
    to_bytes: int
    alpha_us: Estimate
    beta_gb_s: Estimate
    half_size_bytes: Estimate
    lines: list[list[float]]
    worst_residual: float


class Found(Record, kw_only=True):
    """What fits and crossovers have in common: what was run, and `link_rtt_ns`, the median flag round trip of the
    link's state. `interval` says over what intervals are: `launches`, `this launch` (groups of its blocks), or None
    for two to four launches, which have none."""

    schema: int = FITS_SCHEMA
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


class Fit(Found, kw_only=True, tag="fit", tag_field="kind"):
    """One algorithm in one state of the link. `cost` names the quantity that is fitted. `times_us` has a column for
    each of `sizes_bytes` and a row for each of `run_ids`: the medians of a launch's blocks or, where `interval` is not
    `launches`, of one of its groups of blocks (the id is repeated). Without regimes `reason` says why."""

    variant: str
    memory: str
    algorithm: str
    library: str | None
    cost: str
    sizes_bytes: list[int]
    times_us: list[list[float]]
    regimes: list[Regime] = []  # noqa: RUF012 - a struct copies it
    reason: str | None = None

    @property
    def name(self) -> str:
        """`two_shot`, `two_shot registered`, `MPICH 5.0.2`."""
        return (self.library or self.algorithm) + f" {self.variant}" * (self.variant not in ("copied", "plain"))

    @property
    def launches(self) -> int:
        """How many launches are behind it."""
        return len(set(self.run_ids))


class Crossover(Found, kw_only=True, tag="crossover", tag_field="kind"):
    """Where one of two algorithms overtakes the other, between `from_bytes` and `to_bytes`, which both were measured
    over. Without `size_bytes` nowhere, for certain: `faster_below` is surely faster at the smallest size, and
    `faster_above` at the largest, None where neither is."""

    first: str
    second: str
    from_bytes: int
    to_bytes: int
    faster_below: str | None
    faster_above: str | None
    size_bytes: Estimate | None = None


class Fits(Record, kw_only=True, tag="fits", tag_field="kind"):
    """The first line of a file of fits: which runs they are of."""

    schema: int = FITS_SCHEMA
    run_ids: list[str]


def fits_of(results: Sequence[Result]) -> list[Fit]:
    """A fit for each case, whatever its size, and each state of the link in which a size of it has five blocks, in the
    order of the cases. Raises Incomparable for launches that are not of one thing, ResultError for a run given twice.
    """
    _check(results)
    states = find_states([block for result in results for block in result.blocks], least_share=0.0)
    labels = iter(states.of_block if states.longest is not None else [0] * len(states.of_block))
    heads: dict[Any, Case] = {}
    costs: dict[Any, dict[int, Costs]] = {}
    for launch, result in enumerate(results):
        cases = {case.case: (case, key_of(case, ("size_bytes",))) for case in result.cases
                 if case.status == "ok" and case.size_bytes and case.collective not in TOGETHER}
        for case, key in cases.values():
            heads.setdefault(key, case)
            costs.setdefault(key, {})
        for block in result.blocks:
            state = next(labels)
            if block.case in cases and state is not None and block.time_us:
                case, key = cases[block.case]
                total_us = None if case.mode == "chained" else block.total_us
                costs[key].setdefault(state, {}).setdefault(case.size_bytes, {}).setdefault(launch, []).append(
                    block.time_us if total_us is None else total_us)
    rtt_ns = dict(enumerate(states.rtt_ns))
    fits = [_fit(results, heads[key], rtt_ns.get(state), found) for key, of_state in costs.items()
            for state, found in sorted(of_state.items())]
    return [fit for fit in fits if fit is not None]


def _check(results: Sequence[Result]) -> None:
    ids = [result.run.run_id for result in results]
    if twice := {run_id for run_id in ids if ids.count(run_id) > 1}:
        raise ResultError(f"{min(twice)} is given twice")
    facts = {name: COMPARABLE[name] for name in SAME} | {"software": lambda result: result.run.software_id}
    for name, fact in facts.items():
        if other := next((result for result in results if fact(result) != fact(results[0])), None):
            raise Incomparable(f"not launches of one thing: {name} differs between {ids[0]} and {other.run.run_id}")


def _fit(results: Sequence[Result], case: Case, rtt_ns: float | None, costs: Costs) -> Fit | None:
    sizes = sorted(size for size, by_launch in costs.items() if sum(map(len, by_launch.values())) >= MIN_STATE_BLOCKS)
    if not sizes:
        return None
    launches = sorted({launch for size in sizes for launch in costs[size]})
    rows, columns = _whole(np.array([[launch in costs[size] for size in sizes] for launch in launches]))
    sizes, launches = [sizes[column] for column in columns], [launches[row] for row in rows]
    is_replicated = len(launches) >= MIN_LAUNCHES
    groups = {launch: groups_of([costs[size][launch] for size in sizes], is_replicated) for launch in launches}
    times_us = np.concatenate([*groups.values()])
    of_one = "this launch" if len(launches) == 1 and len(times_us) >= MIN_LAUNCHES else None
    run = results[0].run
    fit = Fit(run_ids=[results[launch].run.run_id for launch, its in groups.items() for _ in its],
              interval="launches" if is_replicated else of_one, machine_id=run.machine_id, software_id=run.software_id,
              world_size=run.world["size"], link_rtt_ns=rtt_ns, sizes_bytes=sizes, times_us=times_us.tolist(),
              cost="time_us" if case.mode == "chained" or case.total_us is None else "total_us",
              **{name: getattr(case, name) for name in CASE_KEY if name != "size_bytes"})
    if len(sizes) < MIN_SIZES:
        fit.reason = f"{len(sizes)} size{'s' * (len(sizes) > 1)} with {MIN_STATE_BLOCKS} blocks, and a line takes three"
        return fit
    where = breaks(np.array(sizes, dtype=float), times_us[None], LEAST_MISFIT if is_replicated else LAUNCH_MISFIT)[0]
    fit.regimes = [regime_of(sizes[i:j], times_us[:, i:j], fit.interval is not None, where != ())
                   for i, j in pieces(where, len(sizes))]
    return fit


def _whole(has: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The launches and sizes, rows and columns, that are left where all is there: what lacks the most goes first."""
    rows, columns = (np.arange(count) for count in has.shape)
    while not (left := has[np.ix_(rows, columns)]).all():
        of_row, of_column = left.mean(axis=1), left.mean(axis=0)
        if of_column.min() < of_row.min():
            columns = np.delete(columns, of_column.argmin())
        else:
            rows = np.delete(rows, of_row.argmin())
    return rows, columns


def groups_of(by_size: Sequence[Sequence[float]], is_one: bool) -> Floats:
    """Medians of a launch's blocks, (groups, sizes): all are one group, or neighbours are, five to ten, for blocks hang
    together and groups hardly do (Schmeiser, Operations Research 30, 1982)."""
    n = min(map(len, by_size))
    count = 1 if is_one else min(MOST_GROUPS, max(n // GROUP_BLOCKS, min(MIN_LAUNCHES, n)))
    return np.array([[np.median(group) for group in np.array_split(blocks, count)] for blocks in by_size]).T


def regime_of(sizes: Sequence[int], times_us: Floats, has_interval: bool, is_piece: bool = False) -> Regime:
    """The line through these times, (rows, sizes), which may be one of several pieces."""
    at = np.array(sizes, dtype=float)
    alpha, slope = lines(at, times_us)
    alphas, slopes, n = walsh_means(alpha), walsh_means(slope), len(times_us) * has_interval
    regime = Regime(from_bytes=sizes[0], to_bytes=sizes[-1], alpha_us=_estimate(interval(alphas, n, is_piece)),
                    beta_gb_s=Estimate(), half_size_bytes=Estimate(), lines=np.stack([alpha, slope], axis=-1).tolist(),
                    worst_residual=float(np.max(np.abs(residuals(at, times_us)))))
    if np.all(slopes > 0):
        # Of size x slope those are below alpha whose size is below their ratio: so its interval is exact as well.
        regime.beta_gb_s = _estimate(interval(1e-3 / slopes, n, is_piece))
        half = _estimate(interval(alphas / slopes, n, is_piece))
        if half.value and half.value > 0:
            regime.half_size_bytes = half
            half.low = None if half.low is None else max(half.low, 0.0)
    return regime


def _estimate(ends: Sequence[Any]) -> Estimate:
    value, low, high = (float(end) if math.isfinite(end) else None for end in ends)
    return Estimate(value=value, low=low, high=high)


def curves_us(fit: Fit, sizes: Any) -> Floats:
    """What each row's lines say for `sizes` in bytes, (rows, sizes). Between two regimes the time goes from the end of
    one line to the start of the other, straight in logarithms; beyond the measured sizes the outer lines go on."""
    at = np.asarray(sizes, dtype=float)
    starts = [0.0, *(float(regime.from_bytes) for regime in fit.regimes[1:])]
    ends = [*(float(regime.to_bytes) for regime in fit.regimes[:-1]), np.inf]
    each = [np.maximum(np.array(regime.lines) @ np.stack([np.ones_like(at), np.clip(at, start, end)]), NO_TIME_US)
            for regime, start, end in zip(fit.regimes, starts, ends, strict=True)]
    found: Floats = each[0]
    for before, after, line_us in zip(ends, starts[1:], each[1:], strict=False):
        share = np.clip(np.log(at / before) / np.log(after / before), 0, 1)
        found = found ** (1 - share) * line_us**share
    return found


def predict_us(fit: Fit, size_bytes: float) -> tuple[float, float | None, float | None]:
    """The time of this size in us with its 95 % interval (None where there is none). Beyond the measured sizes the
    outer lines go on. Raises ValueError for a fit without a line."""
    if not fit.regimes:
        raise ValueError(f"no line: {fit.reason}")
    found = _estimate(interval(walsh_means(curves_us(fit, [size_bytes])[:, 0]), len(fit.times_us) * bool(fit.interval)))
    return found.value or 0.0, found.low, found.high


def crossovers(fits: Sequence[Fit]) -> list[Crossover]:
    """For the library and each of ours, and for any two of ours of one variant (`auto` is one of the others): where
    one overtakes the other in the same launches, or that none does."""
    found: list[Crossover] = []
    for one, other in combinations([fit for fit in fits if fit.regimes], 2):
        alike = all(getattr(one, name) == getattr(other, name) for name in Found.__struct_fields__
                    if name not in ("run_ids", "interval"))
        of_library = (one.library is not None) + (other.library is not None)
        rivals = of_library == 1 or (of_library == 0 and "auto" not in (one.algorithm, other.algorithm)
                                     and (one.variant, one.memory) == (other.variant, other.memory))
        if alike and rivals:
            found += _crossovers(*((one, other) if one.library else (other, one)) if of_library else (one, other))
    return found


def _crossovers(one: Fit, other: Fit) -> list[Crossover]:
    """Each launch has its own difference of the two at any size; its interval over launches tells which is faster, or
    that this is not certain. A crossover is a change from one certain order to the other."""
    low, high = max(one.sizes_bytes[0], other.sizes_bytes[0]), min(one.sizes_bytes[-1], other.sizes_bytes[-1])
    both = [run_id for run_id in one.run_ids if run_id in other.run_ids]
    if low >= high or not both:
        return []
    has_interval = one.interval is not None and other.interval is not None
    rows = [[row for row, run_id in enumerate(fit.run_ids) if run_id in both] for fit in (one, other)]
    count = min(map(len, rows))

    def differences(*times_us: Floats) -> tuple[Floats, Floats]:
        """(estimate, low, high) of one minus other over their sum, (3, sizes); 1 where it is surely above 0, or -1."""
        mine, theirs = (times[its[:count]] for times, its in zip(times_us, rows, strict=True))
        ends = np.array(interval(walsh_means(((mine - theirs) / (mine + theirs)).T), count * has_interval))
        return ends, (ends[1] > 0).astype(float) - (ends[2] < 0)

    grid = np.geomspace(low, high, 2 + round(STEPS_AN_OCTAVE * math.log2(high / low)))
    _, sign = differences(curves_us(one, grid), curves_us(other, grid))
    if common := sorted({*one.sizes_bytes} & {*other.sizes_bytes}):
        measured = differences(*(np.array(fit.times_us)[:, [fit.sizes_bytes.index(size) for size in common]]
                                 for fit in (one, other)))[1]
        nearest = np.argmin(np.abs(np.log(grid[:, None] / np.array(common))), axis=1)
        certain = np.flatnonzero(sign)
        for stretch in np.split(certain, np.flatnonzero(np.diff(sign[certain])) + 1):
            if not np.any(measured[nearest[stretch]] == sign[stretch]):
                sign[stretch] = 0  # the lines say so, and no size itself
    names = {1: other.name, -1: one.name, 0: None}
    said = {name: getattr(one, name) for name in Found.__struct_fields__ if name != "extra"} | {
        "run_ids": list(dict.fromkeys(both)), "interval": one.interval if has_interval else None, "first": one.name,
        "second": other.name, "from_bytes": low, "to_bytes": high}
    found = []
    for i, j in pairwise(np.flatnonzero(sign).tolist()):
        if sign[i] != sign[j]:
            between = np.geomspace(grid[i], grid[j], FINE_STEPS)
            ends, _ = differences(curves_us(one, between), curves_us(other, between))
            found.append(Crossover(**said, faster_below=names[sign[i]], faster_above=names[sign[j]],
                                   size_bytes=_where(between, ends if sign[i] > 0 else -ends[[0, 2, 1]])))
    return found or [Crossover(**said, faster_below=names[sign[0]], faster_above=names[sign[-1]])]


def _where(sizes: Floats, ends: Floats) -> Estimate:
    """Where the estimate, the lower and the upper end, above 0 at the first size and below it at the last, pass 0."""
    def passes(values: Floats) -> float:
        at = int(np.argmax(values[1:] <= 0))
        part = values[at] / (values[at] - values[at + 1]) if values[at] > 0 >= values[at + 1] else 0.0
        return float(sizes[at] * (sizes[at + 1] / sizes[at]) ** part)

    return Estimate(value=passes(ends[0]), low=passes(ends[1]), high=passes(ends[2]))


def write_fits(path: Path, fits: Sequence[Fit], found: Sequence[Crossover]) -> None:
    """Writes all into `path`, whole or not at all. Raises ResultError where that cannot be."""
    head = Fits(run_ids=list(dict.fromkeys(run_id for fit in fits for run_id in fit.run_ids)))
    write_named(path, b"".join(map(to_line, (head, *fits, *found))))


def read_fits(path: Path | str) -> tuple[list[Fit], list[Crossover]]:
    """The fits and crossovers that are stored at `path`. Raises ResultError, with the file and the line, for what is no
    file of fits or was written by a newer schema."""
    records = [record for _, record in read_lines(Path(path), "file of fits",
                                                  {"fits": Fits, "fit": Fit, "crossover": Crossover}, FITS_SCHEMA)]
    return ([record for record in records if isinstance(record, Fit)],
            [record for record in records if isinstance(record, Crossover)])


def by_view(fits: Sequence[Fit]) -> list[tuple[str, list[Fit]]]:
    """The fits by what was run and in which state of the link, in words, in the order of the first of each."""
    views = list(dict.fromkeys(map(title, fits)))
    ordered = sorted(fits, key=lambda fit: views.index(title(fit)))
    return [(view, list(of_view)) for view, of_view in groupby(ordered, title)]


def title(one: Found) -> str:
    """What was run and in which state of the link: `all_reduce, float32 sum, isolated, 2 ranks; round trip 113 ns`."""
    link = f"; flag round trip {one.link_rtt_ns:.0f} ns" if one.link_rtt_ns else ""
    return ", ".join([one.collective, f"{one.datatype} {one.redop}", one.mode, *shape_words(one.shape),
                      *["in place"] * one.in_place, f"{one.world_size} ranks"]) + link
