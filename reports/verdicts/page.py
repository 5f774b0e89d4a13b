"""The pages of the gate and of campaigns: the verdict, what to do next, and the forest plot, which
is a table with a drawing in each row."""

from collections.abc import Sequence
from pathlib import Path
from shlex import join
from typing import Any

import pandas as pd

from reports.kit.chart import forest as forest_of
from reports.kit.page import Banner, Page, Row, Section, role_of
from reports.store.program import BENCH, REPORTS, RUN
from reports.tables.sentences import command_of, environment_of, machine, some, start_time
from reports.tables.show import headline_of
from reports.verdicts import render
from reports.verdicts.gate import INCONCLUSIVE, INTERRUPTED, PASS, REGRESSION, UNUSABLE, Outcome
from reports.verdicts.judge import Comparison, compare
from reports.verdicts.sides import COMPARABLE, Side, deaths_of, notes_of, read_sides

ORDER = "worse", "unsure", "better", "steady"  # roles
FIGURES = "base us", "variant us", "MDE", "pairs"  # columns
# After each outcome: its name, and what to do next.
NEXT = {
    PASS: ("PASS", "Nothing: this can be merged."),
    REGRESSION: ("REGRESSION", "Find out what made these cases slower:"),
    INCONCLUSIVE: (
        "NOT ENOUGH DATA",
        "Measure more pairs of launches, in turn, until such a slowdown would show:",
    ),
    UNUSABLE: ("UNUSABLE", "Mend the side that is named and measure again:"),
    INTERRUPTED: ("INTERRUPTED", "Start it again, in a new folder:"),
}
NOT_JUDGED = "NOT JUDGED", "Mend what is named and start it again:"
ACCEPT = f'{RUN}{REPORTS} accept --baseline BASELINES --current CURRENT --reason "..."'


def gate_page(outcome: Outcome) -> Page:
    """The verdict, what to do next, and the comparison with what explains it."""
    comparison, sentence = outcome.comparison, outcome.sentence
    word, todo = NEXT.get(outcome.status, NOT_JUDGED)
    banner = Banner(word, f"{sentence[:1].upper()}{sentence[1:]}.")
    command = "" if outcome.status == PASS else next_command(outcome)
    sections = [
        Section("What to do next", [todo], text=command),
        Section("What was found", outcome.findings),
    ]

    if comparison:
        cells, all_said = forest(comparison), explanation(comparison)
        banner.facts = [
            *facts_of(comparison),
            headline_of(*comparison.variant.launches),
            [("All cells", f"#{cells.id}"), ("All sentences", f"#{all_said.id}")],
        ]
        sections += [cells, all_said]

    return Page(outcome.headline, banner, sections)


def next_command(outcome: Outcome) -> str:
    """After a regression the commits between the sides, or their comparison, or for a kept baseline
    how to accept it; otherwise the gate once more, for longer if it lacked data."""
    comparison = outcome.comparison
    if not comparison or not (base := comparison.baseline.command):
        return ACCEPT if outcome.status == REGRESSION else "make gate"

    head = comparison.variant.command
    commits = [side.revision[:9] for side in (base, head) if side and side.revision]
    if outcome.status == REGRESSION:
        if len({*commits}) == 2:
            return f"git log --oneline {'..'.join(commits)}"
        folders = [
            str(side.launches[0].path.parent) if side.campaign else side.name
            for side in (comparison.baseline, comparison.variant)
        ]
        return f"{RUN}{REPORTS} compare {join(folders)}"

    if len(commits) == 2:
        return f"make gate BASE={commits[0]} BUDGET=30m"
    sides = join(["--base", join(base.argv), "--head", join(head.argv if head else [])])
    return f"{RUN}{BENCH}gate --budget 30m {sides}"


def campaign_page(folder: Path) -> Page:
    """A campaign: its comparisons, and the differences between its variants. Raises ResultError."""
    variants = read_sides([str(folder)])
    comparisons = compare(variants, list(COMPARABLE))
    banner, *others = map(comparison_banner, comparisons)
    banner.facts = [
        *banner.facts,
        *(f"{other.word}: {other.sentence}" for other in others),
        *deaths_of(variants),
        *notes_of(variants),
    ]
    names = ", ".join(side.label for side in variants[1:])
    return Page(
        f"{folder.name}: {names} against {variants[0].label}",
        banner,
        [
            *map(forest, comparisons),
            _differences(variants),
            *map(explanation, comparisons),
        ],
    )


def comparison_banner(comparison: Comparison) -> Banner:
    """The verdict on a comparison of a campaign: the first of its cells' verdicts."""
    words, order = render.words_of(comparison), ("SLOWER", "differs", "FASTER", "UNDECIDED", "SAME")
    word = next((each for each in order if each in words), "UNDECIDED")
    return Banner(word, f"{render.headline(comparison)}.", facts_of(comparison))


def facts_of(comparison: Comparison) -> list[str]:
    """What was compared, by how many launches, where and when, and how many cells have each
    verdict."""
    variant = comparison.variant
    last = variant.launches[-1]
    against = f"{_named(variant)} against {_named(comparison.baseline)}"
    return [
        f"{against}: {render.launches_of(comparison)}.",
        f"{machine(last)}, {start_time(last.run)}.",
        f"{render.counts(comparison)}.",
    ]


def _named(side: Side) -> str:
    """The label of a side with its commit, or else its version."""
    commit = side.command and side.command.revision
    return f"{side.label} ({commit[:9] if commit else side.launches[-1].run.version})"


def forest(comparison: Comparison) -> Section:
    """The cells, grouped by verdict, the largest effect first, the library's as a control last."""
    roles = [role_of(word) for word in render.words_of(comparison)]
    cells = comparison.cells.assign(
        text=pd.Series(render.rows_of(comparison)),
        role=pd.Categorical(roles, ORDER, ordered=True),
        effect=-comparison.cells.log_ratio.abs().fillna(0),
        is_control=~comparison.is_judged,
    )
    cells = cells.sort_values(["is_control", "role", "effect"], kind="stable")
    shares = cells[["ratio", "low", "high"]].to_numpy() - 1
    heading, drawings = forest_of(shares, list(cells.role), comparison.margin)
    sorted_cells: Any = zip(cells.itertuples(), drawings, strict=True)
    rows: list[Row] = [
        {
            "case": cell.title,
            "verdict": f"{cell.text['verdict']}\ncontrol"
            if cell.is_control
            else cell.text["verdict"],
            "ratio [95 %]": cell.text["ratio [95 %]"],
            heading: drawing,
            **{name: cell.text[name] for name in FIGURES},
        }
        for cell, drawing in sorted_cells
    ]
    return Section(f"Cells of {comparison.variant.label}, the largest effect first", rows=rows)


def _differences(variants: Sequence[Side]) -> Section:
    """The facts on machine, software and environment that are not the same on all sides."""
    facts = pd.DataFrame(
        [
            environment_of(launch.run)
            | {name: getattr(launch.run, name) for name in ("machine_id", "software_id", "version")}
            | {"command": command_of(launch.run, "--seed"), "side": side.label}
            for side in variants
            for launch in side.launches
        ]
    )
    sides: Any = facts.fillna("-").groupby("side", sort=False)
    values = sides.agg(lambda texts: some(sorted({text[:500] for text in texts})))
    values = values.loc[:, values.nunique() > 1].T.rename_axis("fact").reset_index()
    rows: list[Row] = values.to_dict("records")
    same = "Machine, software and environment are the same on all sides."
    return Section("What differs", [] if rows else [same], rows=rows)


def explanation(comparison: Comparison) -> Section:
    title = f"What explains {comparison.variant.label}: all sentences"
    return Section(title, render.sentences(comparison), folded=True)
