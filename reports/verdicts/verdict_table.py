"""Comparisons as text of at most 80 columns, Markdown, csv and JSON; pages use the sentences and
rows. Verdicts are words, which colour only highlights; warnings precede the rows."""

import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain, groupby
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from reports.store.case import CASE_KEY
from reports.store.foreign import markdown_text, spreadsheet_cell
from reports.store.stats import STATE_RATIO
from reports.tables.console import wrapped
from reports.tables.sentences import MOST_STEAL_SHARE, number, size_text, some
from reports.verdicts.comparison import Comparison
from reports.verdicts.sides import Side
from reports.verdicts.verdict import AMBIGUOUS, UNREPLICATED, VERDICTS

ROW = "{1:>8} {2:>8} {3:>10} {4:>19}  {5:<12} {6:>6} {7:>10}"  # without the algorithm
COLUMNS = [*CASE_KEY, "verdict", "pairs", "ratio", "low", "high", "baseline_us", "variant_us",
           "detectable", "needed", "is_suspect", "is_fresh", "states", "note"]  # of csv and JSON


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


def as_markdown(comparisons: Sequence[Comparison], most_bytes: int = 1 << 30) -> str:
    """GitHub's Markdown: sentences as a list, and a table with at most `most_bytes` of rows."""
    parts = []
    for comparison in shown(comparisons):
        title, *lines = sentences(comparison)
        table = table_rows(comparison)
        rows = [f"| {' | '.join(map(markdown_text, row.values()))} |" for row in table]
        sizes_bytes = np.cumsum([len(row.encode()) + 1 for row in rows])
        if cut := int(np.sum(sizes_bytes > most_bytes)):
            lines.append(f"{cut} more rows do not fit here")
        items = [f"- {markdown_text(line)}" for line in lines]
        rule = "|---|" + "---:|" * 4 + "---|" + "---:|" * 2
        parts += [f"### {markdown_text(title)}", "", *items, "", f"| {' | '.join(table[0])} |",
                  rule, *rows[:len(rows) - cut], ""]
    return "\n".join(parts)


def _frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row for each cell, the control's included; unknown and infinite values are empty."""
    cells = pd.concat(each.cells[COLUMNS].assign(
        note=each.cells.note.replace("", None), allowed="; ".join(each.allowed),
        baseline=each.baseline.name, compared=each.variant.name) for each in comparisons)
    return cells[["baseline", "compared", *COLUMNS, "allowed"]].replace(np.inf, None)


FORMATS: dict[str, Callable[[Sequence[Comparison]], str]] = {
    "text": as_text, "markdown": as_markdown,
    "csv": lambda comparisons: _frame(comparisons).map(spreadsheet_cell).to_csv(index=False),
    "json": lambda comparisons: f"{_frame(comparisons).to_json(orient='records', indent=1)}\n"}


def shown(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons that get a table: the control only if it is alone."""
    return [each for each in comparisons if not each.is_control] or list(comparisons)


def ordered(cells: pd.DataFrame) -> list[Any]:
    """The rows by name, smallest size first."""
    by_name = cells.assign(place=pd.factorize(cells.name)[0]).sort_values(["place", "size_bytes"])
    return list(by_name.itertuples())


def table_rows(comparison: Comparison) -> list[dict[str, str]]:
    """The texts of each row by their headings."""
    return [figures(cell) for cell in ordered(comparison.cells)]


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


def label(side: Side) -> str:
    """A side's name; the last two parts of a path."""
    return "/".join(side.name.split("/")[-2:])


def sentences(comparison: Comparison) -> list[str]:
    """All sentences on a comparison, for a page."""
    return [*head(comparison), *warnings(comparison), *closing(comparison)]


def head(comparison: Comparison) -> list[str]:
    """The two sides, their launches, and how much launches differ by themselves."""
    baseline, variant, design = comparison.baseline, comparison.variant, comparison.design
    launches = f"{len(variant.launches)} launches against {len(baseline.launches)}, not interleaved"
    if design != "once":
        launches = f"{len(comparison.pairs('first'))} interleaved pairs of launches"
        if fresh := comparison.pairs("fresh"):
            sizes = {case.size_bytes for _, launch in fresh for case in launch.result.run.cases}
            launches += f", {len(fresh)} fresh ones of {', '.join(map(size_text, sorted(sizes)))}"
        launches += f" ({design})"
        if not (baseline.campaign and baseline.campaign.end):
            launches += "; THE CAMPAIGN IS NOT FINISHED"
    lines = [f"{label(variant)} against {label(baseline)}, the baseline: {launches}",
             *comparison.about.values(),
             "ratio = variant / baseline; above 1, the variant is slower"]
    if states := _link_states(comparison.cells):
        pairs = sum(count for _, count in states)
        shares = ", ".join(f"{rtt_ns:.0f} ns {count / pairs:.0%}" for rtt_ns, count in states)
        lines.append("link: each pair within one state that both launches have; flag round trip "
                     f"{shares} of the pairs")
    if spread := _spread(comparison.cells):
        lines.append(f"launches of one thing {spread} (standard deviation, median cell)")
    if control := comparison.control:
        spread = _spread(control.cells)
        lines.append("control, the baseline's launches against each other: "
                     f"{control.cells.is_suspect.sum()} of {len(control.cells)} cells "
                     f"suspected{spread and f'; they {spread}'}")
    return lines


def _link_states(cells: pd.DataFrame) -> list[tuple[float, int]]:
    """The link's states over all cells, (round trip in ns, pairs). Both stages find the same state
    at slightly different round trips; the one with more pairs gives the figure."""
    merged: list[tuple[float, int]] = []
    for rtt_ns, count in sorted(chain.from_iterable(cells.states)):
        if merged and rtt_ns < STATE_RATIO * merged[-1][0]:
            last_ns, last_count = merged.pop()
            more_ns = rtt_ns if count > last_count else last_ns
            merged.append((more_ns, last_count + count))
        else:
            merged.append((rtt_ns, count))
    return merged


def _spread(cells: pd.DataFrame) -> str:
    """The spread between launches in the median cell: the standard deviation of the log of a
    launch's median, from the interval over pairs. Empty if no cell has an interval."""
    half_widths = np.log(cells.high / cells.low) / 2 / stdtrit(cells.pairs - 1, 0.975)
    pair_sd = (half_widths * np.sqrt(cells.pairs / 2)).median()
    return f"differ by {pair_sd:.1%}" if np.isfinite(pair_sd) else ""


def warnings(comparison: Comparison) -> list[str]:
    """Allowed differences, notes on the comparison and on the runs, first of one side alone."""
    sides = comparison.variant, comparison.baseline
    threats: dict[str, dict[int, str]] = defaultdict(dict)
    for place, side in enumerate(sides):
        for result in (launch.result for launch in side.launches):
            stolen = (result.end and result.end.steal_share) or 0.0
            hypervisor = f"The hypervisor withheld {stolen:.1%} of the CPU time."
            for note in [*result.run.notes, *[hypervisor] * (stolen > MOST_STEAL_SHARE)]:
                if not note.lower().startswith("peer memory"):
                    # Without figures: the load, for example, differs between launches.
                    threats[re.sub(r"[\d.]+", "", note)].setdefault(place, note)
    alone = [f"{note} ({label(sides[place])} alone)" for by_side in threats.values()
             for place, note in by_side.items() if len(by_side) == 1]
    common = [by_side[0] for by_side in threats.values() if len(by_side) == 2]
    notes = [*comparison.notes, *[*alone, *common][:4]]
    return [*comparison.allowed, *(f"note: {note}" for note in notes)]


def closing(comparison: Comparison) -> list[str]:
    """The number of cells with each verdict, the detectable effects, and notes on single cells."""
    cells = comparison.cells
    counts = {verdict: int((cells.verdict == verdict).sum()) for verdict in VERDICTS}
    texts = [f"{verdict} {count}" for verdict, count in counts.items()
             if count or verdict != UNREPLICATED]
    lines = [f"{', '.join(texts)}; of {len(cells)} cells, with a margin of {comparison.margin:.1%}"]
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
