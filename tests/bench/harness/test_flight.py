"""Flight records and the witness in a shared folder and on an old kernel.

A good run ends with status 0, a bad run prints one sentence, and other users' files stay unchanged.
"""

import json
import os
import platform
import subprocess
import sys
import time

import pytest

from bench.harness import witness
from bench.harness.flight import FlightRecord
from bench.harness.witness import clear_up
from tests.bench.faulty_runs import Launch, processes, soon_s, wait_for

SHORT = "--algorithm ring -n 10"
on_x86_64 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the numbers of system calls are x86-64's"
)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


@on_x86_64
def test_a_good_run_completes_on_a_kernel_that_shows_the_witness_less(out):
    run = Launch(out, SHORT, program=["tests/ranks/refused_ranks.py"])
    run.moment_s = time.monotonic()
    done = run.end(60)
    assert (done.returncode, done.stderr) == (0, "")
    wait_for(lambda: not processes(out), soon_s(2))
    assert {path.suffix for path in out.iterdir()} == {".jsonl"}


def test_the_target_of_a_link_in_a_shared_folder_stays_unchanged(tmp_path):
    film, planted = tmp_path / "film.mkv", tmp_path / "run.npz.1.part"
    film.write_text("not ours")
    planted.symlink_to(film)
    clear_up(tmp_path / "run.flight")
    assert list(tmp_path.iterdir()) == [film]


def test_the_witness_waits_for_no_writer_of_a_pipe_in_the_place_of_the_run(tmp_path):
    os.mkfifo(tmp_path / "run.jsonl")
    (tmp_path / "run.flight").mkdir()
    clear_up(tmp_path / "run.flight")
    assert [path.name for path in tmp_path.iterdir()] == ["run.jsonl"]


def test_the_witness_ends_with_a_rank_whose_guard_had_gone_before(tmp_path):
    """It waited for process 1, its rank's next parent, for ever."""
    flight = tmp_path / "run.flight"
    flight.mkdir()
    shell = ["sh", "-c", "sleep 1 >/dev/null & echo $!"]
    orphan = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    command = [sys.executable, witness.__file__, str(flight), json.dumps({"0": int(orphan)}), ""]
    subprocess.run(command, check=True, timeout=20)


def test_a_record_is_never_written_through_a_link(tmp_path):
    mine, flight = tmp_path / "bashrc", tmp_path / "run.flight"
    mine.write_text("mine")
    flight.mkdir()
    (flight / "rank-0").symlink_to(mine)
    with pytest.raises(FileExistsError):
        FlightRecord(flight, 0)
    assert mine.read_text() == "mine"
