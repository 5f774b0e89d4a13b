"""Flight records and the witness in a shared folder, on an old kernel and on a full disk.

A good run ends with status 0, a bad run prints one sentence, and other users' files stay unchanged.
"""

import json
import os
import platform
import re
import socket
import stat
import time
from pathlib import Path

import pytest

from bench.harness import neighbours, witness
from bench.harness.watchdog import FlightRecord
from bench.harness.witness import clear_up
from tests.bench.faulty_runs import Launch, processes, said_in, wait_for
from tests.bench.small_disk import Disk

pytestmark = pytest.mark.alone

SHORT = "--algorithm ring -n 10 --lean"
on_x86_64 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the numbers of system calls are x86-64's"
)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


def ended(out, *script, ranks=2, meanwhile=lambda: None):
    """A finished run of a script of tests/ranks, after something happened meanwhile."""
    program = [f"tests/ranks/{script[0]}.py", *script[1:]]
    run = Launch(out, SHORT, program=program, ranks=ranks)
    meanwhile()
    run.moment_s = time.monotonic()
    return run.end(60)


@on_x86_64
def test_a_good_run_completes_on_a_kernel_that_shows_the_witness_less(out):
    """No other user can write to the folder of records meanwhile, whatever the umask."""
    modes = list[int]()

    def look():
        [flight] = wait_for(lambda: list(out.glob("*.flight")))
        modes.append(stat.S_IMODE(flight.stat().st_mode))

    former = os.umask(0o002)
    try:
        done = ended(out, "refused_ranks", "pidfd", meanwhile=look)
    finally:
        os.umask(former)
    assert (done.returncode, done.stderr, modes) == (0, "", [0o755])
    wait_for(lambda: not processes(out), 2)
    assert {path.suffix for path in out.iterdir()} == {".jsonl"}


@on_x86_64
def test_ranks_that_cannot_start_processes_are_refused_with_one_sentence(out):
    done = ended(out, "refused_ranks", "processes")
    assert done.returncode == 2
    watch = r"rank 0: cannot watch over the ranks in \S+\.flight: Resource temporarily unavailable"
    assert re.fullmatch(rf"bench\.allreduce: {watch}\n", done.stderr), done.stderr
    assert not list(out.iterdir())


def test_the_target_of_a_link_in_a_shared_folder_stays_unchanged(tmp_path):
    film, planted, own = (tmp_path / name for name in ("downloads", "run.samples", "own.samples"))
    for folder in (film, own):
        folder.mkdir()
        (folder / "film.mkv.part").write_text("not ours")
    planted.symlink_to(film)
    for name in ("run", "own"):
        clear_up(tmp_path / f"{name}.flight", [])
    assert list(film.iterdir())
    assert not list(own.iterdir())


def test_a_record_is_never_written_through_a_link(tmp_path):
    mine, flight = tmp_path / "bashrc", tmp_path / "run.flight"
    mine.write_text("mine")
    flight.mkdir()
    (flight / "rank-0").symlink_to(mine)
    with pytest.raises(FileExistsError):
        FlightRecord("run", flight, 0, 2, {})
    assert mine.read_text() == "mine"


def test_survivors_of_a_late_rank_print_one_sentence_on_a_full_disk(tmp_path):
    try:
        disk = Disk(tmp_path / "disk", 2 << 20)
    except OSError as error:
        pytest.skip(str(error))
    out = disk.at / "results"

    def fill():
        wait_for(
            lambda: [path.stat().st_size for path in out.glob("*.flight/rank-*")] == [4096] * 3
        )
        disk.fill()

    try:
        done = ended(out, "fault_ranks", 1, "plan", 1, "sleep", ranks=3, meanwhile=fill)
        assert len(said_in(done)) == 1, done.stderr
        assert done.returncode == 1
    finally:
        disk.close()


def test_named_shared_memory_of_a_killed_rank_is_removed(out):
    others = Path(f"/dev/shm/wiretax-1-{os.getpid()}-{'0' * 32}")
    others.touch()
    try:
        done = ended(out, "tampered_ranks", "killed")
        assert done.returncode != 0
        named = done.stderr.split("holds ")[1].split()[0]
        wait_for(lambda: not processes(out), 5)
        assert not Path(named).exists()
        assert others.exists()
    finally:
        others.unlink()


# -- other hosts


def test_one_silence_of_a_host_is_no_cut_link(monkeypatch):
    record = FlightRecord("", None, 0, 1.0, {0: os.getpid()}, ["a", "b"])
    answers, lost = [["b"], [], ["b"], ["b"]], []
    record.neighbours = {"b": None}
    monkeypatch.setattr(record, "_unreachable", lambda: answers.pop(0))
    monkeypatch.setattr(
        record, "end", lambda culprit, *_: lost.append((culprit["rank"], len(answers)))
    )
    record._end_if_cut_off()
    record._end_if_cut_off()  # too soon to ask again
    assert len(answers) == 3
    while answers:
        record.asked_s = 0.0
        record._end_if_cut_off()
    assert lost == [(1, 0)]


def test_a_host_that_answered_while_a_busy_host_did_not_let_us_run_is_not_silent(monkeypatch):
    monkeypatch.setattr(neighbours, "ANSWER_S", 0.0)  # the time is over before the first look
    here: dict[str, neighbours.Address] = {"a": (socket.AF_INET, ("127.0.0.1", neighbours.PORT))}
    assert neighbours.answering_hosts(here) == {"a"}


@pytest.fixture
def witnessed(tmp_path, monkeypatch):
    """A function that lets a witness end over a run's folder with this reason."""
    monkeypatch.setattr(witness, "watch", lambda *_: None)
    monkeypatch.setattr("os.dup2", lambda *_: None)

    def end(why):
        folder = tmp_path / f"{len([*tmp_path.iterdir()])}.flight"
        folder.mkdir()
        (folder / "ended").write_text(json.dumps({"why": why}))
        witness.main(folder, {0: 2**22}, "wt1")
        return folder

    return end


def test_ranks_of_other_hosts_have_time_to_read_why_a_run_ended_before_its_first_line(
    tmp_path, witnessed, monkeypatch
):
    slept_s = []
    monkeypatch.setattr("time.sleep", lambda s: slept_s.append((s, [*tmp_path.iterdir()])))
    folder = witnessed("could not be reached for 5 s")
    assert slept_s == [(witness.OTHERS_LOOK_S, [folder])]
    assert not folder.exists()


def test_a_launcher_may_end_by_itself_unless_a_host_was_cut_off(witnessed, monkeypatch):
    given_s = []
    monkeypatch.setattr(witness, "ancestors", lambda pids: [1])
    monkeypatch.setattr(
        witness, "end_launchers", lambda launchers, patience_s: given_s.append(patience_s)
    )
    monkeypatch.setattr(witness, "OTHERS_LOOK_S", 0.0)
    witnessed("ended without a word")
    witnessed("could not be reached for 5 s")
    assert given_s == [4.0, 0.5]
