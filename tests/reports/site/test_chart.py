"""The data of the charts of pages, also of very many runs."""

import json
from datetime import datetime, timedelta

import numpy as np
import pytest

from reports.kit.chart import Chart, Curve, forest
from reports.site.history_page import MOST_POINTS, panel_chart
from reports.store.schema import CaseHeader
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
    assert (middle.max(), low.min(), high.max()) == (5.0, 5.0, 50.0)
    assert len(chart.json) < 100_000


def test_an_interval_that_leaves_the_scale_has_an_arrow():
    """One wild interval must not make all others invisible, nor look like a narrow one."""
    rows = [[0.01, 0.0, 0.02]] * 9 + [[0.05, 0.04, 0.06], [6.0, -0.5, 30.0]]
    heading, drawings = forest(rows, ["worse"] * 11, 0.01)
    assert ["M-148 6l-8" in each for each in drawings] == [False] * 10 + [True]
    assert ["M148 6l8" in each for each in drawings] == [False] * 10 + [True]
    assert "band steady" in drawings[0]
    assert "+50" in heading
