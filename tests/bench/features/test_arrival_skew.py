"""Tests `--arrival-skew`, which delays one rank: the wait is not counted as time of the collective,
and late and ordinary cases stay distinct.

The delay is 40 ms, longer than the usual delays of a shared machine. The tests check the minimum
time, because other times may also include the scheduler's delays, above all on a GPU in software.
"""

import numpy as np
import pytest

from bench.features.arrival_skew import ArrivalSkew, delay_us
from collectives.collective import COLLECTIVES
from tests.bench.launches import blocks_of, run
from tests.fake_gpu import fake_nccl
from tests.launch import SLOW_TEST, few

LATE_US = 40_000
N = 8  # timed iterations of a case, each of 40 ms: one meets no other program's slice
QUICK = f"--sizes 16K -n {N} -w 0 --max-time 60"


def is_late(case):
    return "arrival_skew_us" in (case.shape or {})


@pytest.mark.alone
@pytest.mark.parametrize(
    ("command", "ranks", "options"),
    few(
        [
            ("allreduce", 2, "--algorithm two_shot,library"),
            ("sendrecv", 3, "--algorithm direct_pull,library"),
        ],
        1,
    ),
)
def test_the_wait_has_the_requested_length_and_is_in_no_time(tmp_path, command, ranks, options):
    """An early rank's wait must not look like a slow collective, nor a missing delay like a fast
    collective. The ordinary cases of the same run are the control for both figures."""
    printed, result = run(
        tmp_path, QUICK, options, "--arrival-skew 40ms,0", command=command, ranks=ranks
    )
    late = [case for case in result.cases if is_late(case)]
    ordinary = [case for case in result.cases if not is_late(case)]
    assert len(late) == len(ordinary) >= 2
    for case in result.cases:
        assert (case.mode, case.status, case.n_wrong) == ("isolated", "ok", 0)
        assert min(blocks_of(result, case, "time_us")) < LATE_US / 2
        skews_us = blocks_of(result, case, "arrival_skew_us")
        skew_us = max(skews_us) if is_late(case) else min(skews_us)
        assert (skew_us > 0.9 * LATE_US) is is_late(case), case
    assert {(case.bus_bw_gb_s, case.bound_us) for case in late} == {(None, None)}
    assert "late by 40000 us: us begin at" in printed


def test_a_delay_of_0_is_the_ordinary_case():
    """A run with delays must be comparable with earlier runs."""
    assert [delay_us(text) for text in ("0", "5us", "1.5ms")] == [0, 5, 1500]
    for collective in COLLECTIVES.values():
        assert ArrivalSkew((0.0,)).shapes(collective.shapes) == list(collective.shapes)


@SLOW_TEST
def test_on_gpus_a_time_is_the_late_ranks_own_on_a_fake_gpu(tmp_path):
    """An early rank's own time includes the wait, and so would the slowest rank's time."""
    options = "--mode isolated --arrival-skew 40ms --samples --algorithm direct_pull,library"
    printed, result = run(tmp_path, QUICK, options, command="allgather", **fake_nccl.environment())
    measured = [case for case in result.cases if case.status == "ok"]
    assert {case.algorithm for case in measured} == {"direct_pull", "library"}
    for case in measured:
        assert (case.n_wrong, case.arrival_skew_us) == (0, None)
        assert min(blocks_of(result, case, "time_us")) < LATE_US / 2
        ranks = np.load(result.path.with_suffix(".npz"))[str(case.case)][:, 1]
        assert set(ranks) == {1.0}
    assert "us = collective + reading its result, the late rank alone\n" in printed
