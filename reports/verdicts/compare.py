"""The command `compare`: each side against the first, as tables of at most 80 columns or JSON. The
gate and the pages use its words, too: `rows_of` has the texts of a table, `sentences` those above
it."""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from reports.tables.rows import TOO_NOISY, interval_of, is_noisy
from reports.tables.sentences import (
    MOST_STEAL_SHARE,
    counted,
    interval_text,
    lay_out,
    number,
    plain_table,
    size_text,
    some,
)
from reports.verdicts import judge
from reports.verdicts.judge import (
    CONTROL_CELL,
    FINE_CELL,
    OPEN_CELL,
    SLOWER_CELL,
    WRONG_CELL,
    Comparison,
)
from reports.verdicts.launch_quantiles import least_steps, quantile_name
from reports.verdicts.quantile import add_quantile, judged_quantile, of_quantile
from reports.verdicts.sides import add_allow, read_sides
from reports.verdicts.verdict import AMBIGUOUS, FASTER, SLOWER
from wiretax.common.arguments import percent, positive_number, whole_number
from wiretax.common.program import answer
from wiretax.record.result import ResultError

# Notes of a run on how its ranks reach each other's memory; others say what its figures mean.
# Older runs have the last two.
HOW_SHARED = (
    "Peer memory",
    "A writer flushes",
    "Preferred ways to use",
    "Faster ways to use",
    "Better was refused",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "sides",
        metavar="SIDE",
        nargs="+",
        help="one campaign's folder; or the baseline, then "
        "the other sides: runs, folders of runs, quoted globs, FOLDER/VARIANT of a campaign",
    )
    add_allow(parser)
    option(
        "--margin",
        metavar="PERCENT",
        type=percent,
        help="differences up to this are ignored (the campaign's margin, else 1)",
    )
    add_quantile(parser)
    option(
        "--tpot-ms",
        metavar="MS",
        type=partial(positive_number, "ms", 10**6),
        help="with --calls: what the difference is worth of this measured time of a token",
    )
    option(
        "--calls",
        metavar="N",
        type=partial(whole_number, 1, most=10**6),
        help="calls in a token, such as 161",
    )


def compare(arguments: argparse.Namespace) -> int:
    """Prints the comparison and returns exit status 0. Raises Incomparable for sides that measured
    different things, ResultError for a file that cannot be read."""
    if (arguments.tpot_ms is None) != (arguments.calls is None):
        raise ResultError("compare needs both --tpot-ms and --calls, or neither")

    sides = read_sides(arguments.sides)
    quantile = judged_quantile(sides[0], arguments.quantile)
    if quantile and quantile > 0.5 and arguments.calls:
        raise ResultError(
            f"--calls adds up medians (--quantile 50): the {quantile_name(quantile)} of many calls "
            "is not the sum of theirs"
        )
    comparisons = judge.compare(sides, arguments.allow, arguments.margin, quantile)

    values = [
        worth(each, arguments.tpot_ms, arguments.calls) if arguments.calls else []
        for each in comparisons
    ]
    parts = [
        {
            "baseline": each.baseline.name,
            "compared": each.variant.name,
            "margin": each.margin,
            "quantile": each.quantile,
            "sentences": sentences(each) + said,
            "cells": each.cells,
        }
        for each, said in zip(comparisons, values, strict=True)
    ]
    answer(arguments, "\n".join(map(as_text, comparisons, values)), comparisons=parts)
    return 0


def worth(comparison: Comparison, tpot_ms: float, calls: int) -> list[str]:
    """What so many calls of each judged cell that differs are worth of a served token of `tpot_ms`,
    with the interval; cells whose calls do not fit into the token are left out."""
    cells = comparison.cells
    differs = comparison.is_judged & cells.verdict.isin([SLOWER, FASTER])
    fits = calls * cells.baseline_us <= 1e3 * tpot_ms
    chosen: Any = cells[differs & fits].itertuples()
    said = list[str]()
    for cell in chosen:
        call_ms = cell.baseline_us / 1e3
        ms, low, high = (
            calls * call_ms * (ratio - 1) for ratio in (cell.ratio, cell.low, cell.high)
        )
        said.append(
            f"{cell.title}: {interval_text((ms, low, high), '{:+.3f}'.format)} ms by {calls} "
            f"calls, {ms / tpot_ms:+.2%} of a token of {number(tpot_ms)} ms"
        )
    return said or [
        f"no cell is slower or faster whose {calls} calls fit into {number(tpot_ms)} ms"
    ]


def as_text(comparison: Comparison, values: Sequence[str]) -> str:
    """The table below its sentences; `values` are those of `worth`."""
    rows = rows_of(comparison)
    return lay_out([], sentences(comparison), [("", plain_table(rows[0], rows))], values)


def words_of(comparison: Comparison) -> list[str]:
    """A word on each cell: its verdict, or `WRONG`, or without a verdict `within` the ends of its
    interval, or `undecided`. Launches that did not run in turn do not tell which side is slower,
    only that a cell `differs`."""
    cells: Any = comparison.cells.itertuples()
    words = []
    for cell in cells:
        word = str(cell.verdict)
        if cell.is_wrong:
            word = "WRONG"
        elif word == AMBIGUOUS:
            is_open = np.isnan(cell.low) or is_noisy(interval_of(cell))
            word = "undecided" if is_open else "within"
        elif word in (SLOWER, FASTER) and not comparison.is_interleaved:
            word = "differs"
        words.append(word)
    return words


def rows_of(comparison: Comparison) -> list[dict[str, str]]:
    """The texts of each cell by their headings: the ratio is `1.049 [1.047 1.052]`, variant over
    baseline; the verdict is the cell's word, such as `within +-1.2%`, as far as its interval
    reaches from 1."""
    cells: Any = comparison.cells.itertuples()
    us, rows = f"{of_quantile(comparison.quantile)}us", list[dict[str, str]]()
    for cell, word in zip(cells, words_of(comparison), strict=True):
        ratio = interval_of(cell)
        ratio_text = interval_text(ratio, lambda value: f"{value:.{3 if value < 10 else 0}f}")
        reach = max(cell.high - 1, 1 - cell.low)
        verdict = f"within +-{reach:.1%}" if word == "within" else word
        if comparison.quantile and not cell.pairs and pd.notna(cell.n_steps):
            verdict = f"{cell.n_steps:.0f} of {least_steps(comparison.quantile)} steps"
        rows.append(
            {
                "algorithm": cell.name,
                "size": size_text(cell.size_bytes),
                f"base {us}": number(cell.baseline_us),
                f"variant {us}": number(cell.variant_us),
                "ratio [95 %]": TOO_NOISY
                if word == "undecided" and is_noisy(ratio)
                else ratio_text,
                "verdict": verdict,
                "MDE": f"{cell.detectable:.1%}" if cell.detectable < 1 else "-",
                "pairs": str(cell.pairs),
            }
        )

    return rows


def sentences(comparison: Comparison) -> list[str]:
    """The headline, which is why no gate can judge, if so, and what was found; then what explains
    it."""
    faults = comparison.faults
    unusable = f"UNUSABLE: {some(faults, 1)}" if faults else ""
    found = summary(comparison, comparison.slowdown_to_exclude)
    return ["; ".join(filter(None, [unusable, found])), *explanations(comparison)]


def explanations(comparison: Comparison) -> list[str]:
    """What was compared, notes, the number of cells with each verdict, and notes on single
    cells."""
    cells = comparison.cells
    titles = cells[cells.note != ""].groupby("note", sort=False).title.agg(list)
    return [
        what_ran(comparison),
        *judged_tails(comparison),
        "ratio = variant / baseline; above 1, the variant is slower",
        *comparison.caveats,
        *notes(comparison),
        counts(comparison),
        *all_within(comparison, margin_of_campaign(comparison)),
        *(f"note: {note}: {some(names)}" for note, names in titles.items()),
    ]


def all_within(comparison: Comparison, margin: float | None) -> list[str]:
    """The sentence that all judged cells are within this margin, a share that was set before the
    launches: the 90 % interval of each lies inside. It is said only if all are, so it needs no
    correction for their number (intersection-union test, Berger and Hsu, Statistical Science 11,
    1996): if any cell is beyond, the chance is at most 5 %. None without a margin, while launches
    follow, or beside a kept baseline."""
    cells = comparison.cells[comparison.is_judged]
    is_settled = comparison.is_interleaved and comparison.is_finished and not cells.is_wrong.any()
    if margin is None or not is_settled or not cells.log_reach_90.lt(np.log1p(margin)).all():
        return []
    return [f"all {len(cells)} cells are within {margin:.1%} of the baseline, either way"]


def margin_of_campaign(comparison: Comparison) -> float | None:
    """The margin if the campaign set it before its launches, and nobody another one since."""
    campaign = comparison.baseline.campaign
    is_own = campaign is not None and campaign.campaign.margin == comparison.margin
    return comparison.margin if is_own else None


def judged_tails(comparison: Comparison) -> list[str]:
    """What is judged in place of medians, and what the launches can exclude."""
    if not comparison.quantile:
        return []

    name, pairs = quantile_name(comparison.quantile), len(comparison.pairs)
    judged = f"judged: the {name} of each launch's own steps, not its median"
    if comparison.is_interleaved and comparison.cells.high.notna().any():
        slowdown = comparison.resolved_slowdown
        can = "can" if slowdown < judge.most_resolvable(comparison.quantile) else "cannot"
        judged += f"; {counted(pairs, 'pair')} {can} exclude a slowdown of {slowdown:.1%}"
    return [judged]


def counts(comparison: Comparison) -> str:
    """The number of cells with each verdict."""
    words = Counter(words_of(comparison))
    found = ", ".join(f"{word} {count}" for word, count in words.most_common())
    cells, margin = counted(len(comparison.cells), "cell"), f"{comparison.margin:.1%}"
    return f"{found}; of {cells}; SLOWER, FASTER: beyond chance, estimated beyond {margin}"


def summary(comparison: Comparison, slowdown: float, exclusion: str | None = None) -> str:
    """One sentence on the judged cells: the wrong and the slower ones, flags that go with the side,
    cells in which this `slowdown` could hide, the unchecked and the faster ones, and the slowdown
    that the others exclude or, in its place, the words `exclusion`; then whether the library's
    moved."""
    cells, meanings = comparison.cells, comparison.outcomes(comparison.margin, slowdown)
    wrong, slower, undecided, others, library = (
        cells[meanings == each]
        for each in (WRONG_CELL, SLOWER_CELL, OPEN_CELL, FINE_CELL, CONTROL_CELL)
    )
    faster = others[others.verdict == FASTER]
    moved = library[library.verdict.isin([SLOWER, FASTER])]

    found = list[str]()
    if len(wrong):
        found.append(f"WRONG: {some([*wrong.title])}")
    if len(slower):
        found.append(difference(comparison, slower))
    if comparison.flags:
        found.append(comparison.flags)
    if len(undecided):
        found.append(f"{some([*undecided.title])} undecided")
    where = " in the other cells" if len(wrong) or len(slower) or len(undecided) else ""
    found += comparison.unchecked
    if len(faster):
        found.append(difference(comparison, faster))
    if exclusion is None and others.high.notna().any():
        excluded = others.high.max() - 1
        exclusion = f"no {comparison.slowdown} of {excluded:.1%} or more{where}"
        if excluded <= 0:
            exclusion = f"no {comparison.slowdown}{where}"
    if exclusion:
        found.append(exclusion)
    if len(moved):
        found.append(
            f"the machine or a setting moved: {len(moved)} of {len(library)} cells of the library, "
            f"which the code cannot change, differ ({some([*moved.title])})"
        )

    return "; ".join(found)


def difference(comparison: Comparison, cells: pd.DataFrame) -> str:
    """`SLOWER up to 4.9%: 16 KiB two_shot, 1 MiB two_shot` of cells with one verdict, the largest
    difference first."""
    cells = cells.sort_values("log_ratio", key=abs, ascending=False, kind="stable")
    largest = f"{abs(cells.ratio.iloc[0] - 1):.1%}"
    if len(cells) > 1:
        largest = f"up to {largest}"
    if not comparison.is_interleaved:
        largest += " by machine or code"

    verdict = f"{of_quantile(comparison.quantile)}{cells.verdict.iloc[0]}"
    return f"{verdict} {largest}: {some([*cells.title])}"


def what_ran(comparison: Comparison) -> str:
    """The two sides, with the commit or else the version of each, the number of launches, and how
    they were paired."""
    variant, baseline = (
        f"{side.label} ({side.source or side.launches[-1].run.version})"
        for side in (comparison.variant, comparison.baseline)
    )
    launches = f"{counted(len(comparison.pairs), 'interleaved pair')} of launches"
    if not comparison.is_interleaved:
        launches = (
            f"{counted(len(comparison.variant.launches), 'launch')} against "
            f"{len(comparison.baseline.launches)}, not interleaved: machine or code may cause a "
            "difference"
        )
    elif not comparison.is_finished:
        launches += "; THE CAMPAIGN IS NOT FINISHED: nothing is SLOWER yet"

    return f"{variant} against {baseline}, the baseline: {launches}"


def notes(comparison: Comparison) -> list[str]:
    """Notes on its runs, once without their figures: the load, for example, differs between
    launches."""
    launches = comparison.variant.launches + comparison.baseline.launches
    of_runs = {
        re.sub(r"[\d.]+", "", note): note
        for launch in launches
        for note in launch.run.notes
        if not note.startswith(HOW_SHARED)
    }
    shown = [*of_runs.values()]
    steal = max((launch.end.steal_share or 0 for launch in launches if launch.end), default=0)

    if steal > MOST_STEAL_SHARE:
        shown.append(f"The hypervisor withheld up to {steal:.1%} of a launch's CPU time.")

    throttled = [
        f"{n} of {len(side.launches)} launches of {side.label}"
        for side in (comparison.variant, comparison.baseline)
        if (n := sum(bool(each.end and each.end.was_throttled) for each in side.launches))
    ]
    if throttled:
        shown.append(f"A GPU was throttled during {' and '.join(throttled)}.")

    return [f"note: {note}" for note in shown]
