"""The forms of work that computes and communicates: the compute alone, and the best ways to add the
communication. The tables of fused runs and of whole steps share them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.store.case import COMPUTE, FUSED, LIBRARY, work_of
from reports.store.schema import Case, Result
from reports.store.stats import Interval, median_interval
from reports.tables.rows import best

OURS = "ours"
KINDS = (COMPUTE, LIBRARY, OURS, FUSED)  # in the order of the table


@dataclass
class Form:
    """A row of the table: the compute alone, or the best of several ways to add the communication.
    Odd rounds choose the best way, even rounds report it. Costs are in microseconds by round."""

    name: str
    case: Case
    costs_us: pd.Series[float]
    report_us: pd.Series[float]

    @property
    def median_us(self) -> float | None:
        """The median over the reported rounds; None without a round."""
        return float(self.report_us.median()) if len(self.report_us) else None


def shapes(result: Result) -> list[list[Case]]:
    """The cases of each shape, in the order of the run."""
    groups: dict[str, list[Case]] = {}
    for case in result.cases:
        groups.setdefault(work_of(case), []).append(case)
    return list(groups.values())


def forms(cases: Sequence[Case], costs: pd.DataFrame) -> dict[str, Form]:
    """The forms of one shape by kind: the compute alone, the library's best sequential form, our
    best sequential form, and the best fused form."""
    by_kind: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    for case in cases:
        name = case.algorithm.partition("+")[0]
        kind = OURS if name.startswith("then_") and name != LIBRARY else name
        if kind in by_kind and case.status == "ok" and costs[case.case].count() > 1:
            by_kind[kind].append(case)
    return {kind: _best_form(group, costs) for kind, group in by_kind.items() if group}


def _best_form(cases: Sequence[Case], costs: pd.DataFrame) -> Form:
    """The best of one kind of form: odd rounds choose between several, even rounds report."""
    case = best(cases, costs)
    assert case
    costs_us = costs[case.case].dropna()
    variants = {each.variant for each in cases if each.algorithm == case.algorithm}
    return Form(_form_name(case, len(variants) > 1), case, costs_us,
                costs_us if len(cases) == 1 else costs_us[costs_us.index % 2 == 0])


def _form_name(case: Case, has_variants: bool) -> str:
    """The name with the variant, and the build that followed the link or the number of chunks."""
    if case.algorithm == COMPUTE:
        return "compute alone"
    variant = f" {case.variant}" if has_variants else ""
    if case.algorithm == LIBRARY:
        return f"then {case.library}{variant}"
    build, _, chunks = (case.chosen or "").partition("+")
    detail = chunks if build == case.algorithm else build
    name = re.sub("^then_", "then ", case.algorithm) + variant
    return f"{name}, {detail}" if detail else name


def difference(form: Form, other: Form) -> Interval | None:
    """The extra cost of the first form over the other, round by round, in microseconds."""
    extra_us = (form.report_us - other.costs_us).dropna()
    return median_interval(extra_us) if len(extra_us) else None


def surely(interval: Interval | None) -> bool:
    """Whether the whole interval is above zero."""
    return interval is not None and interval[1] is not None and interval[1] > 0


def interval_text(interval: Interval | None) -> str:
    """`5.73 [5.51 5.92]`, all with the digits of the widest; from a million on
    `1.2e+06 [1.1e+06 1.3e+06]`."""
    if interval is None:
        return "-"
    median, low, high = interval
    most = max(abs(end) for end in interval if end is not None)
    limits = ((9.995, ".2f"), (99.95, ".1f"), (999_999.5, ".0f"))
    digits = next((fixed for limit, fixed in limits if most < limit), ".1e")
    ends = f" [{low:{digits}} {high:{digits}}]" if low is not None and high is not None else ""
    return f"{median:{digits}}{ends}"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "-"
