"""Claims on `fit` (coverage of its intervals) and on `history` (a change missed, invented or
misplaced), by synthetic curves and histories."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from reports.store.stats import ar1
from reports.trends.alpha_beta import fit_lines, parts
from reports.trends.changes import Step, judge
from reports.verdicts.verdict import Floats, evidence
from tests.calibration.synthetic import LAUNCH_EXCESS, OUTLYING, Figure, Rng, Simulation, deviates

SIZES = np.array([16384.0 * 2**step for step in range(12)])
US_A_BYTE = 1e-4  # 10 GB/s
CURVES = 3  # a replication, because the limits of the intervals of fits are close to their rates
N_SERIES, RUNS = 84, 100  # of a history
STEP = 3.0  # in standard deviations
# Spreads, the run after the step at which `history` must report it, and how often at the least.
LATE_STEPS = (10.0, 2, 0.85), (5.0, 3, 0.75), (3.0, 8, 0.65)
AGES = 1, 2, 3, 8
SPELL, NIGHTS = 0.1 / 0.015, 5  # all series are slower by 10 % for five nights, at 1.5 % noise
MONTH = range(RUNS - 29, RUNS + 1)  # looks after each of the last 30 runs


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


def coverage(scatter: Launches, rng: Rng, curves_us: Floats) -> list[Figure]:
    """How often the intervals of each part's alpha and beta (here us a byte) cover the truth: the
    line that fits the true times, (n, sizes), best."""
    times_us = scatter.draw(rng, curves_us[:, None])[:, 0]
    # Six launches have 96.9 % between the ends of all their means.
    limits = 0.93, 0.97 if scatter.number > 6 else 0.985
    figures = []
    for words, part in zip(("latency-bound", "bandwidth-bound"), parts(SIZES), strict=True):
        truths = fit_lines(SIZES[part], curves_us[:, None, part])
        lines = fit_lines(SIZES[part], times_us[..., part])
        for name, truth, of_launches in zip(("alpha", "beta"), truths, lines, strict=True):
            cells = evidence(of_launches)
            covered = (cells.log_low <= truth[:, 0]) & (truth[:, 0] <= cells.log_high)
            name = f"{scatter}: {name}, {words}"
            figures.append(Figure(name, covered.to_numpy(), *limits))
    return figures


def one_line(scatter: Launches, rng: Rng, n: int) -> list[Figure]:
    """A single line with alpha x beta from 22 to 512 KiB."""
    return coverage(scatter, rng, US_A_BYTE * (2 ** rng.uniform(14.5, 19, (CURVES * n, 1)) + SIZES))


def cache_ends(scatter: Launches, rng: Rng, n: int) -> list[Figure]:
    """Bandwidth falls to 40 to 80 % where a cache ends, somewhere from 256 KiB to 32 MiB: in half
    of the curves at one size, in the others by and by, until up to eight times this size."""
    n *= CURVES
    size, number = 2 ** rng.uniform(18, 25, (n, 1)), np.arange(n)[:, None]
    width = np.where(number % 2 == 0, 1.001, 2 ** rng.uniform(0.1, 3, (n, 1)))
    within = np.clip(SIZES / size, 1, width)
    slowed = size * (within * np.log(within) - within + 1) / np.log(width)
    slowed += np.maximum(SIZES - size * width, 0)
    curves_us = US_A_BYTE * (2 ** rng.uniform(14.5, 17, (n, 1)) + SIZES)
    return coverage(scatter, rng, curves_us + US_A_BYTE * rng.uniform(0.25, 1.5, (n, 1)) * slowed)


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


def steps_of(values: Floats) -> list[list[Step]]:
    """The steps of each series of a history, (series, runs)."""
    verdicts, _ = judge(values.T, len(values))
    return [steps for steps, _ in verdicts]


def is_alarm(steps: Sequence[Step]) -> bool:
    return any(not step.doubt for step in steps)


def alarms(scatter: Runs, looks: Sequence[int], most: float, rng: Rng, n: int) -> list[Figure]:
    """The share of histories without a change with an alarm after one of the `looks`, in runs."""
    replications = n // 4 if len(looks) == 1 else max(n // 5, 2)
    called = [
        any(any(map(is_alarm, steps_of(values[:, :runs]))) for runs in looks)
        for values in (scatter.draw(rng) for _ in range(replications))
    ]
    return [Figure(scatter.name, called, most=most)]


def late_steps(scatter: Runs, before: int, is_limited: bool, rng: Rng, n: int) -> list[Figure]:
    """Steps of all series after `before` runs: the share that `judge` reports in half of the series
    as a suspect at the first run, as an alarm by the second, third and eighth."""
    figures = []
    for size, limited_age, least in LATE_STEPS:
        delays = []
        for _ in range(n // 20):
            values = scatter.draw(rng)[:, : before + max(AGES)]
            values[:, before:] += size
            told = (
                age
                for age in range(1, max(AGES) + 1)
                if 2 * sum(map(is_alarm if age > 1 else bool, steps_of(values[:, : before + age])))
                >= N_SERIES
            )
            delays.append(next(told, max(AGES) + 1))
        figures += [
            Figure(
                f"{scatter.name}: {size:g} by run {age}",
                np.array(delays) <= age,
                least if is_limited and age == limited_age else 0.0,
            )
            for age in AGES
        ]
    return figures


def placed(scatter: Runs, size: float, least: float, rng: Rng, n: int) -> list[Figure]:
    """A step of `size` standard deviations in all series, 5 or 40 runs ago: whether `judge` names
    its run in half of the series, and whether its interval has it."""
    named, inside = list[bool](), list[bool]()
    for replication in range(n // 8):
        first = RUNS - (40, 5)[replication % 2]
        values = scatter.draw(rng)
        values[:, first:] += size
        steps = steps_of(values)
        right = sum(any(step.first == first for step in own) for own in steps)
        named.append(2 * right >= N_SERIES)
        found = [step for own in steps for step in own]
        inside.append(any(step.low <= first <= step.high for step in found))
    name = f"{scatter.name}, {size:g} spreads"
    held = 0.93 if least else 0.0
    return [Figure(f"{name}: right", named, least), Figure(f"{name}: inside", inside, held)]


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
            steps = [
                [
                    step
                    for step in own
                    if abs(step.first - place) <= 2 or step.low <= place <= step.high
                ]
                for own in steps_of(values[:, : place + runs])[::every]
            ]
            if is_detected := 2 * sum(map(bool, steps)) >= len(steps):
                break
        detected.append(is_detected)
        place_covered += [step.low <= place <= step.high for step in steps[0]]
        size_covered += [step.log_ratio[1] <= STEP <= step.log_ratio[2] for step in steps[0]]
    figures = [
        Figure(f"{scatter.name}: found", detected, least),
        Figure(f"{scatter.name}: place inside", place_covered),
        Figure(f"{scatter.name}: size inside", size_covered),
    ]
    return figures if every == N_SERIES else figures[:1]


def beside(scatter: Runs, series: int, rng: Rng, n: int) -> list[Figure]:
    """A step of 5 or 20 standard deviations in the first of so many series, ten runs ago: whether
    it is told, and whether another is named."""
    told, others = list[bool](), list[bool]()
    for replication in range(n // 8):
        values = scatter.draw(rng)[:series]
        values[0, RUNS - 10 :] += (5.0, 20.0)[replication % 2]
        first, *rest = map(bool, steps_of(values))
        told.append(first)
        others.append(any(rest))
    name = f"{scatter.name}, {series} series"
    return [Figure(f"{name}: told", told, 0.90), Figure(f"{name}: others", others, most=0.08)]


def after_spell(scatter: Runs, rng: Rng, n: int) -> list[Figure]:
    """One series is slower by 5 % for the last ten runs, with a spell of all 30 runs before that
    and without it."""
    figures = []
    for words, spell in (("a spell", SPELL), ("none", 0.0)):
        told = list[bool]()
        for _ in range(n // 16):
            values = scatter.draw(rng)
            values[:, RUNS - 40 : RUNS - 40 + NIGHTS] += spell
            values[0, RUNS - 10 :] += SPELL / 2
            told.append(any(step.first >= RUNS - 15 for step in steps_of(values)[0]))
        figures.append(Figure(f"{scatter.name}, {words}: told", told, 0.90))
    return figures


LAUNCHES = [
    Launches(6, 0.005, "common"),
    Launches(6, 0.03),
    Launches(6, 0.03, "heavy"),
    Launches(10, 0.005, "heavy"),
    Launches(10, 0.03),
    Launches(20, 0.015, "common"),
    Launches(20, 0.03, "heavy"),
]
NORMAL = [Runs(f"rho {rho:g}", (rho, rho)) for rho in (0.0, 0.2, 0.4, 0.7)]
HEAVY = [Runs(f"rho {rho:g}, t with 3 df", (rho, rho), heavy=True) for rho in (0.0, 0.4)]
SHARED = [Runs(f"rho {rho:g}, hang together", (rho, rho), shared=0.7) for rho in (0.0, 0.4)]
DISTURBED = [
    Runs(f"rho {rho:g}, runs go astray", (rho, rho), outliers="runs") for rho in (0.0, 0.4)
]
SERIES_OUTLIERS = Runs("rho 0, series go astray", (0.0, 0.0), outliers="series")
CLAIMS: dict[str, list[Simulation]] = {
    "A fit to one line": [partial(one_line, scatter) for scatter in LAUNCHES],
    "A fit where a cache ends": [partial(cache_ends, scatter) for scatter in LAUNCHES],
    "A history where nothing changed: any alarm": [
        partial(alarms, scatter, [RUNS], 0.05)
        for scatter in (
            *NORMAL,
            *HEAVY,
            *SHARED,
            SERIES_OUTLIERS,
            *DISTURBED,
            Runs("rho from 0 to 0.4", (0.0, 0.4)),
        )
    ],
    "The same, looked at after each of 30 runs": [
        partial(alarms, scatter, MONTH, 0.05)
        for scatter in (NORMAL[0], NORMAL[2], NORMAL[3], *SHARED, *DISTURBED)
    ],
    "A step of one series, and others named beside it": [
        partial(beside, scatter, series)
        for scatter in (NORMAL[0], NORMAL[2])
        for series in (24, 84)
    ],
    "A step of one series after a spell of all": [partial(after_spell, NORMAL[0])],
    "The run of a step in all series, of 100 runs": [
        partial(placed, scatter, size, least)
        for scatter, least in ((NORMAL[0], 0.95), (NORMAL[2], 0.95), (SHARED[0], 0.0))
        for size in (3.0, 5.0, 8.0, 10.0, 15.0)
    ],
    **{
        f"Steps of 10, 5, 3 spreads in all series after {before} runs": [
            partial(late_steps, scatter, before, is_limited) for scatter in scatters
        ]
        for before, is_limited, scatters in (
            (10, False, (NORMAL[0], SHARED[1])),
            (20, False, (NORMAL[0], SHARED[1])),
            (40, True, (NORMAL[0], NORMAL[2], *SHARED)),
        )
    },
    "A step of 3 spreads in one of 84 series, within eight runs": [
        partial(detect, scatter, N_SERIES, least, share)
        for scatter, least, share in (
            (NORMAL[0], 0.90, 8),
            (NORMAL[1], 0.90, 8),
            (NORMAL[2], 0.65, 4),
            (HEAVY[1], 0.75, 4),
            (SHARED[1], 0.75, 8),
        )
    ],
    "The same in a third of the series, within four runs": [
        partial(detect, scatter, 3, 0.80, 8) for scatter in (NORMAL[0], NORMAL[2], *SHARED)
    ],
}
