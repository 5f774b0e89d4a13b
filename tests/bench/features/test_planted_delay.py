"""A real launch in which one rank comes back late from every 20th call: the run says so. A call
takes about 0.2 ms on each rank, so that what a busy machine adds to a call makes none of them slow,
and no two alike, so that 20 calls are no multiple of a timer's period."""

import re

import pytest

from reports.tables.slow_steps import why_slow
from tests.bench.launches import run

pytestmark = pytest.mark.alone  # other work delays the ranks too

LATE = """
TITLE = "late"
import random
import time

def bind(case):
    from mpi4py import MPI

    (send, receive), mpi, calls = case.arrays, case.mpi, 0
    draw = random.Random(1)  # alike on all ranks

    def reduce():
        nonlocal calls
        calls += 1
        mpi.Allreduce(send, receive)
        usual_ns = draw.randrange(150_000, 250_000)
        is_late = mpi.rank == 1 and calls % 20 == 0
        end_ns = time.perf_counter_ns() + (2_000_000 if is_late else usual_ns)
        while time.perf_counter_ns() < end_ns:
            pass

    return reduce
"""


def test_the_rank_and_the_period_of_a_delay_are_named(tmp_path):
    file = tmp_path / "late.py"
    file.write_text(LATE)
    words = "--sizes 16K --mode isolated --algorithm library --quiet --max-time 10"
    printed, result = run(tmp_path, words, "--contender", file)
    [case] = [case for case in result.cases if case.algorithm == "late"]
    told = why_slow(result, case)
    found = re.search(
        r"of its slow calls, (\d+) of (\d+) were slow on rank 1 alone; (\d+)% came every 20 calls",
        told,
    )
    assert found, told
    assert int(found[1]) > 0.5 * int(found[2])
    assert "why: of its slow calls" in printed
