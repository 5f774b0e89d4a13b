"""Percentiles that other harnesses print are kept as theirs: in us, in order, and never as ours."""

import csv
import io
import json
import re

import pytest

import wiretax
from reports.__main__ import main
from tests.reports.imports.test_import import imported, put, refused
from tests.reports.imports.test_import_formats import (
    CASE,
    FOOTER,
    HALF,
    HEAD,
    REPORT,
    cases_of,
    only,
)
from tests.reports.imports.test_serving import LATENCY, LLAMA, SGLANG, VLLM
from tests.reports.synthetic_run import ONE, write_run
from wiretax.record.result import read
from wiretax.record.tails import PERCENTILES

pytestmark = pytest.mark.unit

# The table of nccl-tests with -I (src/util.cu, writeResultHeader, at a0b82b2).
PER_ITERATION = (
    "# size count type redop root time algbw busbw #wrong i_min i_max i_p99 i_cv%"
    " time algbw busbw #wrong i_min i_max i_p99 i_cv%\n"
)
UNITS = (
    "# (B) (elements) (us) (GB/s) (GB/s) (us) (us) (us) (%) (us) (GB/s) (GB/s) (us) (us) (us) (%)\n"
)
ROW = (
    "1024 256 float sum -1 8.00 0.13 0.13 0 7.00 90.0 81.5 9.1"
    " 9.00 0.11 0.11 0 8.00 95.0 82.5 9.2\n"
)
OF_ITERATIONS = {"p50_us": 11.5, "p95_us": 12.0, "p99_us": 30.25, "max_us": 31.0}
# The table of OSU with -z (c/util/osu_util_mpi.c, print_only_header, of 7.4).
OSU = (
    "# OSU MPI Allreduce Latency Test v7.4\n"
    "# Size       Avg Latency(us)    P50 Tail Lat(us)    P90 Tail Lat(us)    P99 Tail Lat(us)\n"
    "4                       1.50                1.25                2.00               19.75\n"
)


def report(*rows):
    return json.dumps(REPORT | {"results": [*rows]})


def row(**per_iteration):
    return CASE | {"out_of_place": HALF, "out_of_place_per_iter": per_iteration}


def theirs_of(text):
    """By the metric, or the place."""
    return {
        (case.shape or {}).get("metric", case.in_place): case.theirs
        for case in cases_of([only(text)])
    }


def us(**percentiles):
    return pytest.approx({f"{name}_us": value for name, value in percentiles.items()})


SERVED_MS = {"p99_ttft_ms": 250.0, "p99.9_ttft_ms": 400.0, "p99_itl_ms": 8.5}


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        (HEAD + PER_ITERATION + UNITS + ROW + FOOTER, False, us(p99=81.5, max=90.0)),
        (HEAD + PER_ITERATION + UNITS + ROW + FOOTER, True, us(p99=82.5, max=95.0)),
        (
            report(row(**OF_ITERATIONS, stdev_us=3.0)),
            False,
            us(
                p50=11.5,
                p95=12,
                p99=30.25,
                max=31,
            ),
        ),
        (OSU, False, us(p50=1.25, p90=2.0, p99=19.75)),
        (OSU.replace("(us)", "(ms)"), False, us(p50=1250.0, p90=2000.0, p99=19750.0)),
        (
            json.dumps(VLLM | SERVED_MS),
            "ttft",
            pytest.approx({"p50_us": 46.7e3, "p99_us": 250e3, "p99.9_us": 400e3}),
        ),
        (json.dumps(VLLM | SERVED_MS), "itl", us(p50=2.0, p99=8500.0)),
        (json.dumps(SGLANG | {"p99_e2e_latency_ms": 1200.0}), "e2el", us(p50=900e3, p99=1.2e6)),
        (
            json.dumps(SGLANG | {"median_itl_ms": 6.5, "p95_itl_ms": 7.0, "max_itl_ms": 95.0}),
            "itl",
            us(p50=6500.0, p95=7000.0, max=95e3),
        ),
        (
            json.dumps(LATENCY | {"percentiles": {"50": 1.1, "99": 1.19}}),
            "latency",
            us(p50=1.1e6, p99=1.19e6),
        ),
    ],
)
def test_percentiles_of_a_log_are_kept_in_us(text, key, expected):
    assert theirs_of(text)[key] == expected


def test_a_report_without_the_median_of_iterations_is_not_damaged():
    (case,) = cases_of([test := only(report(row(p99_us=30.25)))])
    assert (case.time_us.median, test.statistic) == (17.93, "mean over iterations")
    assert case.theirs == {"p99_us": 30.25}


def test_percentiles_of_a_bandwidth_are_no_times():
    osu = OSU.replace("Allreduce Latency", "Bandwidth").replace(
        "Avg Latency(us)", "Bandwidth (MB/s)"
    )
    (case,) = cases_of([only(osu.replace("Lat(us)", "BW(MB/s)"))])
    assert case.time_us
    assert not case.theirs


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (HEAD + PER_ITERATION + UNITS + ROW.replace("90.0", "80.0") + FOOTER, 11),
        (report(row(**OF_ITERATIONS), row(p50_us=11.5, p99_us=10.0) | {"size": 16}), 2),
        (OSU.replace("19.75", " 0.75"), 3),
        (json.dumps(VLLM | {"p99_ttft_ms": 46.0}), 1),
        (json.dumps(LATENCY | {"percentiles": {"50": 1.1, "99": 1.0}}), 1),
    ],
)
def test_a_p99_below_the_p50_is_named_and_left_out(text, line, tmp_path, capsys):
    """Whatever the harness computed, it is no percentile of one set of times."""
    path = put(tmp_path / "a.log", text)
    [result] = map(read, imported(tmp_path / "runs", path))
    [note] = [note for note in result.run.notes if "percentile" in note]
    assert note in capsys.readouterr().err
    assert note.startswith(f"line {line} has a percentile below a lower one")
    assert result.complete
    assert any(not case.theirs and case.time_us for case in result.cases)


@pytest.mark.parametrize("value", ["nan", "-3.0", "1e15", "inf"])
def test_a_percentile_that_is_no_time_is_refused_as_a_time_is(value, tmp_path, capsys):
    for text in (HEAD + PER_ITERATION + UNITS + ROW + FOOTER, OSU):
        number = "81.5" if text != OSU else "19.75"
        assert only(text.replace(number, value)).unread
    in_json = {"nan": "NaN", "inf": "Infinity"}.get(value, value)
    served = json.dumps(VLLM | {"p99_ttft_ms": 0.125}).replace("0.125", in_json)
    assert "damaged" in refused(tmp_path, capsys, put(tmp_path / "a.json", served))


def test_a_log_of_a_thousand_percentiles_is_refused(tmp_path, capsys):
    many = {f"p{share / 100}_ttft_ms": 50.0 for share in range(9000, 9990)}
    err = refused(tmp_path, capsys, put(tmp_path / "a.json", json.dumps(VLLM | many)))
    assert "length <= 50" in err


def test_their_percentiles_are_shown_and_exported_as_theirs(tmp_path, capsys):
    [path] = imported(tmp_path / "runs", put(tmp_path / "a.json", report(row(**OF_ITERATIONS))))
    capsys.readouterr()
    assert main(["show", str(path), "--long"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("their", "P50 11.5 P95 12.0 P99 30.2 MAX 31.0"))
    assert main(["show", str(path), "--json"]) == 0
    case, *_ = json.loads(capsys.readouterr().out)["cases"]
    assert case["theirs"] == OF_ITERATIONS
    assert {case[name] for name in (*PERCENTILES, "step_worst_us", "n_steps")} == {None}
    assert main(["export", "--csv", str(path)]) == 0
    line, *_ = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (line["their_p99_us"], "step_p99_us" in line) == ("30.25", False)
    assert wiretax.load(path).their_max_us.tolist() == [31.0]


def test_their_percentiles_stand_in_their_order_and_not_in_that_of_the_log(tmp_path, reports):
    """OSU prints P99, P90 and P50."""
    [path] = imported(tmp_path / "runs", put(tmp_path / "a.log", OSU))
    assert re.search(r"P50 1\.25 P90 [\d.]+ P99 19\.8", reports("show", path, "--long")[1])


def test_percentiles_of_several_rows_do_not_become_one():
    twice = report(row(**OF_ITERATIONS), row(**OF_ITERATIONS | {"p99_us": 30.5}))
    (case,) = cases_of([only(twice)])
    assert case.time_us.n_blocks == 2
    assert not case.theirs


def test_own_runs_and_logs_without_percentiles_do_not_grow(tmp_path):
    result = write_run(tmp_path, **ONE)
    [log] = imported(tmp_path / "runs", put(tmp_path / "a.json", json.dumps(LLAMA)))
    for path in (result.path, log):
        assert "theirs" not in path.read_text()
    assert not [name for name in wiretax.load(result.path) if "their" in str(name)]


@pytest.mark.parametrize(
    "theirs", [{"=cmd|' /C calc'!A0": 1.0}, {"p99_us": -1.0}, {"p99_us": 1e15}]
)
def test_strange_percentiles_in_a_run_file_are_refused(theirs, tmp_path, capsys):
    """Their names are columns of a spreadsheet."""
    [path] = imported(tmp_path / "runs", put(tmp_path / "a.json", report(row(**OF_ITERATIONS))))
    capsys.readouterr()
    old, new = (json.dumps(each, separators=(",", ":")) for each in (OF_ITERATIONS, theirs))
    path.write_text(path.read_text().replace(old, new))
    assert main(["export", "--csv", str(path)]) == 2
    assert "`block` line of schema" in capsys.readouterr().err
