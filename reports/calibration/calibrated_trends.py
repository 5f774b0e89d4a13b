"""Claims on `fit` (coverage of its intervals, breaks missed or invented, crossovers) and on
`history` (a change missed, invented or misplaced), by synthetic curves and histories."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from reports.calibration import synthetic
from reports.calibration.synthetic import LAUNCH_EXCESS, OUTLYING, Figure, Rng, Simulation, deviates
from reports.store.stats import ar1
from reports.trends.changes import MIN_RUNS, find_steps
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
N_SERIES, RUNS = 84, 100  # of a history
STEP = 3.0  # in standard deviations


@dataclass(frozen=True)
class Launches:
    """How launches scatter around a curve: `spread` of the log of a time; `common`: 70 % of the
    variance for all sizes; `heavy`: Student's t, and 3 % of launches are slower."""

    number: int
    spread: float
    kind: str = ""

    def __str__(self) -> str:
        words = f"{self.number} launches", f"{self.spread * 100:g} %", self.kind
        return ", ".join(filter(None, words))

    def draw(self, rng: Rng, times_us: Floats) -> Floats:
        """Launches of these times: (n, curves, sizes) gives (n, curves, launches, sizes)."""
        n, curves, sizes = times_us.shape
        is_heavy, common = self.kind == "heavy", 0.7 if self.kind == "common" else 0.0
        shared = deviates(rng, (n, 1, self.number, 1), is_heavy)
        own = deviates(rng, (n, curves, self.number, sizes), is_heavy)
        logs = self.spread * (np.sqrt(common) * shared + np.sqrt(1 - common) * own)
        if is_heavy:
            is_slow = rng.random(shared.shape) < OUTLYING
            logs += rng.exponential(LAUNCH_EXCESS, shared.shape) * is_slow
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
            _, low, high = interval(walsh[name], times_us.shape[-2])
            covered[name][rows] = (low <= values[rows]) & (values[rows] <= high)
    return [Figure(f"{scatter}: {name}", values, *limits) for name, values in covered.items()]


def one_line(scatter: Launches, rng: Rng, n: int) -> list[Figure]:
    """A single line with n_1/2 from 22 to 512 KiB."""
    alpha = US_A_BYTE * 2 ** rng.uniform(14.5, 19, n)
    times_us = scatter.draw(rng, (alpha[:, None] + US_A_BYTE * SIZES)[:, None])[:, 0]
    at = breaks(SIZES, times_us)
    figures = [Figure(f"{scatter}: invented", [ends != () for ends in at], most=0.05)]
    if scatter.spread <= 0.03:
        truth = {"alpha": alpha, "beta": np.full(n, US_A_BYTE), "n 1/2": alpha / US_A_BYTE}
        figures += _coverage(str(scatter), times_us, at, truth)
    return figures


def two_lines(scatter: Launches, rng: Rng, n: int) -> list[Figure]:
    """Half of the curves jump by 30 %, up or down, between two sizes. The other half lose half of
    their bandwidth at a size in the bandwidth-bound part. Each line has three sizes or more."""
    jumps, first = np.arange(n) % 2 == 0, rng.integers(3, len(SIZES) - 2, n)
    size = SIZES[first - 1] * 2 ** rng.uniform(0, 1, n)
    of_jump, of_bend = 2 ** rng.uniform(14.5, 19, n), size * 2 ** rng.uniform(-4, -1, n)
    alpha = US_A_BYTE * np.where(jumps, of_jump, of_bend)
    line_us = alpha[:, None] + US_A_BYTE * SIZES
    factor = np.where(jumps, rng.choice([1.3, 1 / 1.3], n), 2.0)
    jumped_us = np.where(np.arange(len(SIZES)) < first[:, None], 1.0, factor[:, None]) * line_us
    bent_us = line_us + US_A_BYTE * np.maximum(SIZES - size[:, None], 0)
    times_us = scatter.draw(rng, np.where(jumps[:, None], jumped_us, bent_us)[:, None])[:, 0]
    at = breaks(SIZES, times_us)
    return [Figure(f"{scatter}: found", [len(ends) == 1 for ends in at], 0.90),
            *_coverage(str(scatter), times_us, at, {"alpha": alpha, "beta": US_A_BYTE * factor})]


def overtaking(scatter: Launches, rng: Rng, n: int) -> list[Figure]:
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
    return [Figure(f"{scatter}: told", list(map(bool, reported))),
            Figure(f"{scatter}: there", covered, 0.93, 0.97),
            Figure(f"{scatter}: invented",
                   [bool(_crossover_sizes(pair)) for pair in equal_us], most=0.05)]


def _crossover_sizes(pair: Floats) -> list[Estimate]:
    """The sizes at which one of two algorithms, (2, launches, sizes), overtakes the other."""
    sizes_bytes = [int(size) for size in SIZES]
    fits = [Fit(machine_id="", software_id="", world_size=2, collective="all_reduce", shape=None,
                datatype="", redop="", mode="", in_place=False, link_rtt_ns=None,
                interval="launches", variant="", memory="", library=None, cost="",
                algorithm=str(number), run_ids=[str(launch) for launch in range(len(times_us))],
                sizes_bytes=sizes_bytes, times_us=times_us.tolist(),
                regimes=[regime_of(sizes_bytes, times_us, True)])
            for number, times_us in enumerate(pair)]
    return [crossover.size_bytes for crossover in find_crossovers(fits) if crossover.size_bytes]


def one_launch(rng: Rng, n: int) -> list[Figure]:
    """One launch of 12 blocks: its own line, and breaks invented if launches differ by 1.5 %."""
    n, spread = n // 4, 0.015
    alpha = US_A_BYTE * 2 ** rng.uniform(14.5, 19, n)
    scatter = np.exp(spread * synthetic.blocks(rng, (n, len(SIZES), 12), 0.3).astype(float))
    own_us = (alpha[:, None] + US_A_BYTE * SIZES)[..., None] * scatter
    uneven_us = own_us * np.exp(spread * rng.standard_normal((n, len(SIZES), 1)))
    own, uneven = (np.array([groups_of(curve.tolist(), False) for curve in curves])
                   for curves in (own_us, uneven_us))
    truth = {"alpha": alpha, "beta": np.full(n, US_A_BYTE), "n 1/2": alpha / US_A_BYTE}
    invented = [at != () for at in breaks(SIZES, uneven, FEW_LAUNCHES_MISFIT)]
    return [*_coverage("its own line", own, [()] * n, truth, (0.0, 1.0)),
            Figure("invented, if launches differ by 1.5 %", invented)]


@dataclass(frozen=True)
class Runs:
    """How runs scatter, as an AR(1) with variance 1: `rho` from the first series to the last,
    `shared` of the variance in all series, `outliers` of single `series` or whole `runs`."""

    name: str
    rho: tuple[float, float] = (0.2, 0.2)
    heavy: bool = False
    shared: float = 0.0
    outliers: str | None = None

    def draw(self, rng: Rng) -> Floats:
        """One history, (N_SERIES, RUNS)."""
        new = deviates(rng, (RUNS, N_SERIES + 1), self.heavy).T  # the last row for all series
        ar1(new, np.linspace(*self.rho, N_SERIES + 1))
        values = np.sqrt(1 - self.shared) * new[:-1] + np.sqrt(self.shared) * new[-1]
        if self.outliers:
            shape = (RUNS, N_SERIES if self.outliers == "series" else 1)
            excess = rng.exponential(LAUNCH_EXCESS / 0.015, shape)  # for a spread of 1.5 %
            values += (excess * (rng.random(shape) < OUTLYING)).T
        return np.ascontiguousarray(values)


def alarms(scatter: Runs, looks: Sequence[int], most: float, rng: Rng, n: int) -> list[Figure]:
    """The share of histories without a change with an alarm after one of the `looks`, in runs."""
    replications = n // 4 if len(looks) == 1 else max(n // 100, 2)
    called = [any(any(find_steps(values[:, :runs], N_SERIES)) for runs in looks)
              for values in (scatter.draw(rng) for _ in range(replications))]
    return [Figure(scatter.name, called, most=most)]


def detect(scatter: Runs, every: int, least: float, share: int, rng: Rng, n: int) -> list[Figure]:
    """A step of 3 standard deviations in every `every`-th series: whether half of these series get
    it, four runs later. A step in one series is looked for eight runs later, then seven; and its
    intervals should cover the truth. Runs 1 / `share` of the replications."""
    looks = (8, 7) if every == N_SERIES else (4,)
    detected, place_covered, size_covered = [], [], []
    for _ in range(n // share):
        place = int(rng.integers(30, RUNS + 1 - looks[0]))
        values = scatter.draw(rng)
        values[::every, place:] += STEP
        for runs in looks:
            steps = [[step for step in steps
                      if abs(step.first - place) <= 2 or step.low <= place <= step.high]
                     for steps in find_steps(values[:, : place + runs], N_SERIES)[::every]]
            if is_detected := 2 * sum(map(bool, steps)) >= len(steps):
                break
        detected.append(is_detected)
        place_covered += [step.low <= place <= step.high for step in steps[0]]
        size_covered += [step.size[1] <= STEP <= step.size[2] for step in steps[0]]
    figures = [Figure(f"{scatter.name}: found", detected, least),
               Figure(f"{scatter.name}: place inside", place_covered),
               Figure(f"{scatter.name}: size inside", size_covered)]
    return figures if every == N_SERIES else figures[:1]


LAUNCHES = [Launches(5, 0.005, "common"), Launches(5, 0.03), Launches(5, 0.03, "heavy"),
            Launches(10, 0.005, "heavy"), Launches(10, 0.03), Launches(20, 0.015, "common"),
            Launches(20, 0.03, "heavy")]
NORMAL = [Runs(f"rho {rho:g}", (rho, rho)) for rho in (0.0, 0.2, 0.4)]
HEAVY = [Runs(f"rho {rho:g}, t with 3 df", (rho, rho), heavy=True) for rho in (0.0, 0.4)]
SHARED = [Runs(f"rho {rho:g}, hang together", (rho, rho), shared=0.7) for rho in (0.0, 0.4)]
SERIES_OUTLIERS = Runs("rho 0, series go astray", (0.0, 0.0), outliers="series")
CLAIMS: dict[str, list[Simulation]] = {
    "A fit to one line": [partial(one_line, scatter) for scatter in (
        *LAUNCHES, Launches(5, 0.1), Launches(20, 0.1))],
    "A fit to two lines": [partial(two_lines, scatter) for scatter in LAUNCHES],
    "Crossovers": [partial(overtaking, scatter) for scatter in (
        Launches(5, 0.03), Launches(10, 0.015, "heavy"), Launches(20, 0.005, "common"))],
    "A fit to one launch": [one_launch],
    "A history where nothing changed: any alarm": [
        partial(alarms, scatter, [RUNS], 0.05) for scatter in (
            *NORMAL, *HEAVY, *SHARED, SERIES_OUTLIERS,
            Runs("rho 0.4, runs go astray", (0.4, 0.4), outliers="runs"),
            Runs("rho from 0 to 0.4", (0.0, 0.4)))],
    "The same, looked at after every run": [
        partial(alarms, NORMAL[1], range(MIN_RUNS, RUNS + 1), 1.0)],
    "A step of 3 spreads in one of 84 series, within eight runs": [
        partial(detect, scatter, N_SERIES, least, share) for scatter, least, share in (
            (NORMAL[0], 0.90, 8), (NORMAL[1], 0.90, 8), (NORMAL[2], 0.90, 4), (HEAVY[1], 0.90, 4),
            (SHARED[1], 0.0, 8))],
    "The same in a third of the series, within four runs": [
        partial(detect, scatter, 3, 0.90, 8) for scatter in (NORMAL[0], NORMAL[2], *SHARED)],
}
