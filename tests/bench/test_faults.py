"""Faults of a rank (error, stall, stop, kill) and interrupts by the user: the other ranks end soon,
one sentence names the rank and its step, the run keeps its blocks, and no process, memory or file
is left."""

import json
import re
import signal
import time

import psutil
import pytest

from tests.bench.faulty_runs import (
    SOON_S,
    TIMEOUT_S,
    Launch,
    processes,
    said_in,
    sentence,
    show,
    soon_s,
    struck,
    wait_for,
)
from tests.launch import SLOW_TEST, few

RING = "--algorithm ring"
LIBRARY = "--algorithm library"
SHORT = "-n 10"
# Where a fault is said to have struck. Tests name faults as tests/ranks/fault_ranks.py: RANK POINT
# CALL EFFECT.
SPINNING = r"case 0 \(ring 16384 B isolated\), .*step (pilot|timed loop), the collective, epoch \d+"
REDUCING = SPINNING.replace("ring", "library").replace(r"\d+", r"[1-9]\d*")
STORING = r"case 0 \(ring 16384 B isolated\), block \d+, step store, epoch \d+"
KILLED, EXITED = "was ended by signal 9, Killed", "exited with status 0"
DIRECT = SPINNING.replace("ring", "two_shot_direct")


@pytest.fixture
def out(tmp_path):
    """A results folder. After the test, the processes of its runs must have ended, and with them
    their shared memory, which has no name."""
    yield tmp_path / "results"
    wait_for(lambda: not processes(tmp_path), soon_s(2))


def stopped_first(out, victim, place, why):
    """Whether `reports show` names the rank."""
    return re.search(rf"stopped first: rank {victim} {why}.*: {place}", show(out))


# -- an error


@pytest.mark.parametrize(
    ("fault", "ranks", "place"),
    few(
        [
            ("1 device 1 raise", 3, "step open the device"),
            ("1 block 4 raise", 2, r"case 0 \(.*\), block 3, step timed loop"),
            ("0 map 1 raise", 2, "step map the peers"),
        ],
        1,
    ),
)
def test_an_exception_on_one_rank_ends_all_ranks_with_one_sentence(out, fault, ranks, place):
    done, took_s = struck(out, fault, RING, ranks=ranks)
    failed = rf"rank {fault[0]} failed: {place}, epoch \d+: ValueError: struck"
    assert re.search(failed, sentence(done))
    assert done.stderr.count("Traceback") == 1
    assert took_s < soon_s()


# -- a rank that stalls


@pytest.mark.parametrize(
    ("fault", "ranks", "place"),
    [
        ("1 check 6 sleep", 2, r"case 0 \(.*\), .*step .*, check"),
        # In a ring a rank waits for its neighbour alone.
        ("1 operation 40 sleep", 3, SPINNING),
    ],
)
def test_a_rank_that_stalls_is_named_by_the_waiting_ranks(out, fault, ranks, place):
    done, took_s = struck(out, fault, RING, ranks=ranks)
    held_up = rf"rank {fault[0]} did not go on for {TIMEOUT_S} s and held the others up"
    assert re.search(rf"{held_up}: ({place}).*, epoch \d+", sentence(done))
    assert took_s < soon_s()


def test_a_rank_may_spend_ten_time_outs_on_the_results_and_the_run_stays_readable(out):
    done, took_s = struck(out, "0 results 1 sleep", RING, "-n 10 --timeout 0.25")
    held_up = "rank 0 did not go on for 2.5 s and held the others up: step results"
    assert held_up in sentence(done)
    assert 2.5 < took_s < soon_s(2.5 + SOON_S - TIMEOUT_S)
    assert "INCOMPLETE" in show(out)


SLOW_COMPILER = r"""#!/bin/sh
case "$*" in *loop_cpu.cpp*|*allreduce_ring*) sleep 2.5 ;; esac
exec c++ "$@" $(case "$1" in --version) ;; *) echo -O0 ;; esac)
"""


def test_ranks_wait_for_a_compiler_that_takes_longer_than_the_time_out(out, tmp_path):
    """Rank 0 compiles while it opens the device, and for each algorithm."""
    compiler, cache = tmp_path / "compiler", tmp_path / "cache"
    compiler.write_text(SLOW_COMPILER)
    compiler.chmod(0o755)
    run = Launch(out, RING, SHORT, "--timeout 1", CXX=str(compiler), XDG_CACHE_HOME=str(cache))
    run.moment_s = time.monotonic()
    done = run.end(patience_s=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert run.took_s > 2 * 2.5
    assert {path.suffix for path in (cache / "wiretax").iterdir()} == {""}


# -- a rank that is stopped: `stop:0` stops rank 0 while it waits for the rank that sends the signal


@pytest.mark.parametrize(
    ("fault", "victim", "place"),
    few(
        [
            ("2 operation 40 stop", 2, SPINNING),
            ("1 operation 40 stop:0", 0, SPINNING),
            ("0 store 6 stop", 0, STORING),
            ("1 plan 1 stop:0", 0, r".*step .*, epoch \d+"),  # rank 0 waits inside MPI
        ],
        1,
    ),
)
def test_a_stopped_rank_is_named_with_its_last_epoch(out, fault, victim, place):
    """MPICH's launcher would kill a rank that exits late and, in about 1 of 10 runs, report that
    signal as the exit status."""
    done, took_s = struck(out, fault, RING, ranks=3, LATE_RANK="1")
    stopped = f"wiretax: rank {victim} was stopped for {TIMEOUT_S} s and held the others up: "
    assert re.match(stopped + place, sentence(done)), done.stderr
    assert "exits late" in done.stderr
    assert took_s < soon_s()
    if "plan" not in fault:
        assert stopped_first(out, victim, r"case 0 .*, epoch \d+", "was stopped for")


def test_a_rank_that_is_stopped_during_exit_is_killed(out):
    """Otherwise mpirun waits for the rank forever, and no other rank is left to report it."""
    done, took_s = struck(out, "0 close 1 stop", RING, SHORT)
    assert done.returncode != 0
    assert took_s < soon_s()
    assert "INCOMPLETE" not in show(out)


@pytest.mark.parametrize(
    ("victims", "pause_s"), few([([0, 1], TIMEOUT_S + 1), ([1], TIMEOUT_S / 2)], 1)
)
def test_ranks_that_are_stopped_and_continued(out, victims, pause_s):
    """The run continues if one rank stops for less than the time-out, or all ranks for longer, as
    in a suspended job.

    The last stopped rank waits for the first stopped rank before SIGSTOP, and again after SIGCONT.
    """
    run = Launch(out, "--algorithm one_shot_ll -n 6000")
    ranks = wait_for(lambda: run.blocks() > 2 and run.ranks())
    for victim in victims:
        run.signal(ranks[victim], signal.SIGSTOP)
        time.sleep(0.1)
    time.sleep(pause_s)
    for victim in reversed(victims):
        run.signal(ranks[victim], signal.SIGCONT)
        time.sleep(0.1)
    done = run.end()
    assert (done.returncode, done.stderr) == (0, "")
    assert "INCOMPLETE" not in show(out)


# -- a rank that is killed


@pytest.mark.parametrize(
    ("fault", "ranks", "place"),
    few(
        [
            ("1 operation 40 kill", 3, SPINNING),
            ("0 operation 40 exit", 3, SPINNING),
            ("1 map 1 kill", 2, "step map the peers, epoch 0"),
            ("0 store 6 kill", 2, STORING),
        ],
        1,
    ),
)
def test_a_rank_that_is_killed_or_exits_leaves_a_readable_run_that_names_it(
    out, fault, ranks, place
):
    done, took_s = struck(out, fault, RING, ranks=ranks)
    why = EXITED if "exit" in fault else KILLED
    assert re.fullmatch(f"wiretax: rank {fault[0]} {why}: {place}", sentence(done))
    assert took_s < soon_s()
    wait_for(lambda: not processes(out), soon_s(2))
    if "map" in fault:  # no block is measured yet
        assert not list(out.iterdir())
        return
    assert "INCOMPLETE: the run was cut off." in show(out)
    assert stopped_first(out, fault[0], place, why), show(out)


ENDS_ALL = """
import ctypes

def bind(case):
    return lambda: case.mpi.Barrier() or ctypes.CDLL(None).exit(0)
"""
CRASHES = """// wiretax: all_reduce
#include "include/exchange.h"

RANK_KERNEL(mine) {
  exchange_and_reduce<PULL, ALL>(a);
  if (a.rank == 1) *(volatile int*)8 = 0;
}
"""


@pytest.mark.parametrize(
    ("name", "text", "how"),
    [
        ("mine.py", ENDS_ALL, f"rank [01] {EXITED}: mine 16384 B, step call the contender, epoch "),
        ("mine.cu", CRASHES, r"rank 1 was ended by signal 11, Segmentation fault: case \d \(mine "),
    ],
)
def test_a_contender_or_a_kernel_that_ends_its_ranks_is_no_run_that_went_well(out, name, text, how):
    """No rank is left to say so if a library ends all of them with status 0."""
    path = out.parent / name
    path.write_text(text)
    option = "--contender" if name.endswith("py") else "--kernel"
    run = Launch(out, f"--algorithm library {option} {path}")
    run.moment_s = time.monotonic()
    assert re.match(f"wiretax: {how}", sentence(run.end()))
    assert run.took_s < soon_s(SOON_S + 4)  # it compiles
    assert all("INCOMPLETE" in show(out) for _ in out.glob("*.jsonl"))


def test_a_rank_that_is_killed_with_its_guard_is_named(out):
    run = Launch(out, RING)
    wait_for(lambda: run.blocks() > 2)
    run.signal(run.guards()[1], signal.SIGKILL)
    done = run.end()
    assert done.returncode != 0
    assert said_in(done) == ["wiretax: rank 1 ended without a word"]
    assert run.took_s < soon_s()
    wait_for(lambda: not processes(out), soon_s(2))
    assert stopped_first(out, 1, r".*step .*, epoch \d+", "ended without a word"), show(out)


def test_a_rank_that_is_killed_before_mpi_has_started_keeps_no_rank_waiting(out):
    run = Launch(out, RING)
    run.signal(wait_for(lambda: run.ranks().get(1)), signal.SIGKILL)
    done = run.end()
    assert done.returncode != 0
    assert said_in(done) == ["wiretax: rank 1 was ended by signal 9, Killed, outside of its run"]
    assert run.took_s < soon_s()


@pytest.mark.parametrize(
    ("algorithm", "place"),
    few([("ring", SPINNING), ("library", REDUCING), ("two_shot_direct", DIRECT)], 2),
)
def test_survivors_spared_by_the_launcher_name_the_killed_rank(out, algorithm, place):
    fault, options = "1 operation 40 kill:0", f"--algorithm {algorithm}"
    done, took_s = struck(out, fault, options, spared=True)
    [message] = said_in(done)
    assert re.fullmatch(f"wiretax: rank 0 {KILLED}: {place}", message)
    assert done.returncode != 0
    assert took_s < soon_s()
    assert stopped_first(out, 0, place, KILLED), show(out)


def test_ranks_do_not_outlive_their_launcher(out):
    run = Launch(out)
    wait_for(lambda: run.blocks() > 2)
    run.signal(run.process.pid, signal.SIGKILL)
    wait_for(lambda: not processes(out), soon_s())
    run.end()
    assert "INCOMPLETE: the run was cut off." in show(out)


# -- interrupts


@pytest.mark.parametrize(
    ("receiver", "least_blocks"), [("mpirun", 6), ("rank 1", 6), ("mpirun", 0)]
)
def test_an_interrupted_run_ends_within_two_seconds_and_keeps_its_blocks(
    out, receiver, least_blocks
):
    """In its first tenth of a second Python itself would print a traceback."""

    def has_begun(pid):
        return sum(psutil.Process(pid).cpu_times()[:2]) > 0.1

    run = Launch(out)
    wait_for(lambda: len(run.ranks()) == 2 and all(map(has_begun, run.ranks().values())))
    wait_for(lambda: run.blocks() >= least_blocks)
    blocks, ranks = run.blocks(), run.ranks()
    if receiver == "mpirun":
        run.signal(run.process.pid, signal.SIGINT)
    else:
        run.signal(ranks[1], signal.SIGTERM)
    done = run.end()
    assert done.returncode == 130
    assert run.took_s < soon_s(2)
    assert "Traceback" not in done.stderr
    assert not least_blocks or "INCOMPLETE: " in show(out)
    assert run.blocks() >= blocks
    wait_for(lambda: not processes(out), soon_s(2))


def test_an_interrupt_ends_ranks_that_wait_inside_the_mpi_library(out):
    program = ["tests/ranks/fault_ranks.py", 1, "operation", 20, "sleep"]
    run = Launch(out, LIBRARY, "--timeout 30 --max-time 60", program=program)
    wait_for(lambda: list(out.glob("*.jsonl")))
    wait_for(lambda: psutil.Process(run.ranks()[1]).status() == psutil.STATUS_SLEEPING)
    run.signal(run.process.pid, signal.SIGINT)
    done = run.end()
    assert done.returncode == 130
    assert run.took_s < soon_s(2)
    assert len(re.findall(r"wiretax: rank \d was interrupted: case 0 ", done.stderr)) == 1
    assert "INCOMPLETE" in show(out)


@SLOW_TEST
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_stops_while_mpi_starts_ends_the_run_with_a_sentence(out, rank):
    run = Launch(out)
    wait_for(lambda: len(run.ranks()) == 2)
    run.signal(run.ranks()[rank], signal.SIGSTOP)
    done = run.end(patience_s=40)
    assert done.returncode == 1
    assert "MPI has not started all 2 ranks in 20 s: a rank, a host or" in done.stderr


def test_a_block_with_a_stopped_rank_is_discarded(out):
    """The other ranks wait in MPI, which has no time-out. After SIGCONT, all ranks continue and
    finish the block."""
    options = f"-n 1200 --max-time 100 {LIBRARY}"
    done, took_s = struck(out, "1 operation 600 stop:0", options)
    stopped = f"wiretax: rank 0 was stopped for {TIMEOUT_S} s and held the others up: "
    assert re.match(stopped + REDUCING, sentence(done)), done.stderr
    assert took_s < soon_s()
    [run] = out.glob("*.jsonl")
    records = map(json.loads, run.read_text().splitlines())
    blocks = [record for record in records if record["kind"] == "block"]
    assert blocks
    assert max(block["mean_us"] * block["n"] for block in blocks) < TIMEOUT_S * 1e6
