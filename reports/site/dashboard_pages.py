"""What the dashboard's pages say: each page is sections of sentences, pictures, one table and text, which the template
lays out alike; here they are filled from a run or a campaign.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from reports.advice.procurement import Procurement
from reports.site import dashboard_figures
from reports.site.dashboard_figures import Lines, Picture, Toggle
from reports.store.case import find_states
from reports.store.order import time_of
from reports.store.result import ResultError, read
from reports.store.schema import Case, Result, Run
from reports.tables.plot import own_picture
from reports.tables.sentences import link_lines, machine, number, opening, shape_text, size_text, stopped_first
from reports.tables.show import text
from reports.trends.crossovers import find_crossovers
from reports.trends.fit import fits_of
from reports.trends.fit_command import cells, sentences
from reports.trends.fit_plot import plot as draw_fits
from reports.trends.fit_records import by_title
from reports.verdicts import forest
from reports.verdicts.comparison import COMPARABLE, compare
from reports.verdicts.sides import Side, sides
from reports.verdicts.verdict_table import COLUMNS, closing, figures, grouped, head, label, shown, warnings

MOST_ROWS = 1500  # of a table, so that a page stays below 1 MB
LONGEST_TEXT = 60_000
DEVICE_FACTS = 500  # of a value of the environment, what a table has room for

Cell = str | tuple[str, str]  # a text, or a text and where it leads


@dataclass
class Table:
    """`ids` are those of the rows, if they have any; `filters` the columns that a reader may choose rows by."""

    id: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    ids: Sequence[str] = ()
    filters: Sequence[str] = ()


@dataclass
class Section:
    """A heading and what stands below it. `text` is laid out already; what is `folded` opens on demand."""

    heading: str
    said: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    toggles: Sequence[Toggle] = ()
    table: Table | None = None
    text: str = ""
    folded: bool = False


@dataclass
class Page:
    """`cards` are (what is said, its class, a sentence), for the first screen; `reproduce` are (what, how); `counts`
    the cells or series by verdict, `groups` the same for each machine and benchmark; `runs` the heads of a campaign's,
    without their cases and environment. What is empty is left out."""

    file: str
    name: str
    title: str
    said: Sequence[str] = ()
    cards: list[tuple[str, str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    reproduce: list[tuple[str, str]] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)
    groups: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    procurement: Procurement | None = None
    runs: Sequence[Run] = ()


def when(run: Run) -> str:
    """`2026-11-20 06:15 UTC`, as the run's name has it; `an unknown time` where it
    has none."""
    time = time_of(run.run_id)
    return f"{time:%Y-%m-%d %H:%M} UTC" if time else "an unknown time"


def command(run: Run) -> str:
    """The command that made the run, as far as its file tells: a path stands there as `<path>`."""
    argv = shlex.join(run.argv)
    size = run.world["size"]
    return f"mpirun -n {size} python -m bench.{run.benchmark}{' ' * bool(argv)}{argv}"


def command_but_seed(run: Run) -> str:
    """The same for every launch of one thing."""
    return re.sub(r" --seed \S+", "", command(run))


def without_place(sentence: str, *folders: Path) -> str:
    """`sentence` without where the folders and what else it names lie: a page may go to people who need not know."""
    for folder in folders:
        sentence = sentence.replace(f"{folder}/", "")
        if folder.name != str(folder) and folder.name:
            sentence = sentence.replace(str(folder), folder.name)
    return re.sub(r"(?<![\w/:>.])(\.\.)?/([^\s/]+/)+", "<path>/", sentence)


def how_made(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """How the runs behind a page were made: each command, version and machine once."""
    def each(what: str, values: Sequence[str], most: int = 8, between: str = "\n") -> tuple[str, str]:
        once = list(dict.fromkeys(values))
        return what, between.join([*once[:most], *[f"and {len(once) - most} more"] * (len(once) > most)])

    return [each("command", [command(run) for run in runs]), each("version", [run.version for run in runs]),
            each("run ids", [run.run_id for run in runs], 40, ", "),
            each("machine_id", [run.machine_id for run in runs]),
            each("software_id", [run.software_id for run in runs])]


def status(result: Result) -> str:
    """How a run ended, in words."""
    wrong = sum(case.status == "wrong" for case in result.cases)
    return f"WRONG: {wrong} case{'s' * (wrong > 1)}" if wrong else "complete" if result.complete else "incomplete"


# The next run's page has mostly the same launches in its fit.
read_lately = lru_cache(12)(read)


def of_run(path: Path, file: str, name: str, launches: Sequence[Path]) -> Page:
    """A run: what it found, drawn and in figures; `launches` are those of the same thing, for its fit. Raises
    ResultError for what cannot be read or shown of it."""
    result = read_lately(path)
    run = result.run
    states = find_states(result.blocks)
    said = [*opening(result), *filter(None, [stopped_first(result)]), *link_lines(states), *run.notes]
    said = [f"Run of {when(run)}: {status(result)}", *said]
    page = Page(file, name, machine(result), [" ".join(map(_sentence, said))])
    own, lines = own_picture(result), dashboard_figures.lines_in(result)
    try:
        if own:
            drawn = dashboard_figures.picture(
                lambda target: own(result, target), "own", machine(result),
                "The figures stand in the text below and in the table of every cell.", "cells")
            page.sections.append(Section("What was found", pictures=[drawn]))
        else:
            pictures = dashboard_figures.against_size(result, lines)
            page.sections.append(Section("Time and bandwidth", ["The run has no measured case."] * (not pictures),
                                         pictures, dashboard_figures.legend(pictures, lines)))
    except ResultError as error:
        page.sections.append(Section("Nothing to draw", [without_place(str(error), result.path.parent)]))
    page.sections.append(Section("As the run printed it", text=text(result)[:LONGEST_TEXT], folded=not own))
    if not own:
        page.sections += [*_fits([read_lately(launch) for launch in launches]), _iterations(result, lines)]
    page.sections += [*_link(result), _cells(result), _environment(run)]
    page.reproduce = how_made([run])
    return page


def _fits(launches: Sequence[Result]) -> list[Section]:
    """Start-up and bandwidth of each algorithm, and which overtakes which."""
    heading = "Regimes and crossovers"
    try:
        fits = fits_of(launches)
    except ResultError as error:
        return [Section(heading, [f"There is no fit: {without_place(str(error), launches[0].path.parent)}"])]
    fitted = [fit for fit in fits if fit.regimes]
    if not fitted:
        return [Section(heading, ["There is no fit: no algorithm has five blocks at three sizes."])]
    said = [f"time = alpha + size / beta, over {len(launches)} launches of this command on this machine and software."]
    rows = [[fit.name, fit.mode, *cells(regime), f"{regime.worst_residual:.1%}"]
            for fit in fitted for regime in fit.regimes]
    drawn = dashboard_figures.picture(
        lambda target: draw_fits(fitted, target), "fits", "Fits: time against size, a line for each regime",
        f"{len(fitted)} fits with {len(rows)} regimes; a bar where one gives way to another. Logarithmic axes.", "fits")
    crossovers = find_crossovers(fits)
    for _, group in by_title(fits):
        said += [f"{group[0].mode}: {line}" for line in sentences(group, crossovers)]
    return [Section(heading, said, [drawn], table=Table(
        "fits", "Fits over these launches, with 95 % intervals",
        ["algorithm", "mode", "sizes", "alpha, us", "beta, GB/s", "n 1/2", "worst miss"], rows))]


def _sentence(line: str) -> str:
    return line if line.endswith(".") else f"{line}."


def _iterations(result: Result, lines: Lines) -> Section:
    heading = "Iterations and stragglers"
    try:
        pictures, rows, said = dashboard_figures.of_iterations(result, lines)
    except ResultError as error:
        return Section(heading, [f"The iterations cannot be shown: {without_place(str(error), result.path.parent)}"])
    if not rows:
        return Section(heading, ["The run kept no single iterations."])
    columns = ["size", "algorithm", "iterations", "5 %, us", "median, us", "95 %, us", "longest, us",
               "arrival skew, us", "its 95 %, us", "last, by rank", "median by rank, us"]
    return Section(heading, [*said, "Arrival skew is the time from the first rank's coming to the last's; last, by "
                             "rank, is how often each took longest."], pictures,
                   table=Table("iterations", "Iterations that were kept, slowest rank", columns, rows))


def _link(result: Result) -> list[Section]:
    states = find_states(result.blocks)
    rows = [[f"{rtt_ns:.0f}", str(states.of_block.count(state)), f"{states.share(state):.0%}",
             "judged" if state == states.longest else "shown beside"] for state, rtt_ns in enumerate(states.rtt_ns)]
    if changing := states.of_block.count(None):
        rows.append(["changing", str(changing), f"{changing / len(states.of_block):.0%}", "left out"])
    return [Section("States of the link", table=Table("link", "A flag's way there and back, before and after each "
                    "block", ["round trip, ns", "blocks", "share", "figures"], rows))] if rows else []


COLUMNS_OF_CELLS: dict[str, Any] = {
    "size": lambda case: size_text(case.size_bytes),
    "algorithm": lambda case: case.library or case.algorithm,
    "variant": lambda case: case.variant, "mode": lambda case: case.mode,
    "collective": lambda case: case.collective, "shape": lambda case: shape_text(case.shape),
    "type": lambda case: f"{case.datatype} {case.redop}", "memory": lambda case: case.memory,
    "place": lambda case: "in place" if case.in_place else "out of place",
    "chosen": lambda case: case.chosen or "-",
    "status": lambda case: case.status + (f": {case.reason}" if case.reason else "") + ", suspect" * case.suspect,
    "time, us [95 %]": lambda case: _interval(case.time_us), "total, us [95 %]": lambda case: _interval(case.total_us),
    "p95, us": lambda case: number(case.time_us.p95 if case.time_us else None),
    "exposed, us [95 %]": lambda case: _interval(case.exposed_us),
    "busbw, GB/s": lambda case: number(case.bus_bw_gb_s), "algbw, GB/s": lambda case: number(case.alg_bw_gb_s),
    "bound, us": lambda case: number(case.bound_us),
    "of bound": lambda case: "-" if case.share_of_bound is None else f"{case.share_of_bound:.0%}",
    "wrong": lambda case: "unchecked" if case.n_wrong is None else str(case.n_wrong)}
ALWAYS = ("size", "algorithm", "mode", "status", "time, us [95 %]")


def _interval(summary: Any) -> str:
    if summary is None:
        return "-"
    ends = f" [{number(summary.ci_low)} {number(summary.ci_high)}]" if summary.ci_low is not None else ""
    return number(summary.median) + ends


def _cells(result: Result) -> Section:
    """A row a cell. What is the same in all of them is said once, above."""
    def of(case: Case) -> dict[str, str]:
        return {name: column(case) for name, column in COLUMNS_OF_CELLS.items()}

    cases = sorted(result.cases, key=lambda case: (case.mode != "isolated", case.size_bytes, case.case))
    rows = [of(case) for case in cases]
    same = {name for name in COLUMNS_OF_CELLS if name not in ALWAYS and len({row[name] for row in rows}) == 1}
    columns = [name for name in COLUMNS_OF_CELLS if name not in same]
    alike = [f"{name} {rows[0][name]}" for name in COLUMNS_OF_CELLS if name in same and rows[0][name] not in ("-", "")]
    said = [f"In every cell: {'; '.join(alike)}."] * bool(alike)
    if len(rows) > MOST_ROWS:
        said.append(f"{len(rows) - MOST_ROWS} more cells do not fit here: python -m reports show RUN --format csv.")
    shown_rows: list[list[Cell]] = [[(str(case.case), f"#case-{case.case}"), *(row[name] for name in columns)]
                                    for case, row in list(zip(cases, rows, strict=True))[:MOST_ROWS]]
    return Section("Every cell", said, table=Table(
        "cells", "Every cell; its number is a link to it", ["cell", *columns], shown_rows,
        [f"case-{case.case}" for case in cases[:MOST_ROWS]],
        [name for name in ("algorithm", "mode") if len({row[name] for row in rows}) > 1]))


def _environment(run: Run) -> Section:
    rows = [[name, _value(fact)[:DEVICE_FACTS], str(fact.get("source", "-")) if isinstance(fact, dict) else "-"]
            for name, fact in run.environment.items()]
    return Section("Environment", table=Table("environment", "What the run found of its machine",
                                              ["what", "value", "source"], rows[:MOST_ROWS]), folded=True)


def _value(fact: Any) -> str:
    value = fact.get("value") if isinstance(fact, dict) else fact
    return "-" if value is None else str(value)


def of_campaign(folder: Path, file: str, name: str) -> Page:
    """A campaign: its forest plot, its table, and what differs between its variants. Raises ResultError for one that
    cannot be read or compared."""
    found, notes = sides([str(folder)])
    comparisons = compare(found, list(COMPARABLE))
    judged = [cell for comparison, _ in shown(comparisons) for cell in comparison.cells]
    counts = {word: sum(cell.verdict.value == word for cell in judged)
              for word in dict.fromkeys(cell.verdict.value for cell in judged)}
    page = Page(file, name, f"{name}: {', '.join(label(side) for side in found[1:])} against {label(found[0])}",
                [f"{', '.join(f'{word} {count}' for word, count in counts.items())}; of {len(judged)} cells.",
                 *(without_place(note, folder) for note in notes)], counts=counts)
    words = "Each row's verdict and ratio stand beside it in words, and in the table below."
    page.sections = [Section("Ratios", pictures=[dashboard_figures.picture(
        lambda target: forest.plot(comparisons, target), "forest", "Ratio of each cell, variant over baseline, with "
        "its 95 % interval", f"{len(judged)} cells; right of 1 the variant is slower; the band is the margin. {words}",
        "cells-0")])]
    for place, (comparison, control) in enumerate(shown(comparisons)):
        rows = [[case_name, *figures(cell)] for case_name, cells in grouped(comparison).items() for cell in cells]
        heading = f"{label(comparison.variant)} against {label(comparison.baseline)}"
        cut = [f"{len(rows) - MOST_ROWS} more cells do not fit here."] * (len(rows) > MOST_ROWS)
        page.sections.append(Section(
            heading, [*head(comparison, control), *warnings(comparison), *closing(comparison), *cut],
            table=Table(f"cells-{place}", f"Every cell: {heading}", ["algorithm", *COLUMNS], rows[:MOST_ROWS],
                        filters=["algorithm", "verdict"])))
    page.sections.append(_differences(found))
    runs = [launch.result.run for side in found for launch in side.launches]
    page.reproduce = how_made(runs)
    page.runs = [msgspec.structs.replace(run, cases=[], environment={}, notes=[]) for run in runs]
    return page


def _differences(found: Sequence[Side]) -> Section:
    """What the runs say of their machine and software, where the sides do not say the same."""
    facts: dict[str, list[set[str]]] = {}
    for at, side in enumerate(found):
        for launch in side.launches:
            run = launch.result.run
            known = {name: _value(fact) for name, fact in run.environment.items()}
            known |= {"machine_id": run.machine_id, "software_id": run.software_id, "version": run.version,
                      "command": command_but_seed(run)}
            for name, value in known.items():
                facts.setdefault(name, [set() for _ in found])[at].add(value[:DEVICE_FACTS])
    rows = [[name, *(", ".join(sorted(of_side)[:3]) + f" and {len(of_side) - 3} more" * (len(of_side) > 3) or "-"
                     for of_side in values)]
            for name, values in facts.items() if any(of_side != values[0] for of_side in values)]
    if not rows:
        return Section("What differs", ["Machine, software and environment are the same on all sides."])
    return Section("What differs", table=Table("differences", "Facts that are not the same on all sides",
                                               ["what", *(label(side) for side in found)], rows[:MOST_ROWS]))
