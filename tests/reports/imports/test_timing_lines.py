"""Tests the timing lines that any program may print."""

import json

import pytest

from tests.reports.imports.test_import_formats import cases_of, halves, read_tests

pytestmark = pytest.mark.unit


def line(**fields):
    return json.dumps({"size_bytes": 1024, "time_us": 5.0, "ranks": 2} | fields) + "\n"


def test_timing_lines_are_read_among_other_lines():
    text = "starting\n[1,0]<stdout>:" + line(collective="all_reduce", n_wrong=0, n=50)
    text += line(name="moe", shape={"tokens": 64}, time_us=[7.0, 9.0, 8.0]) + "done {}\n"
    (reduce, moe) = read_tests(text)
    assert (reduce.collective, reduce.world_size, halves(reduce)) == (
        "all_reduce",
        2,
        [(1024, False, 5.0)],
    )
    assert moe.collective == "moe"
    ours, other = cases_of([reduce, moe])
    assert (ours.time_us.median, other.time_us.median) == (5.0, 8.0)
    assert ours.bus_bw_gb_s == pytest.approx(1024 / 5.0 / 1e3)
    assert (other.bus_bw_gb_s, other.shape) == (None, {"tokens": 64})
    (wrong,) = cases_of(read_tests(line(n_wrong=3, time_us=[5.0, 6.0])))
    assert (wrong.status, wrong.n_wrong) == ("wrong", 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"time_us": -1},
        {"time_us": 0},
        {"time_us": []},
        {"time_us": "5"},
        {"size_bytes": 1.5},
        {"ranks": 0},
        {"name": "a\x1b[2J"},
        {"shape": {"a": [1]}},
        {"shape": {"arrival_skew_us": "late"}},
        {"n_wrong": -1},
    ],
)
def test_a_timing_line_with_a_bad_field_is_named(fields):
    tests = read_tests(line() + line(**fields))
    assert [test.unread for test in tests] == [[2]]
