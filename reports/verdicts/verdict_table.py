"""Comparisons as text of at most 80 columns, Markdown, csv and JSON; other rooms use its sentences.

Verdicts are words, which colour only highlights. Allowed differences and warnings precede the rows.
"""

import os
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reports.store.case import CASE_KEY
from reports.store.foreign import markdown_text, spreadsheet_cell
from reports.store.stats import STATE_RATIO
from reports.tables.sentences import MOST_STEAL_SHARE, number, size_text
from reports.verdicts.cells import Cell, pair_launches
from reports.verdicts.comparison import Comparison
from reports.verdicts.sides import Side
from reports.verdicts.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 80
MOST_THREATS = 4
COLUMNS = ("size", "base us", "variant us", "ratio [95 %]", "verdict", "MDE", "pairs")
ROW = "{:>8} {:>8} {:>10} {:>19}  {:<12} {:>6} {:>10}"


def as_text(comparisons: Sequence[Comparison]) -> str:
    """Tables of at most 80 columns, in colour on a terminal unless NO_COLOR is set."""
    lines = []
    for comparison, control in shown(comparisons):
        lines += [*wrapped([*head(comparison, control), *warnings(comparison)]), ""]
        lines.append(ROW.format(*COLUMNS))
        for name, cells in grouped(comparison).items():
            lines += [name, *(ROW.format(*figures(cell)) for cell in cells)]
        lines += ["", *wrapped(closing(comparison)), ""]
    text = "\n".join(line.rstrip() for line in lines)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        for word, colour in (("SLOWER", 31), ("FASTER", 32)):
            text = text.replace(word, f"\x1b[1;{colour}m{word}\x1b[0m")
    return text


def wrapped(sentences: Sequence[str]) -> list[str]:
    """The sentences in lines of at most 80 columns; a longer path is not broken."""
    return [line for sentence in sentences
            for line in textwrap.wrap(sentence, WIDTH, break_on_hyphens=False,
                                      break_long_words=False)]


def shown(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, Comparison | None]]:
    """The comparisons that get a table, each with the control's. The control gets one if alone."""
    controls = [comparison for comparison in comparisons if comparison.is_control]
    others = [comparison for comparison in comparisons if not comparison.is_control]
    control = controls[0] if controls and others else None
    return [(comparison, control) for comparison in others or comparisons]


def head(comparison: Comparison, control: Comparison | None = None) -> list[str]:
    """The two sides, their launches, and how much launches differ by themselves."""
    lines = [f"{label(comparison.variant)} against {label(comparison.baseline)}, the baseline: "
             f"{_launches(comparison)}", *comparison.about,
             "ratio = variant / baseline; above 1, the variant is slower"]
    if states := _link_states(comparison):
        pairs = sum(count for _, count in states)
        shares = ", ".join(f"{rtt_ns:.0f} ns {count / pairs:.0%}" for rtt_ns, count in states)
        lines.append("link: each pair within one state that both launches have; flag round trip "
                     f"{shares} of the pairs")
    if comparison.pair_sd is not None:
        lines.append(f"launches of one thing differ by {comparison.pair_sd:.1%} (standard "
                     "deviation, median cell)")
    if control:
        suspects = sum(cell.is_suspect for cell in control.cells)
        spread = "" if control.pair_sd is None else f"; they differ by {control.pair_sd:.1%}"
        lines.append("control, the baseline's launches against each other: "
                     f"{suspects} of {len(control.cells)} cells suspected{spread}")
    return lines


def _link_states(comparison: Comparison) -> list[tuple[float, int]]:
    """The link's states over all cells, (round trip in ns, pairs). Both stages find the same state
    at slightly different round trips; the one with more pairs gives the figure."""
    merged: list[tuple[float, int]] = []
    for rtt_ns, count in sorted(state for cell in comparison.cells for state in cell.states):
        if merged and rtt_ns < STATE_RATIO * merged[-1][0]:
            last_ns, last_count = merged.pop()
            more_ns = rtt_ns if count > last_count else last_ns
            merged.append((more_ns, last_count + count))
        else:
            merged.append((rtt_ns, count))
    return merged


def label(side: Side) -> str:
    """A side's name; the last two parts of a path."""
    return "/".join(side.name.split("/")[-2:])


def _launches(comparison: Comparison) -> str:
    baseline, variant, design = comparison.baseline, comparison.variant, comparison.design
    if design == "once":
        return (f"{len(variant.launches)} launches against {len(baseline.launches)}, not "
                "interleaved")
    assert baseline.campaign
    first, fresh = (pair_launches(baseline, variant, design, stage) for stage in ("first", "fresh"))
    text = f"{len(first)} interleaved pairs of launches"
    if fresh:
        sizes = {case.size_bytes for _, launch in fresh for case in launch.result.run.cases}
        text += f", {len(fresh)} fresh ones of {', '.join(map(size_text, sorted(sizes)))}"
    unfinished = "" if baseline.campaign.end else "; THE CAMPAIGN IS NOT FINISHED"
    return f"{text} ({design}){unfinished}"


def warnings(comparison: Comparison) -> list[str]:
    """Allowed differences, notes on the comparison, and the runs' notes on their own figures."""
    sides_of: dict[str, tuple[str, dict[int, str]]] = {}
    for number_of_side, side in enumerate((comparison.variant, comparison.baseline)):
        for launch in side.launches:
            notes = [note for note in launch.result.run.notes
                     if not note.lower().startswith("peer memory")]
            end = launch.result.end
            if end and (end.steal_share or 0.0) > MOST_STEAL_SHARE:
                notes.append(f"The hypervisor withheld {end.steal_share:.1%} of the CPU time.")
            for note in notes:
                # Notes that differ only in a figure, such as the load, count as the same.
                _, labels = sides_of.setdefault(re.sub(r"[\d.]+", "", note), (note, {}))
                labels[number_of_side] = label(side)
    by_sides = sorted(sides_of.values(), key=lambda entry: len(entry[1]))  # one side's come first
    threats = [note if len(labels) > 1 else f"{note} ({min(labels.values())} alone)"
               for note, labels in by_sides[:MOST_THREATS]]
    return [*comparison.allowed, *(f"note: {note}" for note in [*comparison.notes, *threats])]


def grouped(comparison: Comparison) -> dict[str, list[Cell]]:
    """The cells by name, smallest size first."""
    groups = defaultdict(list)
    for cell in comparison.cells:
        groups[cell.name].append(cell)
    return {name: sorted(cells, key=lambda cell: cell.case.size_bytes)
            for name, cells in groups.items()}


def figures(cell: Cell) -> tuple[str, ...]:
    """The texts of a row, one for each of `COLUMNS`."""
    ratio = "-" if cell.ratio is None else _ratio(cell.ratio)
    if cell.low and cell.high:
        ratio += f" [{_ratio(cell.low)} {_ratio(cell.high)}]"
    needed = ""
    if cell.verdict is Verdict.AMBIGUOUS and cell.needed is not None:
        needed = f" ({cell.needed:.0f})" if cell.needed < 10_000 else " (>9999)"
    effect = "-"
    if cell.detectable is not None:
        effect = f"{cell.detectable:.1%}" if cell.detectable < 10 else ">999%"
    return (size_text(cell.case.size_bytes), number(cell.baseline_us), number(cell.variant_us),
            ratio, cell.verdict.value + "*" * cell.is_fresh, effect, f"{cell.pairs}{needed}")


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 9.9995 else f"{value:.1f}" if value < 999.95 else ">999"


def closing(comparison: Comparison) -> list[str]:
    """The number of cells with each verdict, the detectable effects, and notes on single cells."""
    counts = {verdict: comparison.count(verdict) for verdict in Verdict}
    texts = [f"{verdict.value} {count}" for verdict, count in counts.items()
             if count or verdict is not Verdict.UNREPLICATED]
    lines = [f"{', '.join(texts)}; of {len(comparison.cells)} cells, with a margin of "
             f"{comparison.margin:.1%}"]
    if counts[Verdict.UNREPLICATED]:
        lines.append("unreplicated: launches of the same thing differ by more than a single pair "
                     "can show, so it gives no verdict; python -m bench.campaign makes more pairs")
    if effects := [cell.detectable for cell in comparison.cells if cell.detectable is not None]:
        lines.append("MDE: the effect that is called with a chance of 80 %, in an AMBIGUOUS cell "
                     "at least the one that may hide at 95 %: "
                     f"{np.median(effects):.1%} in the median cell, {max(effects):.1%} at most. "
                     "In brackets: the number of pairs that would settle the cell (of a *, fresh "
                     "ones).")
    if any(cell.is_fresh for cell in comparison.cells):
        lines.append("* a suspect of the first stage, decided by its fresh pairs alone")
    notes = defaultdict(list)
    for cells in grouped(comparison).values():
        for cell in cells:
            notes[cell.note].append(cell.title)
    return lines + [f"note: {note}: {some(titles)}" for note, titles in notes.items() if note]


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def as_markdown(comparisons: Sequence[Comparison], most_bytes: int = 1 << 30) -> str:
    """GitHub's Markdown: sentences as a list, and a table with at most `most_bytes` of rows."""
    parts = []
    for comparison, control in shown(comparisons):
        title, *lines = [*head(comparison, control), *warnings(comparison), *closing(comparison)]
        rows = [_markdown_row(map(markdown_text, [name, *figures(cell)]))
                for name, cells in grouped(comparison).items() for cell in cells]
        sizes_bytes = np.cumsum([len(row.encode()) + 1 for row in rows])
        if cut := int(np.sum(sizes_bytes > most_bytes)):
            lines.append(f"{cut} more rows do not fit here")
        items = [f"- {markdown_text(line)}" for line in lines]
        parts += [f"### {markdown_text(title)}", "", *items, "",
                  _markdown_row(["algorithm", *COLUMNS]),
                  "|---|" + "---:|" * 4 + "---|" + "---:|" * 2, *rows[:len(rows) - cut], ""]
    return "\n".join(parts)


def _markdown_row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _frame(comparisons: Sequence[Comparison]) -> "pd.DataFrame":
    """A row for each cell, the control's included; unknown and infinite values are empty."""
    import pandas as pd

    rows = [{"baseline": comparison.baseline.name, "compared": comparison.variant.name}
            | {name: getattr(cell.case, name) for name in CASE_KEY}
            | {name: value for name, value in vars(cell).items() if name not in ("case", "name")}
            | {"verdict": cell.verdict.value, "allowed": "; ".join(comparison.allowed)}
            for comparison in comparisons for cell in comparison.cells]
    return pd.DataFrame(rows).replace(np.inf, None)


FORMATS: dict[str, Callable[[Sequence[Comparison]], str]] = {
    "text": as_text, "markdown": as_markdown,
    "csv": lambda comparisons: _frame(comparisons).map(spreadsheet_cell).to_csv(index=False),
    "json": lambda comparisons: f"{_frame(comparisons).to_json(orient='records', indent=1)}\n"}
