"""What stable bits cost: a stable form beside others in the same rounds. Below 0 it takes less."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from rich.table import Table

from reports.tables.form_costs import Form, Forms, beside
from reports.tables.rows import are_unlike, fastest_cases, is_noisy
from reports.tables.sentences import interval_text, number, plain_table
from wiretax.record.case import (
    FUSED,
    FUSED_STABLE,
    LIBRARY,
    TENSOR,
    TENSOR_LIBRARY,
    TENSOR_STABLE,
    is_contender,
)
from wiretax.record.schema import Run
from wiretax.record.stats import Interval

HEADINGS = "price\nus", "price\n%"


def percent_text(ratio: Interval) -> str:
    """The price in percent of what is not stable, whose costs over the stable ones are `ratio`."""
    middle, *ends = ratio
    percent = [None if each is None else 100 * (1 / each - 1) for each in (middle, *reversed(ends))]
    return interval_text((percent[0] or 0.0, percent[1], percent[2]), "{:.1f}".format)


def prices(run: Run, forms: Forms) -> Iterator[tuple[Form, Interval, str]]:
    """What the stable form costs beside our fastest fused form, or our other split, and beside the
    library's: this other form, us and percent."""
    stable = forms.get(FUSED_STABLE) or forms.get(TENSOR_STABLE)
    if stable is None:
        return
    for other in (_fastest_fused(forms), *map(forms.get, (TENSOR, LIBRARY, TENSOR_LIBRARY))):
        if other is None or are_unlike(run, other.case, stable.case):
            continue
        us, ratio = beside(stable, other), beside(other, stable, np.divide)
        if us and ratio and not is_noisy(ratio):
            yield other, us, percent_text(ratio)


def _fastest_fused(forms: Forms) -> Form | None:
    """Our fastest fused form whose bits are not stable: odd rounds choose it."""
    rivals = {
        form.case.case: form
        for kind, form in forms.items()
        if kind.startswith(FUSED) and kind != FUSED_STABLE and not is_contender(form.case)
    }
    costs_us = {number: form.report_us for number, form in rivals.items()}
    (case,), report = fastest_cases([[form.case for form in rivals.values()]], costs_us)
    return replace(rivals[case.case], report_us=report[case.case]) if case else None


def table_of(run: Run, forms: Forms) -> Table | None:
    """A row for each form beside the stable one; None without a price."""
    rows = [
        [f"stable beside {other.name}", interval_text(us), percent]
        for other, us, percent in prices(run, forms)
    ]
    return plain_table(("", *HEADINGS), rows) if rows else None


def sentence_of(run: Run, forms: Forms) -> str:
    """The first of these prices with an interval, in words: of a call, or of a step and each of
    its calls."""
    for other, us, percent in prices(run, forms):
        if us[1] is None:  # too few blocks
            continue
        share, *ends = percent.split(" ", 1)
        words = f"beside {other.name}, {' '.join([share, '%', *ends])}"
        said = f" The same bits at 1, 2, 4 and 8 ranks cost {interval_text(us)} us"
        if layers := (other.case.shape or {}).get("layers"):
            calls = 2 * layers
            each = f"{number(us[0] / calls)} us for each of {calls} calls"
            return f"{said} a step {words}: {each}."
        return f"{said} a call {words}."
    return ""
