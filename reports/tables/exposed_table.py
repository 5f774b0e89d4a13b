"""A run that overlaps compute and communication, as text and as a picture: the exposed
communication of every form, the compute alone or with communication, and a verdict on fusing."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from reports.store.case import COMMUNICATES, COMPUTE, FUSED, LIBRARY, find_states, paired, work_of
from reports.store.schema import Case, Result
from reports.store.stats import Interval, median_interval
from reports.tables import sentences
from reports.tables.figure import Bar, draw_bars
from reports.tables.headline import Point, contains_one, headline, without_version
from reports.tables.rows import best, costs_of, ratio_value, rounds_of
from reports.tables.sentences import lay_out_run, number, plain_table

OURS = "ours"
UNITS = (
    "us = all work and reading the result, slowest rank; exposed = us less the compute alone in "
    "the same rounds, negative by chance or if the result reaches its reader faster; hidden = "
    "share of the library's exposed us. Odd rounds choose between variants, even ones report."
)
COLUMNS = {"": 31, "us": 7, "exposed us [95 %]": 21, "hidden": 6, "#wrong": 6}
COLOURS = {LIBRARY: "black", FUSED: "#D55E00", OURS: "#0072B2"}  # from Okabe and Ito's palette


@dataclass
class Form:
    """A row of the table. Costs are by round; `report_us` are the even rounds if the odd ones chose
    between several variants."""

    name: str
    case: Case
    costs_us: Mapping[int, float]
    report_us: Mapping[int, float]

    @property
    def median_us(self) -> float | None:
        """The median over the reported rounds; None without a round."""
        return float(np.median([*self.report_us.values()])) if self.report_us else None


def shapes(result: Result) -> list[list[Case]]:
    """The cases of each shape, in the order of the run."""
    by_work: dict[str, list[Case]] = {}
    for case in result.cases:
        by_work.setdefault(work_of(case), []).append(case)
    return list(by_work.values())


def groups(result: Result) -> list[tuple[list[Case], dict[str, Form]]]:
    """The cases of each shape, and its best forms by kind: COMPUTE, LIBRARY, OURS and FUSED."""
    states = find_states(result.blocks)
    costs = costs_of(result, states, states.longest)
    return [(cases, _forms(cases, costs)) for cases in shapes(result)]


def _forms(cases: Sequence[Case], costs: Mapping[int, Mapping[int, float]]) -> dict[str, Form]:
    """A name has the variant if several competed, and the build or the number of chunks."""
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


def compare(
    forms: Mapping[str, Form],
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


def exposed_us(forms: Mapping[str, Form], kind: str) -> Interval | None:
    """The exposed time of a form, None without it, without communication or compute alone."""
    communicates = kind in forms and forms[kind].case.algorithm.startswith(COMMUNICATES)
    return compare(forms, kind, COMPUTE) if communicates else None


def interval_text(interval: Interval | None, unit: float = 1.0) -> str:
    """`5.73 [5.51 5.92]` with the digits of the widest, or `1.2e+06 [1.1e+06 1.3e+06]`."""
    if interval is None:
        return "-"
    median, *ends = [end / unit for end in interval if end is not None]
    most = max(map(abs, (median, *ends)))
    form = f".{sentences.digits(most)}f" if most < 999_999.5 else ".1e"
    return f"{median:{form}}" + (f" [{ends[0]:{form}} {ends[1]:{form}}]" if ends else "")


def render(result: Result) -> str:
    """A table for each shape, at most 80 columns, and the verdicts; ends with a newline."""
    tables, verdicts = [], []
    for cases, forms in groups(result):
        library, rows = exposed_us(forms, LIBRARY), []
        for kind, form in forms.items():
            exposed, hidden = exposed_us(forms, kind), "-"
            if exposed and library and library[0] > 0 and kind != LIBRARY:
                hidden = f"{(library[0] - exposed[0]) / library[0]:.0%}"
            rows.append(
                [
                    form.name,
                    number(form.median_us),
                    interval_text(exposed),
                    hidden,
                    sentences.count(form.case.n_wrong),
                ]
            )
        rows += [
            [case.algorithm, "WRONG", "-", "-", sentences.count(case.n_wrong)]
            for case in cases
            if case.status == "wrong"
        ]
        tables.append((title(cases[0]), plain_table(COLUMNS, rows)))
        verdicts += [verdict(cases[0], forms)] if forms else []
    if result.run.world.get("hosts", 1) != 1:
        verdicts = ["No fused form spans hosts: its ranks must map each other's memory."]
    types = ", ".join(sorted({case.datatype for case in result.cases}))
    work = f"{types} on the wire, isolated; seed {result.run.seed}"
    return lay_out_run(result, headline([result], points), [work, UNITS], tables, verdicts)


def points(result: Result) -> list[Point]:
    """The headline's figures: the faster of ours and fused at the first and the last shape."""
    figures = []
    for cases, forms in groups(result):
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


def title(case: Case) -> str:
    """`model llama-3.1-70b, layer qkv, tokens 256, hidden 8192, columns 128, scale 1/64; 8 MiB`."""
    return f"{', '.join(sentences.shape_words(case.shape))}; {sentences.size_text(case.size_bytes)}"


def verdict(case: Case, forms: Mapping[str, Form]) -> str:
    """Whether fusing pays at this shape."""
    work = sentences.spoken(title(case).partition(";")[0])
    gain, loss = compare(forms, OURS, FUSED), compare(forms, FUSED, OURS)
    if gain is None or loss is None or COMPUTE not in forms:
        return f"{work}: not all forms were measured."
    name = sentences.spoken(forms[OURS].name.replace("then_", "unfused ", 1))
    ours_us = exposed_us(forms, OURS)
    if (gain[1] or 0) > 0:
        words = f"fused exposes {interval_text(gain)} us less than {name}"
        if ours_us and ours_us[0] > 0:
            words += f", {gain[0] / ours_us[0]:.0%} of its communication"
    elif (loss[1] or 0) > 0:
        words = f"fused exposes {interval_text(loss)} us more than {name}"
    else:
        words = f"fused and {name} do not clearly differ ({interval_text(gain)} us)"
    return f"{work}: {words}."


def draw(result: Result, path: Path | IO[Any]) -> None:
    """Exposed communication with its intervals, into an .svg or .png file. Raises ResultError for a
    run without a measured form, or a file that cannot be written."""
    panels = []
    for cases, forms in groups(result):
        exposed = {kind: exposed_us(forms, kind) for kind in forms}
        bars = [
            Bar(
                forms[kind].name,
                interval[0],
                interval_text(interval),
                COLOURS[kind],
                ends=interval[1:],
            )
            for kind, interval in exposed.items()
            if interval
        ]
        if bars:
            alone = f"compute alone {number(forms[COMPUTE].median_us)} us"
            panels.append((textwrap.fill(f"{title(cases[0])}; {alone}", 90), bars))
    draw_bars(
        path,
        result,
        panels,
        "exposed communication, us: the time of a form less the time of the compute alone",
    )
