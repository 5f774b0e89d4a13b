"""The lines of `fit`: time = alpha + size / beta, their records and their statistics. `times_us` is
(launches, sizes), `sizes` (sizes,) in bytes, ascending. Nothing assumes a distribution of the
launches."""

from typing import Any

import msgspec
import numpy as np

from reports.tables.sentences import algorithm_of, shape_words, type_text
from reports.verdicts.verdict import (
    INTERVAL_P,
    MIN_PAIRS,
    Floats,
    Integers,
    evidence,
    signed_rank_cdf,
)
from wiretax.record.stats import Interval

MIN_SIZES = 3  # of a line
LATENCY_BOUND_BYTES = 512 << 10  # up to here a call takes its start-up, above it its bytes


class Regime(msgspec.Struct, kw_only=True):
    """Measured sizes and the line that fits them best, a miss of 1 % at any size counting the same.
    `worst_residual` is the largest distance of the launches' median from its own line, as a
    share. `half_bytes` is n_1/2 = alpha x beta, the size at which this line reaches half of beta;
    `is_half_extrapolated` if that lies outside of these sizes. A figure that is not above 0 with
    its whole interval is None."""

    from_bytes: int
    to_bytes: int
    worst_residual: float
    alpha_us: Interval | None
    beta_gb_s: Interval | None
    half_bytes: Interval | None
    is_half_extrapolated: bool


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
        words = [self.collective, type_text(self), self.mode, *shape_words(self.shape)]
        if self.in_place:
            words.append("in place")
        ranks = f"{self.world_size} ranks"
        if self.hosts not in (1, None):
            ranks += f" on {self.hosts} hosts"
        return ", ".join([*words, ranks])

    @property
    def name(self) -> str:
        """`two_shot`, `two_shot registered`, `MPICH 5.0.2`."""
        variant = f" {self.variant}" if self.variant not in ("copied", "plain") else ""
        return (self.library or algorithm_of(self)) + variant


def lines_through(sizes: Integers, times_us: Floats) -> tuple[Floats, Floats]:
    """Alpha in us and the slope in us a byte of each launch's line, by least squares relative to
    the median over launches, so that each size counts the same."""
    weights = 1 / np.median(times_us, axis=0)
    slopes, alphas_us = np.polyfit(sizes, times_us.T, deg=1, w=weights)
    return alphas_us, slopes


def regimes_of(sizes: Integers, times_us: Floats) -> list[Regime]:
    """The lines of the latency-bound and of the bandwidth-bound sizes, or one of all sizes if
    either are too few for a line."""
    at = int(np.searchsorted(sizes, LATENCY_BOUND_BYTES, side="right"))
    parts = [slice(at), slice(at, None)]
    if min(at, len(sizes) - at) < MIN_SIZES:
        parts = [slice(None)]
    return [regime_of(sizes[part], times_us[:, part]) for part in parts]


def regime_of(sizes: Integers, times_us: Floats) -> Regime:
    """The line through these times, from the lines of the launches."""
    alphas_us, slopes = lines_through(sizes, times_us)
    alpha_us, slope = resolved(np.stack([alphas_us, slopes]))
    median_us = np.median(times_us, axis=0)
    [median_alpha_us], [median_slope] = lines_through(sizes, median_us[None])
    residuals = 1 - (median_alpha_us + median_slope * sizes) / median_us
    beta_gb_s = half = None
    if slope:
        value, *ends = slope
        high, low = (end and 1e-3 / end for end in ends)
        beta_gb_s = 1e-3 / value, low, high
    if alpha_us and slope:
        half = half_bytes(alphas_us, slopes)
    return Regime(
        from_bytes=int(sizes[0]),
        to_bytes=int(sizes[-1]),
        worst_residual=float(np.max(np.abs(residuals))),
        alpha_us=alpha_us,
        beta_gb_s=beta_gb_s,
        half_bytes=half,
        is_half_extrapolated=half is not None and not sizes[0] <= half[0] <= sizes[-1],
    )


def resolved(values: Floats) -> list[Interval | None]:
    """The figure of each row of values of launches, Hodges and Lehmann's, as of log ratios, with
    its 95 % interval, which six launches have; None if it is not above 0, with its whole
    interval."""
    cells = evidence(values)
    figures = list[Interval | None]()
    for value, low, high in zip(cells.log_ratio, cells.log_low, cells.log_high, strict=True):
        has_interval = bool(np.isfinite(low))
        least = low if has_interval else value
        if least <= 0:
            figures.append(None)
        elif has_interval:
            figures.append((float(value), float(low), float(high)))
        else:
            figures.append((float(value), None, None))
    return figures


def half_bytes(alphas_us: Floats, slopes: Floats) -> Interval | None:
    """n_1/2 = alpha x beta with the sizes that Wilcoxon's signed-rank test of alpha - size x slope
    does not exclude, as its 95 % interval; None if that is not above 0 and finite. The test holds
    wherever alpha and slope scatter symmetrically; their quotient does not (Fieller, Journal of the
    Royal Statistical Society B 16, 1954)."""
    launches = len(alphas_us)
    i, j = np.triu_indices(launches)
    rising = slopes[i] + slopes[j]
    sizes = np.full(len(rising), np.inf)  # without a slope no size has half of the bandwidth
    np.divide(alphas_us[i] + alphas_us[j], rising, out=sizes, where=rising > 0)
    sizes.sort()
    value = float(np.median(sizes))
    if launches < MIN_PAIRS:
        return (value, None, None) if 0 < value < np.inf else None

    k = int(np.searchsorted(signed_rank_cdf(launches), INTERVAL_P, side="right"))
    low, high = float(sizes[k - 1]), float(sizes[-k])
    return (value, low, high) if low > 0 and high < np.inf else None
