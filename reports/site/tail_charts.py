"""The charts of a run's steps: at each size all percentiles, and P50 and P99 over sizes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reports.kit.chart import Chart, Curve, chart_of
from reports.kit.page import Section
from reports.tables.figure import DrawnLine
from reports.tables.plot import Quantity, span_of
from reports.tables.sentences import size_text
from wiretax.record.schema import Estimate, Result
from wiretax.record.tails import PERCENTILES, percentile, steps_needed, steps_of_case

# A percentile is drawn by the steps of which one takes longer: P50 at 2, P90 at 10, P99 at 100.
# These are the preferred numbers of ISO 3, ten of each decade, up to more steps than a run has.
DECADE = 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8, 10
ONE_IN = [first * 10**decade for decade in range(7) for first in DECADE]


def percentiles_section(result: Result, lines: Sequence[DrawnLine]) -> list[Section]:
    """The percentiles of the steps of these lines: at each size, of which the reader chooses one,
    and P50 and P99 over sizes. None of a run without steps."""
    drawn = [line for line in lines if line.is_shown]
    cases = [case for line in drawn for case in line.cases if case.n_steps]
    if not cases:
        return []

    calls = cases[0].calls
    step = f"chain of {calls} calls" if calls > 1 else "call"
    sizes = sorted({case.size_bytes for case in cases})
    charts = [_at_size(size, step, drawn, result) for size in sizes]
    needed = [f"P{100 * share:g} {steps_needed(share):,}" for share in PERCENTILES.values()]
    numbers = sorted(case.n_steps or 0 for case in cases)
    said = (
        f"{step.partition(' ')[0].capitalize()}s needed: {', '.join(needed)}. The cases here have "
        f"{numbers[0]:,} to {numbers[-1]:,}"
    )
    said += "." if result.run.imported_from else "; --iters sets how many."
    drawings = [*filter(None, charts), *_over_sizes(step, drawn)]
    return [Section(f"Percentiles of a {step}", [said], charts=drawings)]


def _at_size(size: int, step: str, lines: Sequence[DrawnLine], result: Result) -> Chart | None:
    """The percentiles of each line at a size; None if no line has enough steps for a P50."""
    tallies = [
        (line, steps)
        for line in lines
        for case in line.cases
        if case.size_bytes == size and (steps := steps_of_case(result, case.case))
    ]
    most = max((steps.n for _, steps in tallies), default=0)
    if most < steps_needed(0.5):
        return None

    one_in = [each for each in ONE_IN if steps_needed(1 - 1 / each) <= most]
    curves = []
    for line, steps in tallies:
        spans = [_span(percentile(steps, 1 - 1 / each)) for each in one_in]
        curves.append(Curve(line.name, line.role, np.transpose(spans)))

    title = f"{size_text(size)}: time of a {step} by percentile"
    return Chart(title, one_in, curves, "us", "one_in", choice=size_text(size))


def _over_sizes(step: str, lines: Sequence[DrawnLine]) -> list[Chart]:
    """P50 and P99 over sizes, at first of the first two lines, as a rule ours and the library; none
    of one size, or without a P99."""

    def chart(name: str, field: str, style: str = "") -> Chart:
        named = [
            replace(line, name=f"{name} {line.name}", role=line.role + style, is_shown=at < 2)
            for at, line in enumerate(lines)
        ]
        title = f"P50 and P99 of a {step}"
        return chart_of(Quantity(title, "us", lambda case: _span(getattr(case, field)), {}), named)

    middle, tail = chart("P50", "step_p50_us"), chart("P99", "step_p99_us", " dotted")
    if len(middle.x) < 2 or not tail.lines:
        return []
    both = sorted([*middle.lines, *tail.lines], key=lambda line: not line.shown)
    return [replace(middle, lines=both)]


def _span(estimate: Estimate | None) -> tuple[float, float, float]:
    """A percentile and the ends of its interval, NaN for what is missing."""
    if estimate is None:
        return span_of((None, None, None))
    return span_of((estimate.value, estimate.ci_low, estimate.ci_high))
