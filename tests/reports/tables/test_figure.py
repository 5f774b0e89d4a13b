"""Tests the pictures of runs: no text is cut or leaves the figure."""

import re
from typing import Any

import pytest
from matplotlib import pyplot
from matplotlib.text import Text

from reports.__main__ import main
from reports.store.result import read
from tests.launch import few
from tests.reports.synthetic_benchmarks import write_benchmark
from tests.reports.synthetic_run import rewrite_cases, rewrite_head

MACHINE = (
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition (sm_120) and AMD Radeon AI PRO R9700 "
    "of the second chassis, at the second socket of an AMD EPYC 9B45 96-Core Processor"
)
LIBRARY = "Intel(R) MPI Library 2021.18 for Linux* OS, built with a name of eighty letters or more"


@pytest.fixture
def drawings(monkeypatch):
    """The figures that are drawn, still open."""
    kept = list[Any]()
    close = pyplot.close
    monkeypatch.setattr(pyplot, "close", kept.append)
    yield kept
    for drawing in kept:
        close(drawing)


def letters(text):
    return re.sub(r"\s", "", text)


def check(drawing):
    """Checks that everything is inside the figure, and that the machine's name is whole."""
    drawing.draw_without_rendering()
    box, (width, height) = drawing.get_tightbbox(), drawing.get_size_inches()
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height
    words = "".join(letters(text.get_text()) for text in drawing.findobj(Text))
    assert letters(MACHINE) in words


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


@pytest.mark.parametrize("name", ["allreduce", "footprint"])
def test_no_picture_of_a_run_cuts_a_name(tmp_path, drawings, name):
    write_benchmark(tmp_path, name)
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
