"""Lines through times: their records and statistics. `times_us` is (..., launches, sizes), `sizes`
(sizes,) in bytes, ascending. Only the test of a line assumes a distribution of the launches."""

from typing import Any

import msgspec
import numpy as np
from scipy.special import fdtrc

from reports.tables.sentences import algorithm_of, shape_words
from reports.verdicts.verdict import MIN_PAIRS, Bools, Floats, Integers, evidence

MIN_SIZES = 3  # of a line
BEND_P = 0.01  # the chance that launches of one line seem to bend
# The misfit, as a share, below which times count as one line; and the one above which times of
# fewer than six launches bend, because they cannot average out one launch's noise.
LEAST_MISFIT, FEW_LAUNCHES_MISFIT = 0.002, 0.10
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
    """The measured sizes on the line that fits them best, a miss of 1 % at any size counting the
    same. `worst_residual` is the largest distance of the launches' median from its own line, as a
    share. Sizes that no line fits (`is_bent`) have no alpha and beta."""

    from_bytes: int
    to_bytes: int
    worst_residual: float
    alpha_us: Estimate = Estimate()
    beta_gb_s: Estimate = Estimate()


class Fit(msgspec.Struct, kw_only=True):
    """One algorithm. `times_us` are median
    costs: a column for each of `sizes_bytes`, and a row for each launch of `run_ids`."""

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
            f"{self.world_size} ranks" + f" on {self.hosts} hosts" * (self.hosts not in (1, None)),
        ]
        return ", ".join(words)

    @property
    def name(self) -> str:
        """`two_shot`, `two_shot registered`, `MPICH 5.0.2`."""
        variant = f" {self.variant}" if self.variant not in ("copied", "plain") else ""
        return (self.library or algorithm_of(self)) + variant


def regimes_of(sizes: Integers, times_us: Floats) -> list[Regime]:
    """The one or two lines through times, (launches, sizes)."""
    at = int(breaks(sizes, times_us[None])[0])
    parts = [slice(0, at), slice(at, None)] if at else [slice(None)]
    return [regime_of(sizes[part], times_us[:, part]) for part in parts]


def regime_of(sizes: Integers, times_us: Floats) -> Regime:
    """The line through these times."""
    regime = Regime(
        from_bytes=int(sizes[0]),
        to_bytes=int(sizes[-1]),
        worst_residual=float(np.max(np.abs(residuals(sizes, times_us)))),
    )

    if not is_bent(sizes, times_us):
        regime.alpha_us, slope = estimates(np.stack(fit_lines(sizes, times_us)))
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


def breaks(sizes: Sizes, times_us: Floats) -> Integers:
    """The index of the size at which a second line begins, 0 for none, for each of `times_us` (n,
    launches, sizes): where two lines have the least squares of residuals, if one line would bend.
    Each line has at least three sizes."""
    places = np.arange(MIN_SIZES, len(sizes) - MIN_SIZES + 1)
    if not len(places):
        return np.zeros(len(times_us), dtype=np.int64)

    squares = [
        np.sum(residuals(sizes[:place], times_us[..., :place]) ** 2, axis=-1)
        + np.sum(residuals(sizes[place:], times_us[..., place:]) ** 2, axis=-1)
        for place in places
    ]
    best = places[np.argmin(squares, axis=0)]
    return np.where(is_bent(sizes, times_us), best, 0)


def is_bent(sizes: Sizes, times_us: Floats) -> Bools:
    """Whether launches miss one line by more than chance, (...,), by Student's t of their mean
    along each hinge, a line that turns at one of the inner sizes, and their median misses its own
    line by more than LEAST_MISFIT. Neighbouring hinges are correlated: n of them count as n^(2/3)
    tests (by simulation). Fewer than six launches show only a great misfit."""
    misfit = np.max(np.abs(residuals(sizes, times_us)), axis=-1)
    launches, n = times_us.shape[-2:]
    if launches < MIN_PAIRS:
        return np.asarray(misfit > FEW_LAUNCHES_MISFIT)

    median_us = np.median(times_us, axis=-2, keepdims=True)
    line, _ = np.linalg.qr(np.swapaxes(np.stack([np.ones(n), sizes]) / median_us, -1, -2))
    off_line = np.eye(n) - line @ np.swapaxes(line, -1, -2)
    hinges = np.maximum(sizes - sizes[1:-1, None], 0) / median_us @ off_line
    hinges /= np.linalg.norm(hinges, axis=-1, keepdims=True)
    along = times_us / median_us @ np.swapaxes(hinges, -1, -2)  # (..., launches, hinges)
    variance = np.maximum(np.var(along, axis=-2, ddof=1), 1e-12)  # launches may have no scatter
    t_squared = launches * np.mean(along, axis=-2) ** 2 / variance
    p = np.min(fdtrc(1, launches - 1, t_squared), axis=-1)
    return np.asarray((misfit > LEAST_MISFIT) & (p < BEND_P / (n - 2) ** (2 / 3)))


def estimates(values: Floats) -> list[Estimate]:
    """The figure of each row of values of launches: Hodges and Lehmann's, as of log ratios."""
    ends = evidence(values)[["log_ratio", "log_low", "log_high"]].to_numpy()
    return [
        Estimate(*(end if np.isfinite(end) else None for end in figure)) for figure in ends.tolist()
    ]
