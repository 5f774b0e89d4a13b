"""The calibration of the fits: curves whose lines are known, launches that scatter around them; and how often the
intervals have the truth, a break is found or invented, and a crossover is where it is said to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from reports.calibration import synthetic
from reports.calibration.rate import Figure
from reports.trends.crossovers import find_crossovers
from reports.trends.fit import FEW_LAUNCHES_MISFIT, groups_of, regime_of
from reports.trends.fit_records import Crossover, Fit
from reports.trends.lines import breaks, interval, lines, walsh_means
from reports.verdicts.verdict import Floats

SIZES = np.array([16384.0 * 2**step for step in range(12)])
US_A_BYTE = 1e-4  # 10 GB/s
OUTLYING, EXCESS = 0.03, 0.1
RESAMPLES = 400


@dataclass(frozen=True)
class Scatter:
    """How launches scatter: `spread` is the standard deviation of the log of a launch's time at a size, `common` the
    part of its variance that all sizes share; `heavy` is Student's with 3 degrees of freedom, and 3 % of launches that
    take longer at all sizes, by 10 % on average."""

    launches: int
    spread: float
    kind: str = ""

    @property
    def name(self) -> str:
        return f"{self.launches} launches, {self.spread * 100:g} %" + f", {self.kind}" * bool(self.kind)

    def draw(self, rng: np.random.Generator, times_us: Floats) -> Floats:
        """Launches of these times: (n, curves, sizes) gives (n, curves, launches, sizes); what is common
        is so to the curves as well."""
        n, curves, sizes = times_us.shape
        is_heavy, common = self.kind == "heavy", 0.7 if self.kind == "common" else 0.0

        def deviations(*shape: int) -> Floats:
            return rng.standard_t(3, shape) / np.sqrt(3) if is_heavy else rng.standard_normal(shape)

        logs = self.spread * (np.sqrt(common) * deviations(n, 1, self.launches, 1)
                              + np.sqrt(1 - common) * deviations(n, curves, self.launches, sizes))
        if is_heavy:
            is_out = rng.random((n, 1, self.launches, 1)) < OUTLYING
            logs += rng.exponential(EXCESS, is_out.shape) * is_out
        return np.asarray(times_us[:, :, None] * np.exp(logs))


def _coverage(times_us: Floats, found: Sequence[tuple[int, ...]], alpha: Floats, slope: Floats,
              last_slope: Floats) -> dict[str, NDArray[np.bool_]]:
    """Whether the intervals of the first line's alpha and n_1/2 and of the last line's beta have the truth."""
    covered = {name: np.zeros(len(alpha), bool) for name in ("alpha", "beta", "n 1/2")}
    for way in set(found):
        rows = np.array([its == way for its in found])
        ends = [0, *way, len(SIZES)]
        firsts, lasts = slice(0, ends[1]), slice(ends[-2], None)
        alphas, slopes = map(walsh_means, lines(SIZES[firsts], times_us[rows][..., firsts]))
        last_slopes = walsh_means(lines(SIZES[lasts], times_us[rows][..., lasts])[1])
        for name, walsh, truth in (("alpha", alphas, alpha[rows]), ("beta", last_slopes, last_slope[rows]),
                                   ("n 1/2", alphas / slopes, (alpha / slope)[rows])):
            _, low, high = interval(walsh, times_us.shape[-2], way != ())
            covered[name][rows] = (low <= truth) & (truth <= high)
    return covered


def one_line(scatter: Scatter, rng: np.random.Generator, n: int) -> list[Figure]:
    """A single line with its n_1/2 from 22 to 512 KiB."""
    slope = np.full(n, US_A_BYTE)
    alpha = slope * 2 ** rng.uniform(14.5, 19, n)
    times_us = scatter.draw(rng, (alpha[:, None] + slope[:, None] * SIZES)[:, None])[:, 0]
    found = breaks(SIZES, times_us)
    claim, invented = "A fit to one line", np.array([way != () for way in found]).astype(float)
    return [Figure(claim, f"{scatter.name}: invented", invented, most=0.05)] + [
        Figure(claim, f"{scatter.name}: {name}", its.astype(float), 0.93, 0.97)
        for name, its in _coverage(times_us, found, alpha, slope, slope).items() if scatter.spread <= 0.03]


def two_lines(scatter: Scatter, rng: np.random.Generator, n: int) -> list[Figure]:
    """One half jump by 30 %, up or down, anywhere between two sizes; of the others bandwidth halves at a size that lies
    anywhere, but in the bandwidth's part of the curve. Three sizes or more lie on each side."""
    slope = np.full(n, US_A_BYTE)
    jumps = np.arange(n) % 2 == 0
    first = rng.integers(3, len(SIZES) - 2, n)
    at = SIZES[first - 1] * 2 ** rng.uniform(0, 1, n)
    alpha = slope * np.where(jumps, 2 ** rng.uniform(14.5, 19, n), at * 2 ** rng.uniform(-4, -1, n))
    times_us = alpha[:, None] + slope[:, None] * SIZES
    factor = np.where(jumps, rng.choice([1.3, 1 / 1.3], n), 2.0)
    above = np.arange(len(SIZES)) >= first[:, None]
    jumped_us = np.where(above, factor[:, None], 1.0) * times_us
    bent_us = times_us + slope[:, None] * np.maximum(SIZES - at[:, None], 0)
    times_us = scatter.draw(rng, np.where(jumps[:, None], jumped_us, bent_us)[:, None])[:, 0]
    found = breaks(SIZES, times_us)
    claim, covered = "A fit to two lines", _coverage(times_us, found, alpha, slope, slope * factor)
    return [Figure(claim, f"{scatter.name}: found", np.array([len(way) == 1 for way in found]).astype(float), 0.90)] + [
        Figure(claim, f"{scatter.name}: {name}", covered[name].astype(float), 0.93, 0.97) for name in ("alpha", "beta")]


def overtaking(scatter: Scatter, rng: np.random.Generator, n: int) -> list[Figure]:
    """Two algorithms in the same launches. One starts sooner and has 50 to 80 % of the bandwidth: where a crossover is
    told, is it there? And two that are the same: is none told?"""
    at = 2.0 ** rng.uniform(16, 23, n)
    slopes = US_A_BYTE * np.stack([np.ones(n), rng.uniform(0.5, 0.8, n)])
    alphas = US_A_BYTE * 2 ** rng.uniform(14.5, 17, n) + np.stack([np.zeros(n), at * (slopes[0] - slopes[1])])
    times_us = np.moveaxis(alphas[..., None] + slopes[..., None] * SIZES, 0, 1)
    told = [[one.size_bytes for one in _crossovers(pair) if one.size_bytes] for pair in scatter.draw(rng, times_us)]
    inside = [len(its) == 1 and (its[0].low or 0) <= truth <= (its[0].high or 0)
              for its, truth in zip(told, at, strict=True) if its]
    same = [any(one.size_bytes for one in _crossovers(pair)) for pair in scatter.draw(rng, times_us[: n // 4, [0, 0]])]
    claim = "Crossovers"
    return [Figure(claim, f"{scatter.name}: told", np.array([bool(its) for its in told], float)),
            Figure(claim, f"{scatter.name}: there", np.array(inside, float), 0.93, 0.97),
            Figure(claim, f"{scatter.name}: invented", np.array(same, float), most=0.05)]


def _crossovers(pair: Floats) -> list[Crossover]:
    sizes_bytes, run_ids = [int(size) for size in SIZES], [str(launch) for launch in range(pair.shape[1])]
    return find_crossovers([Fit(
        machine_id="", software_id="", world_size=2, collective="all_reduce", shape=None, datatype="", redop="",
        mode="", in_place=False, link_rtt_ns=None, run_ids=run_ids, interval="launches", variant="", memory="",
        library=None, cost="", algorithm=str(number), sizes_bytes=sizes_bytes, times_us=times_us.tolist(),
        regimes=[regime_of(sizes_bytes, times_us, True)]) for number, times_us in enumerate(pair)])


def one_launch(rng: np.random.Generator, n: int) -> list[Figure]:
    """One launch of 12 blocks with rho 0.3, each as uneven as launches are: has its interval its own line, and what
    becomes of what is only this launch's?"""
    n, spread = n // 4, 0.015
    slope = np.full(n, US_A_BYTE)
    alpha = slope * 2 ** rng.uniform(14.5, 19, n)
    of_blocks = np.exp(spread * synthetic.blocks(rng, (n, len(SIZES), synthetic.ROUNDS), 0.3).astype(float))
    line_us = (alpha[:, None] + slope[:, None] * SIZES)[..., None]
    own, whims = (np.array([groups_of(blocks.tolist(), False) for blocks in costs]) for costs in (
        line_us * of_blocks, line_us * of_blocks * np.exp(spread * rng.standard_normal((n, len(SIZES), 1)))))
    claim, found = "A fit to one launch", list[tuple[int, ...]]([()]) * n
    return [Figure(claim, f"its own line: {name}", its.astype(float))
            for name, its in _coverage(own, found, alpha, slope, slope).items()] + [
        Figure(claim, "invented, if launches differ by 1.5 %",
               np.array([way != () for way in breaks(SIZES, whims, FEW_LAUNCHES_MISFIT)]).astype(float))]


def percentile_bootstrap(launches: int, rng: np.random.Generator, n: int) -> list[Figure]:
    """What is not used, and why: the percentiles of the mean of resampled launches."""
    n = n // 4
    times_us = Scatter(launches, 0.03).draw(rng, np.tile(40 + US_A_BYTE * SIZES, (n, 1, 1)))[:, 0]
    alpha = lines(SIZES, times_us)[0]
    resampled = rng.integers(launches, size=(n, RESAMPLES, launches))
    means = np.take_along_axis(alpha[:, None], resampled, axis=-1).mean(axis=-1)
    low, high = np.percentile(means, [2.5, 97.5], axis=-1)
    return [Figure("Resampled launches, in place of the interval", f"{launches} launches: alpha",
                   ((low <= 40) & (high >= 40)).astype(float))]


SCATTERS = [Scatter(5, 0.005, "common"), Scatter(5, 0.03), Scatter(5, 0.03, "heavy"), Scatter(10, 0.005, "heavy"),
            Scatter(10, 0.03), Scatter(20, 0.015, "common"), Scatter(20, 0.03, "heavy")]
CLAIMS: list[Callable[[np.random.Generator, int], list[Figure]]] = [
    *(partial(one_line, scatter) for scatter in (*SCATTERS, Scatter(5, 0.1), Scatter(20, 0.1))),
    *(partial(two_lines, scatter) for scatter in SCATTERS),
    *(partial(overtaking, scatter) for scatter in (Scatter(5, 0.03), Scatter(10, 0.015, "heavy"),
                                                   Scatter(20, 0.005, "common"))),
    one_launch,
    *(partial(percentile_bootstrap, launches) for launches in (5, 10, 20)),
]
