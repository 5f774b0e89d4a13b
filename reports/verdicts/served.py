"""What a difference of a call is worth of a served token: `compare --tpot-ms MS --calls N`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reports.store.program import BENCH
from reports.store.schema import Result
from reports.tables.sentences import interval_text, lay_out, number, plain_table, size_text, some
from reports.verdicts.judge import Comparison

HEADINGS = "", "size", "us a call [95 %]", "ms a token [95 %]", "%"


def worth(comparison: Comparison, tpot_ms: float, calls: int) -> dict[str, Any]:
    """The difference of each cell, variant less baseline, with its ends, NaN if they are unknown:
    in `us` a call, in `ms` a token, and as `percent` of the token; the titles of cells whose calls
    do not fit into the token; and how far apart the ranks of both sides arrived."""
    cells = comparison.cells[~comparison.cells.is_wrong & comparison.cells.ratio.notna()]
    is_long = calls * cells.baseline_us > 1e3 * tpot_ms
    us = (cells[["ratio", "low", "high"]] - 1).mul(cells.baseline_us, axis=0).to_numpy()
    scales = {"us": 1.0, "ms": calls / 1e3, "percent": calls / 10 / tpot_ms}
    found = cells[["name", "size_bytes"]].assign(
        **{name: (scale * us).tolist() for name, scale in scales.items()}
    )
    return {
        "tpot_ms": tpot_ms,
        "calls": calls,
        "worth": found[~is_long],
        "longer_than_the_token": [*cells.title[is_long]],
        "arrival_skew_us": [skew_us(side) for side in zip(*comparison.pairs, strict=True)],
    }


def skew_us(launches: Sequence[Result]) -> float:
    """The median time between the first rank's arrival at a call and the last one's; NaN if the
    runs do not tell."""
    skews = [
        case.arrival_skew_us.median
        for launch in launches
        for case in launch.cases
        if case.arrival_skew_us
    ]
    return float(np.median(skews)) if skews else np.nan


def as_text(comparison: Comparison, tpot_ms: float, calls: int) -> str:
    """The table, what it assumes, and the observed skew between ranks, which is not in it."""
    found = worth(comparison, tpot_ms, calls)
    rows = [
        [
            each.name,
            size_text(each.size_bytes),
            interval_text(each.us, "{:+.3f}".format),
            interval_text(each.ms, "{:+.3f}".format),
            f"{each.percent[0]:+.2f}",
        ]
        for each in found["worth"].itertuples()
    ]
    title = f"{calls} calls in a token of {number(tpot_ms)} ms: variant - baseline"
    closing = ["This holds if every call is on the token's critical path."]
    if too_long := found["longer_than_the_token"]:
        closing.append(f"Left out, longer than the token: {some(too_long)}.")

    skews = found["arrival_skew_us"]
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
