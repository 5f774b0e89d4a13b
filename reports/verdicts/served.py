"""What a difference of a call is worth of a served token: `compare --tpot-ms MS --calls N`."""

import argparse
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from reports.store.program import BENCH
from reports.store.schema import Result
from reports.store.stats import Interval
from reports.tables.sentences import interval_text, lay_out, number, plain_table, size_text, some
from reports.verdicts.judge import Comparison

HEADINGS = "", "size", "us a call [95 %]", "ms a token [95 %]", "%"


class Worth(NamedTuple):
    """A cell's difference, variant less baseline: in us a call, in ms a token, and as a percentage
    of the token, each with its ends or None."""

    name: str
    size_bytes: int
    us: Interval
    ms: Interval
    percent: Interval


def tpot_ms(text: str) -> float:
    """Milliseconds of a token, above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0

    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not the ms of a token, above 0")

    return value


def worth(comparison: Comparison, tpot_ms: float, calls: int) -> tuple[list[Worth], list[str]]:
    """The worth of each cell, and the titles of cells whose calls do not fit into the token."""
    found, too_long = list[Worth](), list[str]()
    cells: Any = comparison.cells.itertuples()
    for cell in cells:
        if cell.is_wrong or not np.isfinite(cell.ratio):
            continue
        if calls * cell.baseline_us > 1e3 * tpot_ms:
            too_long.append(cell.title)
            continue

        ends = [cell.low, cell.high] if np.isfinite(cell.high) else []
        us = [cell.baseline_us * (ratio - 1) for ratio in (cell.ratio, *ends)]
        scales = 1.0, calls / 1e3, calls / 10 / tpot_ms
        figures = [_interval([scale * value for value in us]) for scale in scales]
        found.append(Worth(cell.name, cell.size_bytes, *figures))

    return found, too_long


def _interval(values: Sequence[float]) -> Interval:
    value, low, high = values if len(values) > 1 else (values[0], None, None)
    return value, low, high


def skew_us(launches: Sequence[Result]) -> float:
    """The median time between the first rank's arrival at a call and the last one's; NaN if the
    runs do not tell."""
    skews = [
        case.arrival_skew_us.median
        for launch in launches
        for case in launch.cases
        if case.arrival_skew_us
    ]
    return float(np.median(skews)) if skews else math.nan


def record(comparison: Comparison, tpot_ms: float, calls: int) -> dict[str, Any]:
    found, too_long = worth(comparison, tpot_ms, calls)
    return {
        "tpot_ms": tpot_ms,
        "calls": calls,
        "worth": [each._asdict() for each in found],
        "longer_than_the_token": too_long,
        "arrival_skew_us": [skew_us(side) for side in zip(*comparison.pairs, strict=True)],
    }


def as_text(comparison: Comparison, tpot_ms: float, calls: int) -> str:
    """The table, what it assumes, and the observed skew between ranks, which is not in it."""
    found, too_long = worth(comparison, tpot_ms, calls)
    rows = [
        [
            each.name,
            size_text(each.size_bytes),
            interval_text(each.us, _signed),
            interval_text(each.ms, _signed),
            f"{each.percent[0]:+.2f}",
        ]
        for each in found
    ]
    title = f"{calls} calls in a token of {number(tpot_ms)} ms: variant - baseline"
    closing = ["This holds if every call is on the token's critical path."]
    if too_long:
        closing.append(f"Left out, longer than the token: {some(too_long)}.")

    skews = [skew_us(side) for side in zip(*comparison.pairs, strict=True)]
    if np.isfinite(skews).all():
        first, second = map(number, skews)
        arrivals = f"The ranks arrived {first} us apart (baseline; variant {second}), and the "
        arrivals += "times count from the last arrival."
    else:
        arrivals = "How far apart the ranks arrived was not observed: the times may include it."
    closing.append(
        f"{arrivals} Skew between the ranks of an engine comes on top, and no transport shortens "
        f"it: {BENCH}allreduce --arrival-skew shows its cost."
    )
    return lay_out([], [], [(title, plain_table(HEADINGS, rows))] if rows else [], closing)


def _signed(value: float) -> str:
    return f"{value:+.3f}"
