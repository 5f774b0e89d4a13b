"""The data of the charts of pages, also of very many runs."""

import json
from datetime import datetime, timedelta

import numpy as np
import pytest

from reports.kit.chart import Chart, Curve
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
    series = Series("16 KiB auto", "16 KiB", "auto", CASE, "m", "allreduce", runs, costs_us, [])
    chart = panel_chart("16 KiB, us", [series])
    assert len(chart.x) <= MOST_POINTS
    middle, low, high = chart.lines[0].points
    assert (middle.max(), low.min(), high.max()) == (5.0, 5.0, 50.0)
    assert len(chart.json) < 100_000
