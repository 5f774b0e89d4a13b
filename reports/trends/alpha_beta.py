"""Lines through times: their records and statistics. `times_us` is (..., launches, sizes), `sizes`
(sizes,) in bytes, ascending. Nothing assumes a distribution of the launches."""

from typing import Any

import msgspec
import numpy as np

from reports.tables.sentences import algorithm_of, shape_words
from reports.verdicts.verdict import Floats, Integers, evidence

MIN_SIZES = 3  # of a line
LATENCY_BOUND_BYTES = 512 << 10  # up to here a call takes its start-up, above it its bytes
Sizes = Floats | Integers


class Estimate(msgspec.Struct, frozen=True):
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
    """Measured sizes and the line that fits them best, a miss of 1 % at any size counting the same.
    `worst_residual` is the largest distance of the launches' median from its own line, as a
    share."""

    from_bytes: int
    to_bytes: int
    worst_residual: float
    alpha_us: Estimate
    beta_gb_s: Estimate = Estimate()


class Fit(msgspec.Struct, kw_only=True):
    """One algorithm. `times_us` are median costs: a column for each of `sizes_bytes`, and a row for
    each launch of `run_ids`."""

    machine_id: str
    software_id: str
    world_size: int
    hosts: int | None = 1
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
            f"{self.datatype} {self.redop}",
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


def regimes_of(sizes: Integers, times_us: Floats) -> list[Regime]:
    """The lines through the parts of times, (launches, sizes)."""
    return [regime_of(sizes[part], times_us[:, part]) for part in parts(sizes)]


def parts(sizes: Integers) -> list[slice]:
    """The latency-bound sizes and the bandwidth-bound ones; all together if either are too few for
    a line."""
    at = int(np.searchsorted(sizes, LATENCY_BOUND_BYTES, side="right"))
    if min(at, len(sizes) - at) < MIN_SIZES:
        return [slice(None)]

    return [slice(at), slice(at, None)]


def regime_of(sizes: Integers, times_us: Floats) -> Regime:
    """The line through these times."""
    alpha_us, slope = estimates(np.stack(fit_lines(sizes, times_us)))
    regime = Regime(
        from_bytes=int(sizes[0]),
        to_bytes=int(sizes[-1]),
        worst_residual=float(np.max(np.abs(residuals(sizes, times_us)))),
        alpha_us=alpha_us,
    )

    if slope.is_resolved:
        ends = slope.value, slope.high, slope.low
        regime.beta_gb_s = Estimate(*(1e-3 / end if end else None for end in ends))

    return regime


def fit_lines(sizes: Sizes, times_us: Floats) -> tuple[Floats, Floats]:
    """(alpha in us, slope in us a byte) of each launch's line, both (..., launches): least squares
    relative to the median over launches, so that each size counts the same."""
    weight = np.median(times_us, axis=-2, keepdims=True) ** -2.0
    total = np.sum(weight, axis=-1)
    centre = np.sum(weight * sizes, axis=-1) / total
    away = sizes - centre[..., None]
    slope = np.sum(weight * away * times_us, axis=-1) / np.sum(weight * away**2, axis=-1)
    return np.sum(weight * times_us, axis=-1) / total - slope * centre, slope


def residuals(sizes: Sizes, times_us: Floats) -> Floats:
    """How far the median over launches lies above its own line, as a share, (..., sizes)."""
    median_us = np.median(times_us, axis=-2, keepdims=True)
    alpha, slope = fit_lines(sizes, median_us)
    line_us = alpha[..., None] + slope[..., None] * sizes
    return np.asarray((1 - line_us / median_us)[..., 0, :])


def estimates(values: Floats) -> list[Estimate]:
    """The figure of each row of values of launches: Hodges and Lehmann's, as of log ratios."""
    ends = evidence(values)[["log_ratio", "log_low", "log_high"]].to_numpy()
    return [
        Estimate(*(end if np.isfinite(end) else None for end in figure)) for figure in ends.tolist()
    ]
