"""An audit of `auto`: how much longer it takes than the best candidate, at each size, variant and
mode, and how much longer its model alone would."""

from collections.abc import Callable
from statistics import mean, median

import numpy as np

from bench.tuning.winners import Candidate, Heat, gains, heats_of, turns
from reports.store.schema import Result
from reports.tables.sentences import lay_out, plain_table, size_text

LEAST_ROUNDS = 6  # of the best
HEADINGS = "size", "auto/\nbest", "model/\nbest", "auto", "model", "best"


def regret(chosen: Candidate, best: Candidate) -> float | None:
    """The median of chosen over best in the even rounds, since the best was chosen on the odd ones,
    and at least 1; None without a common round."""
    if chosen.name == best.name:
        return 1.0
    ratios = gains(chosen, best)
    return max(1.0, float(np.median(ratios))) if len(ratios) else None


def audited(result: Result, by_model: Callable[[Heat], str]) -> str:
    """The tables and the means; `by_model` names the choice of the model for a case."""
    rows: dict[str, list[list[str]]] = {}
    regrets: dict[str, list[float]] = {"auto": [], "model": []}
    for heat, candidates in sorted(heats_of(result.cases, result.counted.costs_us).items()):
        named = {candidate.name: candidate for candidate in candidates}
        auto = next((each for each in candidates if each.is_untuned), None)
        enough = [each for each in candidates if len(each.rounds) >= LEAST_ROUNDS]
        if not auto or not enough:
            continue
        best = min(enough, key=lambda each: median(turns(each.rounds, 1).values()))
        model = named.get(by_model(heat))
        cells = {"auto": regret(auto, best), "model": model and regret(model, best)}
        for name, ratio in cells.items():
            regrets[name] += [ratio] if ratio else []
        texts = [f"{ratio:.2f}" if ratio else "-" for ratio in cells.values()]
        row = [size_text(heat.size_bytes), *texts, auto.name, by_model(heat), best.name]
        rows.setdefault(f"{heat.mode}, {heat.variant}", []).append(row)

    if not rows:
        return "audit: no case was measured often enough; allow more time (--max-time)\n"
    means = [
        f"{name}: mean regret {100 * (mean(ratios) - 1):.1f} %, largest "
        f"{100 * (max(ratios) - 1):.0f} %, of {len(ratios)} cells"
        for name, ratios in regrets.items()
        if ratios
    ]
    return lay_out(
        [], [], [(title, plain_table(HEADINGS, own)) for title, own in rows.items()], means
    )
