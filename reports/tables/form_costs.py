"""The forms of a layer, or the splits of a step, of a run that overlaps compute and communication,
and what they cost beside each other in the same rounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reports.tables.footprint_table import is_footprint
from reports.tables.rows import cost_us, costs_of, fastest_cases
from wiretax.common.grouped import grouped
from wiretax.record.blocks import paired
from wiretax.record.case import LIBRARY, is_contender, work_of
from wiretax.record.schema import Case, Result, RoundCosts, Rounds
from wiretax.record.stats import Interval, autocorrelation, median_interval

OURS = "ours"


@dataclass
class Form:
    """A row of the table. What is compared are costs by round, of the rounds that `fastest_cases`
    reports. `rho` is the correlation of the ratio of two forms in neighbouring rounds."""

    name: str
    case: Case
    report_us: Rounds
    rho: float = 0.0

    @property
    def us(self) -> float:
        """The figure of its case."""
        return cost_us(self.case) or 0.0


Forms = Mapping[str, Form]  # by kind: OURS, or the algorithm


def groups(result: Result) -> list[tuple[list[Case], Forms]]:
    """The cases of each shape, in the order of the run, and its forms."""
    costs, shapes = costs_of(result), grouped(result.cases, work_of)
    found = [(cases, forms_of(cases, costs)) for cases in shapes.values()]
    ratios = list[NDArray[np.float64]]()
    for _, forms in found:
        rounds = [form.report_us for form in forms.values()]
        ratios += [np.divide(*paired(other, rounds[0])) for other in rounds[1:]]
    rho = autocorrelation(ratios)
    for _, forms in found:
        for form in forms.values():
            form.rho = rho

    return found


def forms_of(cases: Sequence[Case], costs: RoundCosts) -> Forms:
    """The best form of each kind. A name has the variant if several competed, and what was chosen
    for it."""

    def kind_of(case: Case) -> str:
        kind = case.algorithm.partition("+")[0]
        is_ours = kind.startswith("then_") and kind != LIBRARY and not is_contender(case)
        return OURS if is_ours else kind

    forms = {}
    timed = [case for case in cases if len(costs[case.case]) > 1 and not is_footprint(case)]
    for kind, rivals in grouped(timed, kind_of).items():
        (chosen,), report = fastest_cases([rivals], costs)
        if chosen is None or not report[chosen.case]:
            continue
        name = chosen.algorithm.replace("_library", f" {chosen.library}")
        if is_contender(chosen):
            name = f"{name.partition('_')[0]} {chosen.library}"
        if len({case.variant for case in rivals if case.algorithm == chosen.algorithm}) > 1:
            name += f" {chosen.variant}"
        if chosen.chosen:
            name += f", {chosen.chosen}"
        forms[kind] = Form(name, chosen, report[chosen.case])

    return forms


def compare(
    forms: Forms,
    kind: str,
    other: str,
    operation: Callable[..., NDArray[np.float64]] = np.subtract,
) -> Interval | None:
    """`beside` of two forms; None if one is missing."""
    if kind not in forms or other not in forms:
        return None
    return beside(forms[kind], forms[other], operation)


def beside(
    form: Form, other: Form, operation: Callable[..., NDArray[np.float64]] = np.subtract
) -> Interval | None:
    """A form's cost less another's in microseconds, or over it with np.divide, round by round; None
    if they have no round in common."""
    form_us, other_us = paired(form.report_us, other.report_us)
    if not len(form_us):
        return None
    return median_interval(operation(form_us, other_us), form.rho, operation is np.subtract)
