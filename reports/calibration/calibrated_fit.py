"""Claims on `fit`: coverage of its intervals, breaks missed or invented, and crossovers.

Synthetic curves have known lines; launches scatter around them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from reports.calibration import synthetic
from reports.calibration.rate import Figure, Simulation
from reports.trends.fit import FEW_LAUNCHES_MISFIT, find_crossovers
from reports.trends.lines import (
    Estimate,
    Fit,
    breaks,
    fit_lines,
    groups_of,
    interval,
    regime_of,
    walsh_means,
)
from reports.verdicts.verdict import Floats

SIZES = np.array([16384.0 * 2**step for step in range(12)])
US_A_BYTE = 1e-4  # 10 GB/s
OUTLYING, EXCESS = 0.03, 0.1  # share of slow launches, and their mean excess as a share
BREAK_FACTOR = 1.3


@dataclass(frozen=True)
class Scatter:
    """How launches scatter: `spread` is the standard deviation of the log of a launch's time at a
    size. `kind`: `common`, 70 % of the variance is common to all sizes; `heavy`, Student's t with 3
    degrees of freedom, and 3 % of launches are slower at all sizes."""

    launches: int
    spread: float
    kind: str = ""

    @property
    def name(self) -> str:
        kind = f", {self.kind}" if self.kind else ""
        return f"{self.launches} launches, {self.spread * 100:g} %{kind}"

    def draw(self, rng: np.random.Generator, times_us: Floats) -> Floats:
        """Launches of these times: (n, curves, sizes) gives (n, curves, launches, sizes). The
        common part is common to the curves too."""
        n, curves, sizes = times_us.shape
        is_heavy, common = self.kind == "heavy", 0.7 if self.kind == "common" else 0.0

        def deviations(*shape: int) -> Floats:
            normal, heavy = rng.standard_normal, rng.standard_t
            return heavy(3, shape) / np.sqrt(3) if is_heavy else normal(shape)

        shared = deviations(n, 1, self.launches, 1)
        own = deviations(n, curves, self.launches, sizes)
        logs = self.spread * (np.sqrt(common) * shared + np.sqrt(1 - common) * own)
        if is_heavy:
            is_slow = rng.random(shared.shape) < OUTLYING
            logs += rng.exponential(EXCESS, shared.shape) * is_slow
        return np.asarray(times_us[:, :, None] * np.exp(logs))


def _coverage(scatter: str, times_us: Floats, at: Sequence[tuple[int, ...]],
              truth: dict[str, Floats], limits: tuple[float, float] = (0.93, 0.97)) -> list[Figure]:
    """How often the intervals of the first line's alpha and n_1/2 and of the last line's beta (here
    us a byte) cover the truth, (n,) by name; `at` has the breaks of each curve."""
    covered = {name: np.zeros(len(at), bool) for name in truth}
    for ends in set(at):
        rows = np.array([other == ends for other in at])
        first, last = slice(0, [*ends, len(SIZES)][0]), slice([0, *ends][-1], None)
        alphas, slopes = map(walsh_means, fit_lines(SIZES[first], times_us[rows][..., first]))
        last_slopes = walsh_means(fit_lines(SIZES[last], times_us[rows][..., last])[1])
        walsh = {"alpha": alphas, "beta": last_slopes, "n 1/2": alphas / slopes}
        for name, values in truth.items():
            _, low, high = interval(walsh[name], times_us.shape[-2], ends != ())
            covered[name][rows] = (low <= values[rows]) & (values[rows] <= high)
    return [Figure(f"{scatter}: {name}", values, *limits) for name, values in covered.items()]


def one_line(scatter: Scatter, rng: np.random.Generator, n: int) -> list[Figure]:
    """A single line with n_1/2 from 22 to 512 KiB."""
    slope = np.full(n, US_A_BYTE)
    alpha = slope * 2 ** rng.uniform(14.5, 19, n)
    times_us = scatter.draw(rng, (alpha[:, None] + slope[:, None] * SIZES)[:, None])[:, 0]
    at = breaks(SIZES, times_us)
    figures = [Figure(f"{scatter.name}: invented", [ends != () for ends in at], most=0.05)]
    if scatter.spread <= 0.03:
        truth = {"alpha": alpha, "beta": slope, "n 1/2": alpha / slope}
        figures += _coverage(scatter.name, times_us, at, truth)
    return figures


def two_lines(scatter: Scatter, rng: np.random.Generator, n: int) -> list[Figure]:
    """Half of the curves jump by 30 %, up or down, between two sizes. The other half lose half of
    their bandwidth at a size in the bandwidth-bound part. Each line has three sizes or more."""
    slope = np.full(n, US_A_BYTE)
    jumps = np.arange(n) % 2 == 0
    first = rng.integers(3, len(SIZES) - 2, n)
    size = SIZES[first - 1] * 2 ** rng.uniform(0, 1, n)
    of_jump, of_bend = 2 ** rng.uniform(14.5, 19, n), size * 2 ** rng.uniform(-4, -1, n)
    alpha = slope * np.where(jumps, of_jump, of_bend)
    line_us = alpha[:, None] + slope[:, None] * SIZES
    factor = np.where(jumps, rng.choice([BREAK_FACTOR, 1 / BREAK_FACTOR], n), 2.0)
    is_above = np.arange(len(SIZES)) >= first[:, None]
    jumped_us = np.where(is_above, factor[:, None], 1.0) * line_us
    bent_us = line_us + slope[:, None] * np.maximum(SIZES - size[:, None], 0)
    curves_us = np.where(jumps[:, None], jumped_us, bent_us)
    times_us = scatter.draw(rng, curves_us[:, None])[:, 0]
    at = breaks(SIZES, times_us)
    return [Figure(f"{scatter.name}: found", [len(ends) == 1 for ends in at], 0.90),
            *_coverage(scatter.name, times_us, at, {"alpha": alpha, "beta": slope * factor})]


def overtaking(scatter: Scatter, rng: np.random.Generator, n: int) -> list[Figure]:
    """Two algorithms in the same launches: one has the lower alpha and 50 to 80 % of the bandwidth,
    so there is a crossover; and two equal algorithms, without one."""
    size = 2.0 ** rng.uniform(16, 23, n)
    slopes = US_A_BYTE * np.stack([np.ones(n), rng.uniform(0.5, 0.8, n)])
    alphas = US_A_BYTE * 2 ** rng.uniform(14.5, 17, n)
    alphas = alphas + np.stack([np.zeros(n), size * (slopes[0] - slopes[1])])
    times_us = np.moveaxis(alphas[..., None] + slopes[..., None] * SIZES, 0, 1)
    reported = [_crossover_sizes(pair) for pair in scatter.draw(rng, times_us)]
    covered = [len(estimates) == 1 and (estimates[0].low or 0) <= truth <= (estimates[0].high or 0)
               for estimates, truth in zip(reported, size, strict=True) if estimates]
    equal_us = scatter.draw(rng, times_us[: n // 4, [0, 0]])
    return [Figure(f"{scatter.name}: told", list(map(bool, reported))),
            Figure(f"{scatter.name}: there", covered, 0.93, 0.97),
            Figure(f"{scatter.name}: invented",
                   [bool(_crossover_sizes(pair)) for pair in equal_us], most=0.05)]


def _crossover_sizes(pair: Floats) -> list[Estimate]:
    """The sizes at which one of two algorithms, (2, launches, sizes), overtakes the other."""
    sizes_bytes = [int(size) for size in SIZES]
    run_ids = [str(launch) for launch in range(pair.shape[1])]
    fits = [Fit(machine_id="", software_id="", world_size=2, collective="all_reduce", shape=None,
                datatype="", redop="", mode="", in_place=False, link_rtt_ns=None, run_ids=run_ids,
                interval="launches", variant="", memory="", library=None, cost="",
                algorithm=str(number), sizes_bytes=sizes_bytes, times_us=times_us.tolist(),
                regimes=[regime_of(sizes_bytes, times_us, True)])
            for number, times_us in enumerate(pair)]
    return [crossover.size_bytes for crossover in find_crossovers(fits) if crossover.size_bytes]


def one_launch(rng: np.random.Generator, n: int) -> list[Figure]:
    """One launch of 12 blocks with rho 0.3: coverage of its own line, and the breaks invented if
    launches differ by 1.5 % at each size."""
    n, spread = n // 4, 0.015
    slope = np.full(n, US_A_BYTE)
    alpha = slope * 2 ** rng.uniform(14.5, 19, n)
    shape = (n, len(SIZES), synthetic.ROUNDS)
    scatter = np.exp(spread * synthetic.blocks(rng, shape, 0.3).astype(float))
    own_us = (alpha[:, None] + slope[:, None] * SIZES)[..., None] * scatter
    uneven_us = own_us * np.exp(spread * rng.standard_normal((n, len(SIZES), 1)))
    own, uneven = (np.array([groups_of(curve.tolist(), False) for curve in curves])
                   for curves in (own_us, uneven_us))
    truth = {"alpha": alpha, "beta": slope, "n 1/2": alpha / slope}
    invented = [at != () for at in breaks(SIZES, uneven, FEW_LAUNCHES_MISFIT)]
    return [*_coverage("its own line", own, [()] * n, truth, (0.0, 1.0)),
            Figure("invented, if launches differ by 1.5 %", invented)]


SCATTERS = [Scatter(5, 0.005, "common"), Scatter(5, 0.03), Scatter(5, 0.03, "heavy"),
            Scatter(10, 0.005, "heavy"), Scatter(10, 0.03), Scatter(20, 0.015, "common"),
            Scatter(20, 0.03, "heavy")]
OVERTAKING = [Scatter(5, 0.03), Scatter(10, 0.015, "heavy"), Scatter(20, 0.005, "common")]
CLAIMS: dict[str, list[Simulation]] = {
    "A fit to one line": [partial(one_line, scatter) for scatter in (
        *SCATTERS, Scatter(5, 0.1), Scatter(20, 0.1))],
    "A fit to two lines": [partial(two_lines, scatter) for scatter in SCATTERS],
    "Crossovers": [partial(overtaking, scatter) for scatter in OVERTAKING],
    "A fit to one launch": [one_launch],
}
