"""Comparisons as text of at most 80 columns, Markdown, csv and JSON; other rooms use its sentences.

Verdicts are words, which colour only highlights. Allowed differences and warnings precede the rows.
"""

import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.store.foreign import markdown_text, spreadsheet_cell
from reports.store.stats import STATE_RATIO
from reports.tables.sentences import MOST_STEAL_SHARE, number, size_text, some, wrapped
from reports.verdicts.cells import Comparison
from reports.verdicts.sides import Side
from reports.verdicts.verdict import AMBIGUOUS, UNREPLICATED, VERDICTS

if TYPE_CHECKING:
    import pandas as pd

MOST_THREATS = 4
ROW = "{1:>8} {2:>8} {3:>10} {4:>19}  {5:<12} {6:>6} {7:>10}"  # without the algorithm


def as_text(comparisons: Sequence[Comparison]) -> str:
    """Tables of at most 80 columns, in colour on a terminal unless NO_COLOR is set."""
    lines = []
    for comparison in shown(comparisons):
        rows = table_rows(comparison)
        lines += [*wrapped([*head(comparison), *warnings(comparison)]), "", ROW.format(*rows[0])]
        for name, of_name in groupby(rows, lambda row: row["algorithm"]):
            lines += [name, *(ROW.format(*row.values()) for row in of_name)]
        lines += ["", *wrapped(closing(comparison)), ""]
    text = "\n".join(line.rstrip() for line in lines)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        for word, colour in (("SLOWER", 31), ("FASTER", 32)):
            text = text.replace(word, f"\x1b[1;{colour}m{word}\x1b[0m")
    return text


def shown(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons that get a table: the control only if it is alone."""
    return [each for each in comparisons if not each.is_control] or list(comparisons)


def ordered(cells: "pd.DataFrame") -> list[Any]:
    """The rows by name, smallest size first."""
    rows: list[Any] = list(cells.itertuples())
    places = {name: place for place, name in enumerate(cells.name.unique())}
    return sorted(rows, key=lambda cell: (places[cell.name], cell.size_bytes))


def table_rows(comparison: Comparison) -> list[dict[str, str]]:
    """The texts of each row by their headings."""
    return [figures(cell) for cell in ordered(comparison.cells)]


def sentences(comparison: Comparison) -> list[str]:
    """All sentences on a comparison, for a page."""
    return [*head(comparison), *warnings(comparison), *closing(comparison)]


def head(comparison: Comparison) -> list[str]:
    """The two sides, their launches, and how much launches differ by themselves."""
    lines = [f"{label(comparison.variant)} against {label(comparison.baseline)}, the baseline: "
             f"{_launches(comparison)}", *comparison.about.values(),
             "ratio = variant / baseline; above 1, the variant is slower"]
    if states := _link_states(comparison):
        pairs = sum(count for _, count in states)
        shares = ", ".join(f"{rtt_ns:.0f} ns {count / pairs:.0%}" for rtt_ns, count in states)
        lines.append("link: each pair within one state that both launches have; flag round trip "
                     f"{shares} of the pairs")
    if np.isfinite(comparison.pair_sd):
        lines.append(f"launches of one thing differ by {comparison.pair_sd:.1%} (standard "
                     "deviation, median cell)")
    if control := comparison.control:
        spread = f"; they differ by {control.pair_sd:.1%}" * bool(np.isfinite(control.pair_sd))
        lines.append("control, the baseline's launches against each other: "
                     f"{control.cells.is_suspect.sum()} of {len(control.cells)} cells "
                     f"suspected{spread}")
    return lines


def _link_states(comparison: Comparison) -> list[tuple[float, int]]:
    """The link's states over all cells, (round trip in ns, pairs). Both stages find the same state
    at slightly different round trips; the one with more pairs gives the figure."""
    merged: list[tuple[float, int]] = []
    for rtt_ns, count in sorted(chain.from_iterable(comparison.cells.states)):
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
    text = f"{len(comparison.pairs('first'))} interleaved pairs of launches"
    if fresh := comparison.pairs("fresh"):
        sizes = {case.size_bytes for _, launch in fresh for case in launch.result.run.cases}
        text += f", {len(fresh)} fresh ones of {', '.join(map(size_text, sorted(sizes)))}"
    is_finished = baseline.campaign and baseline.campaign.end
    return f"{text} ({design}){'' if is_finished else '; THE CAMPAIGN IS NOT FINISHED'}"


def warnings(comparison: Comparison) -> list[str]:
    """Allowed differences, notes on the comparison, and the runs' notes on their own figures, first
    the notes of one side alone."""
    variant, baseline = _threats(comparison.variant), _threats(comparison.baseline)
    threats = [f"{note} ({label(comparison.variant)} alone)"
               for pattern, note in variant.items() if pattern not in baseline]
    threats += [f"{note} ({label(comparison.baseline)} alone)"
                for pattern, note in baseline.items() if pattern not in variant]
    threats += [note for pattern, note in variant.items() if pattern in baseline]
    notes = [*comparison.notes, *threats[:MOST_THREATS]]
    return [*comparison.allowed, *(f"note: {note}" for note in notes)]


def _threats(side: Side) -> dict[str, str]:
    """The notes of a side's runs that concern their figures, by the note without its figures: the
    load, for example, differs between launches."""
    notes: dict[str, str] = {}
    for result in (launch.result for launch in side.launches):
        stolen = (result.end and result.end.steal_share) or 0.0
        hypervisor = f"The hypervisor withheld {stolen:.1%} of the CPU time."
        for note in [*result.run.notes, *[hypervisor] * (stolen > MOST_STEAL_SHARE)]:
            if not note.lower().startswith("peer memory"):
                notes.setdefault(re.sub(r"[\d.]+", "", note), note)
    return notes


def outcome_text(cell: Any) -> str:
    """`1.050 [1.041 1.058] SLOWER*`."""
    row = figures(cell)
    return f"{row['ratio [95 %]']} {row['verdict']}"


def figures(cell: Any) -> dict[str, str]:
    """The texts of a row by their headings."""
    ratio = _text(cell.ratio, _ratio)
    if np.isfinite(cell.low):
        ratio += f" [{_ratio(cell.low)} {_ratio(cell.high)}]"
    needed = ""
    if cell.verdict == AMBIGUOUS and not np.isnan(cell.needed):
        needed = f" ({cell.needed:.0f})" if cell.needed < 10_000 else " (>9999)"
    effect = _text(cell.detectable, lambda share: f"{share:.1%}" if share < 10 else ">999%")
    return {"algorithm": cell.name, "size": size_text(cell.size_bytes),
            "base us": _text(cell.baseline_us, number),
            "variant us": _text(cell.variant_us, number), "ratio [95 %]": ratio,
            "verdict": cell.verdict + "*" * cell.is_fresh, "MDE": effect,
            "pairs": f"{cell.pairs}{needed}"}


def _text(value: float, form: Callable[[float], str]) -> str:
    return "-" if np.isnan(value) else form(value)


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 9.9995 else f"{value:.1f}" if value < 999.95 else ">999"


def closing(comparison: Comparison) -> list[str]:
    """The number of cells with each verdict, the detectable effects, and notes on single cells."""
    cells = comparison.cells
    counts = {verdict: int((cells.verdict == verdict).sum()) for verdict in VERDICTS}
    texts = [f"{verdict} {count}" for verdict, count in counts.items()
             if count or verdict != UNREPLICATED]
    lines = [f"{', '.join(texts)}; of {len(cells)} cells, with a margin of "
             f"{comparison.margin:.1%}"]
    if counts[UNREPLICATED]:
        lines.append("unreplicated: launches of the same thing differ by more than a single pair "
                     "can show, so it gives no verdict; python -m bench.campaign makes more pairs")
    effects = cells.detectable.dropna()
    if len(effects):
        lines.append("MDE: the effect that is called with a chance of 80 %, in an AMBIGUOUS cell "
                     "at least the one that may hide at 95 %: "
                     f"{effects.median():.1%} in the median cell, {effects.max():.1%} at most. "
                     "In brackets: the number of pairs that would settle the cell (of a *, fresh "
                     "ones).")
    if cells.is_fresh.any():
        lines.append("* a suspect of the first stage, decided by its fresh pairs alone")
    titles = defaultdict(list)
    for cell in ordered(cells):
        titles[cell.note].append(cell.title)
    return lines + [f"note: {note}: {some(names)}" for note, names in titles.items() if note]


def as_markdown(comparisons: Sequence[Comparison], most_bytes: int = 1 << 30) -> str:
    """GitHub's Markdown: sentences as a list, and a table with at most `most_bytes` of rows."""
    parts = []
    for comparison in shown(comparisons):
        title, *lines = sentences(comparison)
        table = table_rows(comparison)
        rows = [_markdown_row(map(markdown_text, row.values())) for row in table]
        sizes_bytes = np.cumsum([len(row.encode()) + 1 for row in rows])
        if cut := int(np.sum(sizes_bytes > most_bytes)):
            lines.append(f"{cut} more rows do not fit here")
        items = [f"- {markdown_text(line)}" for line in lines]
        rule = "|---|" + "---:|" * 4 + "---|" + "---:|" * 2
        parts += [f"### {markdown_text(title)}", "", *items, "", _markdown_row(table[0]), rule,
                  *rows[:len(rows) - cut], ""]
    return "\n".join(parts)


def _markdown_row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _frame(comparisons: Sequence[Comparison]) -> "pd.DataFrame":
    """A row for each cell, the control's included; unknown and infinite values are empty."""
    import pandas as pd

    cells = pd.concat(comparison.cells.drop(columns=["case", "name", "title"]).assign(
        note=comparison.cells.note.replace("", None), allowed="; ".join(comparison.allowed),
        baseline=comparison.baseline.name, compared=comparison.variant.name)
        for comparison in comparisons)
    return cells[["baseline", "compared", *cells.columns[:-2]]].replace(np.inf, None)


FORMATS: dict[str, Callable[[Sequence[Comparison]], str]] = {
    "text": as_text, "markdown": as_markdown,
    "csv": lambda comparisons: _frame(comparisons).map(spreadsheet_cell).to_csv(index=False),
    "json": lambda comparisons: f"{_frame(comparisons).to_json(orient='records', indent=1)}\n"}
