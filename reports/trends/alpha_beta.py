"""Lines through times: their records and statistics. `times_us` is (..., launches, sizes), `sizes`
(sizes,) in bytes, ascending. Groups of blocks may stand for launches. Only the test of a line
assumes a distribution of the launches."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from scipy.special import fdtrc

from reports.store.stats import Interval
from reports.tables.sentences import shape_words
from reports.verdicts.verdict import Floats, signed_rank_cdf

MIN_SIZES, MIN_LAUNCHES = 3, 5  # of a line, for an interval
BREAK_P, BEND_P, LEAST_MISFIT = 0.005, 0.05, 0.002
BORROWED = 4  # launches whose scatter over all sizes counts for one contrast
LEAST_TIME_US = 1e-6  # a line may cross 0 outside its sizes


class Estimate(msgspec.Struct):
    """A figure with its 95 % interval; None for an end that the data do not bound."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def is_resolved(self) -> bool:
        """Whether it is above 0, with its whole interval."""
        least = self.value if self.low is None else self.low
        return least is not None and least > 0


class Regime(msgspec.Struct, kw_only=True):
    """The measured sizes on one line. `half_size_bytes` is n_1/2 = alpha x beta, the size that
    reaches half of beta. `lines` has [alpha in us, us a byte] for each row of the fit's times.
    `worst_residual` is the largest distance of the rows' median from its own line, as a share.
    Sizes that no line fits (`bend_p`) have no alpha, beta and n_1/2."""

    from_bytes: int
    to_bytes: int
    alpha_us: Estimate
    beta_gb_s: Estimate
    half_size_bytes: Estimate
    lines: list[list[float]]
    worst_residual: float


class Conditions(msgspec.Struct, kw_only=True):
    """The operation, machine and state of the link (by its median flag round trip) of a fit or
    crossover. `interval` says what intervals are over: `launches`, `this launch` (groups of its
    blocks), or None for two to four launches, which have no intervals."""

    schema: Literal[1] = 1
    machine_id: str
    software_id: str
    world_size: int
    hosts: int = 1
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
        words = [
            self.collective,
            f"{self.datatype} {self.redop}",
            self.mode,
            *shape_words(self.shape),
            *["in place"] * self.in_place,
            f"{self.world_size} ranks" + f" on {self.hosts} hosts" * (self.hosts != 1),
        ]
        link = f"; flag round trip {self.link_rtt_ns:.0f} ns" if self.link_rtt_ns else ""
        return ", ".join(words) + link


class Fit(Conditions, kw_only=True, tag="fit", tag_field="kind"):
    """One algorithm in one state of the link. `times_us` are medians of the `cost`: a column for
    each of `sizes_bytes`, and a row for each of `run_ids`, a launch or one group of its blocks (the
    id is repeated). Without regimes `reason` says why."""

    variant: str
    memory: str
    algorithm: str
    library: str | None
    cost: str
    sizes_bytes: list[int]
    times_us: list[list[float]]
    regimes: list[Regime] = []
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
    size_bytes: Estimate | None = None


def by_title(fits: Sequence[Fit]) -> dict[str, list[Fit]]:
    """The fits by their title, in the order of the first fit with each title."""
    groups: dict[str, list[Fit]] = {}
    for fit in fits:
        groups.setdefault(fit.title, []).append(fit)
    return groups


def regime_of(
    sizes: Sequence[int], times_us: Floats, has_interval: bool, least_misfit: float = LEAST_MISFIT
) -> Regime:
    """The line through these times, (launches, sizes)."""
    at = np.array(sizes, dtype=float)
    p = bend_p(at, times_us, least_misfit) if has_interval else np.ones(())
    alpha, slope = fit_lines(at, times_us)
    alphas, slopes = walsh_means(alpha), walsh_means(slope)
    n = len(times_us) * has_interval
    beta, half_size = Estimate(), Estimate()
    if p > BEND_P and np.all(slopes > 0):
        beta = estimate(1e-3 / slopes, n)
        # size x slope < alpha where size < alpha / slope, so the ratio's interval is exact too.
        half = estimate(alphas / slopes, n)
        if half.value and half.value > 0:
            half_size = Estimate(half.value, half.low and max(half.low, 0.0), half.high)
    return Regime(
        from_bytes=sizes[0],
        to_bytes=sizes[-1],
        beta_gb_s=beta,
        half_size_bytes=half_size,
        alpha_us=estimate(alphas, n) if p > BEND_P else Estimate(),
        lines=np.stack([alpha, slope], axis=-1).tolist(),
        worst_residual=float(np.max(np.abs(residuals(at, times_us)))),
    )


def fit_lines(sizes: Floats, times_us: Floats) -> tuple[Floats, Floats]:
    """(alpha in us, slope in us a byte) of each launch's line, both (..., launches): least squares
    relative to the median over launches, so that each size counts the same."""
    weight = np.median(times_us, axis=-2, keepdims=True) ** -2.0
    total = np.sum(weight, axis=-1)
    centre = np.sum(weight * sizes, axis=-1) / total
    away = sizes - centre[..., None]
    slope = np.sum(weight * away * times_us, axis=-1) / np.sum(weight * away**2, axis=-1)
    return np.sum(weight * times_us, axis=-1) / total - slope * centre, slope


def residuals(sizes: Floats, times_us: Floats) -> Floats:
    """How far the median over launches lies above its own line, as a share, (..., sizes)."""
    median_us = np.median(times_us, axis=-2, keepdims=True)
    alpha, slope = fit_lines(sizes, median_us)
    line_us = alpha[..., None] + slope[..., None] * sizes
    return np.asarray((1 - line_us / median_us)[..., 0, :])


def breaks(
    sizes: Floats, times_us: Floats, least_misfit: float = LEAST_MISFIT
) -> list[tuple[int, ...]]:
    """The index of the size at which a second line begins, or none, for each of `times_us` (n,
    launches, sizes): where two lines have the least squares of residuals, if one line would bend.
    Each line has at least three sizes."""
    chosen: list[tuple[int, ...]] = [()] * len(times_us)
    places = range(MIN_SIZES, len(sizes) - MIN_SIZES + 1)
    if places:
        squares = [
            sum(
                np.sum(residuals(sizes[part], times_us[..., part]) ** 2, axis=-1)
                for part in (slice(place), slice(place, None))
            )
            for place in places
        ]
        best = np.argmin(squares, axis=0)
        for row in np.flatnonzero(bend_p(sizes, times_us, least_misfit) < BREAK_P).tolist():
            chosen[row] = (places[best[row]],)
    return chosen


def bend_p(sizes: Floats, times_us: Floats, least_misfit: float = LEAST_MISFIT) -> Floats:
    """The p that launches of one line would miss it as far, (...,); 1 if their median misses its
    own line by less than `least_misfit`. By Student's t of their mean along each hinge, a line that
    turns at one of the inner sizes. Scatter of the other hinges is borrowed (Smyth, Statistical
    Applications in Genetics and Molecular Biology 3, 2004). Neighbouring hinges are correlated:
    n of them count as n^(2/3) tests (by simulation)."""
    launches, n = times_us.shape[-2:]
    misfit = np.max(np.abs(residuals(sizes, times_us)), axis=-1)
    if launches < 3:
        return np.ones_like(misfit)
    median_us = np.median(times_us, axis=-2, keepdims=True)
    line, _ = np.linalg.qr(np.swapaxes(np.stack([np.ones(n), sizes]) / median_us, -1, -2))
    off_line = np.eye(n) - line @ np.swapaxes(line, -1, -2)
    hinges = np.maximum(sizes - sizes[1:-1, None], 0) / median_us @ off_line
    hinges /= np.linalg.norm(hinges, axis=-1, keepdims=True)
    misses = times_us / median_us @ off_line
    along = misses @ np.swapaxes(hinges, -1, -2)  # (..., launches, hinges)
    shared = np.sum(np.var(misses, axis=-2, ddof=1), axis=-1, keepdims=True) / (n - 2)
    own, borrowed = launches - 1, BORROWED * (n > MIN_SIZES)
    variance = (own * np.var(along, axis=-2, ddof=1) + borrowed * shared) / (own + borrowed)
    variance = np.maximum(variance, 1e-12)  # launches may have no scatter
    t_squared = launches * np.mean(along, axis=-2) ** 2 / variance
    p = np.min(fdtrc(1, own + borrowed, t_squared), axis=-1)
    return np.where(misfit > least_misfit, p * (n - 2) ** (2 / 3), 1.0)


def groups_of(by_size: Sequence[Sequence[float]], is_one: bool) -> Floats:
    """Medians of a launch's blocks, (groups, sizes): of all blocks (`is_one`), or of five to ten
    groups of neighbours, of three blocks or more if there are enough. Neighbouring blocks are
    correlated, groups hardly are (Schmeiser, Operations Research 30, 1982)."""
    n = min(map(len, by_size))
    count = 1 if is_one else min(10, max(n // 3, min(MIN_LAUNCHES, n)))
    return np.array(
        [[np.median(group) for group in np.array_split(blocks, count)] for blocks in by_size]
    ).T


def walsh_means(values: Any) -> Floats:
    """The means of all pairs along the last axis, each value with itself included."""
    i, j = np.triu_indices(values.shape[-1])
    return np.asarray((values[..., i] + values[..., j]) / 2)


def interval(walsh: Floats, launches: int) -> tuple[Floats, Floats, Floats]:
    """(estimate, low, high) from `walsh_means`, or from ratios of two, along the last axis, as in
    `verdict.evidence`; infinite below five launches. The range of five has 93.75 %: 5 % more on
    either side makes it 95 % for normal launches."""
    ordered = np.sort(walsh, axis=-1)
    middle = ordered.shape[-1] // 2
    median = (ordered[..., middle] + ordered[..., ~middle]) / 2
    if launches < MIN_LAUNCHES:
        return median, np.full_like(median, -np.inf), np.full_like(median, np.inf)
    k = max(1, int(np.searchsorted(signed_rank_cdf(launches), 0.025, side="right")))
    low, high = ordered[..., k - 1], ordered[..., -k]
    more = 0.05 * (launches == MIN_LAUNCHES) * (high - low)
    return median, low - more, high + more


def estimate(walsh: Floats, launches: int) -> Estimate:
    ends = interval(walsh, launches)
    return Estimate(*(float(end) if np.isfinite(end) else None for end in ends))


def curves_us(fit: Fit, sizes: Floats | Sequence[float]) -> Floats:
    """The times in us on each row's lines at `sizes` in bytes, (rows, sizes). Between two regimes
    the time goes straight, in logarithms, from the end of one line to the start of the next; the
    outer lines extend beyond the measured sizes. Where no line fits, the time goes straight from
    one measured size to the next."""
    at = np.asarray(sizes, dtype=float)
    ends = np.array([(regime.from_bytes, regime.to_bytes) for regime in fit.regimes], dtype=float)
    # The number of the line; between two lines a fraction.
    place = np.interp(np.log(at), np.log(ends.ravel()), np.arange(ends.size) // 2)
    ends[0, 0], ends[-1, 1] = 0.0, np.inf
    curve_us = np.ones(1)
    for number, (regime, (start, end)) in enumerate(zip(fit.regimes, ends, strict=True)):
        within = np.clip(at, start, end)
        line_us = np.array(regime.lines) @ np.stack([np.ones_like(at), within])
        if regime.alpha_us.value is None:
            columns = [regime.from_bytes <= size <= regime.to_bytes for size in fit.sizes_bytes]
            nodes, rows_us = np.array(fit.sizes_bytes)[columns], np.array(fit.times_us)[:, columns]
            left = np.clip(np.searchsorted(nodes, within) - 1, 0, len(nodes) - 2)
            part = (within - nodes[left]) / np.diff(nodes)[left]
            line_us = rows_us[:, left] + part * np.diff(rows_us)[:, left]
        share = np.clip(1 - np.abs(place - number), 0, 1)
        curve_us = curve_us * np.maximum(line_us, LEAST_TIME_US) ** share
    return curve_us


def predict_us(fit: Fit, size_bytes: float) -> Interval:
    """The time at this size in us, and its 95 % interval. Raises ValueError for no line."""
    if not fit.regimes:
        raise ValueError(f"no line: {fit.reason}")
    times_us = curves_us(fit, [size_bytes])[:, 0]
    time_us = estimate(walsh_means(times_us), len(times_us) * bool(fit.interval))
    return time_us.value or 0.0, time_us.low, time_us.high
