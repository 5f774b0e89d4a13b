"""An audit of `auto`: how much longer it takes than the best candidate, at each size, variant and
mode."""

from statistics import mean, median

import numpy as np

from bench.tuning.winners import gains, heats_of, turns
from reports.tables.sentences import lay_out, plain_table, size_text
from wiretax.record.schema import Result

LEAST_ROUNDS = 6  # of the best
HEADINGS = "size", "auto/\nbest", "auto", "best"


def audited(result: Result) -> str:
    """The tables and the mean."""
    rows: dict[str, list[list[str]]] = {}
    regrets: list[float] = []
    heats = heats_of(result.cases, result.counted.costs_us)
    for heat, candidates in sorted(heats.items()):
        auto = next((each for each in candidates if each.is_untuned), None)
        enough = [each for each in candidates if len(each.rounds) >= LEAST_ROUNDS]
        if not auto or not enough:
            continue
        best = min(enough, key=lambda each: median(turns(each.rounds, 1).values()))
        # In the even rounds, since the odd ones chose the best.
        ratios = gains(auto, best, is_confirmed=False)
        if not len(ratios):
            continue
        ratio = max(1.0, float(np.median(ratios)))
        regrets.append(ratio)
        row = [size_text(heat.size_bytes), f"{ratio:.2f}", auto.name, best.name]
        rows.setdefault(f"{heat.mode}, {heat.variant}", []).append(row)

    if not regrets:
        return "audit: no case was measured often enough; allow more time (--max-time)\n"
    said = (
        f"auto: mean regret {100 * (mean(regrets) - 1):.1f} %, largest "
        f"{100 * (max(regrets) - 1):.0f} %, of {len(regrets)} cells"
    )
    return lay_out(
        [], [], [(title, plain_table(HEADINGS, own)) for title, own in rows.items()], [said]
    )
