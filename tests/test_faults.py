"""What a user meets when a rank fails, stalls, is stopped or killed, or when he interrupts: the others end soon, one
sentence says who and where, what was measured is kept, and nothing is left behind."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from reports.result import read
from reports.show import text
from tests.launch import MPIRUN, ROOT, mpirun

TIMEOUT_S = 2
SOON_S = TIMEOUT_S + 3  # 2 is what is promised, 1 more for a machine that has other work
SMALL = ["-b", "16K", "-e", "16K", "--mode", "isolated", "--max-time", "20", "--timeout", str(TIMEOUT_S)]


def wait_for(condition, patience_s=20.0):
    """What the condition gives once it is true."""
    late_s = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < late_s, "it never came to pass"
        time.sleep(0.005)
    return found


def processes(out):
    """The living processes that have to do with the runs in `out`: {process id: its rank, or None}."""
    found = {}
    for process in psutil.process_iter():
        try:
            if any(str(out) in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                is_rank = "witness.py" not in " ".join(process.cmdline())
                found[process.pid] = process.environ().get("PMI_RANK") if is_rank else None
        except psutil.NoSuchProcess:
            continue
    return found


def orphans():
    """Files in shared memory that no process maps; not those that the MPI library has just made and not yet opened."""
    mapped = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            mapped += maps.read_text()
        except OSError:
            continue
    return {
        path.name
        for path in Path("/dev/shm").iterdir()
        if str(path) not in mapped and not path.name.startswith("mpich_shar_tmp")
    }


@pytest.fixture
def out(tmp_path):
    """A results folder; afterwards no process that worked on it lives, and no shared memory of theirs is left."""
    before = orphans()
    yield tmp_path / "results"
    wait_for(lambda: not processes(tmp_path), 2.0)
    wait_for(lambda: not orphans() - before, 2.0)  # other programs start and end meanwhile


def struck(out, rank, where, call, what, *options, ranks=2):
    """A run with this fault: its output, and how long after the fault it ended, in seconds."""
    done = mpirun(
        ranks, "tests/fault_ranks.py", str(rank), where, str(call), what, *SMALL, "--out", str(out), *options,
        timeout_s=40,
    )  # fmt: skip
    moment = re.search(r"struck at ([\d.]+)", done.stderr)
    assert moment, done.stderr
    return done, time.time() - float(moment[1])


def sentence(done):
    """The one sentence of a run that a fault has ended."""
    said = [line for line in done.stderr.splitlines() if line.startswith("wiretax:")]
    assert len(said) == 1, done.stderr
    assert done.returncode == 1, done.stderr
    return said[0]


class Launch:
    """A run in the background. `act` sends a signal; `end` waits for the end."""

    def __init__(self, out, *options, ranks=2, program=("-m", "bench.allreduce"), small=SMALL, **environment):
        self.out = out
        command = [MPIRUN, "-n", str(ranks), sys.executable, *program, *small, "--out", str(out), *options]
        self.process = subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )  # fmt: skip

    def ranks(self):
        """{rank: process id}"""
        found = processes(self.out)
        return {int(rank): pid for pid, rank in found.items() if rank is not None}

    def blocks(self):
        return sum(path.read_bytes().count(b'"kind":"block"') for path in self.out.glob("*.jsonl"))

    def signal(self, pid, number):
        self.moment_s = time.monotonic()
        os.kill(pid, number)

    def end(self, patience_s=20):
        stdout, stderr = self.process.communicate(timeout=patience_s)
        self.took_s = time.monotonic() - self.moment_s
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, stdout, stderr)


def show(out):
    """What `reports show` prints of the one run."""
    [run] = out.glob("*.jsonl")
    return text(read(run))


@pytest.mark.parametrize(
    ("rank", "where", "call", "ranks", "place"),
    [
        (1, "plan", 1, 2, "step "),
        (1, "block", 4, 2, r"case 0 \(.*\), block 3, step timed loop"),
        (2, "between", 9, 3, ".*step "),
        (0, "store", 3, 2, r"case \d+ \(.*\), block \d+, step store"),
    ],
)
def test_an_exception_on_one_rank_ends_all_with_one_sentence(out, rank, where, call, ranks, place):
    options = ["--algorithm", "ring"]
    done, took_s = struck(out, rank, where, call, "raise", *options, ranks=ranks)
    assert re.search(rf"rank {rank} failed at {place}.*: ValueError: struck", sentence(done))
    assert done.stderr.count("Traceback") == 1
    assert took_s < SOON_S


def test_an_exception_in_the_links_probe_names_case_and_block(out):
    options = ["--mode", "chained", "--algorithm", "ring"]
    done, _ = struck(out, 1, "probe", 3, "raise", *options)
    where = r"case 0 \(ring 16384 B chained\), block \d+, step timed loop: ValueError"
    assert re.search(rf"rank 1 failed at {where}", sentence(done))
    assert "INCOMPLETE" in show(out)
    assert re.search(r"stopped first: rank 1, case 0 .*, block \d+, step timed loop \(failed\)", show(out))


@pytest.mark.parametrize(
    ("rank", "where", "call", "ranks", "algorithm", "place"),
    [
        (1, "plan", 1, 2, "ring", "step plan the cases"),
        (0, "between", 9, 2, "ring", "case 0|link .*"),
        (0, "store", 5, 2, "ring", r"case 0 \(.*\), block \d+, step store"),
        (1, "operation", 300, 2, "library", r"case 0 \(library 16384 B isolated\), .*step .*, the collective"),
    ],
)  # fmt: skip
def test_a_rank_that_stalls_is_named_by_those_that_wait_for_it(out, rank, where, call, ranks, algorithm, place):
    done, took_s = struck(out, rank, where, call, "sleep", "--algorithm", algorithm, ranks=ranks)
    said = sentence(done)
    assert re.search(rf"rank {rank} did not (go on|answer) for {TIMEOUT_S} s and held the others up: {place}", said)
    assert took_s < SOON_S


@pytest.mark.parametrize(("rank", "ranks", "algorithm"), [(0, 2, "one_shot_push"), (1, 3, "ring")])
def test_a_rank_that_stalls_in_a_kernel_is_named_with_the_epochs_seen_and_wanted(out, rank, ranks, algorithm):
    # Around a ring each rank waits for its neighbour; still the one that sleeps is named.
    done, took_s = struck(out, rank, "operation", 40, "sleep", "--algorithm", algorithm, ranks=ranks)
    said = sentence(done)
    assert re.search(rf"rank {rank} did not (go on|answer) .*: case 0 \({algorithm} 16384 B isolated\), ", said)
    found = re.search(r"epoch (\d+) step (\d+) seen, epoch (\d+) step (\d+) wanted by rank \d from rank \d", said)
    assert found, said
    seen, wanted = (int(found[1]), int(found[2])), (int(found[3]), int(found[4]))
    assert seen < wanted
    assert took_s < SOON_S


def test_a_rank_that_stalls_over_the_results_is_named_and_the_run_stays_readable(out):
    done, took_s = struck(out, 0, "results", 1, "sleep", "--algorithm", "ring", "-n", "10")
    assert re.search(r"rank 0 did not go on for .*: step results", sentence(done))
    assert took_s < SOON_S
    assert "INCOMPLETE" in show(out)


@pytest.mark.parametrize(("victim", "ranks"), [(0, 2), (1, 2), (2, 3)])
def test_a_rank_that_is_stopped_is_named_at_any_moment(out, victim, ranks):
    run = Launch(out, ranks=ranks)
    wait_for(lambda: list(out.glob("*.jsonl")))
    time.sleep(random.uniform(0, 1.5))
    run.signal(run.ranks()[victim], signal.SIGSTOP)
    done = run.end()
    assert f"wiretax: rank {victim} was stopped for {TIMEOUT_S} s and held the others up: " in sentence(done)
    assert run.took_s < SOON_S
    assert f"stopped first: rank {victim}, " in show(out)
    wait_for(lambda: not run.ranks(), 1.0)


def test_a_stopped_rank_that_the_launcher_leaves_behind_is_killed(tmp_path):
    """mpirun would wait for it for ever."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "ended").write_text("{}")
    sleeping = [sys.executable, "-c", "import time; time.sleep(100)"]
    with subprocess.Popen(sleeping) as left, subprocess.Popen(sleeping) as stopped:
        try:
            stopped.send_signal(signal.SIGSTOP)
            ranks = f"0:{left.pid}", f"1:{stopped.pid}"
            witness = subprocess.Popen([sys.executable, str(ROOT / "bench/witness.py"), str(folder), *ranks])
            left.kill()
            assert (witness.wait(20), stopped.wait(20)) == (0, -signal.SIGKILL)
        finally:
            left.kill()
            stopped.kill()


@pytest.mark.parametrize("ranks", [2, 2, 3])  # noqa: PT014 - the moment and the victim are drawn
def test_a_killed_rank_leaves_a_readable_run_that_names_it(out, ranks):
    run = Launch(out, ranks=ranks)
    wait_for(lambda: run.blocks() > 5)
    time.sleep(random.uniform(0, 0.3))
    alive = run.ranks()
    victim = random.choice(sorted(alive))
    run.signal(alive[victim], signal.SIGKILL)
    done = run.end()
    assert done.returncode != 0
    assert run.took_s < SOON_S
    wait_for(lambda: not processes(out), 2.0)
    shown = show(out)
    assert "INCOMPLETE: the run was cut off." in shown
    assert re.search(rf"stopped first: rank {victim}, .*step .* \(ended without a word\)", shown), shown


@pytest.mark.parametrize(
    ("whom", "number"),
    [("mpirun", signal.SIGINT), ("group", signal.SIGINT), ("mpirun", signal.SIGTERM), ("rank 1", signal.SIGTERM)],
)
def test_an_interrupted_run_ends_within_two_seconds_and_keeps_what_was_measured(out, whom, number):
    run = Launch(out)
    wait_for(lambda: run.blocks() > 5)
    blocks, alive = run.blocks(), run.ranks()
    target = {"mpirun": run.process.pid, "group": -run.process.pid, "rank 1": alive[1]}[whom]
    run.signal(target, number)
    done = run.end()
    assert done.returncode == 130
    assert run.took_s < 2
    assert "Traceback" not in done.stderr
    assert "INCOMPLETE: " in show(out)
    assert run.blocks() >= blocks
    wait_for(lambda: not processes(out), 2.0)
    if "INCOMPLETE: interrupted." in done.stdout:  # it had the time for its table
        assert not list(out.glob("*.flight"))


def test_an_interrupt_ends_ranks_that_wait_inside_the_mpi_library(out):
    program = ["tests/fault_ranks.py", "1", "operation", "100", "sleep"]
    run = Launch(out, "--algorithm", "library", "--timeout", "30", program=program)
    wait_for(lambda: list(out.glob("*.jsonl")))
    wait_for(lambda: psutil.Process(run.ranks()[1]).status() == psutil.STATUS_SLEEPING)
    run.signal(run.process.pid, signal.SIGINT)
    done = run.end()
    assert done.returncode == 130
    assert run.took_s < 2
    assert done.stderr.count("wiretax: interrupted") == 1
    assert "INCOMPLETE" in show(out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_while_compiling_leaves_nothing_behind(out, tmp_path, number):
    cache = tmp_path / "cache" / "wiretax"
    run = Launch(out, XDG_CACHE_HOME=str(cache.parent))
    wait_for(lambda: len(list(cache.glob("*.so"))) > 1)
    pid = run.process.pid if number != signal.SIGKILL else run.ranks()[1]
    run.signal(pid, number)
    done = run.end()
    assert done.returncode != 0
    assert run.took_s < 2
    assert "Traceback" not in done.stderr
    wait_for(lambda: not processes(tmp_path), 5.0)
    assert not list(out.glob("*.flight")) or list(out.glob("*.jsonl"))
    wait_for(lambda: {path.suffix for path in cache.iterdir()} == {".so"}, 5.0)


def test_an_interrupt_before_anything_was_measured_says_nothing_of_python(out):
    for delay_s in (0.15, 0.4):
        run = Launch(out)
        time.sleep(delay_s)
        run.signal(run.process.pid, signal.SIGINT)
        done = run.end()
        assert done.returncode != 0
        assert run.took_s < 2
        assert "Traceback" not in done.stderr


def test_a_compiler_that_takes_longer_than_the_time_out_is_waited_for(out, tmp_path):
    compiler = tmp_path / "compiler"
    loop = "import time\nwhile time.process_time() < 3: pass"
    busy = f"{sys.executable} -c '{loop}'"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *timed_loop.cpp*) {busy};; esac\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    options = ["-n", "10", "--timeout", "1", "--algorithm", "ring", "--lean", "--out", str(out)]
    cache = str(tmp_path / "cache")
    done = mpirun(
        2, "-m", "bench.allreduce", "-b", "16K", "-e", "16K", *options, CXX=str(compiler), XDG_CACHE_HOME=cache
    )
    assert done.returncode == 0, done.stderr
    assert "wiretax:" not in done.stderr


def test_a_normal_end_leaves_the_run_and_nothing_else(out, tmp_path):
    # The time-out is shorter than what rank 0 may need for the results while the others wait.
    cache = tmp_path / "cache"
    options = ["-n", "10", "--timeout", "1", "--out", str(out)]
    done = mpirun(2, "-m", "bench.allreduce", "-b", "16K", "-e", "16K", *options, XDG_CACHE_HOME=str(cache))
    assert done.returncode == 0, done.stderr
    assert {path.suffix for path in out.iterdir()} == {".jsonl", ".png", ".samples"}
    assert {path.suffix for path in (cache / "wiretax").iterdir()} == {".so"}
    assert not list(out.glob("*.samples/*.part"))
