"""Compares the delays of `history` with PELT from ruptures at an equal rate of false alarms.

    pip install --target FOLDER ruptures
    PYTHONPATH=FOLDER python -m tests.reports.calibration.peers_of_history [REPLICATIONS] [SEED]

PELT minimises squared errors plus a penalty per change. Each condition gets the penalty with which 5 % of months
without a change raise an alarm, so PELT knows the condition and `history` does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import numpy as np

from reports.calibration.calibrated_trends import (
    LATE_STEPS,
    MONTH,
    N_SERIES,
    NORMAL,
    SHARED,
    STEP,
    Runs,
)
from reports.trends.latest import judge
from reports.verdicts.verdict import Floats

BEFORE, NEAR = 40, 2  # runs before a step, and by how many runs its place may be wrong
LEAST_PENALTY, FACTOR = 0.05, 1.03  # of the search for a penalty
KINDS: dict[
    str, Callable[[Floats], Floats]
] = {  # (series, runs) to signals, (signals, runs, dimensions)
    "each series": lambda units: units[:, :, None],
    "median series": lambda units: np.median(units, axis=0)[None, :, None],
    "all series at once": lambda units: units.T[None],
}


def signals(kind: str, values: Floats) -> Floats:
    """The signals in units of each series' spread, which comes from differences of neighbouring runs."""
    spread = np.median(np.abs(np.diff(values)), axis=-1, keepdims=True) / 0.6745 / np.sqrt(2)
    return np.ascontiguousarray(KINDS[kind](values / spread))


def changes(signal: Floats, penalty: float) -> list[int]:
    """The first run after each change. With a linear kernel and a penalty, KernelCPD is PELT in C."""
    import ruptures  # type: ignore[import-not-found]  # no dependency of Wiretax

    return [
        int(end)
        for end in ruptures.KernelCPD("linear", min_size=1).fit(signal).predict(pen=penalty)[:-1]
    ]


def pelt(kind: str, penalty: float, values: Floats) -> list[list[int]]:
    return [changes(signal, penalty) for signal in signals(kind, values)]


def history(values: Floats) -> list[list[int]]:
    return [[step.first for step in own] for own, _ in judge(values, N_SERIES)]


def quiet_penalty(kind: str, values: Floats) -> float:
    """The least penalty without an alarm at any look of a month."""
    penalty = LEAST_PENALTY
    for runs in MONTH:
        for signal in signals(kind, values[:, :runs]):
            while changes(signal, penalty):
                penalty *= FACTOR
    return penalty


def told_by(
    detect: Callable[[Floats], list[list[int]]], values: Floats, runs: int, series: slice
) -> bool:
    """Whether half of the `series` have a change near the step at one of the first `runs` looks after it."""
    for after in range(1, runs + 1):
        places = detect(values[:, : BEFORE + after])
        own = places if len(places) == 1 else places[series]
        near = [any(abs(place - BEFORE) <= NEAR for place in places) for places in own]
        if 2 * sum(near) >= len(near):
            return True
    return False


def compare(scatter: Runs, rng: np.random.Generator, n: int) -> None:
    months = [scatter.draw(rng) for _ in range(n)]
    is_alarm = [any(any(history(month[:, :runs])) for runs in MONTH) for month in months]
    methods: dict[str, Callable[[Floats], list[list[int]]]] = {
        f"history, {np.mean(is_alarm):.1%} of months": history
    }
    for kind in KINDS:
        penalty = float(np.quantile([quiet_penalty(kind, month) for month in months], 0.95))
        methods[f"PELT, {kind}, penalty {penalty:.3g}"] = partial(pelt, kind, penalty)
    cases = [(size, runs, slice(None)) for size, runs in LATE_STEPS] + [(STEP, 8, slice(1))]
    told: dict[str, list[list[bool]]] = {method: [[] for _ in cases] for method in methods}
    for _ in range(n):
        for case, (size, runs, series) in enumerate(cases):
            values = scatter.draw(rng)
            values[series, BEFORE:] += size
            for method, detect in methods.items():
                told[method][case].append(told_by(detect, values, runs, series))
    for method, of_cases in told.items():
        print(
            f"{scatter.name:<22} {method:<38}"
            + "".join(f"{np.mean(hits):>7.0%}" for hits in of_cases),
            flush=True,
        )


if __name__ == "__main__":
    replications, seed = map(int, [*sys.argv[1:], *["100", "1"][len(sys.argv) - 1 :]])
    print("reported by then: 10 spreads in all series, 5 in all, 3 in all, 3 in one".rjust(108))
    print(f"{'':<61}" + "".join(f"{words:>7}" for words in ("run 1", "run 3", "run 8", "run 8")))
    for number, scatter in enumerate((NORMAL[0], NORMAL[2], *SHARED)):
        compare(scatter, np.random.default_rng([seed, number]), replications)
