"""Nights of runs whose steps are stored, some of them slow."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from tests.reports.synthetic_run import run_id, write_run
from wiretax.record.histogram import steps_of

N_BLOCKS, N = 6, 200  # steps of a case: enough for a P99
SLOW_RATIO = 5.0  # of a slow step to the others
FOUR_CASES = {
    "sizes": [16384, 65536],
    "algorithms": ["library", "two_shot"],
    "modes": ["isolated"],
}


def write_night(folder: Path, night: int, slow: Mapping[int, float] | float = 0.001, **fields):
    """Writes a night's run of four cases; `slow` has the share of slow steps of each case, or of
    some by their numbers. The whole night is faster or slower by about 1 %, the same in its median
    and in its tail."""
    rng = np.random.default_rng([36, night])
    scale = float(np.exp(rng.normal(0, 0.01))) * fields.pop("scale", 1.0)

    def change(block):
        share = slow.get(block.case, 0.001) if isinstance(slow, Mapping) else slow
        is_slow = rng.random(block.n) < share
        steps_us = block.total_us * rng.lognormal(0, 0.03, block.n) * SLOW_RATIO**is_slow
        return msgspec.structs.replace(block, steps=steps_of(steps_us))

    made = {
        "n_blocks": N_BLOCKS,
        "n": N,
        "seed": night,
        "run_id": run_id(night),
        "scale": scale,
    }
    return write_run(folder, **{"change": change} | FOUR_CASES | made | fields).path
