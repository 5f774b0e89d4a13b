"""docs/experiments/: short pages, whose pictures are drawn from today's tables in data/."""

from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from reports.__main__ import main
from reports.tables.sentences import number

PAGES = Path(__file__).parents[1] / "docs" / "experiments"
pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("on_the_path")]


@pytest.fixture(scope="module")
def figures(on_the_path):
    return import_module("figures").FIGURES


def test_a_picture_is_drawn_from_the_tables_of_today(figures):
    """Otherwise a page would show other figures than its table."""
    digest = import_module("drawing").digest
    pictures = {path.stem for path in PAGES.glob("*.png")}
    assert pictures == set(figures), "run make figures"
    for name, (_, tables) in figures.items():
        picture = Image.open(PAGES / f"{name}.png")
        assert picture.info["tables"] == digest(tables), f"{name}.png is stale: run make figures"


def test_every_picture_can_be_drawn(figures):
    """A table whose columns changed would break `make figures` for the next person."""
    for name, (draw, tables) in figures.items():
        figure = draw(*map(import_module("drawing").read, tables))
        assert all(axes.has_data() for axes in figure.axes if axes.axison), name


@pytest.fixture(scope="module")
def answer(figures):
    return import_module("answer_page")


def test_the_answer_has_the_figures_of_today(answer):
    """Every figure of the page is computed from the published ones, the formulas and the runs."""
    assert answer.PAGE.read_text() == answer.page(), "run make figures"
    assert import_module("drawing").read("answer").equals(answer.points()), "run make figures"


def test_a_setting_of_a_library_is_no_range_of_its_default(answer):
    """The page once gave 39 to 81 us for one card: the 81 are a variable's, which costs decode."""
    names = set(answer.small_calls())
    (default,) = [name for name in names if "5070 Ti" in name and "=" not in name]
    assert f"{default}, NCCL_SHM_USE_CUDA_MEMCPY=1" in names
    assert [call.us for call in answer.small_calls()[default]] == [39]
    small = [call for own in answer.small_calls().values() for call in own]
    slowest_us = max(call.us for call in small if answer.is_setting(call))
    figures = answer.figures()
    assert number(slowest_us) in figures["slowest"]
    assert number(slowest_us) not in figures["us"]


def test_the_answer_says_what_its_command_and_its_source_say(answer, capsys):
    """It said 202 us where the command that it names said 203, and a range that its source had
    not."""
    figures = answer.figures()
    assert main(figures["command"].split()[3:]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"an all-reduce of {figures['size']} takes {figures['even']}; here" in printed
    likely = import_module("answer_cases").figures()["r9700_likely"].replace(" x", "x")
    assert f"{likely} PP 2 (of upper limits" in printed
    assert f"PP 2 21.0 {figures['layer'].removesuffix(' ms')} " in printed
    assert import_module("answer_boards").figures()["h100"] in (PAGES / "gpu.md").read_text()
    assert import_module("answer_marked").stale() == [], "run make figures"
