"""The pages of the gate and of campaigns: the verdict, what to do next, and the forest plot, which
is a table with a drawing in each row."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from reports.kit.chart import forest as forest_of
from reports.kit.page import Banner, Page, Row, Section, role_of
from reports.tables.sentences import before_command, machine, recorded_facts, start_time
from reports.tables.show import headline_of
from reports.verdicts import render
from reports.verdicts.again import NEXT, NOT_JUDGED, next_command
from reports.verdicts.gate import Outcome, decide
from reports.verdicts.judge import Comparison, compare
from reports.verdicts.sides import COMPARABLE, Side, deaths_of, notes_of, read_sides

ORDER = "worse", "unsure", "better", "steady"  # roles
FIGURES = "base us", "variant us", "MDE", "pairs"  # columns
MOST_DRAWN = 6  # cells, in a picture


def campaign_page(folder: Path) -> Page:
    """A campaign: the gate's outcome for each variant, the worst first. Raises ResultError."""
    variants = read_sides([str(folder)])
    outcomes = [*map(decide, compare(variants, list(COMPARABLE)))]
    outcomes.sort(key=lambda each: ORDER.index(role_of(each.word)))
    names = ", ".join(side.label for side in variants[1:])
    title = f"{folder.name}: {names} against {variants[0].label}"
    return verdict_page(title, outcomes, [*deaths_of(variants), *notes_of(variants)])


def verdict_page(title: str, outcomes: Sequence[Outcome], said: Sequence[str] = ()) -> Page:
    """The first outcome, what else was `said`, what to do next, and each comparison with what
    explains it."""
    worst, *others = outcomes
    todo, command = NEXT.get(worst.status, NOT_JUDGED), next_command(worst)
    next_step = before_command(todo, command) if command else f"{todo}."
    sections = [
        Section("What to do next", [next_step], text=command),
        Section("What was found", worst.findings),
    ]
    facts = [f"{other.word}: {other.sentence}" for other in others]
    draw = None

    if judged := [each.comparison for each in outcomes if each.comparison]:
        first = judged[0]
        sides = first.baseline, *(each.variant for each in judged)
        last = first.variant.launches[-1]
        facts = [
            f"{render.what_ran(first)}.",
            f"{machine(last)}, {start_time(last.run)}.",
            f"{render.counts(first)}.",
            headline_of(*first.variant.launches),
            *facts,
            *said,
        ]
        sections += [*map(forest, judged), _differences(sides)]
        sections += [
            Section(
                f"What explains {each.variant.label}: all sentences",
                render.sentences(each),
                folded=True,
            )
            for each in judged
        ]
        draw = partial(draw_cells, comparison=first)

    return Page(title, Banner(worst.word, f"{worst.sentence}.", facts), sections, draw=draw)


def sorted_cells(comparison: Comparison) -> pd.DataFrame:
    """The cells with their `text` and `role`, grouped by verdict, the largest effect first, the
    library's as a control last."""
    rows = render.rows_of(comparison)
    roles = [role_of(row["verdict"]) for row in rows]
    cells = comparison.cells.assign(
        text=pd.Series(rows),
        role=pd.Categorical(roles, ORDER, ordered=True),
        effect=-comparison.cells.log_ratio.abs().fillna(0),
        is_control=~comparison.is_judged,
    )
    return cells.sort_values(["is_control", "role", "effect"], kind="stable")


def draw_cells(axes: Any, comparison: Comparison) -> None:
    """The first cells: by how much each is slower, with its interval."""
    cells = sorted_cells(comparison)[:MOST_DRAWN]
    rows, ends = range(len(cells)), abs(cells[["low", "high"]].T - cells.ratio).to_numpy()
    axes.barh(rows, cells.ratio - 1, xerr=ends, color=cells.role)
    axes.set_yticks(rows, cells.title.str[:30])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:+.1%}")
    axes.set_xlabel("faster | slower")
    axes.set_position((0.3, 0.14, 0.64, 0.34))


def forest(comparison: Comparison) -> Section:
    """A row for each cell, with a drawing."""
    cells = sorted_cells(comparison)
    shares = cells[["ratio", "low", "high"]].to_numpy() - 1
    heading, drawings = forest_of(shares, list(cells.role), comparison.margin)
    pairs: Any = zip(cells.itertuples(), drawings, strict=True)
    rows: list[Row] = [
        {
            "case": cell.title,
            "verdict": cell.text["verdict"] + ("\ncontrol" if cell.is_control else ""),
            "ratio [95 %]": cell.text["ratio [95 %]"],
            heading: drawing,
            **{name: cell.text[name] for name in FIGURES},
        }
        for cell, drawing in pairs
    ]
    return Section(f"Cells of {comparison.variant.label}, the largest effect first", rows=rows)


def _differences(variants: Sequence[Side]) -> Section:
    """The facts on machine, software and environment that are not the same in the last launches of
    all sides."""
    facts = pd.DataFrame({side.label: recorded_facts(side.launches[-1].run) for side in variants})
    facts = facts.fillna("-").map(lambda text: text[:500])
    facts = facts[facts.nunique(axis=1) > 1].rename_axis("fact").reset_index()
    rows: Any = facts.to_dict("records")
    same = "Machine, software and environment are the same on all sides."
    return Section("What differs", [] if rows else [same], rows=rows)
