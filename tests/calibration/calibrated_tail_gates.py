"""Claims on verdicts on tails, of `--quantile 99` and of the warning beside verdicts on medians:
how often they are wrong if both sides are alike, and what they find. Simulated steps go through the
histogram of a block, and its figures through the functions that judge launches."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import ndtri

from reports.verdicts import verdict
from reports.verdicts.judge import resolved_slowdown
from reports.verdicts.launch_quantiles import launch_quantile_us
from reports.verdicts.tail_warning import has_worse_tail, slow_shares
from reports.verdicts.verdict import DEFAULT_MARGIN as MARGIN
from tests.calibration.calibrated_gates import CELLS, PAIRS, comparison_of, status_of
from tests.calibration.synthetic import Figure, Floats, Rng, Simulation
from wiretax.record.histogram import Tally, steps_of, tally
from wiretax.record.schema import Block

QUANTILE, STEPS = 0.99, 200  # what is judged, and the fewest steps of a launch for that
WARNED_STEPS = 100  # of a launch, from which the warning tells of 1 % of slow steps
SPREAD, LAUNCH_SPREAD = 0.03, 0.015  # of the logs of steps, and of launches
BURST = 10  # steps in a row that are slow together, where they come in bursts
MEMBERS = 6000  # simulated launches of a case, from which tables are drawn


@dataclass(frozen=True)
class Steps:
    """The steps of a case. A share of `slow` takes `times` as long: each by itself, in bursts, or
    each `period`-th from a random one on. In a share of `bad` of the launches, of all cases at
    once, ten times as many are slow. `factor` multiplies all; `spread` is that of their logs, whose
    mean time stays the same."""

    name: str
    slow: float = 0.0
    times: float = 5.0
    bursts: bool = False
    period: int = 0
    bad: float = 0.0
    factor: float = 1.0
    spread: float = SPREAD

    def launch(self, rng: Rng, n: int, is_bad: bool) -> Tally:
        """A launch of `n` steps."""
        share = self.slow * (10 if is_bad else 1)
        is_slow = rng.random(n) < share
        if self.period:
            is_slow = (np.arange(n) + rng.integers(self.period)) % self.period == 0
        elif self.bursts:
            is_slow = np.repeat(rng.random(n // BURST + 1) < share, BURST)[:n]
        noise = self.spread * rng.standard_normal(n) - (self.spread**2 - SPREAD**2) / 2
        logs = noise + LAUNCH_SPREAD * np.sqrt(0.5) * rng.standard_normal()
        steps_us = 10 * self.factor * np.exp(logs) * np.where(is_slow, self.times, 1.0)
        block = Block(
            case=0,
            block=0,
            round=0,
            n=n,
            time_us=1.0,
            steps=steps_of(steps_us),
        )
        (found,) = filter(None, [tally([block])])
        return found


EVEN = Steps("no slow steps")


class Sides:
    """Launches of a case on two sides, which differ or not, with `n` steps each, the variant's with
    `more` times as many. The second half of the members is of bad launches."""

    def __init__(self, rng: Rng, base: Steps, variant: Steps, n: int, more: float = 1.0) -> None:
        self.bad, half = base.bad, MEMBERS // 2
        self.shuffles = more == 1.0
        members = [
            [side.launch(rng, steps, place >= half) for place in range(MEMBERS)]
            for side, steps in ((base, n), (variant, round(more * n)))
        ]
        us = [[launch_quantile_us(each, QUANTILE, n) for each in side] for side in members]
        self.logs = np.log(us)
        self.shares = np.reshape(slow_shares([*members[0], *members[1]]), (2, MEMBERS))

    def draw(self, rng: Rng, tables: int, pairs: int, equal: bool) -> tuple[Floats, Floats]:
        """The log ratios of the pairs of tables, (tables, cells, pairs), and the shares of slow
        steps, (tables, cells, pairs, 2). If the sides are not equal, they differ in one cell."""
        shape = (2, tables, CELLS, pairs)
        is_bad = rng.random((2, tables, 1, pairs)) < self.bad
        member = rng.integers(MEMBERS // 2, size=shape) + MEMBERS // 2 * is_bad
        side = np.zeros(shape, np.int64)
        side[1, :, : CELLS if equal else 1] = 1
        if equal and self.shuffles:  # the members of two sides, too, differ by chance
            side = rng.integers(2, size=shape)
        common = LAUNCH_SPREAD * np.sqrt(0.5) * rng.standard_normal((2, tables, 1, pairs))
        ratios = np.diff(self.logs[side, member] + common, axis=0)[0]
        return ratios, np.moveaxis(self.shares[side, member], 0, -1)


def equal_sides(steps: Steps, n: int, more: float, rng: Rng, replications: int) -> list[Figure]:
    """Tables of sides that are alike: any verdict on a P99, any warning; and a gate that passes. Of
    1.5 times as many steps on one side nothing is claimed. Runs half of the replications."""
    most = 0.05 if more < 1.5 else 1.0
    sides = Sides(rng, steps, steps, n, more)
    ratios, shares = sides.draw(rng, replications // 2, PAIRS, equal=True)
    judged = [verdict.once(each, MARGIN) for each in ratios]
    called = [cells.verdict.isin([verdict.SLOWER, verdict.FASTER]).any() for cells in judged]
    comparisons = [comparison_of(cells) for cells in judged]
    passes = [
        status_of(each, MARGIN, resolved_slowdown(each.cells, MARGIN, QUANTILE)) == 0
        for each in comparisons
    ]
    warned = np.array([has_worse_tail(each).any() for each in shares])
    name = f"{steps.name}, {n} steps" + (f" and {more:g} x" if more > 1 else "")
    return [
        Figure(f"{name}: any verdict", np.array(called), most=most),
        Figure(f"{name}: warning", warned, most=most),
        Figure(f"{name}: pass", passes),
    ]


def worse_tails(
    base: Steps,
    variant: Steps,
    n: int,
    pairs: int,
    least: tuple[float, float],
    rng: Rng,
    replications: int,
) -> list[Figure]:
    """The tail is worse in one of the cells: its P99 is SLOWER, and the warning names it. Runs a
    tenth of the replications."""
    sides = Sides(rng, base, variant, n)
    ratios, shares = sides.draw(rng, replications // 10, pairs, equal=False)
    slower = [verdict.once(each, MARGIN).verdict[0] == verdict.SLOWER for each in ratios]
    warned = np.array([has_worse_tail(each)[0] for each in shares])
    name = f"{variant.name}, {n} steps, {pairs} pairs"
    return [
        Figure(f"{name}: SLOWER", slower, least[0]),
        Figure(f"{name}: warning", warned, least[1]),
    ]


def intervals(spread: float, n: int, least: float, rng: Rng, replications: int) -> list[Figure]:
    """The steps of one side scatter more: how often the interval of a cell contains the ratio of
    the P99s, which Harrell and Davis's of few steps overstate. Runs a tenth of the replications."""
    sides = Sides(rng, EVEN, Steps("", spread=spread), n)
    ratios, _ = sides.draw(rng, replications // 10, PAIRS, equal=False)
    cells = verdict.evidence(np.asarray(ratios[:, 0], float), MARGIN)
    truth = (spread - SPREAD) * ndtri(QUANTILE) - (spread**2 - SPREAD**2) / 2
    covered = (cells.log_low <= truth) & (truth <= cells.log_high)
    return [Figure(f"spread {100 * spread:g} %, {n} steps: interval", covered.to_numpy(), least)]


FIVE = Steps("1 % x 5", 0.01)
ALIKE = [
    EVEN,
    FIVE,
    Steps("bursts", 0.01, bursts=True),
    Steps("bad launches", 0.003, bad=0.3),
    Steps("0.1 % x 100", 0.001, 100.0),
    Steps("every 400th", period=400),
]
UNEVEN = ALIKE[2], Steps("0.1 % x 5", 0.001)
FOUND, ANY = (0.9, 0.9), (0.0, 0.0)
NOISY = Steps("0.2 % x 5 everywhere", 0.002)
AMID = Steps("1 % x 5 beside 0.2 %", 0.01)
WORSE = [
    (Steps("0.1 % x 5", 0.001), STEPS, ANY),
    (Steps("0.1 % x 5", 0.001), 10 * STEPS, ANY),
    (Steps("every 250th x 5", period=250), STEPS, ANY),
    (Steps("1 % x 1.5", 0.01, 1.5), STEPS, (0.9, 0.0)),
    (Steps("1 % x 2", 0.01, 2.0), STEPS, FOUND),
    (Steps("spread 15 %, same mean", spread=0.15), STEPS, (0.9, 0.0)),
    (Steps("10 % faster, 1 % x 5", 0.01, factor=0.9), STEPS, FOUND),
    (Steps("1 % x 5 in bursts", 0.01, bursts=True), 4 * STEPS, ANY),
]
CLAIMS: dict[str, list[Simulation]] = {
    "Tails, both sides alike, 24 cells": [
        *(partial(equal_sides, steps, STEPS, 1.0) for steps in ALIKE),
        *(partial(equal_sides, steps, STEPS, 1.2) for steps in ALIKE[:2]),
        *(partial(equal_sides, steps, STEPS, more) for steps in UNEVEN for more in (1.5, 2.0)),
        *(partial(equal_sides, steps, 4 * STEPS, 1.0) for steps in ALIKE[1:3]),
        partial(equal_sides, FIVE, 30, 1.0),
    ],
    "Tails, 1 % of steps take 5 x as long": [
        partial(worse_tails, EVEN, FIVE, 50, PAIRS, ANY),
        partial(worse_tails, EVEN, FIVE, WARNED_STEPS, PAIRS, (0.0, 0.9)),
        *(partial(worse_tails, EVEN, FIVE, STEPS, pairs, ANY) for pairs in (12, 15, 18)),
        *(partial(worse_tails, EVEN, FIVE, n, PAIRS, FOUND) for n in (STEPS, 4 * STEPS)),
        *(partial(worse_tails, NOISY, AMID, n, PAIRS, ANY) for n in (WARNED_STEPS, STEPS)),
        partial(worse_tails, NOISY, AMID, 2 * STEPS, PAIRS, FOUND),
    ],
    "Other worse tails": [
        partial(worse_tails, EVEN, variant, n, PAIRS, least) for variant, n, least in WORSE
    ],
    "The ratio of P99s": [
        *(partial(intervals, spread, STEPS, 0.0) for spread in (0.06, 0.15)),
        *(partial(intervals, spread, 4 * STEPS, 0.9) for spread in (0.06, 0.15)),
    ],
}
