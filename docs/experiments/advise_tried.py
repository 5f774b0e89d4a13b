"""Other ways to predict the ratios of `advise_scored`, with which the formula of
`reports.advice.likely` is compared: by the same owners, with ranges that hold the same share of
what was left out."""

from collections.abc import Callable, Sequence
from math import exp

import msgspec
import numpy as np
from advise_estimate import LEVEL, Example, fit, left_out_of, log_most, quantile, votes

from reports.advice import likely
from reports.advice.likely import Formula, Way
from reports.advice.spans import Span
from wiretax.common.grouped import grouped

Predictor = Callable[[Example], Span]
Logarithm = Callable[[Example, Sequence[Example]], float]


def by_data_sheets(ways: dict[str, Way]) -> Logarithm:
    """The ratio of the upper limits: data sheets and published calls."""
    return lambda each, known: log_most(each.other, ways) - log_most(each.one, ways)


def arrangement(each: Example) -> tuple[object, ...]:
    """What is split how, without loads and machines."""
    one, other = each.one, each.other
    return one.figure, one.ranks, other.ranks, one.hand_offs > 0, other.hand_offs > 0


def by_medians(each: Example, known: Sequence[Example]) -> float:
    """The median of published ratios between the same arrangements; 0 (alike) if nobody has one."""
    same = [other for other in known if arrangement(other) == arrangement(each)]
    if not same:
        return 0.0
    return quantile(np.array([other.log_ratio for other in same]), votes(same), 0.5)


def with_constant_range(logarithm: Logarithm, known: Sequence[Example]) -> Predictor:
    """A range of one width for all, which holds LEVEL of the owners who are left out in turn."""
    ranged = [each for each in known if each.is_ranged]
    off = [
        each.log_ratio - logarithm(each, [other for other in ranged if other.owner != each.owner])
        for each in ranged
    ]
    half = quantile(np.abs(off), votes(ranged), LEVEL)

    def predictor(each: Example) -> Span:
        value = logarithm(each, [other for other in ranged if other.owner != each.owner])
        return Span(exp(value), exp(value - half), exp(value + half))

    return predictor


def kind(each: Example) -> str:
    return "cards" if each.one.hand_offs == each.other.hand_offs == 0 else "splits"


def by_mean(known: Sequence[Example], ways: dict[str, Way]) -> Logarithm:
    """Midway between the formula and the upper limits."""
    formulas, published = formulas_without(known, ways), likely.published()
    by_limits = by_data_sheets(ways)

    def logarithm(each: Example, known: Sequence[Example]) -> float:
        own = formulas.get(each.owner, published)
        return (own.log_ratio(each.one, each.other)[0] + by_limits(each, known)) / 2

    return logarithm


def formulas_without(known: Sequence[Example], ways: dict[str, Way]) -> dict[str, Formula]:
    """The formula by owner who sets constants, fitted without this owner's rows."""
    fitted = likely.published().fitted
    spreads = {"owner_spread": fitted.owner_spread, "split_spread": fitted.split_spread}
    return {
        owner: Formula(
            msgspec.structs.replace(
                fit([each for each in known if each.owner != owner], ways), **spreads
            )
        )
        for owner in {each.owner for each in known}
    }


def by_formula(known: Sequence[Example], ways: dict[str, Way], has_kinds: bool) -> Predictor:
    """The formula: for an owner who sets constants, without this owner's rows. With `has_kinds`
    more cards and other splits have a reach of their own."""
    published, without = likely.published(), formulas_without(known, ways)
    ranged = [each for each in known if each.is_ranged]
    reaches = dict[str, float]()
    for name, own in grouped(ranged, kind if has_kinds else lambda each: "all").items():
        found = [left_out_of(each, without[each.owner]) for each in own]
        off = [abs(x.example.log_ratio - x.ratio[0]) / x.ratio[1] for x in found]
        reaches[name] = quantile(np.array(off), votes(own), LEVEL)

    def predictor(each: Example) -> Span:
        own = without.get(each.owner, published)
        value, spread = own.log_ratio(each.one, each.other)
        half = reaches[kind(each) if has_kinds else "all"] * spread
        return Span(exp(value), exp(value - half), exp(value + half))

    return predictor


def ways_tried(known: Sequence[Example], ways: dict[str, Way]) -> dict[str, Predictor]:
    """What is compared, by a title."""
    formula = by_formula(known, ways, has_kinds=False)

    def ideal(each: Example) -> Span:
        """The published ratio with the width that the formula prints: what that width allows."""
        predicted = formula(each)
        ratio = exp(each.log_ratio)
        ends = predicted.low / predicted.value, predicted.high / predicted.value
        return Span(ratio, ratio * ends[0], ratio * ends[1])

    return {
        "the formula": formula,
        "1. a reach each for more cards and for other splits": by_formula(known, ways, True),
        "2. data sheets and published calls, one width": with_constant_range(
            by_data_sheets(ways), known
        ),
        "3. medians of the same arrangement, one width": with_constant_range(by_medians, known),
        "4. midway between the formula and 2, one width": with_constant_range(
            by_mean(known, ways), known
        ),
        "the published ratio itself, with the formula's width": ideal,
    }
