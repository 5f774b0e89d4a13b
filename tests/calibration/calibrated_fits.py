"""Claims on `fit`: its intervals of alpha, beta and n_1/2, and of the sizes at which one algorithm
overtakes another, by synthetic times of launches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from reports.trends.alpha_beta import Fit, Regime, regime_of
from reports.trends.crossovers import Crossover, crossovers_of
from reports.verdicts.verdict import MIN_PAIRS, Floats
from tests.calibration.synthetic import LAUNCH_EXCESS, Figure, Rng, Simulation, deviates, outliers
from wiretax.record.stats import Interval

SIZES = 16384 << np.arange(12)
LATENCY_BOUND, BANDWIDTH_BOUND = slice(6), slice(6, None)  # small sizes and large ones
US_A_BYTE = 1e-4  # 10 GB/s


REGIMES = [
    Regime(
        from_bytes=int(SIZES[part][0]),
        to_bytes=int(SIZES[part][-1]),
        worst_residual=0.0,
        alpha_us=None,
        beta_gb_s=None,
        half_bytes=None,
        is_half_extrapolated=False,
    )
    for part in (LATENCY_BOUND, BANDWIDTH_BOUND)
]  # of crossovers, which draw the lines themselves


@dataclass(frozen=True)
class Launches:
    """How launches scatter around a line: `spread` is of the log of a time; `common`: 70 % of the
    variance for all sizes; `heavy`: Student's t, and 3 % of the launches are slower."""

    number: int
    spread: float
    kind: str = ""

    def __str__(self) -> str:
        words = f"{self.number} launches", f"{self.spread * 100:g} %", self.kind
        return ", ".join(filter(None, words))

    def draw(self, rng: Rng, times_us: Any) -> Floats:
        """Times of launches, (launches, sizes)."""
        is_heavy, common = self.kind == "heavy", 0.7 if self.kind == "common" else 0.0
        shared = deviates(rng, (self.number, 1), is_heavy)
        own = deviates(rng, (self.number, len(times_us)), is_heavy)
        logs = self.spread * (np.sqrt(common) * shared + np.sqrt(1 - common) * own)
        if is_heavy:
            logs += outliers(rng, (self.number, 1), LAUNCH_EXCESS)
        return np.asarray(times_us * np.exp(logs), dtype=np.float64)


def contains(interval: Interval, truth: float) -> bool:
    _, low, high = interval
    return (low or 0) <= truth <= (high or np.inf)


def line_coverage(scatter: Launches, rng: Rng, n: int) -> list[Figure]:
    """How often the intervals that `fit` prints contain the truth: one line, with n_1/2 from 22 to
    512 KiB, by the small sizes, and its alpha and beta also by the large ones. A figure that is not
    resolved claims nothing and does not count."""
    names = "alpha", "beta", "n_1/2", "alpha, large", "beta, large"
    covered: dict[str, list[bool]] = {name: [] for name in names}
    for _ in range(n):
        half = 2 ** rng.uniform(14.5, 19)
        truths = US_A_BYTE * half, 1e-3 / US_A_BYTE, half
        small, large = (
            regime_of(SIZES[part], scatter.draw(rng, US_A_BYTE * (half + SIZES[part])))
            for part in (LATENCY_BOUND, BANDWIDTH_BOUND)
        )
        of_small = small.alpha_us, small.beta_gb_s, small.half_bytes
        printed = *of_small, large.alpha_us, large.beta_gb_s
        for name, interval, truth in zip(names, printed, truths + truths[:2], strict=True):
            if interval:
                covered[name].append(contains(interval, truth))
    # Six launches have 96.9 % between the ends of all their means.
    limits = 0.93, 0.97 if scatter.number > MIN_PAIRS else 0.985
    return [Figure(f"{scatter}: {name}", own, *limits) for name, own in covered.items()]


def crossovers(scatter: Launches, rng: Rng, first_us: Any, second_us: Any) -> list[Crossover]:
    """What `fit` says of two algorithms with these true times."""
    fits = [
        Fit(
            machine_id="m",
            software_id="s",
            world_size=2,
            hosts=1,
            collective="all_reduce",
            shape=None,
            datatype="float32",
            redop="sum",
            mode="isolated",
            in_place=False,
            variant="copied",
            memory="shared",
            algorithm=name,
            library=None,
            run_ids=[str(number) for number in range(scatter.number)],
            sizes_bytes=SIZES.tolist(),
            times_us=times_us.tolist(),
            regimes=REGIMES,
        )
        for name, true_us in (("first", first_us), ("second", second_us))
        for times_us in [scatter.draw(rng, true_us)]
    ]
    return crossovers_of(fits)


def overtaken(scatter: Launches, rng: Rng, n: int) -> list[Figure]:
    """The second has the lower start-up and 10 to 100 % more time a byte, so the first overtakes it
    at a size from 32 KiB to 16 MiB: whether that is found, and whether its interval has it."""
    found, covered = list[bool](), list[bool]()
    for _ in range(n // 2):
        at, more, half = 2 ** rng.uniform(15, 24), rng.uniform(0.1, 1.0), 2 ** rng.uniform(14.5, 19)
        first_us = US_A_BYTE * (half + at * more + SIZES)
        second_us = US_A_BYTE * (half + (1 + more) * SIZES)
        records = crossovers(scatter, rng, first_us, second_us)
        sizes = [each.size_bytes for each in records if each.size_bytes]
        found.append(len(sizes) == 1 and records[0].faster_above == "first")
        covered += [len(sizes) == 1 and contains(sizes[0], at)] * bool(sizes)
    return [
        Figure(f"{scatter}: found", found, 0.90),
        Figure(f"{scatter}: inside", covered, 0.92, 0.98 if scatter.number > MIN_PAIRS else 1.0),
    ]


def invented(scatter: Launches, slower: float, rng: Rng, n: int) -> list[Figure]:
    """Pairs of which one is slower by this share at all sizes: those with a crossover."""
    told = list[bool]()
    for _ in range(n // 2):
        true_us = US_A_BYTE * (2 ** rng.uniform(14.5, 19) + SIZES)
        records = crossovers(scatter, rng, true_us, (1 + slower) * true_us)
        told.append(any(each.size_bytes for each in records))
    return [Figure(f"{scatter}, {slower:.0%} apart", told, most=0.05)]


LAUNCHES: Sequence[Launches] = [
    Launches(6, 0.005, "common"),
    Launches(6, 0.03),
    Launches(10, 0.015, "heavy"),
    Launches(20, 0.015, "common"),
]
CLAIMS: dict[str, list[Simulation]] = {
    "95 % intervals of a fit's alpha, beta and n_1/2": [
        partial(line_coverage, scatter) for scatter in LAUNCHES
    ],
    "The size at which one algorithm overtakes": [
        partial(overtaken, scatter) for scatter in LAUNCHES
    ],
    "A crossover that does not exist": [
        partial(invented, scatter, slower)
        for scatter in (LAUNCHES[1], LAUNCHES[3])
        for slower in (0.0, 0.01)
    ],
}
