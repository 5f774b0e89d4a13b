"""Tests the pictures: no text is cut, leaves the figure or lies on another; few lines, in the
colours of the pages."""

import re
from itertools import combinations
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from reports.__main__ import main
from reports.store.result import read
from reports.tables.figure import figure, label_ends
from tests.launch import few
from tests.reports.synthetic_benchmarks import write_benchmark
from tests.reports.synthetic_run import rewrite_cases, rewrite_head, write_run

MACHINE = (
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition (sm_120) and AMD Radeon AI PRO R9700 "
    "of the second chassis, at the second socket of an AMD EPYC 9B45 96-Core Processor"
)
LIBRARY = "Intel(R) MPI Library 2021.18 for Linux* OS, built with a name of eighty letters or more"


@pytest.fixture
def drawings(monkeypatch):
    """The figures that are drawn."""
    kept = list[Any]()
    save = Figure.savefig

    def keep(drawing, *words, **options):
        kept.append(drawing)
        save(drawing, *words, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def letters(text):
    return re.sub(r"\s", "", text)


def check(drawing):
    """Checks that everything is inside the figure, that no text lies on another, and that the
    machine's name is whole."""
    drawing.draw_without_rendering()
    box, (width, height) = drawing.get_tightbbox(), drawing.get_size_inches()
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height
    texts = [text for text in drawing.findobj(Text) if text.get_text() and text.get_visible()]
    every = [axis for axes in drawing.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = {label for axis in every for label in axis.get_ticklabels()}  # some are out of sight
    boxes = [
        (text.get_text(), Text.get_window_extent(text).shrunk(0.95, 0.95))
        for text in {*texts} - ticks
    ]
    over = [(one, two) for (one, a), (two, b) in combinations(boxes, 2) if a.overlaps(b)]
    assert over == []
    assert letters(MACHINE) in "".join(letters(text.get_text()) for text in texts)


def long_named(path):
    """Gives a run a long name of the machine and of the library."""
    ranks = read(path).run.world["ranks"]
    ranks = [rank | ({"gpu": MACHINE} if rank.get("gpu") else {}) for rank in ranks]
    facts = {"cpu.model": {"value": MACHINE, "source": "test"}}
    rewrite_head(path, environment=facts, world__ranks=ranks)
    rewrite_cases(
        path, lambda case: case.update({"library": LIBRARY} if case.get("library") else {})
    )
    return str(path)


def test_no_picture_of_a_run_cuts_a_name(tmp_path, drawings):
    write_benchmark(tmp_path, "allreduce")
    run = long_named(tmp_path / "run.jsonl")
    assert main(["show", run, "--plot", str(tmp_path / "a.svg")]) == 0
    (picture,) = drawings
    check(picture)


@pytest.mark.parametrize("name", few(["link", "tune", "decode", "alltoall"], 2))
def test_only_a_sweep_over_sizes_has_a_picture(tmp_path, capsys, name):
    write_benchmark(tmp_path, name)
    assert main(["show", str(tmp_path / "run.jsonl"), "--plot", str(tmp_path / "a.svg")]) == 2
    assert "only a sweep over sizes has a picture" in capsys.readouterr().err
    assert not (tmp_path / "a.svg").exists()


@pytest.mark.parametrize(("n_blocks", "has_bands"), [(12, True), (2, False)])
def test_a_picture_claims_only_the_intervals_that_it_has(tmp_path, n_blocks, has_bands):
    run, picture = write_run(tmp_path, sizes=[16384, 1 << 20], n_blocks=n_blocks, n=4).path, "a.svg"
    assert main(["show", str(run), "--plot", str(tmp_path / picture)]) == 0
    assert ("bands:" in (tmp_path / picture).read_text()) == has_bands


def test_labels_of_lines_that_meet_do_not_touch(tmp_path, drawings):
    """Readers of a picture with labels printed over each other cannot read one of them."""
    with figure(tmp_path / "a.png", 1, (4, 3), "title", MACHINE) as (axes,):
        for number in range(8):
            axes.plot([1, 2], [number, 1 + number % 2 / 50], label=f"line {number}")
        axes.plot([1], [8], "o", label="a name that is folded, as it has many words")
        label_ends(axes)
    check(drawings[0])


def test_without_matplotlib_a_picture_is_a_sentence_and_pages_have_none(
    tmp_path, monkeypatch, capsys
):
    """As after `pip install wiretax`, which leaves out what only pictures need."""
    monkeypatch.setattr("reports.tables.figure.find_spec", lambda name: None)
    results, picture, site = tmp_path / "results", tmp_path / "run.svg", tmp_path / "site"
    results.mkdir()
    write_benchmark(results, "allreduce")
    assert main(["show", str(results), "--plot", str(picture)]) == 2
    sentence = "reports: pictures are drawn by matplotlib: pip install 'wiretax[reports]'\n"
    assert capsys.readouterr().err == sentence
    assert not picture.exists()
    assert main(["dashboard", str(results), "--out", str(site)]) == 0
    assert not [*site.glob("*.png")]
    assert "og:image" not in (site / "index.html").read_text()
