"""Flight records and the witness in a shared folder and on an old kernel.

A good run ends with status 0, a bad run prints one sentence, and other users' files stay unchanged.
"""

import json
import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from bench.harness.watchdog import FlightRecord
from bench.harness.witness import clear_up, watch
from tests.bench.faulty_runs import Launch, processes, wait_for

pytestmark = pytest.mark.alone

SHORT = "--algorithm ring -n 10 --lean"
on_x86_64 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the numbers of system calls are x86-64's"
)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


def ended(out, *script):
    """A finished run of a script of tests/ranks."""
    program = [f"tests/ranks/{script[0]}.py", *script[1:]]
    run = Launch(out, SHORT, program=program)
    run.moment_s = time.monotonic()
    return run.end(60)


@on_x86_64
def test_a_good_run_completes_on_a_kernel_that_shows_the_witness_less(out):
    done = ended(out, "refused_ranks", "pidfd")
    assert (done.returncode, done.stderr) == (0, "")
    wait_for(lambda: not processes(out), 2)
    assert {path.suffix for path in out.iterdir()} == {".jsonl"}


def test_the_witness_names_the_rank_whose_record_closed_first(tmp_path):
    """Rank 1 is slow to free its memory, so that rank 0, which its launcher kills, ends first."""
    ranks = [start_rank(tmp_path / f"rank-{rank}") for rank in (0, 1)]
    pids = {rank: process.pid for rank, process in enumerate(ranks)}
    watching = threading.Thread(target=watch, args=(tmp_path, pids, ""))
    watching.start()
    time.sleep(0.2)
    close_record(ranks[1])
    ranks[0].kill()
    ranks[0].wait(5)
    time.sleep(0.2)
    ranks[1].kill()
    ranks[1].wait(5)
    watching.join(5)
    assert json.loads((tmp_path / "ended").read_text())["rank"] == 1


def start_rank(record):
    """A process that holds its record open until it is told to close it."""
    script = (
        "file = open(sys.argv[1], 'w'); print(flush=True); input()\n"
        "file.close(); print(flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys\n{script}", record],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.readline()
    return process


def close_record(process):
    process.stdin.write("\n")
    process.stdin.flush()
    process.stdout.readline()


def test_the_target_of_a_link_in_a_shared_folder_stays_unchanged(tmp_path):
    film, planted, own = (tmp_path / name for name in ("downloads", "run.samples", "own.samples"))
    for folder in (film, own):
        folder.mkdir()
        (folder / "film.mkv.part").write_text("not ours")
    planted.symlink_to(film)
    for name in ("run", "own"):
        clear_up(tmp_path / f"{name}.flight")
    assert list(film.iterdir())
    assert not list(own.iterdir())


def test_the_witness_waits_for_no_writer_of_a_pipe_in_the_place_of_the_run(tmp_path):
    os.mkfifo(tmp_path / "run.jsonl")
    (tmp_path / "run.flight").mkdir()
    clear_up(tmp_path / "run.flight")
    assert [path.name for path in tmp_path.iterdir()] == ["run.jsonl"]


def test_a_record_is_never_written_through_a_link(tmp_path):
    mine, flight = tmp_path / "bashrc", tmp_path / "run.flight"
    mine.write_text("mine")
    flight.mkdir()
    (flight / "rank-0").symlink_to(mine)
    with pytest.raises(FileExistsError):
        FlightRecord("run", flight, 0, 2, {})
    assert mine.read_text() == "mine"
