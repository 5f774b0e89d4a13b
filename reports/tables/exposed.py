"""A run that overlaps compute and communication, as text and as a picture: the exposed
communication of each form of a fused operation, and whether fusing pays; or the time of a step of
decode or prefill by each split of the model, and the all-reduce time that changes the verdict."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reports.store.case import (
    COMMUNICATES,
    COMPUTE,
    FUSED,
    LIBRARY,
    Costs,
    Rounds,
    find_states,
    paired,
    work_of,
)
from reports.store.schema import Case, Result
from reports.store.stats import Interval, median_interval
from reports.tables import sentences
from reports.tables.figure import Bar, Target, draw_bars
from reports.tables.headline import Point, contains_one, headline, without_version
from reports.tables.rows import best, costs_of, ratio_value, rounds_of
from reports.tables.rows import interval_text as ratio_text
from reports.tables.run_text import lay_out_run
from reports.tables.sentences import EVEN_RATIO, has_gpus, number, plain_table

OURS = "ours"
TENSOR, PIPELINE = "tensor_parallel", "pipeline_parallel"
TENSOR_LIBRARY = "tensor_parallel_library"
UNITS = (
    "us = all work and reading the result, slowest rank; exposed = us less the compute alone in "
    "the same rounds, negative by chance or if the result reaches its reader faster; hidden = "
    "share of the library's exposed us. Odd rounds choose between variants, even ones report."
)
FUSED_COLUMNS = {"": 31, "us": 7, "exposed us [95 %]": 21, "hidden": 6, "#wrong": 6}
STEP_COLUMNS = {
    "": 25,
    "ms\na step": 7,
    "tokens/s": 8,
    "exposed ms\n[95 %]": 19,
    "of\nstep": 5,
    "#wrong": 6,
}
# From Okabe and Ito's palette.
COLOURS = {
    LIBRARY: "black",
    FUSED: "#D55E00",
    OURS: "#0072B2",
    TENSOR: "#D55E00",
    TENSOR_LIBRARY: "#444444",
    PIPELINE: "#0072B2",
    COMPUTE: "#BBBBBB",
    "sequence_parallel": "#009E73",
}


@dataclass
class Form:
    """A row of the table. Costs are by round; `report_us` are the even rounds if the odd ones chose
    between several variants."""

    name: str
    case: Case
    costs_us: Rounds
    report_us: Rounds

    @property
    def median_us(self) -> float | None:
        """The median over the reported rounds; None without a round."""
        return float(np.median([*self.report_us.values()])) if self.report_us else None


Forms = Mapping[str, Form]


def shapes(result: Result) -> list[list[Case]]:
    """The cases of each shape, in the order of the run."""
    by_work: dict[str, list[Case]] = {}
    for case in result.cases:
        by_work.setdefault(work_of(case), []).append(case)
    return list(by_work.values())


def groups(
    result: Result, forms_of: Callable[[Sequence[Case], Costs], Forms]
) -> list[tuple[list[Case], Forms]]:
    """The cases of each shape and its forms, by the costs in the link's longest state."""
    states = find_states(result.blocks)
    costs = costs_of(result, states, states.longest)
    return [(cases, forms_of(cases, costs)) for cases in shapes(result)]


def fused_forms(cases: Sequence[Case], costs: Costs) -> Forms:
    """The best forms by kind: COMPUTE, LIBRARY, OURS and FUSED. A name has the variant if several
    competed, and the build or the number of chunks."""
    by_kind: dict[str, list[Case]] = {kind: [] for kind in (COMPUTE, LIBRARY, OURS, FUSED)}
    for case in cases:
        kind = case.algorithm.partition("+")[0]
        if kind.startswith("then_") and kind != LIBRARY:
            kind = OURS
        if kind in by_kind and len(costs[case.case]) > 1:
            by_kind[kind].append(case)
    forms = {}
    for kind, rivals in by_kind.items():
        chosen = best(rivals, costs)
        if chosen is None:
            continue
        name = f"then {chosen.library}" if chosen.library else chosen.algorithm
        if len({case.variant for case in rivals if case.algorithm == chosen.algorithm}) > 1:
            name += f" {chosen.variant}"
        if detail := (chosen.chosen or "").removeprefix(chosen.algorithm):
            name += f", {detail.removeprefix('+')}"
        report = costs if len(rivals) == 1 else rounds_of([chosen], costs, 0)
        forms[kind] = Form(name, chosen, costs[chosen.case], report[chosen.case])
    return forms


def split_forms(cases: Sequence[Case], costs: Costs) -> Forms:
    """The fastest variant of each algorithm."""
    splits: dict[str, Form] = {}
    for case in cases:
        name = f"{TENSOR}, {case.library}" if case.library else case.algorithm
        form = Form(name, case, costs[case.case], costs[case.case])
        rivals = splits.get(case.algorithm, form), form
        splits[case.algorithm] = min(rivals, key=lambda form: form.median_us or float("inf"))
    return splits


def compare(
    forms: Forms,
    kind: str,
    other: str,
    operation: Callable[..., NDArray[np.float64]] = np.subtract,
) -> Interval | None:
    """A form's cost less another's in microseconds, or over it with np.divide, round by round; None
    if a form is missing or they have no round in common."""
    if kind not in forms or other not in forms:
        return None
    form_us, other_us = paired(forms[kind].report_us, forms[other].costs_us)
    return median_interval(operation(form_us, other_us)) if len(form_us) else None


def exposed_us(forms: Forms, kind: str) -> Interval | None:
    """The exposed time of a form, None without it, without communication or compute alone."""
    communicates = kind in forms and forms[kind].case.algorithm.startswith(COMMUNICATES)
    return compare(forms, kind, COMPUTE) if communicates else None


def time_text(interval: Interval | None, unit: float = 1.0) -> str:
    """`5.73 [5.51 5.92]` with the digits of the widest, or `1.2e+06 [1.1e+06 1.3e+06]`."""
    if interval is None:
        return "-"
    median, *ends = [end / unit for end in interval if end is not None]
    most = max(map(abs, (median, *ends)))
    form = f".{sentences.digits(most)}f" if most < 999_999.5 else ".1e"
    return f"{median:{form}}" + (f" [{ends[0]:{form}} {ends[1]:{form}}]" if ends else "")


def fused_text(result: Result) -> str:
    """A table for each shape, at most 80 columns, and the verdicts; ends with a newline."""
    tables, verdicts = [], []
    for cases, forms in groups(result, fused_forms):
        library, rows = exposed_us(forms, LIBRARY), []
        for kind, form in forms.items():
            exposed, hidden = exposed_us(forms, kind), "-"
            if exposed and library and library[0] > 0 and kind != LIBRARY:
                hidden = f"{(library[0] - exposed[0]) / library[0]:.0%}"
            rows.append(
                [
                    form.name,
                    number(form.median_us),
                    time_text(exposed),
                    hidden,
                    sentences.count(form.case.n_wrong),
                ]
            )
        rows += [
            [case.algorithm, "WRONG", "-", "-", sentences.count(case.n_wrong)]
            for case in cases
            if case.status == "wrong"
        ]
        tables.append((fused_title(cases[0]), plain_table(FUSED_COLUMNS, rows)))
        verdicts += [fused_verdict(cases[0], forms)] if forms else []
    if result.run.world.get("hosts", 1) != 1:
        verdicts = ["No fused form spans hosts: its ranks must map each other's memory."]
    types = ", ".join(sorted({case.datatype for case in result.cases}))
    work = f"{types} on the wire, isolated; seed {result.run.seed}"
    return lay_out_run(result, headline([result], fused_points), [work, UNITS], tables, verdicts)


def fused_points(result: Result) -> list[Point]:
    """The headline's figures: the faster of ours and fused at the first and the last shape."""
    figures = []
    for cases, forms in groups(result, fused_forms):
        measured = [kind for kind in (FUSED, OURS) if kind in forms and forms[kind].median_us]
        if measured:
            kind = min(measured, key=lambda kind: forms[kind].median_us or 0.0)
            ratio, shape = compare(forms, LIBRARY, kind, np.divide), cases[0].shape or {}
            label = (
                f"{shape['tokens']} tokens"
                if "tokens" in shape
                else sentences.size_text(cases[0].size_bytes)
            )
            library = forms[LIBRARY].case.library if LIBRARY in forms else None
            figures.append(
                Point(
                    label,
                    forms[kind].median_us or 0.0,
                    "us",
                    ratio_value(ratio),
                    without_version(library),
                    not contains_one(ratio),
                )
            )
    return [*figures[:1], *figures[1:][-1:]]


def fused_title(case: Case) -> str:
    """`model llama-3.1-70b, layer qkv, tokens 256, hidden 8192, columns 128, scale 1/64; 8 MiB`."""
    return f"{', '.join(sentences.shape_words(case.shape))}; {sentences.size_text(case.size_bytes)}"


def fused_verdict(case: Case, forms: Forms) -> str:
    """Whether fusing pays at this shape."""
    work = sentences.spoken(fused_title(case).partition(";")[0])
    gain, loss = compare(forms, OURS, FUSED), compare(forms, FUSED, OURS)
    if gain is None or loss is None or COMPUTE not in forms:
        return f"{work}: not all forms were measured."
    name = sentences.spoken(forms[OURS].name.replace("then_", "unfused ", 1))
    ours_us = exposed_us(forms, OURS)
    if (gain[1] or 0) > 0:
        words = f"fused exposes {time_text(gain)} us less than {name}"
        if ours_us and ours_us[0] > 0:
            words += f", {gain[0] / ours_us[0]:.0%} of its communication"
    elif (loss[1] or 0) > 0:
        words = f"fused exposes {time_text(loss)} us more than {name}"
    else:
        words = f"fused and {name} do not clearly differ ({time_text(gain)} us)"
    return f"{work}: {words}."


def draw_fused(result: Result, path: Target) -> None:
    """Exposed communication with its intervals, into an .svg or .png file. Raises ResultError for a
    run without a measured form, or a file that cannot be written."""
    panels = []
    for cases, forms in groups(result, fused_forms):
        exposed = {kind: exposed_us(forms, kind) for kind in forms}
        bars = [
            Bar(
                forms[kind].name,
                interval[0],
                time_text(interval),
                COLOURS[kind],
                ends=interval[1:],
            )
            for kind, interval in exposed.items()
            if interval
        ]
        if bars:
            alone = f"compute alone {number(forms[COMPUTE].median_us)} us"
            panels.append((textwrap.fill(f"{fused_title(cases[0])}; {alone}", 90), bars))
    draw_bars(
        path,
        result,
        panels,
        "exposed communication, us: the time of a form less the time of the compute alone",
    )


def step_text(result: Result) -> str:
    """A table for each number of chats, at most 80 columns, and a verdict; ends with a newline."""
    tables, verdicts = [], []
    for cases, steps in groups(result, split_forms):
        rows = []
        for algorithm, step in steps.items():
            cells, time_us = ["-", "-", "-", "-"], step.median_us
            if time_us is not None:
                exposed, shape = exposed_us(steps, algorithm), step.case.shape
                tokens = shape.get("tokens") or shape["slots"]
                speed = "-" if algorithm == COMPUTE else number(1e6 * tokens / time_us)
                cells = [
                    number(time_us / 1e3),
                    speed,
                    time_text(exposed, 1e3),
                    f"{exposed[0] / time_us:.0%}" if exposed else "-",
                ]
            elif step.case.status == "wrong":
                cells[2] = "WRONG"
            rows.append([step.name, *cells, sentences.count(step.case.n_wrong)])
        tables.append((step_title(cases[0]), plain_table(STEP_COLUMNS, rows)))
        verdicts += step_verdict(result, cases[0], steps)
    case = result.cases[0]
    shape = {name: value for name, value in case.shape.items() if name not in ("tokens", "slots")}
    return lay_out_run(
        result,
        headline([result], step_points),
        [
            f"{', '.join(sentences.shape_words(shape))}; "
            f"{calls(case)} dependent all-reduces a step, {case.datatype} on the wire; "
            f"seed {result.run.seed}",
            "exposed = a step less the compute of a step split by tensor, in the same rounds",
        ],
        tables,
        verdicts,
    )


def step_points(result: Result) -> list[Point]:
    """The headline's figures: a step split by tensor with the fewest and the most chats or tokens,
    and how many times as fast it is as one split by layers."""
    figures = []
    for cases, steps in groups(result, split_forms):
        if TENSOR in steps and (time_us := steps[TENSOR].median_us):
            ratio = compare(steps, PIPELINE, TENSOR, np.divide)
            figures.append(
                Point(
                    step_title(cases[0]).partition(";")[0],
                    time_us / 1e3,
                    "ms a step",
                    ratio_value(ratio),
                    "pipeline parallel",
                    not contains_one(ratio),
                )
            )
    return [*figures[:1], *figures[1:][-1:]]


def calls(case: Case) -> int:
    """The number of all-reduces in a step split by tensor."""
    return 2 * int(case.shape["layers"])


def step_title(case: Case) -> str:
    """`slots 2; 32 KiB an all-reduce`."""
    unit = "tokens" if "tokens" in case.shape else "slots"
    return f"{unit} {case.shape[unit]}; {sentences.size_text(case.size_bytes)} an all-reduce"


def step_verdict(result: Result, case: Case, steps: Forms) -> list[str]:
    """The faster split at this number of chats, and the all-reduce time that changes the answer."""
    work = step_title(case).partition(";")[0]
    ratio = compare(steps, PIPELINE, TENSOR, np.divide)
    exposed, flip = compare(steps, TENSOR, COMPUTE), compare(steps, PIPELINE, COMPUTE)
    if ratio is None or exposed is None or flip is None:
        return [f"{work}: no verdict, compute, tensor and pipeline have no round in common."]
    _, low, high = ratio
    faster = (
        "TP is faster"
        if (low or 0) > EVEN_RATIO
        else "PP is faster"
        if (high or np.inf) * EVEN_RATIO < 1
        else "no clear difference"
    )
    chosen = steps[TENSOR].case.chosen
    by = f" (TP by {sentences.spoken(chosen)})" if chosen else ""
    here_us, flip_us = (interval[0] / calls(case) for interval in (exposed, flip))
    change = (
        f"The answer flips where an all-reduce exposes {number(flip_us)} us; here it exposes "
        f"{number(here_us)} us."
    )
    if flip_us <= 0:
        change = "TP's compute alone is no faster than PP: no all-reduce is fast enough."
    if not has_gpus(result):
        hosts = " a host" * (result.run.world.get("hosts", 1) != 1)
        change += (
            f" This holds for these cores, which share one memory{hosts}; cards have one each."
        )
    return [f"{work}: {faster}, PP/TP {ratio_text(ratio)}{by}.", change]


def draw_steps(result: Result, path: Target) -> None:
    """Milliseconds of a step with the exposed part hatched, into an .svg or .png file. Raises
    ResultError for a run without a measured step, or a file that cannot be written."""
    panels = []
    for cases, steps in groups(result, split_forms):
        bars = []
        for algorithm, step in steps.items():
            if step.median_us is None:
                continue
            time_ms, exposed = step.median_us / 1e3, exposed_us(steps, algorithm)
            bars.append(
                Bar(
                    step.name,
                    time_ms,
                    number(time_ms),
                    COLOURS.get(algorithm, "#CC79A7"),
                    hatched=max(exposed[0] / 1e3, 0.0) if exposed else 0.0,
                )
            )
        if bars:
            panels.append((step_title(cases[0]), bars))
    draw_bars(path, result, panels, "ms a step; hatched: exposed communication")
