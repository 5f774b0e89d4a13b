"""Claims on the gate on a machine that something else slows for a while: cards that throttle, or a
neighbour on the host."""

from functools import partial

import numpy as np

from reports.verdicts import verdict
from reports.verdicts.verdict import DEFAULT_MARGIN as MARGIN
from reports.verdicts.verdict import Floats
from tests.calibration import synthetic
from tests.calibration.calibrated_gates import CELLS, EVEN, PAIRS, SLOW, comparison_of, status_of
from tests.calibration.synthetic import ROUNDS, Figure, Rng, Simulation

LAUNCHES = 2 * PAIRS  # of a campaign, in order of time
THROTTLED, THROTTLING = 0.2, 0.10  # the share of launches, and by how much their last third slows
NEIGHBOUR = 0.05  # what it costs
COMES, GOES = 0.08, 0.25  # the chances of both at each launch: it is there in a quarter of them
EFFECT = 0.10


def throttled(rng: Rng) -> Floats:
    """The log of what a card's clock adds to each block, (launches, rounds): warm cards slow down
    in the last third of some launches."""
    is_late = np.arange(ROUNDS) >= ROUNDS * 2 // 3
    is_hot = rng.random(LAUNCHES) < THROTTLED
    return np.asarray(np.log1p(THROTTLING) * (is_hot[:, None] & is_late))


def beside_a_neighbour(rng: Rng) -> Floats:
    """The same of a neighbour that comes and goes for several launches in a row."""
    there = [bool(rng.random() < COMES / (COMES + GOES))]
    while len(there) < LAUNCHES:
        there.append(bool(rng.random() < 1 - GOES) if there[-1] else bool(rng.random() < COMES))
    return np.asarray(np.log1p(NEIGHBOUR) * np.repeat(there, ROUNDS).reshape(LAUNCHES, ROUNDS))


EVENTS = {"throttling": throttled, "a neighbour": beside_a_neighbour}


def draw_ratios(name: str, rng: Rng) -> Floats:
    """The log ratios of the pairs of a campaign during these events, (cells, pairs)."""
    within = EVEN.spread * synthetic.blocks(rng, (CELLS, LAUNCHES, ROUNDS), EVEN.rho).astype(float)
    between = synthetic.between_launches(within, EVEN.spread)
    logs = np.median(within + EVENTS[name](rng), axis=-1)
    logs += between * rng.standard_normal(logs.shape)
    first = np.repeat(rng.integers(2, size=-(-PAIRS // 2)), 2)[:PAIRS]
    first[1::2] = 1 - first[1::2]  # which launch of a pair is the variant's
    place = 2 * np.arange(PAIRS)
    return np.asarray(logs[:, place + first] - logs[:, place + 1 - first])


def during(name: str, rng: Rng, n: int) -> list[Figure]:
    """Campaigns of equal variants, and of one that is slower by 10 % in a cell of each algorithm:
    the exit status of a gate without options. Runs a quarter of the replications."""
    slower = np.zeros((CELLS, 1))
    slower[SLOW] = np.log1p(EFFECT)
    statuses: dict[bool, list[int]] = {False: [], True: []}
    for _ in range(n // 4):
        ratios = draw_ratios(name, rng)
        for is_slower, own in statuses.items():
            cells = verdict.once(ratios + is_slower * slower, MARGIN)
            comparison = comparison_of(cells)
            own.append(status_of(comparison, MARGIN, comparison.resolved_slowdown))
    equal, unequal = (np.array(own) for own in statuses.values())
    return [
        Figure(f"{name}: equal, status 1", equal == 1, most=0.05),
        Figure(f"{name}: equal, pass", equal == 0, 0.90),
        Figure(f"{name}: +10 %, status 1", unequal == 1, 0.95),
    ]


CLAIMS: dict[str, list[Simulation]] = {
    "A gate while a machine is disturbed": [partial(during, name) for name in EVENTS],
}
