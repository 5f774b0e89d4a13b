"""Tests the pictures of all commands: no text is cut or leaves the figure, and no two lines of a legend look alike."""

import re
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.text import Text

from reports.__main__ import main
from reports.store.result import read
from reports.tables import link
from reports.tables.figure import OTHERS, THIN_GREY, Bar, draw_bars, lines_of, name_ends, styles_of
from reports.tables.page import draw_picture
from tests.bench.test_link import made_up
from tests.reports.synthetic_benchmarks import rewritten, write_benchmark
from tests.reports.synthetic_campaign import no_effect, slower, write_campaign
from tests.reports.synthetic_run import write_run

MACHINE = ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition (sm_120) and AMD Radeon AI PRO R9700 of the second "
           "chassis, at the second socket of an AMD EPYC 9B45 96-Core Processor")  # fmt: skip
LIBRARY = "Intel(R) MPI Library 2021.18 for Linux* OS, built with a name of eighty letters or more"
DRAWN = (
    "allreduce",
    "late",
    "sendrecv",
    "alltoall",
    "footprint",
    "gemv_allreduce",
    "decode",
    "link",
)
VARIANTS = ("copied", "registered", "a_third_variant")
SMALL: dict[str, Any] = {"sizes": [16384, 262144, 4 << 20], "n": 2, "n_blocks": 6}


@pytest.fixture
def drawings(monkeypatch):
    """The figures that are drawn, still open."""
    kept: list[Any] = []
    close = pyplot.close
    monkeypatch.setattr(pyplot, "close", kept.append)
    yield kept
    for drawing in kept:
        close(drawing)


def letters(text):
    return re.sub(r"\s", "", text)


def check(drawing, *names):
    """Checks that everything is inside the figure, that the names are whole, and that legends are unambiguous."""
    drawing.draw_without_rendering()
    box, (width, height) = drawing.get_tightbbox(), drawing.get_size_inches()
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height
    words = "".join(letters(text.get_text()) for text in drawing.findobj(Text))
    for name in names:
        assert letters(name) in words
    for legend in [*drawing.legends, *filter(None, (axes.get_legend() for axes in drawing.axes))]:
        looks = [
            (to_hex(line.get_color()), line.get_marker(), str(line._unscaled_dash_pattern))
            for line in legend.get_lines()
        ]
        assert len(looks) == len({*looks}) == len({text.get_text() for text in legend.get_texts()})


def long_named(path):
    """Gives a run a long name of the machine and of the library."""
    world = read(path).run.world
    world["ranks"] = [
        rank | ({"gpu": MACHINE} if rank.get("gpu") else {}) for rank in world["ranks"]
    ]
    rewritten(
        path,
        lambda case: {"library": LIBRARY} if case.get("library") else {},
        {"environment": {"cpu.model": {"value": MACHINE, "source": "test"}}, "world": world},
    )
    return str(path)


@pytest.mark.parametrize("name", DRAWN)
def test_no_picture_of_a_run_cuts_a_name(tmp_path, drawings, name):
    write_benchmark(tmp_path, name)
    run = long_named(tmp_path / "run.jsonl")
    assert main(["show", run, "--plot", str(tmp_path / "a.svg")]) == 0
    assert main(["card", run, str(tmp_path / "card.png")]) == 0
    picture, card = drawings
    check(picture, MACHINE)
    check(card, MACHINE)
    assert card.get_size_inches().tolist() == [12, 6.3]


@pytest.fixture
def sweep(tmp_path):
    """A run of three variants of each algorithm, and of two of the library."""
    made = write_run(
        tmp_path,
        **SMALL,
        modes=["isolated"],
        variants=VARIANTS,
        library_variants=("plain", "registered"),
    )
    return long_named(made.path)


def test_each_variant_of_auto_has_a_colour_and_the_other_algorithms_are_grey(
    tmp_path, drawings, sweep
):
    """Variants of auto in one colour look like one line, and 20 coloured lines like none."""
    assert main(["show", sweep, "--plot", str(tmp_path / "a.svg")]) == 0
    assert main(["fit", sweep, "--plot", str(tmp_path / "b.svg")]) == 0
    assert main(["card", sweep, str(tmp_path / "card.png")]) == 0
    colours = []
    for drawing in drawings[:2]:
        check(
            drawing,
            *(
                f"{name} {variant}"
                for name in ("one_shot_pull", "two_shot")
                for variant in VARIANTS[1:]
            ),
        )
        (legend,) = drawing.legends
        of_name = {
            letters(text.get_text()): to_hex(line.get_color())
            for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
        }
        autos = [colour for name, colour in of_name.items() if name.startswith("auto")]
        assert len({*autos}) == 3
        assert len(of_name) == 2 + 3 + 1
        assert of_name[letters(OTHERS)] == THIN_GREY["color"]
        assert THIN_GREY["color"] not in autos
        colours.append(autos)
    assert colours[0] == colours[1]
    check(drawings[2], MACHINE)
    assert letters(LIBRARY) in [
        letters(text.get_text()) for text in drawings[2].axes[0].get_legend().texts
    ]


def test_a_variant_of_auto_keeps_its_colour_in_every_picture():
    both = styles_of([("library", "plain"), ("auto", "copied"), ("auto", "registered")])
    (alone,) = styles_of([("auto", "registered")])
    assert alone == both[2] != both[1]


def test_lines_without_auto_have_colours(tmp_path):
    """Grey lines would name nothing if no line stood out."""
    result = write_run(tmp_path, **SMALL, algorithms=["library", "ring", "two_shot"])
    lines = lines_of(result.cases)
    assert all(line.is_main for line in lines)
    assert len({line.style["color"] for line in lines}) == 3


def test_names_beside_lines_do_not_overlap(drawings):
    for n, named in ((12, 12), (80, 1)):
        drawing, axes = pyplot.subplots()
        axes.set(xlim=(1, 100), ylim=(1, 1000), xscale="log", yscale="log")
        name_ends(axes, [(f"name {place}", 50, 20 + place / 10) for place in range(n)])
        drawing.draw_without_rendering()
        boxes = sorted(
            (Text.get_window_extent(text) for text in axes.texts), key=lambda box: box.y0
        )  # without arrows
        assert len(boxes) == named
        assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))
        drawings.append(drawing)


def test_figures_in_a_heat_map_keep_their_colours_on_a_dark_page(tmp_path):
    """The colours of a page would make them dark on dark cells and bright on bright cells."""
    run = made_up(tmp_path, 4, lambda src, dst: 5.0 if src < dst else 25.0, blocks=6)
    svg = draw_picture("own", partial(link.draw, run)).svg
    assert min(svg.count("fill: #101112"), svg.count("fill: #fefeff")) >= 6


def test_a_hatched_end_is_no_longer_than_its_bar(tmp_path, drawings):
    """Otherwise a step with much exposed communication would begin before 0."""
    run = write_run(tmp_path, **SMALL)
    draw_bars(
        tmp_path / "a.svg",
        run,
        [("steps", [Bar("a", 2.0, "2.0", "#0072B2", hatched=2.5)])],
        "ms a step",
    )
    assert min(bar.get_x() for bar in drawings[0].axes[0].patches) == 0


def test_comparisons_and_histories_keep_their_titles_whole(tmp_path, drawings):
    long = "a-variant-" + "of-a-branch-with-a-long-name-" * 4
    folder = write_campaign(
        tmp_path / "c", {"main": no_effect, long: slower(5)}, fresh=6, fresh_sizes=[16384]
    )
    assert main(["compare", str(folder), "--plot", str(tmp_path / "a.svg")]) == 0
    check(drawings[0], long)
    for number in range(20):
        path = write_run(
            tmp_path / "results",
            run_id=f"2026-11-{number + 1:02d}T06-15-00Z-allreduce-{number}",
            n=2,
            n_blocks=6,
            sizes=[16384],
            algorithms=["two_shot"],
            modes=["isolated"],
            seed=number,
            scale=1 + 0.2 * (number > 12),
        ).path
        long_named(path)
    assert main(["history", str(tmp_path / "results"), "--plot", str(tmp_path / "b.svg")]) in (0, 1)
    check(drawings[1], "two_shot")
