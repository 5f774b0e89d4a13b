"""The page of one run: its headline, its speed and time against size, a row for each size, and,
folded, what explains them."""

from pathlib import Path

from reports.kit.chart import chart_of
from reports.kit.page import Banner, Page, Row, Section
from reports.site import heat_maps, tail_charts
from reports.tables import link_table, run_text, show, tune_table
from reports.tables.plot import drawn_of
from reports.tables.rows import (
    TOO_FEW,
    TOO_NOISY,
    UNCLEAR,
    UNLIKE,
    SizeRow,
    are_unlike,
    bound_notes,
    cost_us,
    default_rows,
    first_rows,
    is_noisy,
    ratio_text,
    software_notes,
    speed_ups,
    sums_in_software,
    verdict_of,
    views,
)
from reports.tables.sentences import (
    algorithm_of,
    command_of,
    describe,
    environment_of,
    machine,
    number,
    start_time,
    to_repeat,
    type_text,
    wrong_text,
)
from reports.tables.show import is_sweep, kind_of
from reports.tables.table import long_rows
from reports.tables.tail_line import worst_tail
from wiretax.record.case import is_own_benchmark
from wiretax.record.result import read
from wiretax.record.schema import Result
from wiretax.record.wrong import first_place, worst_first

HEAT_MAPS = {link_table: heat_maps.link_sections, tune_table: heat_maps.tune_sections}


def run_page(path: Path) -> Page:
    """The page of a run. Raises ResultError."""
    result = read(path)
    run = result.run
    wrong: list[Row] = [
        {
            "case": f"{describe(case)} {type_text(case)}",
            "verdict": f"WRONG: {wrong_text(case)}",
            "first wrong element": first_place(case),
        }
        for case in worst_first(result.cases)
    ]
    sections = [Section("Wrong results, the worst first", rows=wrong)]
    if wrong or not result.complete:
        said, command = to_repeat(run, "To repeat it")
        sections.append(Section("What to do next", [said], text=command))
    if is_sweep(result):
        sections += sweep_sections(result)
    elif make_sections := HEAT_MAPS.get(kind_of(result)):
        sections += make_sections(result)
    every_cell = long_rows(result.cases, speed_ups(result))
    facts: list[Row] = [
        {"name": name, "value": text[:500]} for name, text in environment_of(run).items()
    ]
    sections += [
        Section("As the run printed it", text=show.text(result), folded=len(sections) > 1),
        Section("Every cell", bound_notes(result.cases), rows=every_cell, folded=True),
        Section("Environment", rows=facts, folded=True),
    ]
    ids = {name: getattr(run, name) for name in ("version", "run_id", "machine_id", "software_id")}
    return Page(machine(result), banner_of(result), sections, {"command": command_of(run), **ids})


def banner_of(result: Result) -> Banner:
    """The first figure of the headline, the headline, and what limits it. Its role says at most
    that the figures are unsure: one launch is no verdict."""
    facts = [
        f"{machine(result)}. Run: {start_time(result.run)}.",
        *(f"{sentence}." for sentence in run_text.library_lines(result)),
        *run_text.link_lines(result),
        *run_text.gpu_lines(result),
        *(f"{sentence}." for sentence in run_text.throttled_lines(result)),
    ]
    if is_sweep(result):
        rows = default_rows(result, views(result)[0])
        facts += [f"{sentence}." for sentence in worst_tail(result, rows)]
    points = kind_of(result).points(result)
    if worst_first(result.cases):
        return Banner("WRONG RESULTS", f"{show.headline_of(result)}.", facts)

    facts = [*run_text.opening(result), *facts]
    if not points:
        return Banner("Nothing was measured", show.headline_of(result), facts, "unsure")

    first = points[0]
    is_doubtful = bool(first.ratio) and is_noisy(first.ratio)
    is_doubtful |= verdict_of(first.ratio) in (TOO_FEW, UNCLEAR)
    is_sure = result.complete and not is_doubtful
    role = "steady" if is_sure else "unsure"
    word = f"{number(first.value)} {first.unit} at {first.label}"
    return Banner(word, show.headline_of(result), facts, role)


def remark_on(row: SizeRow) -> str:
    """What a reader must know of a row. One launch is no verdict, so none is here."""
    if row.worst and row.worst.n_wrong:
        return "WRONG"
    if row.ratio and sums_in_software(row.library):
        return "library sums in software"
    if row.ratio and is_noisy(row.ratio):
        return TOO_NOISY
    word = verdict_of(row.ratio)
    return word if word in (TOO_FEW, UNCLEAR) else "-"


def sweep_sections(result: Result) -> list[Section]:
    """Charts of the speed against the library, of the busbw and of the time, a row for each size,
    and charts of its steps, of the first view."""
    lines, quantities = drawn_of(result)
    charts = [chart_of(quantity, lines) for quantity in quantities]
    best = "best, us" if result.run.imported_from else "ours, us"
    sizes = first_rows(result)
    soft = [f"{note}." for note in software_notes(row.library for row in sizes)]
    is_unlike = any(are_unlike(result.run, row.library, row.ours) for row in sizes)
    what = "case" if all(map(is_own_benchmark, result.cases)) else "size"
    rows = [
        {
            what: row.name,
            best: number(cost_us(row.ours)),
            "library, us": number(cost_us(row.library)),
            "library / ours [95 %]": ratio_text(row.ratio),
            "remark": remark_on(row),
            "algorithm": (row.ours.chosen or algorithm_of(row.ours)) if row.ours else "-",
        }
        for row in sizes
    ]
    return [
        Section("Speed and time at each size", soft, charts=charts),
        Section(
            f"Each {what}",
            [*([UNLIKE] if is_unlike else []), *soft],
            rows=rows,
        ),
        *tail_charts.percentiles_section(result, lines),
    ]
