"""Claims on tails: how often the intervals of percentiles and of shares of slow steps contain the
truth, and how far the P99 of a chain is from that of independent calls.

`python -m tests.calibration.calibrated_tails` prints the tables of docs/experiments/tails.md."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tests.calibration.synthetic import Figure, Floats, Rng, Simulation, ar1, blocks
from wiretax.record.chain_tails import beyond_middle_us, chain_beside_calls
from wiretax.record.effective_steps import rank_bounds
from wiretax.record.histogram import Tally, add, steps_of, tally
from wiretax.record.schema import Block, Estimate
from wiretax.record.tails import PERCENTILES, SLOW_RATIO, percentile, share_above

CALL_US, SPREAD = 20.0, 0.1
SLOWER = 5  # of a slow call to another
DELAY_US, GAP_US = 30.0, 5.0  # of a timer's interrupt, and between the calls that it may hit
SHARES = tuple(PERCENTILES.values())
CALLS = 160
TRUTH = 4000, 700  # blocks and steps of each from which the truth is taken


@dataclass(frozen=True)
class Noise:
    """How steps scatter: `draw` gives them in us, (blocks, n), of rng, blocks and n. Launches of
    `per_launch` blocks, if it is not 0, and else one of all. Blocks have lengths from `shortest` to
    n, evenly spread by their logs, if it is not 0. `least` is the promised coverage."""

    name: str
    draw: Callable[[Rng, int, int], Floats]
    n_blocks: int = 16
    n: int = 700
    per_launch: int = 0
    shortest: int = 0
    least: float = 0.9

    def table(self, rng: Rng) -> Tally:
        times_us = [*self.draw(rng, self.n_blocks, self.n)]
        if self.shortest:
            lengths = rng.permutation(np.geomspace(self.shortest, self.n, self.n_blocks, dtype=int))
            times_us = [row[:length] for row, length in zip(times_us, lengths, strict=True)]
        if not self.per_launch:
            return tallied(times_us)
        firsts = range(0, self.n_blocks, self.per_launch)
        return add([tallied(times_us[first : first + self.per_launch]) for first in firsts])

    def truth(self) -> list[float]:
        """The percentiles, in us, and the share of slow steps."""
        times_us = self.draw(np.random.default_rng(0), *TRUTH)
        is_slow = times_us > SLOW_RATIO * np.median(times_us)
        return [*np.quantile(times_us, SHARES), float(np.mean(is_slow))]


def blocks_of(times_us: Iterable[Floats]) -> list[Block]:
    return [
        Block(
            case=0,
            block=at,
            round=at,
            n=len(row),
            time_us=1.0,
            steps=steps_of(row),
        )
        for at, row in enumerate(times_us)
    ]


def tallied(times_us: Iterable[Floats]) -> Tally:
    found = tally(blocks_of(times_us))
    assert found
    return found


def independent(rng: Rng, n_blocks: int, n: int) -> Floats:
    return CALL_US * np.exp(SPREAD * rng.standard_normal((n_blocks, n)))


def correlated(rho: float, rng: Rng, n_blocks: int, n: int) -> Floats:
    """Each step is like the one before it; blocks are not."""
    return np.asarray(CALL_US * np.exp(SPREAD * ar1(rng.standard_normal((n_blocks, n)), rho)))


def neighbours(rho: float, rng: Rng, n_blocks: int, n: int) -> Floats:
    """Each block is like the one before it."""
    effects = SPREAD / 2 * blocks(rng, (n_blocks,), rho).astype(float)
    return independent(rng, n_blocks, n) * np.exp(effects)[:, None]


def bursts(share: float, length: float, rng: Rng, n_blocks: int, n: int) -> Floats:
    """A share of the calls is slow, in bursts of this mean length."""
    lead = int(20 * length)  # so that a block may begin within a burst
    is_slow = np.zeros((n_blocks, lead + n), bool)
    starts = rng.random(is_slow.shape) < -np.log1p(-share) / length
    for row, start in zip(*np.nonzero(starts), strict=True):
        is_slow[row, start : start + rng.geometric(1 / length)] = True
    return independent(rng, n_blocks, n) * np.where(is_slow[:, lead:], SLOWER, 1)


def timer(rate_hz: float, call_us: float, rng: Rng, n_blocks: int, n: int) -> Floats:
    """An interrupt delays the call that it hits, or none between calls."""
    period_us = 1e6 / rate_hz
    times_us = call_us * np.exp(0.03 * rng.standard_normal((n_blocks, n)))
    for row in times_us:
        ends_us = np.cumsum(row + GAP_US)
        n_fired = int(ends_us[-1] / (period_us - 2 * DELAY_US)) + 1
        delays_us = DELAY_US * np.exp(0.2 * rng.standard_normal(n_fired))
        # In the time of calls alone the next interrupt comes a delay earlier.
        fired_us = rng.uniform(0, period_us) + np.cumsum(period_us - delays_us) - period_us
        hit = np.searchsorted(ends_us, fired_us)
        is_hit = hit < n
        is_hit[is_hit] = fired_us[is_hit] > (ends_us - row)[hit[is_hit]]
        np.add.at(row, hit[is_hit], delays_us[is_hit])
    return times_us


def states(share: float, factor: float, rng: Rng, n_blocks: int, n: int) -> Floats:
    """A share of the blocks is slower, as while the link is in another state."""
    slower = np.where(rng.random(n_blocks) < share, factor, 1)
    return independent(rng, n_blocks, n) * slower[:, None]


def launches(per_launch: int, rng: Rng, n_blocks: int, n: int) -> Floats:
    """Each launch has a median, and a share of slow calls, of its own."""
    times_us = independent(rng, n_blocks, n)
    shape = n_blocks // per_launch
    factors = np.exp(SPREAD / 2 * rng.standard_normal(shape)).repeat(per_launch)
    shares = 0.015 * rng.gamma(4, 1 / 4, shape).repeat(per_launch)
    is_slow = rng.random(times_us.shape) < shares[:, None]
    return times_us * factors[:, None] * np.where(is_slow, SLOWER, 1)


NOISES = [
    Noise("independent, 16 x 100", independent, n=100),
    Noise("independent", independent),
    Noise("rho 0.9 between steps", partial(correlated, 0.9)),
    Noise("rho 0.99 between steps", partial(correlated, 0.99)),
    Noise("rho 0.9, blocks of 70 to 700", partial(correlated, 0.9), shortest=70),
    Noise("rho 0.4 between blocks", partial(neighbours, 0.4), least=0.85),
    Noise("1.5 % slow, 12 x 200", partial(bursts, 0.015, 1.0), n_blocks=12, n=200),
    Noise("1.5 % slow, one by one", partial(bursts, 0.015, 1.0)),
    Noise("1.5 % slow, 3 in a row, 16 x 100", partial(bursts, 0.015, 3.0), n=100),
    Noise("1.5 % slow, 3 in a row", partial(bursts, 0.015, 3.0)),
    Noise("the same, blocks of 3 to 14,000", partial(bursts, 0.015, 3.0), n=14_000, shortest=3),
    Noise("1 % slow, 3 in a row", partial(bursts, 0.01, 3.0)),
    Noise("1.5 % slow, 10 in a row", partial(bursts, 0.015, 10.0)),
    Noise("0.1 % slow, one by one", partial(bursts, 0.001, 1.0)),
    Noise("0.1 % slow, 3 in a row, 40 x 700", partial(bursts, 0.001, 3.0), n_blocks=40),
    Noise("timer of 250 Hz, calls of 10 us", partial(timer, 250, 10)),
    Noise("timer of 100 Hz, calls of 100 us", partial(timer, 100, 100)),
    Noise("timer of 250 Hz, calls of 1 ms", partial(timer, 250, 1000)),
    Noise("30 % of blocks 1.6 x as slow", partial(states, 0.3, 1.6)),
    Noise("the same, 40 x 250", partial(states, 0.3, 1.6), n_blocks=40, n=250),
    Noise("5 launches, 4 x 200 each", partial(launches, 4), n_blocks=20, n=200, per_launch=4),
    Noise("10 launches, 4 x 200 each", partial(launches, 4), n_blocks=40, n=200, per_launch=4),
]
UNHELD = [
    Noise("rho 0.7 between blocks", partial(neighbours, 0.7)),
    Noise("0.3 % slow, 10 in a row: 3 bursts", partial(bursts, 0.003, 10.0)),
    Noise("0.1 % slow, 10 in a row: 1 burst", partial(bursts, 0.001, 10.0)),
    Noise("10 % of blocks 3 x as slow", partial(states, 0.1, 3.0)),
]


def estimates(table: Tally) -> list[Estimate | None]:
    """The percentiles of a table, None where its steps are too few, and its share of slow steps."""
    found = [percentile(table, share) for share in SHARES]
    return [*found, share_above(table, SLOW_RATIO * table.quantile_us(0.5))]


def holds(truth: float, low: float, high: float | None) -> bool:
    return low <= truth and (high is None or truth <= high)


def coverage(noise: Noise, rng: Rng, n: int) -> list[Figure]:
    """The share of printed intervals that contain the truth, of P50, P99 and the share of slow
    steps; one without an upper end has no limit there. Runs a tenth of the replications."""
    truth = noise.truth()
    held: list[list[float]] = [[] for _ in truth]
    for _ in range(n // 10):
        for found, true, of_kind in zip(estimates(noise.table(rng)), truth, held, strict=True):
            if found and found.ci_low is not None:
                of_kind.append(holds(true, found.ci_low, found.ci_high))
    kinds = dict(zip(("P50", "P90", "P99", "P99.9", "slow"), held, strict=True))
    return [
        Figure(f"{noise.name}: {name}", kinds[name], noise.least) for name in ("P50", "P99", "slow")
    ]


def of_independent_steps(table: Tally, share: float) -> tuple[float, float]:
    """The interval of a percentile if steps were independent."""
    low, high = rank_bounds(table.n, share)
    return table.quantile_us(low), table.quantile_us(high)


def row(noise: Noise, seed: int, n: int) -> str:
    """A row of the page: coverage of the P99 if steps were independent; of each percentile and the
    share of slow steps, by all intervals and by those with an upper end, and in brackets how many
    launches have such a one."""
    truth, rng = noise.truth(), np.random.default_rng(seed)
    naive = list[bool]()
    held: list[list[bool]] = [[] for _ in truth]
    closed: list[list[bool]] = [[] for _ in truth]
    for _ in range(n):
        table = noise.table(rng)
        naive.append(holds(truth[2], *of_independent_steps(table, 0.99)))
        for number, found in enumerate(estimates(table)):
            if found and found.ci_low is not None:
                held[number].append(holds(truth[number], found.ci_low, found.ci_high))
                if found.ci_high is not None:
                    closed[number].append(held[number][-1])
    cells = [
        f"{_percent(every)}, {_percent(both)} ({100 * len(both) / n:.0f})" if every else "-"
        for every, both in zip(held, closed, strict=True)
    ]
    return f"| {noise.name} | {_percent(naive)} | {' | '.join(cells)} |"


def _percent(held: Sequence[bool]) -> str:
    return f"{100 * np.mean(held):.0f}" if held else "-"


def chain_row(noise: Noise, seed: int, n: int) -> str:
    """A row of the page on chains: how far the P99 of independent calls is from the measured one,
    and how many launches have a sentence."""
    rng = np.random.default_rng(seed)
    apart, told = list[float](), list[bool]()
    for _ in range(n):
        single = noise.draw(rng, 16, 1000)
        chains_us = noise.draw(rng, 16, 80 * CALLS).reshape(16, 80, CALLS).sum(axis=2)
        chain = tallied([*chains_us])
        _, beyond_us, _ = beyond_middle_us(tallied([*single]), CALLS)
        apart.append((chain.quantile_us(0.5) + beyond_us) / chain.quantile_us(0.99) - 1)
        told.append(bool(chain_beside_calls(blocks_of([*single]), blocks_of([*chains_us]), CALLS)))
    within = np.mean(np.abs(apart) < 0.1)
    median = f"{100 * np.median(apart):+.0f}".replace("-0", "0").replace("+0", "0")
    return f"| {noise.name} | {median} % | {100 * within:.0f} | {100 * np.mean(told):.0f} |"


CHAINS = [
    Noise("independent", independent),
    Noise("rho 0.9 between steps", partial(correlated, 0.9)),
    Noise("rho 0.99 between steps", partial(correlated, 0.99)),
    Noise("1 % slow, one by one", partial(bursts, 0.01, 1.0)),
    Noise("1 % slow, 3 in a row", partial(bursts, 0.01, 3.0)),
    Noise("1 % slow, 10 in a row", partial(bursts, 0.01, 10.0)),
    Noise("0.1 % slow, one by one", partial(bursts, 0.001, 1.0)),
    Noise("0.1 % slow, 10 in a row", partial(bursts, 0.001, 10.0)),
    Noise("timer of 250 Hz, calls of 20 us", partial(timer, 250, 20)),
    Noise("30 % of blocks 1.6 x as slow", partial(states, 0.3, 1.6)),
]
CLAIMS: dict[str, list[Simulation]] = {
    "95 % intervals of percentiles": [partial(coverage, noise) for noise in NOISES],
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Prints the tables of docs/experiments/tails.md.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "-n",
        type=int,
        default=300,
        metavar="N",
        help="launches of each kind",
    )
    arguments = parser.parse_args(argv)
    print("| steps | P99 as independent | P50 | P90 | P99 | P99.9 | slow |")
    print("|---|---|---|---|---|---|---|")
    for noise in (*NOISES, *UNHELD):
        print(row(noise, arguments.seed, arguments.n), flush=True)
    print("\n| calls | independent - measured | within 10 % | told |\n|---|---|---|---|")
    for noise in CHAINS:
        print(chain_row(noise, arguments.seed, max(1, arguments.n // 10)), flush=True)


if __name__ == "__main__":
    main()
