"""The drawings of pages: the data of charts, also of very many runs, and intervals."""

import json
import re
from datetime import datetime, timedelta

import numpy as np
import pytest

from reports.kit.chart import Chart, Curve, forest
from reports.kit.page import Banner, Page, Section, to_html
from reports.site.history_page import MOST_POINTS, panel_chart
from reports.store.schema import CaseHeader
from reports.trends.changes import LevelChange
from reports.trends.series import Series

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


def test_data_in_the_page_cannot_end_its_script():
    line = Curve(HOSTILE, "ours", np.array([1.0, np.nan]))
    chart = Chart(HOSTILE, [1024, 2048], [line], HOSTILE, links=["", HOSTILE])
    assert not set("<>&\x1b\u202e") & set(chart.json)
    data = json.loads(chart.json)
    assert data["lines"][0]["name"] == "1 </script><sc…"
    assert data["lines"][0]["points"] == [[1.0, None]]


def test_a_long_name_is_cut_in_the_plot_and_has_its_number_in_the_table():
    """Fifteen lines had the first sixteen letters of the same name."""
    names = ["auto", "rccl 2.27.7-HEAD, run 1, eager", "rccl 2.27.7-HEAD, run 2, eager"]
    chart = Chart("t", [1, 2], [Curve(name, "ours", np.ones(2)) for name in names], "us")
    drawn = [line["name"] for line in json.loads(chart.json)["lines"]]
    assert drawn == ["auto", "2 rccl 2.27.7-…", "3 rccl 2.27.7-…"]
    page = to_html(Page("t", Banner("t", "t"), [Section("t", charts=[chart])]))
    cells = re.findall(r"<i></i>(.*?)</th>", page, re.DOTALL)
    assert [" ".join(cell.split()) for cell in cells] == ["auto", f"2 {names[1]}", f"3 {names[2]}"]


def test_very_many_runs_are_a_few_points_with_their_range():
    """A page with 10,000 runs must open at once; a slow run among them must stay in sight."""
    days = [datetime(2000, 1, 1) + timedelta(days=day) for day in range(10_000)]
    runs = [f"{day:%Y-%m-%dT%H-%M-%SZ}-allreduce-{n}" for n, day in enumerate(days)]
    costs_us = np.full(10_000, 5.0)
    costs_us[7000:] = 6.0
    costs_us[1234] = 50.0
    step = LevelChange(7000, 6999, 7001, (0.18, 0.17, 0.19))
    series = Series("16 KiB auto", "16 KiB", "auto", CASE, "m", "allreduce", runs, costs_us, [step])
    chart = panel_chart("16 KiB, us", [series])
    assert len(chart.x) <= MOST_POINTS
    middle, low, high = chart.lines[0].points
    assert (middle.max(), low.min(), high.max()) == (6.0, 5.0, 50.0)
    assert (chart.steps[0].role, chart.steps[0].text) == ("worse", "auto worse +19.7\u00a0%")
    assert chart.ends == "least, most of 25 runs"
    assert len(chart.json) < 100_000


def test_an_interval_that_leaves_the_scale_has_an_arrow():
    """One wild interval must not make all others invisible, nor look like a narrow one."""
    rows = [[0.01, 0.0, 0.02]] * 9 + [[0.05, 0.04, 0.06], [6.0, -0.5, 30.0]]
    heading, drawings = forest(rows, ["worse"] * 11, 0.01)
    assert ["M-148 6l-8" in each for each in drawings] == [False] * 10 + [True]
    assert ["M148 6l8" in each for each in drawings] == [False] * 10 + [True]
    assert "band steady" in drawings[0]
    assert "+50" in heading
