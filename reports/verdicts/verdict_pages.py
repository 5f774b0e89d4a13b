"""The pages of the gate and of campaigns: the verdict, what to do next, and the forest plot, which
is a table with a drawing in each row."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from shlex import join
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from reports.kit.chart import forest as forest_of
from reports.kit.page import Banner, Page, Row, Section, role_of
from reports.tables.sentences import before_command, machine, recorded_facts, start_time
from reports.tables.show import headline_of
from reports.verdicts.compare import counts, explanations, rows_of, what_ran, words_of
from reports.verdicts.gate_rule import (
    INCONCLUSIVE,
    INTERRUPTED,
    PASS,
    REGRESSION,
    UNUSABLE,
    Outcome,
    decide,
)
from reports.verdicts.judge import Comparison, compare
from reports.verdicts.quantile import judged_quantile, of_quantile
from reports.verdicts.sides import COMPARABLE, Side, launched_text, read_sides
from reports.verdicts.verdict import MOST_PAIRS
from wiretax.common.program import BENCH, RUN

ORDER = "worse", "unsure", "better", "steady"  # roles
FIGURES = "base ", "variant ", "MDE", "pairs"  # how headings of columns begin
MOST_DRAWN = 6  # cells, in a picture
LEAST_LAUNCH_S = 5  # that bench.gate takes
# What to do next after each outcome.
NEXT = {
    PASS: "Nothing: every case excludes such a slowdown, so this can be merged or kept",
    REGRESSION: "Find out what made these cases slower, among what differs",
    INCONCLUSIVE: "Measure again, longer or fewer sizes, as what was found says",
    UNUSABLE: "Mend the side that is named and measure again",
    INTERRUPTED: "Start it again, in a new folder",
}
NOTHING_RECORDED = (
    "Find out what made these cases slower: nothing recorded differs, so it is what no run "
    "records, such as the programs behind the commands"
)
NOT_JUDGED = "Mend what is named and start it again"


def campaign_page(folder: Path) -> Page:
    """A campaign: the gate's outcome for each variant, the worst first. Raises ResultError."""
    variants = read_sides([str(folder)])
    quantile = judged_quantile(variants[0], None)
    outcomes = [*map(decide, compare(variants, list(COMPARABLE), quantile=quantile))]
    outcomes.sort(key=lambda each: ORDER.index(role_of(each.word)))
    names = ", ".join(side.label for side in variants[1:])
    title = f"{folder.name}: {names} against {variants[0].label}"
    return verdict_page(title, outcomes)


def verdict_page(title: str, outcomes: Sequence[Outcome]) -> Page:
    """The first outcome, what to do next, and each comparison with what explains it."""
    worst, *others = outcomes
    todo, command = NEXT.get(worst.status, NOT_JUDGED), next_command(worst)
    judged = [each.comparison for each in outcomes if each.comparison]
    differences = (
        _differences(judged[0].baseline, *(each.variant for each in judged)) if judged else None
    )
    if worst.status == REGRESSION and differences and not differences.rows:
        todo = NOTHING_RECORDED
    next_step = before_command(todo, command) if command else f"{todo}."
    sections = [
        Section("What to do next", [next_step], text=command),
        Section("What was found", worst.findings),
    ]
    facts = [f"{other.word}: {other.sentence}" for other in others]
    facts += map(launched_text, worst.launched)
    draw = None

    if judged and differences:
        first = judged[0]
        last = first.variant.launches[-1]
        facts = [
            f"{what_ran(first)}.",
            f"{machine(last)}, {start_time(last.run)}.",
            f"{counts(first)}.",
            headline_of(*first.variant.launches),
            *map(launched_text, worst.sides),
            *facts,
        ]
        sections += [*map(forest, judged), differences]
        sections += [
            Section(
                f"What explains {each.variant.label}: all sentences",
                explanations(each),
                folded=True,
            )
            for each in judged
        ]
        draw = partial(draw_cells, comparison=first)

    sentence = worst.sentence
    if not sentence.endswith("?"):  # "did you mean --budget?"
        sentence += "."
    return Page(title, Banner(worst.word, sentence, facts), sections, draw=draw)


def next_command(outcome: Outcome) -> str:
    """After a regression the commits between the sides; nothing if all is well, or without a
    campaign that knows its commands; otherwise the same gate once more, with twice the pairs if
    more are what it lacks, and the time for them."""
    status, comparison = outcome.status, outcome.comparison
    campaign = comparison and comparison.baseline.campaign
    if status == PASS or not comparison or not campaign or not comparison.variant.typed:
        return ""

    sides = comparison.baseline, comparison.variant
    if status == REGRESSION:
        old, new = (side.command.known_commit[:9] for side in sides)
        return f"git log --oneline {old}..{new}" if old and new and old != new else ""

    base, head = (GateSide(side.commit[:9], side.typed) for side in sides)

    settings = campaign.campaign
    pairs = settings.pairs
    if status == INCONCLUSIVE:
        pairs = min(MOST_PAIRS, 2 * pairs)
    launched = {each.name for each in settings.variants}
    launch_s = max(LEAST_LAUNCH_S, fmean(each.elapsed_s for each in campaign.launches))
    return gate_command(
        base,
        head,
        comparison.allowed,
        budget=f"{1 + launch_s * (pairs + 2) // 30:.0f}m",  # with two pairs of pilots
        pairs=pairs,
        seed=settings.seed,
        margin=f"{100 * settings.margin:g}",
        **{"quantile": f"{100 * comparison.quantile:g}"} if comparison.quantile else {},
        **{"min-effect": f"{100 * outcome.min_effect:g}"} if outcome.min_effect else {},
        **{"wall": True} if settings.wall else {},
        **{"control": True} if "control" in launched else {},
    )


class GateSide(NamedTuple):
    """What a gate launches for a side: the commit that its command runs, "" for the code as it is,
    and the command."""

    commit: str
    command: str


def gate_command(
    base: GateSide, head: GateSide, allowed: Sequence[str] = (), **options: object
) -> str:
    """The gate of two sides. A word of a command that was not stored says whose it is: otherwise
    both sides would look alike."""
    words = list[str]()
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    words += [word for name in allowed for word in ("--allow", name)]
    for name, side in {"base": base, "head": head}.items():
        if side.commit:
            words += ["--revision", f"{name}={side.commit}"]
        words += [f"--{name}", re.sub("<(path|set)>", rf"<\1 of {name}>", side.command)]
    return f"{RUN}{BENCH}gate {join(words)}"


def sorted_cells(comparison: Comparison) -> pd.DataFrame:
    """The cells with their `text` and `role`, grouped by verdict, the largest effect first, the
    library's as a control last."""
    roles = [role_of(word) for word in words_of(comparison)]
    cells = comparison.cells.assign(
        text=pd.Series(rows_of(comparison)),
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
    axes.set_xlabel(f"{of_quantile(comparison.quantile)}faster | slower")
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
            **{name: text for name, text in cell.text.items() if name.startswith(FIGURES)},
        }
        for cell, drawing in pairs
    ]
    return Section(f"Cells of {comparison.variant.label}, the largest effect first", rows=rows)


def _differences(*variants: Side) -> Section:
    """The commits, branches and commands that are not the same on all sides, and the facts on
    machine, software and environment of their last launches."""
    facts = pd.DataFrame(
        {
            side.label: {
                "commit": side.command.known_commit,
                "branch": side.command.branch,
                "command": side.typed,
                **recorded_facts(side.launches[-1].run),
            }
            for side in variants
        }
    ).replace("", "-")
    facts = facts.fillna("-").map(lambda text: text[:500])
    facts = facts[facts.nunique(axis=1) > 1].rename_axis("fact").reset_index()
    rows: Any = facts.to_dict("records")
    same = "Commands, machine, software and environment are the same on all sides."
    return Section("What differs", [] if rows else [same], rows=rows)
