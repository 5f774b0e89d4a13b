"""Comparisons in words: a table of at most 80 columns, Markdown, csv and JSON. Verdicts are words,
which colour only underlines; what was allowed to differ and what threatened the figures stands above the rows.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from reports.store.case import CASE_KEY
from reports.store.foreign import markdown_text, spreadsheet_cell
from reports.store.schema import CaseHeader
from reports.store.stats import STATE_RATIO
from reports.tables.sentences import MOST_STEAL_SHARE, number, shape_text, size_text
from reports.verdicts.comparison import Cell, Comparison
from reports.verdicts.sides import Side
from reports.verdicts.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 80
MOST_THREATS = 4
COLUMNS = ("size", "base us", "variant us", "ratio [95 %]", "verdict", "MDE", "pairs")
ROW = "{:>8} {:>8} {:>10} {:>19}  {:<12} {:>6} {:>10}"
NAMING = [name for name in CASE_KEY if name not in ("size_bytes", "algorithm", "library")]


def as_text(comparisons: Sequence[Comparison]) -> str:
    """Each comparison in at most 80 columns; coloured where standard output is a terminal and NO_COLOR is unset."""
    lines = []
    for comparison, control in shown(comparisons):
        lines += [*wrapped([*head(comparison, control), *warnings(comparison)]), ""]
        lines.append(ROW.format(*COLUMNS))
        for name, cells in grouped(comparison).items():
            lines += [name, *(ROW.format(*figures(cell)) for cell in cells)]
        lines += ["", *wrapped(closing(comparison)), ""]
    text = "\n".join(line.rstrip() for line in lines)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        text = text.replace("SLOWER", "\x1b[1;31mSLOWER\x1b[0m").replace("FASTER", "\x1b[1;32mFASTER\x1b[0m")
    return text


def wrapped(sentences: Sequence[str]) -> list[str]:
    """The sentences as lines of at most 80 columns, but for a longer path, which stays whole."""
    return [line for sentence in sentences
            for line in textwrap.wrap(sentence, WIDTH, break_on_hyphens=False, break_long_words=False)]


def shown(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, Comparison | None]]:
    """The comparisons that get a table, each with the control's, if there is one: a line of the others' heads."""
    control = next((comparison for comparison in comparisons if comparison.is_control), None)
    others = [(comparison, control) for comparison in comparisons if not comparison.is_control]
    return others or [(comparison, None) for comparison in comparisons]


def head(comparison: Comparison, control: Comparison | None = None) -> list[str]:
    """What is compared with what, over how many launches, and how much these differ by themselves."""
    lines = [f"{label(comparison.variant)} against {label(comparison.baseline)}, the baseline: {_design(comparison)}",
             *comparison.about, "ratio = variant / baseline; above 1, the variant is slower"]
    trips: list[tuple[float, int]] = []
    for rtt_ns, count in sorted(state for cell in comparison.cells for state in cell.states):
        if trips and rtt_ns < STATE_RATIO * trips[-1][0]:  # the stages find the same state at about the same place
            trips[-1] = max(trips[-1], (rtt_ns, count), key=itemgetter(1))[0], trips[-1][1] + count
        else:
            trips.append((rtt_ns, count))
    if trips:
        all_pairs = sum(count for _, count in trips)
        held = ", ".join(f"{rtt_ns:.0f} ns {count / all_pairs:.0%}" for rtt_ns, count in trips)
        lines.append(f"link: each pair within one state that both launches have; flag round trip {held} of the pairs")
    if comparison.pair_sd is not None:
        lines.append(f"launches of one thing differ by {comparison.pair_sd:.1%} (standard deviation, median cell)")
    if control:
        suspected = sum(cell.is_suspect for cell in control.cells)
        spread = "" if control.pair_sd is None else f"; they differ by {control.pair_sd:.1%}"
        lines.append(f"control, the baseline's launches against each other: {suspected} of {len(control.cells)} cells "
                     f"suspected{spread}")
    return lines


def label(side: Side) -> str:
    """A side's name; of a path its last two parts."""
    return "/".join(side.name.split("/")[-2:])


def _design(comparison: Comparison) -> str:
    one, other = comparison.baseline.launches, comparison.variant.launches
    if comparison.design == "once":
        return f"{len(other)} launches against {len(one)}, not interleaved"
    assert comparison.baseline.campaign
    pairs = Counter(stage for stage, _ in {(a.stage, a.pair) for a in one} & {(b.stage, b.pair) for b in other})
    sizes = sorted({case.size_bytes for launch in other if launch.stage == "fresh" for case in launch.result.run.cases})
    fresh = f", {pairs['fresh']} fresh ones of {', '.join(map(size_text, sizes))}" if sizes else ""
    unfinished = "" if comparison.baseline.campaign.end else "; THE CAMPAIGN IS NOT FINISHED"
    return f"{pairs['first']} interleaved pairs of launches{fresh} ({comparison.design}){unfinished}"


def warnings(comparison: Comparison) -> list[str]:
    """What was allowed to differ, what the comparison lacks, and what the runs say threatens their figures."""
    found: dict[str, tuple[str, dict[int, str]]] = {}
    for which, side in enumerate((comparison.variant, comparison.baseline)):
        for launch in side.launches:
            run, end = launch.result.run, launch.result.end
            stolen = end.steal_share if end and end.steal_share else 0.0
            notes = [note for note in run.notes if not note.lower().startswith("peer memory")]
            if stolen > MOST_STEAL_SHARE:
                notes.append(f"The hypervisor withheld {stolen:.1%} of the CPU time.")
            for note in notes:
                # The same sentence with another figure (a load, a count) is said once.
                found.setdefault(re.sub(r"[\d.]+", "", note), (note, {}))[1][which] = label(side)
    by_sides = sorted(found.values(), key=lambda one: len(one[1]))  # what holds for one side alone comes first
    threats = [note + f" ({of[min(of)]} alone)" * (len(of) == 1) for note, of in by_sides[:MOST_THREATS]]
    return [*comparison.allowed, *(f"note: {note}" for note in [*comparison.notes, *threats])]


def grouped(comparison: Comparison) -> dict[str, list[Cell]]:
    """The cells by the name of their case, without its size; smallest first."""
    groups = defaultdict(list)
    for cell, name in zip(comparison.cells, case_names([cell.case for cell in comparison.cells]), strict=True):
        groups[name].append(cell)
    return {name: sorted(cells, key=lambda cell: cell.case.size_bytes) for name, cells in groups.items()}


def named(comparison: Comparison) -> list[tuple[str, Cell]]:
    """The cells with their whole names, such as `16 KiB two_shot`."""
    return [(f"{size_text(cell.case.size_bytes)} {name}", cell)
            for name, cells in grouped(comparison).items() for cell in cells]


def case_names(cases: Sequence[CaseHeader]) -> list[str]:
    """Of each case the algorithm, and what that has several of among these: mode, variant, type ..."""
    values = defaultdict(set)
    for case in cases:
        for field in NAMING:
            values[case.algorithm, field].add(_said(case, field))
    return [" ".join(filter(None, [case.algorithm, *(_said(case, field) for field in NAMING
                                                    if len(values[case.algorithm, field]) > 1)])) for case in cases]


def _said(case: CaseHeader, field: str) -> str:
    value = getattr(case, field)
    if field == "shape":
        return shape_text(value)
    return ("out of place", "in place")[value] if field == "in_place" else str(value)


def figures(cell: Cell) -> tuple[str, ...]:
    """What a row says, in the order of `COLUMNS`."""
    ratio = "-" if cell.ratio is None else _ratio(cell.ratio)
    if cell.low and cell.high:
        ratio += f" [{_ratio(cell.low)} {_ratio(cell.high)}]"
    needed = ""
    if cell.verdict is Verdict.AMBIGUOUS and cell.needed is not None:
        needed = f" ({cell.needed:.0f})" if cell.needed < 10_000 else " (>9999)"
    detectable = "-" if cell.detectable is None else f"{cell.detectable:.1%}" if cell.detectable < 10 else ">999%"
    return (size_text(cell.case.size_bytes), number(cell.baseline_us), number(cell.variant_us), ratio,
            cell.verdict.value + ("*" if cell.is_fresh else ""), detectable, f"{cell.pairs}{needed}")


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 9.9995 else f"{value:.1f}" if value < 999.95 else ">999"


def closing(comparison: Comparison) -> list[str]:
    """How many cells have which verdict, what the table can see, and what needs to be said of single cells."""
    counts = [f"{verdict.value} {comparison.count(verdict)}" for verdict in Verdict
              if comparison.count(verdict) or verdict is not Verdict.UNREPLICATED]
    lines = [f"{', '.join(counts)}; of {len(comparison.cells)} cells, with a margin of {comparison.margin:.1%}"]
    if comparison.count(Verdict.UNREPLICATED):
        lines.append("unreplicated: two launches of the same thing differ by more than one can know, so that one each "
                     "gives no verdict; python -m bench.campaign makes pairs of launches")
    if seen := [cell.detectable for cell in comparison.cells if cell.detectable is not None]:
        lines.append("MDE, what is called four times in five, and in an AMBIGUOUS cell what may hide, at 95 %: "
                     f"{np.median(seen):.1%} in the median cell, {max(seen):.1%} at most. So many pairs as stand in "
                     "brackets would settle a cell (of a *, fresh ones).")
    if any(cell.is_fresh for cell in comparison.cells):
        lines.append("* a suspect of the first stage, decided by its fresh pairs alone")
    notes = defaultdict(list)
    for name, cell in named(comparison):
        notes[cell.note].append(name)
    return lines + [f"note: {note}: {some(names)}" for note, names in notes.items() if note]


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def as_markdown(comparisons: Sequence[Comparison], most_bytes: int = 1 << 30) -> str:
    """GitHub's Markdown: a list of what to know, and the table, whose rows stay below `most_bytes`."""
    parts = []
    for comparison, control in shown(comparisons):
        title, *more = head(comparison, control)
        rows = ["| " + " | ".join(map(markdown_text, [name, *figures(cell)])) + " |"
                for name, cells in grouped(comparison).items() for cell in cells]
        cut = int(np.sum(np.cumsum([len(row.encode()) + 1 for row in rows]) > most_bytes))
        more += [*warnings(comparison), *closing(comparison), *[f"{cut} more rows do not fit here"] * (cut > 0)]
        parts += [f"### {markdown_text(title)}", "", *(f"- {markdown_text(line)}" for line in more), "",
                  "| " + " | ".join(["algorithm", *COLUMNS]) + " |", "|---|" + "---:|" * 4 + "---|" + "---:|" * 2,
                  *rows[:len(rows) - cut], ""]
    return "\n".join(parts)


def _frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row for each cell of each comparison, the control's included; empty for what is not known or not finite."""
    import pandas as pd

    rows = [{"baseline": one.baseline.name, "compared": one.variant.name}
            | {name: getattr(cell.case, name) for name in CASE_KEY}
            | {name: value for name, value in vars(cell).items() if name != "case"}
            | {"verdict": cell.verdict.value, "allowed": "; ".join(one.allowed)}
            for one in comparisons for cell in one.cells]
    return pd.DataFrame(rows).replace(np.inf, None)


FORMATS: dict[str, Callable[[Sequence[Comparison]], str]] = {
    "text": as_text, "markdown": as_markdown,
    "csv": lambda comparisons: _frame(comparisons).map(spreadsheet_cell).to_csv(index=False),
    "json": lambda comparisons: f"{_frame(comparisons).to_json(orient='records', indent=1)}\n"}
