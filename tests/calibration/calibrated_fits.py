"""Claims on `fit`: how often the intervals of alpha and beta that it prints contain the truth."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from reports.trends.fit import LATENCY_BOUND_BYTES, regime_of
from reports.verdicts.verdict import Floats
from tests.calibration.synthetic import LAUNCH_EXCESS, OUTLYING, Figure, Rng, Simulation, deviates

SIZES = np.array([16384 << step for step in range(12)])
PARTS = {
    "small": SIZES[SIZES <= LATENCY_BOUND_BYTES],
    "large": SIZES[SIZES > LATENCY_BOUND_BYTES],
}
US_A_BYTE = 1e-4  # 10 GB/s


@dataclass(frozen=True)
class Launches:
    """How so many launches scatter around a line: `spread` of the log of a time; `common`: 70 % of
    the variance for all sizes; `heavy`: Student's t, and 3 % of launches are slower."""

    number: int
    spread: float
    kind: str = ""

    def __str__(self) -> str:
        words = f"{self.number} launches", f"{self.spread * 100:g} %", self.kind
        return ", ".join(filter(None, words))

    def draw(self, rng: Rng, line_us: Floats) -> Floats:
        """Launches of these times, (launches, sizes)."""
        is_heavy, common = self.kind == "heavy", 0.7 if self.kind == "common" else 0.0
        shared = deviates(rng, (self.number, 1), is_heavy)
        own = deviates(rng, (self.number, len(line_us)), is_heavy)
        logs = self.spread * (np.sqrt(common) * shared + np.sqrt(1 - common) * own)
        if is_heavy:
            is_slow = rng.random(shared.shape) < OUTLYING
            logs += rng.exponential(LAUNCH_EXCESS, shared.shape) * is_slow
        return np.asarray(line_us * np.exp(logs))


def one_line(scatter: Launches, rng: Rng, n: int) -> list[Figure]:
    """Lines whose alpha is worth 22 to 512 KiB: how often the printed intervals contain the alpha
    and the beta, of the small sizes, which latency bounds, and of the large ones."""
    covered: dict[str, list[bool]] = {
        f"{scatter}: {name}, {words}": [] for words in PARTS for name in ("alpha", "beta")
    }
    for _ in range(n):
        alpha_us = US_A_BYTE * 2 ** rng.uniform(14.5, 19)
        for words, sizes in PARTS.items():
            regime = regime_of(sizes, scatter.draw(rng, alpha_us + US_A_BYTE * sizes))
            truths = ("alpha", regime.alpha_us, alpha_us), ("beta", regime.beta_gb_s, 10.0)
            for name, figure, truth in truths:
                if figure:
                    _, low, high = figure
                    covered[f"{scatter}: {name}, {words}"].append(
                        (low or 0) <= truth <= (high or np.inf)
                    )
    # Six launches have 96.9 % between the ends of all their means.
    limits = 0.93, 0.97 if scatter.number > 6 else 0.985
    return [Figure(name, values, *limits) for name, values in covered.items()]


CLAIMS: dict[str, list[Simulation]] = {
    "The intervals of a fit": [
        partial(one_line, scatter)
        for scatter in (
            Launches(6, 0.005, "common"),
            Launches(6, 0.03),
            Launches(10, 0.03, "heavy"),
            Launches(20, 0.015, "common"),
        )
    ],
}
