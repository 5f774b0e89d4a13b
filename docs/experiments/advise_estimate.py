"""Estimates the parameters of `reports.advice.likely` and how far its ranges go.

The parameters are those that published ratios and rates make most probable: each family of rows (a
machine and a model) has one vote, residuals are robust, and each parameter is held near a start. A
class (of engines, of ways between cards) has a factor of its own only if two owners or more have
rows of it. How far a range goes is the weighted quantile of the residuals of each owner's rows
against parameters without them (split conformal prediction: Vovk et al., 2005; Lei et al., JASA
2018; over folds: Barber et al., Annals of Statistics 2021)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log

import msgspec
import numpy as np
from scipy.optimize import minimize

from reports.advice.likely import (
    Array,
    Design,
    Fitted,
    Formula,
    Parameter,
    Pass,
    Reach,
    Way,
    design,
    log_us,
    terms,
)
from reports.advice.spans import Span

# Where a parameter starts, and the standard deviation of its logarithm, of `ranks` of itself. The
# starts are orders of magnitude; what the rows do not tell stays there.
START = {
    "read": Parameter(0.5, 0.6),  # beside 1: two thirds of the memory's bandwidth
    "compute": Parameter(5, 0.7),  # a fifth of the peak rate, for few tokens
    "layer": Parameter(15, 0.8),  # us: some five kernels of a graph, at 3 us each
    "mixture": Parameter(15, 0.8),  # us: as many for a router, a sort and experts
    "eager": Parameter(200, 0.8),  # us: 20 launches, at 10 us each
    "step": Parameter(500, 0.8),  # us: sampling and the engine's loop
    "call": Parameter(8, 0.8),  # us: two kernels around a call, and waiting for the later card
    "host_call": Parameter(40, 0.6),  # us: the launch of a collective
    "wire": Parameter(1, 0.6),  # a call takes what was published
    "ranks": Parameter(0.5, 0.4),  # a call of n cards takes (n/2)^this as long: trees and rings
    "bus": Parameter(1, 0.4),  # large calls reach what was published
    "hand_off": Parameter(300, 1.3),  # us: from a copy (30) to a wait by the host (3,000)
    "prefill": Parameter(3, 0.6),  # beside 1: a quarter of the peak rate
    "prefill_layer": Parameter(30, 0.8),  # us: as a layer of decode, with larger kernels
    "prefill_bus": Parameter(1, 0.4),
    "bubble": Parameter(1, 0.5),
}
CLASS_SPREAD = 0.6  # of the logarithm of a class's factor
LEAST_OWNERS = 2  # of a class
RATIO_ERROR, RATE_ERROR = 0.15, 0.4  # of a logarithm: an error from which on a residual is robust
RATE_WEIGHT = 0.25  # of a rate beside a ratio: two rates differ by the owner's settings, too
VOTE = 2.0  # of a family, beside the starts: two residuals of one standard deviation
# A spread of a range: how far owners' parameters vary, as a factor of the starts' spreads, and what
# no parameter explains. `narrowest` chooses among these.
OWNER_SPREADS, SPLIT_SPREADS = (0.3, 0.45, 0.6, 0.8, 1.0), (0.05, 0.1, 0.15, 0.2)
LEVEL = 0.875  # of the votes within a range: midway between 80 and 95 %


@dataclass(frozen=True)
class Example:
    """Two published rates of tokens/s (natural logarithms) and what their passes do. With a drafter
    only the ratio counts: `has_rates` is then false. A load that is not printed sets no parameter
    (`is_fitted`), though ranges must hold its ratio."""

    name: str
    family: str
    owner: str
    one: Pass
    other: Pass
    log_one: float
    log_other: float
    has_rates: bool
    is_ranged: bool = True  # whether its residual counts for the reach of ranges
    is_fitted: bool = True

    @property
    def log_ratio(self) -> float:
        return self.log_other - self.log_one


def votes(examples: Sequence[Example]) -> Array:
    """A family's vote is spread evenly over its examples."""
    count = defaultdict[str, int](int)
    for example in examples:
        count[example.family] += 1
    return np.array([1 / count[example.family] for example in examples])


def classes_of(examples: Sequence[Example], ways: dict[str, Way]) -> list[str]:
    """The classes that enough owners filled."""
    owners = defaultdict[str, set[str]](set)
    for example in examples:
        for one in (example.one, example.other):
            for part in terms(one, ways):
                for name in part.parameters:
                    owners[name].add(example.owner)
    return sorted(
        name for name, filled in owners.items() if ":" in name and len(filled) >= LEAST_OWNERS
    )


def robust(residuals: Array) -> tuple[Array, Array]:
    """A loss that grows as the square of a small residual and linearly with a large one, and its
    slope (pseudo-Huber)."""
    root = np.sqrt(1 + residuals**2)
    return 2 * (root - 1), 2 * residuals / root


def deaf(residuals: Array) -> tuple[Array, Array]:
    """A loss that grows as the square of a small residual and as the logarithm of a large one, and
    its slope (Cauchy): an engine that makes a sixth of what others make sets no parameter."""
    squares = residuals**2
    return np.log1p(squares), 2 * residuals / (1 + squares)


def fit(examples: Sequence[Example], ways: dict[str, Way]) -> Fitted:
    """The most probable parameters of these examples; without any the starts. The ranges are
    empty."""
    examples = [each for each in examples if each.is_fitted]
    classes = classes_of(examples, ways)
    names = [*START, *classes]
    start = np.array(
        [each.value if name == "ranks" else log(each.value) for name, each in START.items()]
        + [0.0] * len(classes)
    )
    spreads = np.array([*(each.spread for each in START.values()), *[CLASS_SPREAD] * len(classes)])
    point = start
    if examples:
        sides = [
            design([of(example) for example in examples], names, ways) for of in (_one, _other)
        ]
        loss = _loss(examples, sides, start, spreads)
        point = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x

    is_ranks = np.array(names) == "ranks"
    values = dict(zip(names, np.where(is_ranks, point, np.exp(point)).tolist(), strict=True))
    parameters = {name: Parameter(values[name], START[name].spread) for name in START}
    return Fitted(
        parameters=parameters,
        classes={name: values[name] for name in classes},
        ways=ways,
        ratio=Reach(0, 0, 0),
        rate=Reach(0, 0, 0),
        owner_spread=OWNER_SPREADS[0],
        class_spread=CLASS_SPREAD,
        split_spread=SPLIT_SPREADS[0],
        of_most={},
    )


def _one(example: Example) -> Pass:
    return example.one


def _other(example: Example) -> Pass:
    return example.other


def _loss(
    examples: Sequence[Example], sides: Sequence[Design], start: Array, spreads: Array
) -> Callable[[Array], tuple[float, Array]]:
    """What the fit makes least, at the logarithms of parameters, and its gradient."""
    weights = VOTE * votes(examples)
    ratios = np.array([example.log_ratio for example in examples])
    has_rates = RATE_WEIGHT * np.array([float(example.has_rates) for example in examples])
    rates = np.array([(example.log_one, example.log_other) for example in examples]).T

    def loss(point: Array) -> tuple[float, Array]:
        times, gradients = zip(*(log_us(side, point) for side in sides), strict=True)
        off = (point - start) / spreads
        value, slope = off @ off, 2 * off / spreads

        lost, slopes = robust((times[0] - times[1] - ratios) / RATIO_ERROR)
        value += weights @ lost
        slope = slope + (weights * slopes / RATIO_ERROR) @ (gradients[0] - gradients[1])
        for time, gradient, rate in zip(times, gradients, rates, strict=True):
            lost, slopes = deaf((log(1e6) - time - rate) / RATE_ERROR)
            value += (weights * has_rates) @ lost
            slope = slope - (weights * has_rates * slopes / RATE_ERROR) @ gradient
        return float(value), slope

    return loss


def quantile(values: Array, weights: Array, level: float) -> float:
    """The least value that so much of the weights does not exceed."""
    order = np.argsort(values)
    sums = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(np.searchsorted(sums, level), len(values) - 1)])


@dataclass(frozen=True)
class LeftOut:
    """Of an example, by parameters that its owner did not set: the predicted logarithms of the
    ratio and of both rates, each with its spread."""

    example: Example
    ratio: tuple[float, float]
    one: tuple[float, float]
    other: tuple[float, float]


def left_out_of(example: Example, formula: Formula) -> LeftOut:
    return LeftOut(
        example,
        formula.log_ratio(example.one, example.other),
        formula.log_rate(example.one),
        formula.log_rate(example.other),
    )


def with_ranges(fitted: Fitted, found: Sequence[LeftOut]) -> Fitted:
    """The parameters with how far a range of a ratio and of a rate goes."""
    ranged = [each for each in found if each.example.is_ranged]
    ratios = [(each.example, each.example.log_ratio, each.ratio) for each in ranged]
    rates = [
        row
        for each in ranged
        if each.example.has_rates
        for row in (
            (each.example, each.example.log_one, each.one),
            (each.example, each.example.log_other, each.other),
        )
    ]
    return msgspec.structs.replace(fitted, ratio=reach_of(ratios), rate=reach_of(rates))


def reach_of(rows: Sequence[tuple[Example, float, tuple[float, float]]]) -> Reach:
    """How many spreads a range goes to each side so that it holds LEVEL of the votes. The rows have
    a published logarithm, the predicted one and its spread."""
    examples = [example for example, _, _ in rows]
    off = [abs(published - predicted) / spread for _, published, (predicted, spread) in rows]
    families, owners = ({getattr(each, name) for each in examples} for name in ("family", "owner"))
    return Reach(quantile(np.array(off), votes(examples), LEVEL), len(families), len(owners))


def narrowest(examples: Sequence[Example], ways: dict[str, Way]) -> Fitted:
    """The fit whose ranges are narrowest on the owners that are left out, over OWNER_SPREADS and
    SPLIT_SPREADS: all hold LEVEL of the votes."""
    without = {
        owner: fit([each for each in examples if each.owner != owner], ways)
        for owner in {each.owner for each in examples}
    }
    fitted, candidates = fit(examples, ways), list[tuple[float, Fitted]]()
    for owner_spread in OWNER_SPREADS:
        for split_spread in SPLIT_SPREADS:
            spreads = {"owner_spread": owner_spread, "split_spread": split_spread}
            formulas = {
                owner: Formula(msgspec.structs.replace(each, **spreads))
                for owner, each in without.items()
            }
            found = [left_out_of(each, formulas[each.owner]) for each in examples]
            ranged = with_ranges(msgspec.structs.replace(fitted, **spreads), found)
            counting = [each for each in found if each.example.is_ranged]
            widths = ranged.ratio.spreads * np.array([each.ratio[1] for each in counting])
            weights = votes([each.example for each in counting])
            candidates.append((float(widths @ weights), ranged))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def text_of(fitted: Fitted) -> str:
    """`likely.toml`."""

    def line(name: str, **fields: float) -> str:
        return f"{name} = {{ " + ", ".join(f"{key} = {x:.4g}" for key, x in fields.items()) + " }"

    def fields(each: msgspec.Struct) -> dict[str, float]:
        return msgspec.structs.asdict(each)

    sections = {
        "parameters": [line(name, **fields(each)) for name, each in fitted.parameters.items()],
        "classes": [f'"{name}" = {factor:.4g}' for name, factor in fitted.classes.items()],
        "ways": [line(name, **fields(each)) for name, each in fitted.ways.items()],
        "of_most": [
            f"{name} = [{each.value:.3g}, {each.low:.3g}, {each.high:.3g}]"
            for name, each in fitted.of_most.items()
        ],
    }
    head = [
        "# Written by `PYTHONPATH=. python docs/experiments/advise_fit.py`. What each is:",
        "# reports/advice/likely.py; where it comes from: docs/experiments/advise_estimate.py.",
        f"owner_spread = {fitted.owner_spread:g}",
        f"class_spread = {fitted.class_spread:g}",
        f"split_spread = {fitted.split_spread:g}",
        line("ratio", **fields(fitted.ratio)),
        line("rate", **fields(fitted.rate)),
    ]
    tables = [line for title, own in sections.items() for line in ("", f"[{title}]", *own)]
    return "\n".join([*head, *tables, ""])


def shares_of_most(examples: Sequence[Example], ways: dict[str, Way]) -> dict[str, Span]:
    """Which share of the rate by data sheets and published calls the rates without a drafter
    reached: of decode on one card after another, of decode by tensor, and of prefill the median
    over families, and the range that holds LEVEL of them."""
    shares = defaultdict[str, dict[str, list[float]]](lambda: defaultdict(list))
    for example in examples:
        for one, log_rate in ((example.one, example.log_one), (example.other, example.log_other)):
            if example.has_rates and example.is_ranged:
                kind = (
                    one.figure if one.figure == "prefill" else "tensor" if one.ranks > 1 else "one"
                )
                shares[kind][example.family].append(exp(log_rate - log_most(one, ways)))
    result = {}
    for kind, families in shares.items():
        medians = np.array([np.median(own) for own in families.values()])
        low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        result[kind] = Span(float(np.median(medians)), float(low), float(high))
    return result


def log_most(one: Pass, ways: dict[str, Way]) -> float:
    """The logarithm of tokens/s by the data sheets and the published calls alone."""
    read_us = one.read_bytes / one.gpu.bandwidth_gb_s / 1e3
    us = max(read_us, one.flop / one.tflops / 1e6)
    way = ways[one.conditions.way]
    if one.ranks > 1:
        sent = one.call_bytes * 2 * (one.ranks - 1) / one.ranks
        us += one.calls * (way.call_us + sent / (one.conditions.link_gb_s * way.share) / 1e3)
    return log(1e6 * one.tokens / us / (one.passes + one.bubbles))
