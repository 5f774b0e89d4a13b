"""The data of the charts of pages, also of very many runs."""

import json
from datetime import datetime, timedelta

import numpy as np
import pytest

from reports.kit.chart import Chart, Curve, chart_of, forest, signs
from reports.site.history_page import MOST_POINTS, panel_chart
from reports.site.run_page import run_page
from reports.tables.plot import draw_sweep, drawn_of
from reports.tables.rows import SUSPECT, UNLESS, UNLIKE
from reports.trends.series import Series
from tests.reports.archived import unpack
from tests.reports.synthetic_run import write_run, write_run_with_few_blocks
from wiretax.record.schema import CaseHeader

pytestmark = pytest.mark.unit

HOSTILE = "</script><script>harm()</script>\x1b[31m\u202e&<!--"
CASE = CaseHeader(
    collective="all_reduce",
    algorithm="auto",
    size_bytes=16384,
    count=4096,
    datatype="float32",
    redop="sum",
)


def section(page, heading):
    (found,) = (each for each in page.sections if each.heading == heading)
    return found


def test_a_page_has_the_sign_of_times_also_behind_a_space():
    assert signs("1 call in 50 takes 4.5 x the median") == "1 call in 50 takes 4.5× the median"
    assert signs("2 x 8 GPUs, tok/s x theirs") == "2 x 8 GPUs, tok/s x theirs"


def test_data_in_the_page_cannot_end_its_script():
    line = Curve(HOSTILE, "ours", np.array([1.0, np.nan]))
    chart = Chart(HOSTILE, [1024, 2048], [line], HOSTILE, links=["", HOSTILE])
    assert not set("<>&\x1b\u202e") & set(chart.json)
    data = json.loads(chart.json)
    assert data["lines"][0]["name"] == "1. </script><s…"
    assert data["lines"][0]["points"] == [[1.0, None]]


def test_very_many_runs_are_a_few_points_with_their_range():
    """A page with 10,000 runs must open at once; a slow run among them must stay in sight."""
    days = [datetime(2000, 1, 1) + timedelta(days=day) for day in range(10_000)]
    runs = [f"{day:%Y-%m-%dT%H-%M-%SZ}-allreduce-{n}" for n, day in enumerate(days)]
    costs_us = np.full(10_000, 5.0)
    costs_us[1234] = 50.0
    series = Series(
        "16 KiB auto", "16 KiB", "auto", CASE, "m", "allreduce", None, "", runs, costs_us
    )
    chart = panel_chart("16 KiB, us", [series])
    assert len(chart.x) <= MOST_POINTS
    middle, low, high = chart.lines[0].points
    assert (
        middle.max(),
        low.min(),
        high.max(),
    ) == (5.0, 5.0, 50.0)
    assert len(chart.json) < 100_000


def test_an_interval_that_leaves_the_scale_has_an_arrow():
    """One wild interval must not make all others invisible, nor look like a narrow one."""
    rows = [[0.01, 0.0, 0.02]] * 9 + [[0.05, 0.04, 0.06], [6.0, -0.5, 30.0]]
    heading, drawings = forest(rows, ["worse"] * 11, 0.01)
    assert ["M-148 6l-8" in each for each in drawings] == [False] * 10 + [True]
    assert ["M148 6l8" in each for each in drawings] == [False] * 10 + [True]
    assert "band steady" in drawings[0]
    assert "+50" in heading


def test_a_missing_interval_is_not_invented(tmp_path):
    """Three blocks have none, and the chart's table printed their median twice in its place."""
    result = write_run_with_few_blocks(tmp_path)
    lines, quantities = drawn_of(result)
    for quantity in quantities:
        chart = chart_of(quantity, lines)
        auto = next(line for line in chart.lines if line.name == "auto")
        assert np.isfinite(auto.points).tolist() == [
            [True, True],
            [False, True],
            [False, True],
        ]
        data = next(line for line in json.loads(chart.json)["lines"] if line["name"] == "auto")
        assert [points[0] for points in data["points"][1:]] == [None, None]
    draw_sweep(result, tmp_path / "run.svg")


def test_the_page_of_a_run_is_no_verdict(tmp_path):
    """One launch is none: its banner was green or red, and each size was `faster` or `slower`."""
    result = write_run(tmp_path / "clear", sizes=[16384], modes=["isolated"], n_blocks=12)
    page = run_page(result.path)
    (row,) = section(page, "Each size").rows
    assert page.banner.role == "steady"
    assert "x MPICH)" in page.banner.sentence
    assert "verdict" not in row
    assert row["remark"] == "-"

    few = run_page(write_run(tmp_path / "few", sizes=[16384], n_blocks=3).path)
    (row,) = section(few, "Each size").rows
    assert (few.banner.role, row["remark"]) == ("unsure", "too few blocks")


def test_the_page_of_two_kinds_of_memory_has_no_ratio(tmp_path):
    """It had a red banner, 0.59x NCCL, and `slower` at each size."""
    folder = unpack(tmp_path, "h200-card")
    page = run_page(folder / "2026-11-28T19-10-01Z-allreduce-8ca307.jsonl")
    assert (page.banner.role, page.banner.sentence) == (
        "steady",
        "allreduce: 16 KiB 11 us, 32 MiB 18 GB/s",
    )
    charts, rows = (
        section(page, "Speed and time at each size").charts,
        section(page, "Each size").rows,
    )
    assert [chart.title.partition(",")[0] for chart in charts] == [
        "Bus bandwidth",
        "Time of a call",
    ]
    assert {row["library / ours [95 %]"] for row in rows} == {"-"}
    assert {row["remark"] for row in rows} == {"-"}
    assert [*section(page, "Each size").sentences] == [UNLIKE]


def test_a_pages_marks_have_their_footnote(tmp_path):
    page = run_page(unpack(tmp_path, "xeon") / "2026-11-26T11-04-48Z-allreduce-8eb6ab.jsonl")
    every = section(page, "Every cell")
    assert any(str(row["% of roofline"]).endswith("!") for row in every.rows)
    assert [*every.sentences] == [SUSPECT + UNLESS]
