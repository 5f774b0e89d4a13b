"""A run that overlaps compute and communication as text: the exposed communication of each form of
a fused operation, and whether fusing pays; or of each split of the model in a step of decode or
prefill, and the all-reduce time that changes the verdict."""

from collections.abc import Sequence

import numpy as np

from reports.tables import stable_price
from reports.tables.footprint_table import footprint_of, is_matmul, name_of, sentence_of, table_of
from reports.tables.form_costs import OURS, Forms, compare, groups
from reports.tables.headline import Point, headline
from reports.tables.rows import (
    TOO_FEW,
    are_unlike,
    cost_us,
    ratio_text,
    software_notes,
    sums_in_software,
    verdict_of,
)
from reports.tables.run_text import lay_out_run
from reports.tables.sentences import (
    counted,
    interval_text,
    number,
    plain_table,
    shape_words,
    size_text,
    without_version,
    wrong_text,
)
from reports.tables.traced_parts import parts_reasons, parts_tables
from wiretax.record.case import COMMUNICATES, COMPUTE, FUSED, LIBRARY, TENSOR, TENSOR_LIBRARY
from wiretax.record.schema import Case, Result
from wiretax.record.stats import Interval

PIPELINE, SEQUENCE = "pipeline_parallel", "sequence_parallel"
LATE, ON_TIME = "tensor_parallel_late", "tensor_parallel_on_time"
UNITS = (
    "us = all work and reading the result, slowest rank; exposed = us less the compute alone in "
    "the same rounds, negative by chance or if the result reaches its reader faster; hidden = "
    "share of the library's exposed us. Odd rounds choose between variants; where even ones choose "
    "another, exposed and hidden are of these alone."
)
NO_VERDICT = "no verdict: the compute alone took longer than with its collective."
HEADINGS = "", "us", "exposed us [95 %]", "hidden", "#wrong"


def exposed_us(forms: Forms, kind: str) -> Interval | None:
    """The exposed time of a form, None without it, without communication or compute alone."""
    communicates = kind in forms and forms[kind].case.algorithm.startswith(COMMUNICATES)
    return compare(forms, kind, COMPUTE) if communicates else None


def is_below_zero(exposed: Interval | None) -> bool:
    """Whether an exposed time is below 0 by more than chance: then its compute alone was disturbed,
    or reads its result more slowly, and the time says nothing about communication."""
    if exposed is None:
        return False
    middle, _, high = exposed
    return (middle if high is None else high) < 0


def render(result: Result) -> str:
    """A table for each shape, at most 80 columns, and the verdicts; ends with a newline."""
    tables, verdicts, unmeasured = [], [], list[str]()
    for cases, forms in groups(result):
        library = exposed_us(forms, LIBRARY) or exposed_us(forms, TENSOR_LIBRARY)
        library_form = forms.get(LIBRARY) or forms.get(TENSOR_LIBRARY)
        rows = []
        for kind, form in forms.items():
            exposed, hidden = exposed_us(forms, kind), "-"
            is_alike = library_form and not are_unlike(result.run, library_form.case, form.case)
            is_ours = not form.case.library and kind not in (LATE, ON_TIME)
            if exposed and library and library[0] > 0 and is_alike and is_ours:
                share = min(1 - exposed[0] / library[0], 1)
                hidden = "-" if is_below_zero(exposed) else f"{share:.0%}"
            time, wrong = number(form.us), wrong_text(form.case)
            rows.append([form.name, time, interval_text(exposed), hidden, wrong])
        rows += [
            [case.algorithm, "WRONG", "-", "-", wrong_text(case)]
            for case in cases
            if case.status == "wrong"
        ]
        rows += [
            [case.algorithm, number(cost_us(case)), "-", "-", wrong_text(case)]
            for case in alone(cases, forms)
        ]
        case = cases[0]
        work = ", ".join(shape_words(case.shape))
        if not rows and not table_of(cases):
            unmeasured.append(label(case) if is_step(case) else work)
            continue
        tables.append((f"{work}; {size_text(case.size_bytes)}", plain_table(HEADINGS, rows)))
        use = _faster_split(result, case, forms) if is_step(case) else _faster_form(forms)
        if beside := table_of(cases):
            tables.append(("", beside))
            use = sentence_of(cases) if {*forms} <= {COMPUTE} else f"{use} {sentence_of(cases)}"
        if prices := stable_price.table_of(result.run, forms):
            tables.append(("", prices))
            use += stable_price.sentence_of(result.run, forms)
        use += _without_lateness(forms)
        verdicts.append(f"{label(case) if is_step(case) else work}: {use}")

    types = ", ".join(sorted({case.datatype for case in result.cases}))
    head = [f"{types} on the wire, isolated; seed {result.run.seed}", UNITS]
    head += software_notes(result.cases)
    tables += parts_tables(result, label)
    verdicts += parts_reasons(result)
    if unmeasured:
        verdicts.append(f"nothing was measured of {', '.join(unmeasured)}.")
    return lay_out_run(result, headline([result], points), head, tables, verdicts)


def points(result: Result) -> list[Point]:
    """The headline's figures at the first and the last shape: the faster of ours and fused beside
    the library, or a step split by tensor beside one split by layers."""
    figures = []
    for cases, forms in groups(result):
        own, other = ((TENSOR,), PIPELINE) if is_step(cases[0]) else ((FUSED, OURS), LIBRARY)
        measured = [kind for kind in own if kind in forms]
        if measured:
            kind = min(measured, key=lambda kind: forms[kind].us)
            ratio = compare(forms, other, kind, np.divide)
            if ratio and are_unlike(result.run, forms[other].case, forms[kind].case):
                ratio = None
            library = (ratio and forms[other].case.library) or "pipeline parallel"
            time_us = forms[kind].us
            is_soft = bool(ratio) and sums_in_software(forms[other].case)
            name = without_version(library)
            figures.append(Point(label(cases[0]), time_us, "us", ratio, name, is_soft))
        elif beside := footprint_of(cases):
            first, _, factor = next((each for each in beside if is_matmul(each[0])), beside[0])
            said = f"{label(cases[0])}: {name_of(first)}"
            figures.append(Point(said, factor.median, "times its time alone"))
        elif timed := [*(form.case for form in forms.values()), *alone(cases, forms)]:
            said = f"{label(cases[0])}: {timed[0].algorithm}"
            figures.append(Point(said, cost_us(timed[0]) or 0.0, "us"))

    return [*figures[:1], *figures[1:][-1:]]


def alone(cases: Sequence[Case], forms: Forms) -> list[Case]:
    """The cases that were measured in one round, too few for a form, if no other of their form was
    measured in more."""
    kinds = {form.case.algorithm for form in forms.values()}
    return [
        case
        for case in cases
        if case.status == "ok"
        and case.time_us
        and case.time_us.n_blocks == 1
        and case.algorithm not in kinds
    ]


def is_step(case: Case) -> bool:
    """Whether the case is a step of decode or prefill."""
    return "layers" in (case.shape or {})


def label(case: Case) -> str:
    """`256 tokens`, `1 slot`, or else the size."""
    for noun in ("token", "slot"):
        if n := (case.shape or {}).get(f"{noun}s"):
            return counted(n, noun)

    return size_text(case.size_bytes)


def _faster_form(forms: Forms) -> str:
    """The form to use."""
    gain = compare(forms, OURS, FUSED)
    if gain is None or COMPUTE not in forms:
        return "not all forms were measured."
    if any(is_below_zero(exposed_us(forms, kind)) for kind in (OURS, FUSED)):
        return NO_VERDICT

    name = forms[OURS].name.replace("then_", "unfused ", 1)
    if gain[1] is None:
        return f"{TOO_FEW} to compare fused with {name} ({interval_text(gain)} us)."
    words = f"fused and {name} do not clearly differ ({interval_text(gain)} us)"
    if (gain[1] or 0) > 0:
        words = f"fused exposes {interval_text(gain)} us less than {name}"
    elif (gain[2] or 0) < 0:
        words = f"fused exposes {interval_text(compare(forms, FUSED, OURS))} us more than {name}"

    return f"{words}."


def _faster_split(result: Result, case: Case, forms: Forms) -> str:
    """The faster split of the model, the all-reduce time that changes the answer, and what sequence
    parallelism gains."""
    ratio = compare(forms, PIPELINE, TENSOR, np.divide)
    exposed, flip = compare(forms, TENSOR, COMPUTE), compare(forms, PIPELINE, COMPUTE)

    if ratio is None or exposed is None or flip is None:
        return "no verdict, compute, tensor and pipeline have no round in common."
    if is_below_zero(exposed):
        return NO_VERDICT

    words = {"faster": "TP is faster", "slower": "PP is faster", TOO_FEW: f"{TOO_FEW} to say"}
    faster = words.get(str(verdict_of(ratio)), "no clear difference")
    calls = 2 * case.shape["layers"]
    here_us, flip_us = (interval[0] / calls for interval in (exposed, flip))
    here = f"{number(here_us)} us" if here_us > 0 else "less than this run can measure"
    change = (
        f"The answer flips where each of {calls} all-reduces exposes {number(flip_us)} us; "
        f"here it exposes {here}."
    )

    if flip_us <= 0:
        change = "TP's compute alone is no faster than PP: no all-reduce is fast enough."
    if not result.run.gpus:
        change += " This holds for these cores, which share one memory; cards have one each."

    return f"{faster}, PP/TP {ratio_text(ratio)}. {change}{_by_sequence(forms)}"


def _by_sequence(forms: Forms) -> str:
    """Whether the split with sequence parallelism is faster than the one with all-reduces."""
    ratio = compare(forms, SEQUENCE, TENSOR, np.divide)
    if ratio is None:
        return ""

    # A ratio is the time of the second form over the first, of which the verdict speaks.
    words = {
        "faster": "is slower",
        "slower": "is faster",
        "even": "is as fast",
        TOO_FEW: "has too few blocks to be compared",
    }
    said = words.get(str(verdict_of(ratio)), "does not clearly differ")
    return f" Sequence parallelism {said}, SP/TP {ratio_text(ratio)}."


def _without_lateness(forms: Forms) -> str:
    """What a step gains if no rank comes late: `--lateness`."""
    ratio = compare(forms, ON_TIME, LATE, np.divide)
    if ratio is None:
        return ""
    middle, low, high = (None if each is None else 100 * (1 - each) for each in ratio)
    gain, *ends = interval_text((middle or 0.0, high, low), "{:.0f}".format).split(" ", 1)
    return f" Without this lateness a step takes {' '.join([gain, '%', *ends])} less."
