"""The ladder of the doctor on GPUs in software: its outcomes and statuses, and what is on disk when
a climb never returns."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bench.harness.ladder import Climb, open_log
from collectives.peer_buffer import WaitPolicy
from kernels.devices.device import Watch
from tests.bench.faulty_runs import soon_s, wait_for
from tests.bench.launches import marked
from tests.fake_gpu import environment, fake_nccl
from tests.launch import MPIRUN, mpirun

IMPATIENT = """
from bench.doctor import main
from bench.harness import ladder
ladder.WAIT_S, ladder.ROUNDS, ladder.SIZES_BYTES = 0.5, 2, (16, 1 << 16, 16)
main()
"""


def climb(log, program=IMPATIENT, **variables):
    program = program.replace("0.5", str(soon_s(0.5)))
    return mpirun(2, "-c", program, "--ladder", str(log), timeout_s=100, **variables)


def lines(log):
    return [json.loads(line) for line in log.read_text().splitlines() if line]


def test_a_climb_in_which_all_works_ends_with_0_and_its_log_on_disk(tmp_path):
    log, patient = tmp_path / "folder/ladder.log", IMPATIENT.replace("0.5", "20")
    done = climb(log, patient, **fake_nccl.environment())
    assert (done.returncode, done.stderr) == (0, "")
    written = lines(log)
    assert [line["outcome"] for line in written] == ["started", "works"] * (len(written) // 2)
    rungs = [line["rung"] for line in written[::2]]
    assert [f"{rung}: works" for rung in rungs] == done.stdout.splitlines()
    assert (rungs[0], rungs[-1]) == ("host memory: mapped", "the GPUs' library")


@pytest.mark.parametrize(
    ("variables", "status", "first", "last"),
    [
        (  # what a rank stores for another never arrives
            {"corrupt_ipc": 4096},
            1,
            "peer memory: stores of even ranks: wrong (within one launch rank 1 read old or",
            "peer memory: packets: hangs (rank",
        ),
        (  # nor does its flag: the memory is left alone from then on
            {"corrupt_ipc": 0},
            1,
            "peer memory: stores of even ranks: hangs (rank 0 never answered)",
            "peer memory: stores of even ranks: hangs",
        ),
        (
            {"peer": 0},
            4,
            "peer memory: mapped: inconclusive (rank 0: the driver refuses peer access",
            "peer memory: mapped: inconclusive",
        ),
        (  # the control: the peers are not tried, nor blamed
            {"fail": "cuMemHostRegister_v2"},
            4,
            "host memory: mapped: inconclusive (rank 0: on GPU",
            "the climb: inconclusive (its control, host memory, failed)",
        ),
        (
            {"vanish_after": 40},
            4,
            "host memory: all-reduces, small, large, small: hangs (on GPU",
            "the climb: inconclusive",
        ),
    ],
)
def test_what_fails_has_an_outcome_a_status_and_a_sentence(
    tmp_path, variables, status, first, last
):
    done = climb(tmp_path / "ladder.log", **environment(**variables))
    failed = [line for line in done.stdout.splitlines() if not line.endswith(": works")]
    assert (done.returncode, done.stderr) == (status, "")
    assert failed[0].startswith(first)
    assert failed[-1].startswith(last)
    assert lines(tmp_path / "ladder.log")[-1]["rung"] == last.rpartition(": ")[0]


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    """A pipe would wait for a reader."""
    log = tmp_path / "log"
    os.mkfifo(log)
    done = climb(log, **environment())
    assert done.returncode == 2
    assert f"bench.doctor: cannot write {log}: it is not an ordinary file\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_after_a_climb_that_never_returned_the_next_one_says_how_far_it_came(tmp_path):
    log = tmp_path / "ladder.log"
    command = [MPIRUN, "-n", "2", sys.executable, "-m", "bench.doctor", "--ladder", log]
    with marked(**environment(corrupt_ipc=0)) as variables:  # its rung waits for a flag
        process = subprocess.Popen(
            command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_for(lambda: log.exists() and "even ranks" in log.read_text(), 60)
        finally:
            end(variables["WIRETAX_TEST"])
            process.wait()
    rung = lines(log)[-1]["rung"]
    assert lines(log)[-1]["outcome"] == "started"
    log.write_text(f'{log.read_text()}\n{"[" * 9999}\n{{"time": "20')  # a reset tears a line
    done = climb(log, **environment(fail="cuMemHostRegister_v2"))
    assert re.match(rf"The climb of \S+ never returned from its rung: {rung}\.\n", done.stdout)


def end(mark):
    """Kills every process of a launch at once."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("WIRETAX_TEST") == mark:
                process.kill()


def test_a_rung_s_name_is_on_disk_before_the_rung_starts(tmp_path, monkeypatch):
    """Written after it, a reset would hide the rung that caused it."""
    path, seen = tmp_path / "new/ladder.log", list[str]()

    def note(descriptor):
        seen.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    def work():
        seen.append(*[line["outcome"] for line in lines(path)])

    monkeypatch.setattr(os, "fsync", note)
    communicator: Any = SimpleNamespace(
        rank=0, barrier=lambda: None, all_gather=lambda item: [item]
    )
    climb = Climb(communicator, WaitPolicy(Watch()), open_log(str(path))[0])
    assert climb.rung("a", work) == "works"
    assert seen == [str(path.parent), str(path), "started", str(path)]


def test_a_rung_that_does_not_return_is_given_up(tmp_path):
    sleep = "ladder.GIVE_UP_S = 4\nladder.show = lambda *_, **__: __import__('time').sleep(60)"
    program = IMPATIENT.replace("main()", f"{sleep}\nmain()")
    log = tmp_path / "ladder.log"
    done = mpirun(2, "-c", program, "--ladder", str(log), timeout_s=50, **environment())
    assert done.returncode == 1
    assert lines(log)[-1]["outcome"] == "hangs"
    last = "host memory: stores of even ranks: hangs (it did not return in 4 s)\n"
    assert done.stdout.endswith(last)


@pytest.mark.parametrize(
    ("ranks", "status", "sentence"),
    [(2, 3, "No ladder: "), (1, 2, "--ladder climbs between GPUs: mpirun -n 2")],
)
def test_without_two_gpus_it_refuses_in_a_sentence(tmp_path, ranks, status, sentence):
    done = mpirun(ranks, "-m", "bench.doctor", "--ladder", str(tmp_path / "log"))
    assert done.returncode == status
    assert sentence in done.stdout + done.stderr
    assert len((done.stdout + done.stderr).splitlines()) == 1
    assert not (tmp_path / "log").exists()
