"""The steps of cases as a histogram for Prometheus: a gauge histogram of OpenMetrics, since a run
is a snapshot and no counter; a histogram in a text file, whose format has no other kind.

All cases and runs have the same edges, so that `sum by (le)` adds them up: powers of two in ns,
at which bins of the record begin. Of the edges without a step below, only the last is written;
those above are needed, because a series that lacks one is missing from the sum there."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wiretax.record.frame import case_rows
from wiretax.record.histogram import BINS_PER_OCTAVE, Tally
from wiretax.record.schema import Result
from wiretax.record.tails import steps_of_case

STEPS = "samples"  # the column of rows that has them
NAME = "wiretax_step_time_seconds"
MEANING = (
    "Time of a step until its result is consumed, a call or a whole chain with its links, in all "
    "blocks; the sum is to 0.5 %."
)
EDGES = range(8, 31)  # 2^8 ns = 256 ns to 2^30 ns = 1.07 s
Sample = tuple[str, str, float]  # the ending of a name, its `le` if it is a bucket, and the value


def rows_with_steps(run: Result) -> Iterator[dict[str, Any]]:
    """The rows of `case_rows`, each with its samples as STEPS; None without steps."""
    for case, row in zip(run.cases, case_rows(run), strict=True):
        steps = steps_of_case(run, case.case)
        yield row | {STEPS: steps and samples_of(steps)}


def samples_of(steps: Tally) -> list[Sample]:
    """The buckets, whose counts are exact, the count and the sum in s, by the middles of bins. A
    step that takes exactly as long as an edge counts above it."""
    reached = np.append(0, np.cumsum(steps.of_bins))
    places = np.clip(np.multiply(EDGES, BINS_PER_OCTAVE) - steps.first, 0, len(steps.of_bins))
    below = reached[places].tolist()
    first = max(below.count(0) - 1, 0)
    samples: list[Sample] = [
        ("bucket", f"{2**edge / 1e9:.12g}", n)
        for edge, n in zip(EDGES[first:], below[first:], strict=True)
    ]
    sum_s = float(steps.of_bins @ steps.middles_us) / 1e6
    return [*samples, ("bucket", "+Inf", steps.n), ("count", "", steps.n), ("sum", "", sum_s)]


def step_lines(points: Sequence[tuple[str, str, list[Sample]]], is_textfile: bool) -> list[str]:
    """The lines of these points: labels, time, samples."""
    kind, prefix = ("histogram", "") if is_textfile else ("gaugehistogram", "g")
    lines = [f"# TYPE {NAME} {kind}", f"# UNIT {NAME} seconds", f"# HELP {NAME} {MEANING}"]
    for labels, time, samples in points:
        for ending, edge, value in samples:
            name = f"{NAME}_{ending if edge else prefix + ending}"
            le = f',le="{edge}"' if edge else ""
            lines.append(f"{name}{{{labels}{le}}} {value:.12g}{time}")
    return lines if points else []
