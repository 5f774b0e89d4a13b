"""The ladder of the doctor on GPUs in software: its outcomes and statuses, and what is on disk when
a climb never returns."""

import re
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bench.harness.ladder import RUNGS, rung
from kernels.devices.device import Watch
from tests.bench.faulty_runs import soon_s, wait_for
from tests.bench.launches import marked
from tests.fake_gpu import environment, fake_nccl
from tests.launch import MPIRUN, mpirun
from wiretax.record.flight_records import read_flight

IMPATIENT = """
from bench.doctor import main
from bench.harness import ladder
from collectives import probe
ladder.ROUNDS, ladder.SIZES_BYTES, probe.PROBE_NS = 2, (16, 1 << 16, 16), int(0.5e9)
main()
"""


def climb(folder, program=IMPATIENT, **variables):
    program = program.replace("0.5", str(soon_s(0.5)))
    return mpirun(2, "-c", program, "--ladder", str(folder), timeout_s=100, **variables)


def test_a_climb_in_which_all_works_ends_with_0_and_leaves_nothing(tmp_path):
    folder, patient = tmp_path / "new/folder", IMPATIENT.replace("0.5", "20")
    done = climb(folder, patient, **fake_nccl.environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{name}: works" for name in RUNGS]
    wait_for(lambda: not [*folder.iterdir()])


def test_a_climb_over_the_driver_s_virtual_memory_says_why(tmp_path):
    patient, way = IMPATIENT.replace("0.5", "20"), "peer memory is mapped vmm (mapped: rank 1: "
    faults: dict[str, object] = {"fail": "ipcOpenMemHandle:rank1"}
    done = climb(tmp_path, patient, **fake_nccl.environment(gpu=faults))
    assert (done.returncode, done.stderr) == (0, "")
    told = [line for line in done.stdout.splitlines() if not line.endswith(": works")]
    assert [line.startswith(way) for line in told] == [True]


@pytest.mark.parametrize(
    ("variables", "status", "first", "error"),
    [
        (  # what a rank stores for another never arrives
            {"corrupt_ipc": 4096},
            1,
            "peer memory: stores of even ranks: wrong (within one launch rank 1 read old or",
            r"wiretax: rank . failed: step peer memory: packets, epoch \d+: .* never answered",
        ),
        (  # nor does its flag: the memory is left alone from then on
            {"corrupt_ipc": 0},
            1,
            None,
            r"wiretax: rank . failed: step peer memory: stores of even ranks, .*: rank . never",
        ),
        (
            {"peer": 0},
            3,
            "peer memory: mapped: refused (mapped, mapped vmm: rank 0: the driver refuses peer",
            "",
        ),
        (  # the control: the peers are not tried, nor blamed
            {"fail": "cuMemHostRegister_v2"},
            3,
            None,
            "bench.doctor: host_staged: rank 0: on GPU",
        ),
        (
            {"vanish_after": 84},
            1,
            None,
            r"wiretax: rank . failed: step host memory: all-reduces, small, large, small, epoch",
        ),
    ],
)
def test_what_fails_has_a_status_and_a_sentence_that_names_rank_and_step(
    tmp_path, variables, status, first, error
):
    done = climb(tmp_path, **environment(**variables))
    failed = [line for line in done.stdout.splitlines() if not line.endswith(": works")]
    assert done.returncode == status
    assert failed[0].startswith(first) if first else not failed
    assert re.match(error, done.stderr)
    assert done.stderr.count("\n") == bool(error)


def test_wrong_results_in_host_memory_end_the_climb(tmp_path):
    wrong = "ladder.RUNGS['host memory: reads'] = lambda *_: 'old data'"
    done = climb(tmp_path, IMPATIENT.replace("main()", f"{wrong}\nmain()"), **environment())
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith("host memory: reads: wrong (old data)\n")


def test_after_a_climb_that_never_returned_the_next_one_says_how_far_it_came(tmp_path):
    """The machine was reset, or the launcher ended it."""
    patient = IMPATIENT.replace("0.5", "60")
    command = [MPIRUN, "-n", "2", sys.executable, "-c", patient, "--ladder", tmp_path]
    with marked(**environment(corrupt_ipc=0)) as variables:  # its rung waits for a flag
        process = subprocess.Popen(
            command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_for(lambda: "peer memory: stores of even ranks" in steps(tmp_path), 60)
        finally:
            end(variables["WIRETAX_TEST"])
            process.wait()
    (left,) = tmp_path.glob("*.flight")
    done = climb(tmp_path, **environment(corrupt_ipc=0))  # hangs where the first one did
    told = [line for line in done.stdout.splitlines() if "has not ended" in line]
    assert told == [
        f"The climb {left} has not ended: rank {rank} was in its step peer memory: "
        "stores of even ranks."
        for rank in (0, 1)
    ]


def steps(folder):
    """The steps of all ranks whose flight records are in the folder."""
    flights = map(read_flight, folder.glob("*.flight"))
    return [record["step"] for flight in flights for record in flight.ranks.values()]


def end(mark):
    """Kills every process of a launch at once."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("WIRETAX_TEST") == mark:
                process.kill()


def test_a_rung_s_name_is_on_disk_before_the_rung_starts():
    """Written after it, a reset would hide the rung that caused it."""
    seen: list[str] = []
    page = SimpleNamespace(flush=lambda: seen.append("flushed"))
    flight = SimpleNamespace(note=seen.append, page=page, watch=Watch())
    communicator = SimpleNamespace(
        rank=0, barrier=lambda: seen.append("all ranks"), first_reason=lambda sentence: sentence
    )
    session: Any = SimpleNamespace(flight=flight, communicator=communicator)
    assert rung(session, "a", lambda _: seen.append("works")) == 0
    assert seen == ["a", "flushed", "all ranks", "works"]


def test_a_rung_that_does_not_return_is_given_up(tmp_path):
    sleep = "doctor.STEP_S = 4\nladder.show = lambda *_, **__: __import__('time').sleep(60)"
    program = IMPATIENT.replace("main()", f"from bench import doctor\n{sleep}\nmain()")
    done = climb(tmp_path, program, **environment())
    assert (done.returncode, done.stdout) == (1, "")
    why = "did not go on for 4 s and held the others up: step host memory: stores of even ranks"
    assert why in done.stderr


@pytest.mark.parametrize(
    ("ranks", "folder", "status", "sentence"),
    [
        (2, "new", 3, "bench.doctor: no GPU driver is here"),
        (1, "new", 2, "--ladder climbs between GPUs: mpirun -n 2"),
        (2, "file", 2, "file cannot be written: Not a directory"),
    ],
)
def test_what_cannot_begin_is_one_sentence(tmp_path, ranks, folder, status, sentence):
    (tmp_path / "file").touch()
    done = mpirun(ranks, "-m", "bench.doctor", "--ladder", str(tmp_path / folder))
    assert done.returncode == status
    assert sentence in done.stdout + done.stderr
    assert len((done.stdout + done.stderr).splitlines()) == 1
