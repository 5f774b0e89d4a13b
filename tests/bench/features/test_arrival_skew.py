"""Tests `--arrival-skew`, which delays one rank: the wait is not counted as time of the collective, and late and
ordinary cases stay distinct.

The delay is 20 ms, longer than the usual delays of a shared machine. The tests check the minimum time, because other
times may also include the scheduler's delays, above all on a GPU in software.
"""

import json
import re
from typing import Any

import numpy as np
import pytest

from bench.features.arrival_skew import ArrivalSkew, delay_us, late_rank
from collectives.collective import COLLECTIVES
from reports.store.case import CASE_KEY
from reports.store.result import read
from reports.tables.formats import as_csv, as_json, as_nccl_tests
from reports.tables.plot import plot
from reports.tables.table import render
from reports.verdicts.sides import case_names, key_of
from tests import fake_gpu
from tests.fake_gpu import fake_nccl
from tests.launch import SLOW_TEST, few, mpirun

pytestmark = pytest.mark.alone

LATE_US = 20_000
N = 4  # timed iterations of a case, each of 20 ms
QUICK = ("--sizes", "16K", "-n", str(N), "-w", "0", "--max-time", "60")


def run(folder, command, *options, ranks=2, **environment):
    """The printed text and the stored run of a command with these options."""
    done = mpirun(
        ranks, "-m", f"bench.{command}", *QUICK, *options, "--out", str(folder), **environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = folder.glob("*.jsonl")
    return done.stdout, read(path)


def is_late(case):
    return "arrival_skew_us" in (case.shape or {})


def waited(case):
    return case.arrival_skew_us.median > 0.9 * LATE_US


@pytest.mark.parametrize(
    ("command", "ranks", "algorithms", "dispatch"),
    few(
        [
            ("allreduce", 2, "two_shot,ring,library", "native"),
            ("allgather", 2, "direct_pull,library", "python"),
            ("sendrecv", 3, "direct_pull,library", "native"),
            ("alltoall", 3, "direct_push,library", "native"),
            ("sendrecv", 2, "direct_push,library", "native"),
        ],
        1,
    ),
)
def test_the_wait_has_the_requested_length_and_is_in_no_time(
    tmp_path, command, ranks, algorithms, dispatch
):
    """An early rank's wait must not look like a slow collective, nor a missing delay like a fast collective. The
    ordinary cases of the same run are the control for both figures."""
    options = (
        "--algorithm",
        algorithms,
        "--dispatch",
        dispatch,
        "--arrival-skew",
        "20ms,0",
        "--lean",
    )
    printed, result = run(tmp_path, command, *options, ranks=ranks)
    late, ordinary = (
        [case for case in result.cases if is_late(case) is kind] for kind in (True, False)
    )
    assert len(late) == len(ordinary) >= 2
    for case in result.cases:
        assert (case.mode, case.status, case.n_wrong) == ("isolated", "ok", 0)
        assert case.time_us.min < LATE_US / 2
        assert waited(case) is is_late(case), case
    assert {case.algorithm for case in late} == set(algorithms.split(","))
    assert [(case.bus_bw_gb_s, case.bound_us) for case in late] == [(None, None)] * len(late)
    assert all(case.bus_bw_gb_s for case in ordinary)
    tables = re.split(r"\n\n", printed)
    shown = [table for table in tables if "late by 20000 us: us are after it has come" in table]
    assert len(shown) == len(COLLECTIVES[late[0].collective].shapes)
    for table in shown:
        assert "waits" in table
        assert "busbw" not in table
    assert printed.index("busbw") < printed.index("waits"), "the ordinary table must come first"


def test_a_late_case_has_a_distinct_name_in_every_format(tmp_path):
    """A comparison or a parser must not match a late rank's figures with ordinary figures."""
    options = (
        "--algorithm",
        "direct_push,direct_pull,library",
        "--arrival-skew",
        "0,5us,20ms",
        "-n",
        "2",
        "--lean",
    )
    _, result = run(tmp_path, "sendrecv", *options)
    names = {
        f"{way}{late}"
        for way in ("one_way", "ping_pong")
        for late in ("", " 5us late", " 20000us late")
    }
    keys = {key_of(case) for case in result.cases}
    assert (
        len(keys) == len(result.cases) == len({key_of(case, CASE_KEY[:1]) for case in result.cases})
    )
    long = render(result, long=True)
    tests = as_nccl_tests(result)
    rows = as_json(result)["results"]
    for name in names:
        assert len(re.findall(rf"direct_push {name}  ", long)) == 1
        assert tests.count(f": direct_push (copied, mapped, isolated, {name})\n") == (
            name == "one_way"
        )
        (row,) = [
            row
            for row in rows
            if row["experiment_name"] == f"direct_push (copied, mapped, isolated, {name})"
        ]
        assert (row["out_of_place"]["bus_bw"] is None) == ("late" in name)
    assert as_csv(result).count('""arrival_skew_us"": 5.0') == len(result.cases) // 3
    pushed = [case for case in result.cases if case.algorithm == "direct_push"]
    assert set(case_names(pushed)) == {f"direct_push {name}" for name in names}
    for case in pushed:
        del case.shape["way"]  # like a collective without ways
    assert set(case_names(pushed)) == {
        "direct_push",
        "direct_push 5us late",
        "direct_push 20000us late",
    }


def test_a_run_with_only_late_ranks_is_marked_in_every_output(tmp_path):
    """Without the mark, a reader would take a sentence or a picture for a statement about the ordinary collective."""
    options = ("--arrival-skew", "20ms", "--algorithm", "auto,library", "-n", "4", "--lean")
    printed, result = run(tmp_path, "allreduce", *options)
    words = " ".join(printed.split())
    assert "isolated, one rank late by 20000 us, out of place; against MPICH" in words
    assert "after the late one has come; waits = from the first arrival to the last" in words
    assert "in this one launch, with a rank late by 20000 us, auto is" in words
    assert "busbw" not in printed
    assert "A 70B" not in printed
    drawn = tmp_path / "drawn.svg"
    plot(result, drawn)
    assert "isolated, one rank late by 20000 us" in drawn.read_text()
    assert "no busbw with a late rank" in drawn.read_text()


def test_a_delay_of_0_is_the_ordinary_case():
    """A run with delays must be comparable with earlier runs."""
    assert [delay_us(text) for text in ("0", "0us", "0ms", "5", "1.5ms")] == [0, 0, 0, 5, 1500]
    for collective in COLLECTIVES.values():
        assert ArrivalSkew((0.0,)).shapes(collective.shapes) == list(collective.shapes)


def test_the_late_rank_takes_part_in_the_message():
    """A message's time must not start with a rank that has no part in the message."""
    for ranks in (2, 3, 8):
        for name, collective in COLLECTIVES.items():
            for shape in collective.shapes:
                with_a_partner = ranks - ranks % 2 - 1
                expected = with_a_partner if name == "sendrecv" else ranks - 1
                late = {**shape, "arrival_skew_us": 5.0}
                assert late_rank(collective, shape, ranks) == expected
                assert late_rank(collective, late, ranks) == expected


@SLOW_TEST
def test_on_gpus_only_the_late_rank_waits_after_the_meeting_on_a_fake_gpu(tmp_path):
    options = (
        "--algorithm",
        "two_shot",
        "--arrival-skew",
        "0,1ms",
        "--device",
        "cuda",
        "--out",
        str(tmp_path / "out"),
    )
    environment: dict[str, Any] = {**fake_gpu.environment(), "FAKE_NCCL_BINDING": "none"}
    done = mpirun(2, "-m", "tests.ranks.late_ranks", str(tmp_path), *QUICK, *options, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    first, last = (json.loads((tmp_path / rank).read_text()) for rank in "01")
    assert first == {}
    assert list(last) == ["meet"]
    assert last["meet"] >= N * 3, "the late rank must also wait in checked iterations"


@pytest.mark.parametrize(("vendor", "dispatch"), few([("cuda", "native"), ("hip", "python")], 1))
def test_on_gpus_a_time_is_the_late_ranks_own_on_a_fake_gpu(tmp_path, vendor, dispatch):
    """An early rank's own time includes the wait, and so would the slowest rank's time."""
    options = (
        "--algorithm",
        "direct_pull,library",
        "--mode",
        "isolated",
        "-n",
        "4",
        "-w",
        "0",
        "--arrival-skew",
        "20ms",
        "--device",
        vendor,
    )
    environment = fake_nccl.environment(vendor=vendor)
    printed, result = run(tmp_path, "allgather", *options, "--dispatch", dispatch, **environment)
    measured = [case for case in result.cases if case.status == "ok"]
    assert {case.algorithm for case in measured} == {"direct_pull", "library"}
    for case in measured:
        assert (case.n_wrong, case.arrival_skew_us) == (0, None)
        assert case.time_us.min < LATE_US / 2
        ranks = np.load(result.path.with_suffix(".samples") / case.samples)[:, 1]
        assert set(ranks) == {1.0}
    assert "us = collective + reading its result, the late rank alone\n" in printed
