"""Tests the timing lines that any program may print."""

import json
import re
import resource

import numpy as np
import pytest

from reports.__main__ import main
from reports.site.run_page import banner_of, sweep_sections
from reports.tables.plot import drawn_of
from reports.tables.show import headline_of
from reports.tables.table import render
from reports.trends.history import history_of
from tests.reports.imports.test_import import imported, put, refused
from tests.reports.imports.test_import_formats import cases_of, halves, read_tests
from wiretax.record.folder import read_store
from wiretax.record.result import read
from wiretax.record.tails import steps_of_case

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
        {"name": "a\x1b[2J"},
        {"shape": {"a": [1]}},
        {"n_wrong": -1},
    ],
)
def test_a_timing_line_with_a_bad_field_is_named(fields):
    tests = read_tests(line() + line(**fields))
    assert [test.unread for test in tests] == [[2]]
    assert tests[0].notes[0].startswith("line 2 is no timing line (")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"n_wrong": 0, "wrong_elements": 7}, "n_wrong"),
        ({"dtype": "float16"}, "datatype"),
        ({"nwrong\x1b[2J\n": 7}, "n_wrong"),
    ],
)
def test_a_field_that_looks_like_a_known_one_is_refused(fields, name, tmp_path, capsys):
    """Its program counts wrong elements, and nobody would read them."""
    log = put(tmp_path / "a.log", line() + "done\n" + line(**fields))
    told = refused(tmp_path, capsys, log)
    assert told.endswith(f": line 3 has {[*fields][-1]!r}: do you mean `{name}`?\n")


@pytest.mark.parametrize(
    "fields",
    [
        {"correct": False},
        {"correct": True},  # refused at the first launch, not at the one that is wrong
        {"passed": "FAILED"},
        {"errors": 5},
        {"mismatches": 7},
        {"n_wrong": 0, "max_abs_err": 0.5},
        {"isOk": 0},
        {"bitwise_equal": False},
        {"NaN_count": 3},
        {"validation": {"rank": 1, "elements": 4}},
        {"check1": {"ranks": [{"failures": 3}]}},
        {"result": "FAILED"},
        {"pass": False},
        {"status": 1},
        {"shape": {"tokens": 64, "errors": 5}},
        {"result": "FAILED: 3 mismatches"},
        {"status": "wrong results"},
        {"status": "bad result"},
        {"status": "NOK"},
        {"outcome": "all equal"},
        {"message": "after the last launch of all of them the verification of the sums has failed"},
        {"results": ["done", "FAILED"]},
        {"result": {"a": ["FAILED"]}},
        {"result": 0.0},
        {"result": [0, 0]},
        {"pass": "no"},
        {"passes": False},
        {"n_wrong": 0, "shape": {"result": "not-equal"}},
    ],
)
def test_correctness_is_told_by_n_wrong_alone(fields, tmp_path, capsys):
    """A program whose results were wrong passed a gate, because it said so in words of its own."""
    log = put(tmp_path / "a.log", line() + line(**fields))
    assert re.search(
        r": line 2 has '\w+': do you mean `n_wrong`\?\n$", refused(tmp_path, capsys, log)
    )


@pytest.mark.parametrize(
    "name",
    [
        "equal",
        "bits_equal",
        "differs",
        "n_diff",
        "diff",
        "difference",
        "discrepancy",
        "validity",
        "inf_count",
        "unequal",
        "within_tolerance",
        "good",
        "right",
        "consistent",
        "golden",
        "faults",
        "defects",
        "deviation",
        "rmse",
        "badelements",
        "broken",
    ],
)
def test_a_name_that_speaks_of_correctness_is_refused(name, tmp_path, capsys):
    log = put(tmp_path / "a.log", line(n_wrong=0, **{name: 0}))
    told = f": line 1 has '{name}': do you mean `n_wrong`?\n"
    assert refused(tmp_path, capsys, log).endswith(told)


def test_other_facts_of_a_program_may_stand_in_a_line():
    facts = {"device": "H100", "pass": "backward", "valid_tokens": 5, "clock_correction_us": 0.1}
    facts |= {"equal_splits": True, "mode": "exact", "status": "running", "p99_us": [5.5, {}]}
    facts |= {"page_faults": 7, "time_diff_us": 0.5, "std_deviation": 0.1, "goodput": 9.0}
    facts |= {"rtol": 1e-3, "results": [5.5], "note": "error-correcting memory", "step": "no"}
    facts |= {"status": "second backward pass", "command": "./moe --no-verify", "badge": 1}
    [test] = read_tests(line(**facts, shape={"pass": "forward"}))
    assert (len(test.rows), test.unread) == (1, [])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n_wrong", '{"size_bytes":1024,"time_us":5.0,"n_wrong":9,"n_wrong":0}'),
        ("time_us", '{"size_bytes":1024,"time_us":50.0,"time_us":5.0}'),
        ("tokens", '{"size_bytes":0,"time_us":5.0,"shape":{"tokens":1,"tokens":2}}'),
    ],
)
def test_a_doubled_field_is_refused(name, text, tmp_path, capsys):
    """Parsers take the last one, so that a later 0 hid nine wrong elements."""
    log = put(tmp_path / "a.log", line() + text + "\n")
    assert refused(tmp_path, capsys, log).endswith(f": line 2 has '{name}' twice\n")


def test_wrong_elements_make_the_run_fail(tmp_path, capsys):
    lines = [
        line(),
        line(name="moe", n_wrong=3),
        line(name="moe", size_bytes=0),
    ]
    log = put(tmp_path / "a.log", "".join(lines))
    right, wrong = imported(tmp_path / "out", log)
    assert [read(path).complete for path in (right, wrong)] == [True, False]
    assert "timing-lines moe: ranks 2, rows 2, failed: " in capsys.readouterr().out
    assert main(["show", str(wrong)]) == 0, "a work with and without bytes is one table"


# 1 to 20 MB each, and what is said of them; some took minutes, and gigabytes of memory or disk.
HOSTILE = {
    "tests": (
        lambda: "".join(line(ranks=number) for number in range(1, 3000)),
        "more than 500 tests",
    ),
    "one list": (lambda: line(time_us=[5] * 4_000_000), "more than 50,000 rows"),
    "depth": (
        lambda: line().replace("}", ',"x":' + "[" * 5_000_000),
        "line 1 is no timing line (maximum",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_lines_take_10_s_and_a_gigabyte_at_most(kind, tmp_path, capsys):
    """In the process of the tests, whose own memory is part of the gigabyte."""
    text, sentence = HOSTILE[kind]
    log = put(tmp_path / "a.log", text())
    used = resource.getrusage(resource.RUSAGE_SELF)
    assert sentence in refused(tmp_path, capsys, log)
    then = resource.getrusage(resource.RUSAGE_SELF)
    assert then.ru_utime - used.ru_utime < 10
    assert then.ru_maxrss < 1e6  # in KiB


def test_each_time_of_one_iteration_is_a_step(tmp_path):
    """Anybody's benchmark that prints all its times has a tail."""
    times_us = [float(time) for time in np.random.default_rng(1).lognormal(2, 0.1, 1000)]
    lines = line(n=1, time_us=times_us[:400]) + line(n=1, time_us=times_us[400:])
    path = put(tmp_path / "own.log", lines + line(size_bytes=2048, time_us=times_us))
    [result] = map(read, imported(tmp_path / "runs", path))
    own, of_blocks = result.cases
    assert own.n_steps == 1000
    assert own.step_worst_us == pytest.approx(max(times_us), abs=1e-6)
    p99_us = np.quantile(times_us, 0.99, method="inverted_cdf")
    assert own.step_p99_us
    assert own.step_p99_us.value == pytest.approx(p99_us, rel=0.01)
    # Without `"n": 1` the times may be of any number of iterations. The medians are the same.
    assert (of_blocks.n_steps, of_blocks.step_p99_us) == (None, None)
    assert own.time_us == of_blocks.time_us
    assert own.time_us
    assert own.time_us.n_blocks == 1000
    # The program's own clock may stop before anybody reads the result.
    assert "isolated steps: us of a call; slow: over twice P50" in render(result, long=True)


def test_slow_steps_that_come_together_are_seen_in_steps_of_one_block_each(tmp_path):
    """A row for each step would look as if every step were drawn for itself."""
    times_us = [50.0 if 300 <= place < 330 else 5.0 for place in range(900)]
    path = put(tmp_path / "own.log", line(n=1, time_us=times_us))
    [result] = map(read, imported(tmp_path / "runs", path))
    steps = steps_of_case(result, 0)
    assert steps
    assert steps.above(20.0).tolist() == [0] * 10 + [30] + [0] * 19


def test_every_shape_of_own_work_is_named_on_the_page_and_in_the_headline(tmp_path):
    """The page of 12 shapes showed the first one alone, as "403 us at program"."""
    lines = [
        json.dumps({"name": "gemm", "size_bytes": 0, "time_us": 400 + n, "shape": {"m": n}})
        for n in range(1, 13)
    ]
    (path,) = imported(tmp_path / "out", put(tmp_path / "a.log", "\n".join(lines)))
    result = read(path)
    assert headline_of(result) == "gemm: program m 1 401 us, program m 12 412 us"
    assert banner_of(result).word == "401 us at program m 1"
    rows = sweep_sections(result)[1].rows
    assert [row["case"] for row in rows] == [f"program m {n}" for n in range(1, 13)]


def test_shapes_of_own_work_have_names_in_histories_charts_and_plots(tmp_path):
    """They were "gemm program 1 8", charts called all of them "gemm pro...", and with a message
    size only the first was shown."""
    for size_bytes in (0, 4096):
        lines = [
            json.dumps(
                {
                    "name": "gemm",
                    "size_bytes": size_bytes,
                    "time_us": 400 + n,
                    "shape": {"m": n, "n": 8},
                }
            )
            for n in (2, 10)
        ]
        log = put(tmp_path / "a.log", "\n".join(lines))
        (path,) = imported(tmp_path / f"out{size_bytes}", log)
        series = history_of(read_store(path.parent)).series
        assert [each.name for each in series] == ["m 2, n 8", "m 10, n 8"]
        size = "4 KiB " if size_bytes else ""
        assert series[0].label == f"{size}gemm program m 2, n 8 timing-lines"
        rows = sweep_sections(read(path))[1].rows
        assert [str(row["case"]).split("m ")[-1] for row in rows] == ["2, n 8", "10, n 8"]
    drawn, _ = drawn_of(read(path))
    assert {line.name for line in drawn if line.is_shown} == {
        "program m 2, n 8",
        "program m 10, n 8",
    }
