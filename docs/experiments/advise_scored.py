"""Scores `reports advise` on published pairs of arrangements.

`PYTHONPATH=. python docs/experiments/advise_scored.py [PAIRS.csv]` takes pairs.csv of
reports/references, or any file of its form. It predicts the ratio of each two rows that the rule
in pairs.toml admits, for decode and for prefill, and prints four figures. Each family of rows (a
machine and a model) has one vote:

- right: of the votes for which a winner is named (the range excludes 1), how many are right
- named: for how many of the votes a winner is named
- error: the median of |predicted / published - 1|
- held: for how many of the votes the printed range holds the published ratio

Comparisons that the advisor cannot be asked about are counted beside these, by reason. `--page`
writes the tables of docs/experiments/advise.md."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path

import numpy as np
import tomllib
from advise_estimate import quantile
from advise_rows import Unpredictable, examples, fitting_examples, passes_of
from advise_tried import ways_tried
from advise_ways import ways

from reports.advice import likely
from reports.advice.likely import Figure
from reports.advice.spans import Span
from reports.references.comparisons import Comparison, admitted, comparisons
from reports.references.pairs import PairRow, may_fit, pairs, read_pairs
from reports.references.published import FOLDER
from reports.tables.sentences import some
from wiretax.common.grouped import grouped
from wiretax.record.result import ResultError


@dataclass(frozen=True)
class Outcome:
    """A published ratio of the rates of two rows of a family, and the predicted one."""

    family: str
    published: float
    predicted: Span

    @property
    def is_named(self) -> bool:
        return self.predicted.low > 1 or self.predicted.high < 1

    @property
    def is_right(self) -> bool:
        """Whether the named winner is the published one."""
        return self.is_named and (self.predicted.value > 1) == (self.published > 1)

    @property
    def is_held(self) -> bool:
        return self.predicted.low <= self.published <= self.predicted.high

    @property
    def error(self) -> float:
        return abs(self.predicted.value / self.published - 1)


@dataclass(frozen=True)
class Scored(Outcome):
    """With the two rows."""

    comparison: Comparison
    figure: Figure


@dataclass(frozen=True)
class Score:
    """The four figures; `right` is None where no winner is named."""

    families: int
    comparisons: int
    right: float | None
    named: float
    error: float
    held: float


def published_ratios(compared: Iterable[Comparison]) -> list[tuple[Comparison, Figure, float]]:
    """Those that the rule admits."""
    return [
        (comparison, figure, ratio)
        for comparison in compared
        if comparison.axis
        for figure, ratio in (
            ("decode", comparison.decode_ratio),
            ("prefill", comparison.prefill_ratio),
        )
        if ratio
    ]


def predict(compared: Iterable[Comparison]) -> tuple[list[Scored], Counter[str]]:
    """What the advisor says of each, and how many families, by reason, it cannot be asked about."""
    formula, scored, reasons = likely.published(), list[Scored](), Counter[str]()
    for comparison, figure, ratio in published_ratios(compared):
        try:
            one, other = passes_of(comparison, figure)
        except Unpredictable as error:
            reasons[str(error)] += 1
            continue
        predicted = formula.ratio(one, other)
        scored.append(Scored(comparison.family, ratio, predicted, comparison, figure))
    return scored, reasons


def score_of(scored: Sequence[Outcome]) -> Score | None:
    """None of an empty list."""
    if not scored:
        return None
    families = Counter(each.family for each in scored)
    weights = np.array([1 / families[each.family] for each in scored])

    def share(is_so: Callable[[Outcome], bool]) -> float:
        return float(weights @ np.array([is_so(each) for each in scored]) / weights.sum())

    named = share(lambda each: each.is_named)
    return Score(
        len(families),
        len(scored),
        share(lambda each: each.is_right) / named if named else None,
        named,
        quantile(np.array([each.error for each in scored]), weights, 0.5),
        share(lambda each: each.is_held),
    )


def row_of(title: str, score: Score) -> list[str]:
    right = "-" if score.right is None else f"{score.right:.0%}"
    counts = [str(score.families), str(score.comparisons)]
    return [title, *counts, right, *(f"{x:.0%}" for x in (score.named, score.error, score.held))]


HEADINGS = ["", "families", "ratios", "right", "named", "error", "held"]
AIMS = ["aim", "", "", ">= 90%", ">= 50%", "<= 15%", "80 to 95%"]
PAGE = Path(__file__).with_name("advise.md")
BEGIN, END = "<!-- written by advise_scored.py -->", "<!-- until here -->"
# Why a prediction missed, by pair, as far as its source tells.
REASONS = tomllib.loads((Path(__file__).parent / "data" / "advise_misses.toml").read_text())
FITTED, HELD_OUT = "owners who set constants", "owners held out"


def halves_of(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """By whether an owner's figures may set a constant, and together."""
    return {
        FITTED: [each for each in scored if each.comparison.one.is_fitted],
        HELD_OUT: [each for each in scored if not each.comparison.one.is_fitted],
        "together": [*scored],
    }


def kind_of(each: Scored) -> str:
    """What moved, in a user's words."""
    one, other = each.comparison.one.split, each.comparison.other.split
    if each.comparison.axis == "transport":
        return "peers on or off"
    if each.comparison.axis == "streams":
        return "more streams"
    if one.replicas != other.replicas:
        return "replicas"
    if {one.kind, other.kind} & {"layer", "pipeline"}:
        has_tensor = max(one.tensor, other.tensor) > 1
        return "layer or pipeline, and tensor" if has_tensor else "layer or pipeline, more cards"
    return "one card, and tensor" if min(one.tensor, other.tensor) == 1 else "tensor, more cards"


def rows_of(scored: Sequence[Scored]) -> list[list[str]]:
    """The halves, and both together by kind and by figure."""
    parts = halves_of(scored) | dict(sorted(grouped(scored, kind_of).items()))
    for figure in ("decode", "prefill"):
        parts[figure] = [each for each in scored if each.figure == figure]
    return [row_of(title, score) for title, own in parts.items() if (score := score_of(own))]


def not_predicted(compared: Sequence[Comparison], reasons: Counter[str]) -> dict[str, Counter[str]]:
    """How many times two rows of a pair, or their ratios, were left out, by reason."""
    refused = Counter(each.reason for each in compared if not each.axis)
    return {"two rows not compared": refused, "ratios not predicted": reasons}


def misses(scored: Sequence[Scored]) -> list[Scored]:
    """Those outside their range, and wrong winners, the largest errors first."""
    missed = [each for each in scored if not each.is_held or (each.is_named and not each.is_right)]
    return sorted(missed, key=lambda each: -abs(log(each.predicted.value / each.published)))


def miss_row(each: Scored) -> list[str]:
    one, other = each.comparison.one, each.comparison.other
    predicted = each.predicted
    return [
        one.pair_id,
        f"{other.gpus} x {other.gpu}, {other.model}: {arrangement(other)} over {arrangement(one)}",
        each.figure,
        f"{each.published:.2f}",
        f"{predicted.value:.2f} [{predicted.low:.2f} {predicted.high:.2f}]",
        REASONS.get(one.pair_id, REASONS.get(each.family, "not known")),
    ]


def arrangement(row: PairRow) -> str:
    """`tensor of 4`"""
    kind = f"{row.split.replicas} replicas" if row.split.replicas > 1 else row.split.kind
    return kind if row.gpus == 1 else f"{kind} of {row.gpus}"


def report(compared: Sequence[Comparison]) -> str:
    """The tables as text."""
    scored, reasons = predict(compared)
    parts = [f"{len(compared)} times two rows of a pair; {len(scored)} ratios predicted."]
    for title, counted in not_predicted(compared, reasons).items():
        parts += ["", f"{title}:", *(f"{n:5d}  {why}" for why, n in counted.most_common())]
    headings = ["", "", "published", "predicted"]
    missed = [[row[0], *row[2:5]] for row in map(miss_row, misses(scored))]
    tables = [text_table([HEADINGS, AIMS, *rows_of(scored)]), "misses:"]
    return "\n\n".join(["\n".join(parts), *tables, text_table([headings, *missed])])


def text_table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *others])


def tried_rows() -> list[list[str]]:
    """Other ways to predict the ratios of pairs.csv: of owners who set constants, each by the rows
    of the others, and of those held out."""
    halves = grouped(examples(admitted(pairs())), lambda each: may_fit(each.owner))
    rows = []
    for title, predictor in ways_tried(fitting_examples(), ways()).items():
        for half, is_fitted in (("left out in turn", True), ("held out", False)):
            outcomes = [
                Outcome(each.family, exp(each.log_ratio), predictor(each))
                for each in halves[is_fitted]
            ]
            if score := score_of(outcomes):
                rows.append(row_of(f"{title}; {half}", score))
    return rows


def verdict(score: Score) -> str:
    """Which aims are met for the owners held out."""
    aims = {
        "right": score.right is not None and score.right >= 0.9,
        "named": score.named >= 0.5,
        "error": score.error <= 0.15,
        "held": 0.8 <= score.held <= 0.95,
    }
    met, missed = ([name for name in aims if aims[name] == is_met] for is_met in (True, False))
    return f"**For the owners held out** these aims are met: {some(met)}; not: {some(missed)}."


def section() -> str:
    """The part of docs/experiments/advise.md that is written here."""
    compared = comparisons(pairs())
    scored, reasons = predict(compared)
    held_out = score_of(halves_of(scored)[HELD_OUT])
    assert held_out
    left_out = [
        [title, str(n), why]
        for title, counted in not_predicted(compared, reasons).items()
        for why, n in counted.most_common()
    ]
    miss_headings = ["pair", "rate of what over what", "", "published", "predicted", "why"]
    return "\n\n".join(
        [
            BEGIN,
            markdown([HEADINGS, AIMS, *rows_of(scored)]),
            verdict(held_out),
            f"Left out of the {len(compared)} times two rows of a pair:",
            markdown([["", "times", "why"], *left_out]),
            "Other ways, with ranges that hold as many of the same owners' ratios:",
            markdown([HEADINGS, AIMS, *tried_rows()]),
            f"{len(misses(scored))} of {len(scored)} ratios are outside their range, or their "
            "winner is wrong:",
            markdown([miss_headings, *map(miss_row, misses(scored))]),
            END,
        ]
    )


def with_section(page: str) -> str:
    """The page with the written part of today."""
    before, _, rest = page.partition(BEGIN)
    return before + section() + rest.partition(END)[2]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("pairs", nargs="?", type=Path, default=FOLDER / "pairs.csv")
    parser.add_argument("--page", action="store_true", help="write docs/experiments/advise.md")
    parsed = parser.parse_args(arguments)
    if parsed.page:
        PAGE.write_text(with_section(PAGE.read_text()))
        return 0
    try:
        print(report(comparisons(read_pairs(parsed.pairs))))
    except ResultError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
