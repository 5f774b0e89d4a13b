"""Writes runs whose steps are known."""

from typing import Any

import numpy as np

from tests.reports.synthetic_run import write_run
from wiretax.record.histogram import steps_of

N_BLOCKS, N_STEPS = 12, 100  # of a case, and of a block
CALL_US = {"library": 20.0, "auto": 5.0}


def write_steps(folder, slow_every=None, times=5.0, only="auto", mode="isolated", **fields: Any):
    """A run of 16 KiB whose steps take CALL_US, in a chain 160 times as long, with 1 % of noise;
    every `slow_every`-th of the algorithm `only` takes so many times as long, in the mode `mode`,
    or the last one of the field `modes`. Its steps in us, by
    algorithm, are in `steps_us`, if that is a dict."""
    draw = np.random.default_rng(fields.get("seed", 3))
    steps_us = fields.pop("steps_us", {})
    modes = fields.setdefault("modes", [mode])

    def change(block):
        place, algorithm = block.case // 2, [*CALL_US][block.case % 2]
        own_us = CALL_US[algorithm] * draw.normal(1, 0.01, N_STEPS)
        if slow_every and algorithm == only and place == len(modes) - 1:
            places = block.round * N_STEPS + np.arange(N_STEPS)
            own_us[places % slow_every == 0] *= times
        if modes[place] == "chained":
            own_us *= 160
        steps_us.setdefault(algorithm, []).extend(own_us)
        block.n, block.steps = N_STEPS, steps_of(own_us)
        return block

    sweep = {"sizes": [16384], "algorithms": [*CALL_US], "n_blocks": N_BLOCKS}
    return write_run(folder, change=change, **sweep | fields)
