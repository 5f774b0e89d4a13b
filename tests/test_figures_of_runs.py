"""Every figure of README.md and of the tables of gpu.md and performance.md is that of the run that
figures_of_runs.py names, and the page says in which settings it ran; or the page says that the run
is not archived."""

import re
from functools import cache
from importlib import import_module

import pytest

from tests.figures_of_runs import GPU, PERFORMANCE, PROSE, README, TABLES, Cell, Row, runs
from tests.launch import ROOT
from wiretax.record.schema import Run

pytestmark = pytest.mark.unit

NOT_ARCHIVED = "not archived"
# It lets NCCL run at all with two ranks on a card, and limits nothing.
PERMITS = "NCCL_MULTI_RANK_GPU_ENABLE"
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
MEASURED = re.compile(r"\d(?: %| us| ns| ms| times| GB/s)")
# No measured figures: code, the target of a link, dates, versions, sizes and the names of models.
OTHER = re.compile(
    r"`[^`]*`|\]\([^)]*\)|\d{4}-\d\d-\d\d|\d+\.\d+\.\d+|\d+ [KM]iB"
    r"|[HR]\d{3,}\w*|\d+B\b|MPI [\d.]+"
)


def numbers(text: str) -> list[str]:
    return NUMBER.findall(OTHER.sub(" ", text))


def differences(told: list[str], cell: Cell) -> list[str]:
    """What a text says differently, at the precision in which it says it."""
    if len(told) != len(cell):
        return [f"{told} for {[figure.value for figure in cell]}"]
    return [
        f"{text} for {figure.value}"
        for text, figure in zip(told, cell, strict=True)
        for decimals in [len(text.partition(".")[2])]
        if abs(float(text.replace(",", "")) - figure.value) > 0.5 * 10**-decimals + 1e-9
    ]


def sections(page: str) -> list[str]:
    """A page's text by its headings, without blocks of code and marks."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", (ROOT / page).read_text(), flags=re.DOTALL)
    return re.split(r"^(?=#+ )", text, flags=re.MULTILINE)


def tables(page: str) -> list[tuple[str, str, list[list[str]]]]:
    """Each table: its section, its head, and the cells of its rows."""
    found = []
    for section in sections(page):
        for table in re.findall(r"(?:^\|.*\n)+", section + "\n", re.MULTILINE):
            head, _, *rows = table.splitlines()
            cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
            found.append((section, head, cells))
    return found


ALL = [(page, *table) for page in (README, GPU, PERFORMANCE) for table in tables(page)]
WITH_FIGURES = [
    table for table in ALL if any(numbers(cell) for row in table[3] for cell in row[1:])
]
NAMES = [f"{page}-{head[:30]}" for page, _, head, _ in WITH_FIGURES]


@cache
def source(page: str, head: str):
    found = [
        rows for (own, first), rows in TABLES.items() if own == page and head.startswith(first)
    ]
    assert len(found) == 1, f"{page}: which runs is the table {head!r} of? See figures_of_runs.py"
    return found[0]()


def table_differences(section: str, cells: list[list[str]], rows: dict[str, Row]) -> list[str]:
    wrong = []
    for name, *told in cells:
        row = rows.get(name, ())
        if row and len(row) == len(told):
            for text, cell in zip(told, row, strict=True):
                wrong += differences(numbers(text), cell)
        elif row or NOT_ARCHIVED not in section:
            wrong.append(f"{name}: no run")
    return wrong + sorted(f"{name}: no row" for name in rows.keys() - {row[0] for row in cells})


@pytest.mark.parametrize(("page", "section", "head", "cells"), WITH_FIGURES, ids=NAMES)
def test_a_table_has_the_figures_of_its_runs(page, section, head, cells):
    assert table_differences(section, cells, source(page, head)) == []


@pytest.mark.parametrize(("page", "section", "head", "cells"), WITH_FIGURES, ids=NAMES)
def test_another_digit_in_a_table_would_be_noticed(page, section, head, cells):
    rows = source(page, head)
    for name, *told in cells:
        for text, cell in zip(told, rows.get(name, ()), strict=False):
            for place in range(len(numbers(text))):
                changed = numbers(text)
                changed[place] = changed[place][:-1] + str((int(changed[place][-1]) + 1) % 10)
                assert differences(changed, cell), f"{name}: {changed}"
            assert differences([*numbers(text), "1"], cell)
    section = section.replace(NOT_ARCHIVED, "")
    assert table_differences(section, [*cells, ["another row", "1.0"]], rows)


def complaints(section: str, cell: Cell) -> list[str]:
    """What holds for the runs of a cell and its section does not say."""
    found = []
    for figure in cell:
        if not figure.is_archived and NOT_ARCHIVED not in section:
            found.append("the run is not archived")
        if figure.run and figure.library:
            found += [each for each in limits(figure.run) if each not in section]
            if figure.library not in section:
                found.append(figure.library)
    return found


def limits(run: Run) -> list[str]:
    """What decides the library's speed: its variables, and its channels."""
    variables = [
        f"{name}={fact['value']}"
        for key, fact in run.environment.items()
        for name in [key.removeprefix("env.")]
        if name.startswith("NCCL_") and name != PERMITS
    ]
    channels = {each["coll"] for each in run.world["library"]["channels"].values()}
    return [*variables, f"{max(channels)} channels"]


@pytest.mark.parametrize(("page", "section", "head", "cells"), WITH_FIGURES, ids=NAMES)
def test_a_table_says_in_which_settings_its_runs_ran(page, section, head, cells):
    rows = source(page, head)
    for name, *_ in cells:
        for cell in rows.get(name, ()):
            assert complaints(section, cell) == [], name
            assert claims(name, head, cell) == [], name


def claims(name: str, head: str, cell: Cell) -> list[str]:
    """What the name of a row and the head claim of the cases in a cell, and is not so. The parts of
    a name between semicolons are about a figure each."""
    parts = name.split(";") if name.count(";") + 1 == len(cell) else [name] * len(cell)
    wrong = []
    for part, figure in zip(parts, cell, strict=True):
        if figure.run and figure.variant:
            holds = {
                **{
                    variant: figure.variant == variant
                    for variant in ("copied", "registered", "plain")
                },
                "in place": figure.in_place,
                "from a graph": bool(figure.run.method.get("graph")),
            }
            wrong += [
                f"{part}: not {claim}"
                for claim, is_so in holds.items()
                if claim in f"{head} {part}" and not is_so
            ]
    launches = {figure.run.run_id for figure in cell if figure.run}
    if "two launches" in f"{head} {name}" and len(launches) != len(cell):
        wrong.append(f"{name}: {len(launches)} launch")
    return wrong


def test_another_setting_would_be_noticed():
    """A row once was "the fastest of its settings", and its runs were limited to 32 channels."""
    for page, section, head, cells in WITH_FIGURES:
        for name, *_ in cells:
            for cell in source(page, head).get(name, ()):
                for figure in cell:
                    for limit in limits(figure.run) if figure.run and figure.library else []:
                        assert complaints(section.replace(limit, ""), cell), f"{name}: {limit}"
                if any(figure.run and figure.variant for figure in cell):
                    others = "copied registered plain"  # no case is of all
                    assert claims(others, head, cell)


def paragraphs(page: str) -> list[str]:
    """Those with measured figures."""
    return [
        paragraph
        for section in sections(page)
        for paragraph in re.split(r"\n\n+|\n(?=- )", section)
        if not paragraph.startswith("|") and MEASURED.search(paragraph)
    ]


@pytest.mark.parametrize(("page", "first"), PROSE)
def test_a_paragraph_has_the_figures_of_its_runs(page, first):
    (paragraph,) = [each for each in paragraphs(page) if each.startswith(first)]
    cell = PROSE[page, first]()
    told = numbers(paragraph)
    assert differences(told, cell) == []
    assert complaints((ROOT / page).read_text(), cell) == []
    assert differences([*told, "1"], cell)


def test_every_paragraph_of_readme_with_measured_figures_has_a_source():
    """test_figures.py compares the one on tensor parallelism with docs/answer.md."""
    known = *[first for page, first in PROSE if page == README], "**Does tensor parallelism"
    assert [each for each in paragraphs(README) if not each.startswith(known)] == []


def test_the_site_shows_complete_runs_of_each_kind_of_machine(on_the_path):
    """Those that docs/experiments/archived.md lists."""
    text = (ROOT / "docs/experiments/archived.md").read_text()
    chosen = import_module("archived_pages").chosen(text)
    shown = [runs(archive)[digits] for archive, own in chosen.items() for digits in own]
    assert {result.end.status for result in shown if result.end} == {"complete"}
    ranks = [result.run.world["ranks"][0] for result in shown]
    names = {rank.get("gpu") or rank["arch"] for rank in ranks}
    kinds = "EPYC", "Xeon", "H100", "H200"
    assert [sum(kind in name for name in names) for kind in kinds] == [1, 1, 1, 1]
    told = " ".join(re.findall(r"^\| (.*?)[:,] .*\(runs/", text, re.MULTILINE))
    assert [kind for kind in kinds if kind in told] == [*kinds]
