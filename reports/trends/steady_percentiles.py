"""A percentile of a run's steps that is steady from run to run, by what its case lines keep.

Where about 1 % of the steps are slow, the P99 of one run is a slow step and that of the next is
not. Its mean over samples of as many steps (Harrell and Davis, Biometrika 69, 1982) moves with
their share instead: it told a change of one series from 0.1 % to 1 % of slow steps by the eighth
run in 19 of 20 simulated histories, the plain P99 in 2 (runs of 1,000 steps)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from wiretax.record.tails import PERCENTILES, SLOW_RATIO

# A sample's percentile is at a place of all steps that varies about normally: equal parts of it.
DEVIATES = ndtri((np.arange(32) + 0.5) / 32)


def steady_us(observed: NDArray[Any], name: str) -> NDArray[np.float64]:
    """The percentile of this name of each observation, (n,) in us, NaN where the run has none: the
    geometric mean over samples, between the percentiles, the share of slow steps and the worst."""
    share, n_steps = PERCENTILES[name], np.maximum(observed["n_steps"], 1)[:, None]
    width = np.sqrt(share * (1 - share) / n_steps)
    places = np.clip(share + DEVIATES * width, 0, 1)

    # What is known: so large a share of the steps takes so long at the most.
    shares = [*PERCENTILES.values(), 1 - observed["slow_share"], 1.0]
    known_us = [observed[each] for each in PERCENTILES]
    worst_us = np.where(observed["step_worst_us"] > 0, observed["step_worst_us"], np.nan)
    known_us += [SLOW_RATIO * observed["step_p50_us"], worst_us]
    reached, us = (np.stack(np.broadcast_arrays(*each), axis=1) for each in (shares, known_us))
    is_known = (us > 0) & (reached < 1)
    reached, us = np.where(is_known, reached, 1.0), np.where(is_known, us, us[:, -1:])
    order = np.argsort(reached, axis=1)
    reached, logs = (np.take_along_axis(each, order, 1) for each in (reached, np.log(us)))

    # Straight lines between them, each as far as the samples go along it.
    spans = np.maximum(np.diff(reached), 1e-12)[:, :, None]
    parts = np.clip((places[:, None] - reached[:, :-1, None]) / spans, 0, 1).mean(axis=2)
    means_us = np.exp(logs[:, 0] + (np.diff(logs) * parts).sum(axis=1))
    return np.asarray(np.where(observed[name] > 0, means_us, np.nan))
