"""Processes that torchrun has started, or anything that sets its variables: the first starts the
ranks."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.bench.faulty_runs import blocks_in, processes, wait_for
from tests.launch import ROOT
from wiretax.__main__ import torchrun_ranks
from wiretax.common.launched import TORCHRUN_VARIABLES

LAUNCHED = {name: value for name, value in os.environ.items() if not name.startswith("PMI")}
SWEEP = "allreduce --sizes 16K --mode isolated --algorithm ring --iters 2"


def started(cwd, options="", **variables):
    words = [sys.executable, "-m", "wiretax", *f"{SWEEP} {options}".split()]
    environment = {**LAUNCHED, "PYTHONPATH": str(ROOT), **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


def variables(rank):
    given = dict(zip(TORCHRUN_VARIABLES, (str(rank), "2", str(rank)), strict=True))
    return given | {"LOCAL_WORLD_SIZE": "2"}


NOT_HERE = (
    "nothing was run here: LOCAL_RANK is 1, and the process with LOCAL_RANK 0 starts all ranks; "
    "without torchrun, unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE"
)


@pytest.mark.parametrize("command", ["allreduce", "bits", "soak", "tune", "doctor"])
def test_below_torchrun_the_other_processes_end_without_a_word(tmp_path, command):
    """Also where torchrun's output is a file, which its processes share, and its Python is in a
    folder whose name has a space. The torch is a stand-in that runs a command line; torch may give
    its process another name."""
    program = tmp_path / "torch/distributed/run.py"
    program.parent.mkdir(parents=True)
    program.write_text("import subprocess, sys\nsys.exit(subprocess.call(sys.argv[1:]))\n")
    script = shutil.copy(program, tmp_path / "torchrun")
    python = tmp_path / "a folder/python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    environment = {**LAUNCHED, "PYTHONPATH": f"{ROOT}:{tmp_path}", **variables(1)}
    for torchrun in (["-m", "torch.distributed.run"], ["-u", str(script)]):
        line = [str(python), *torchrun, sys.executable, "-m", "wiretax", command]
        with (tmp_path / "log").open("w+") as log:
            assert not subprocess.call(line, cwd=tmp_path, env=environment, stdout=log, stderr=log)
            log.seek(0)
            assert log.read() == ""


def test_the_first_process_starts_the_ranks_and_the_other_ends(tmp_path):
    """Also in a step of Slurm. Here no torchrun is above them: a shell may have kept the variables,
    which made each benchmark a silent success."""
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "node"}
    second, first = (
        started(tmp_path, **variables(rank), **slurm, SLURM_PROCID="0") for rank in (1, 0)
    )
    assert second.communicate(timeout=60) == ("", f"wiretax allreduce: {NOT_HERE}\n")
    out, said = first.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0), said
    assert "allreduce: 2 ranks on" in out
    assert len([*(tmp_path / "results").glob("*.jsonl")]) == 1


def test_the_size_of_a_host_alone_is_nothing_and_help_needs_no_ranks(tmp_path):
    """Other launchers set it too."""
    for own in ({"LOCAL_WORLD_SIZE": "2"}, {"RANK": "0"}):
        process = started(tmp_path, "--help", **own)
        assert "usage: " in process.communicate(timeout=60)[0]


CANNOT = "torchrun's variables cannot be {}: start this with torchrun, or unset "
CANNOT += "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE"
OF_RANK_0 = "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0"
HALF = {"LOCAL_RANK": "", "LOCAL_WORLD_SIZE": ""}
TWO = "RANK=two WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2"
MANY = {"WORLD_SIZE": "9" * 20, "LOCAL_WORLD_SIZE": "9" * 20}
HOSTS = "torchrun has 2 of 4 ranks on this host, and can start those of one host alone: start "
HOSTS += "several hosts with mpirun or srun"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (HALF, CANNOT.format("RANK=0 WORLD_SIZE=2 LOCAL_RANK= LOCAL_WORLD_SIZE=")),
        ({"LOCAL_WORLD_SIZE": ""}, CANNOT.format(f"{OF_RANK_0} LOCAL_WORLD_SIZE=")),
        ({"LOCAL_WORLD_SIZE": "0"}, CANNOT.format(f"{OF_RANK_0} LOCAL_WORLD_SIZE=0")),
        ({"RANK": "two"}, CANNOT.format(TWO)),
        ({"RANK": "2"}, CANNOT.format("RANK=2 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2")),
        ({"RANK": "1"}, CANNOT.format("RANK=1 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2")),
        ({"RANK": "-1"}, CANNOT.format("RANK=-1 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2")),
        (MANY, f"ranks: '{'9' * 20}' is not a whole number from 1 to 8; --iters is the number"),
        ({"WORLD_SIZE": "4"}, HOSTS),
    ],
)
def test_variables_of_no_ranks_of_this_host_are_a_sentence(tmp_path, changed, sentence):
    process = started(tmp_path, **variables(0) | changed)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said.count("\n")) == (2, "", 1)
    assert said.startswith(f"wiretax allreduce: {sentence}")
    assert not [*tmp_path.iterdir()]


def test_torchruns_end_of_the_first_process_ends_all_ranks(tmp_path):
    out = tmp_path / "results"
    process = started(tmp_path, f"--iters 0 --out {out}", **variables(0))
    wait_for(lambda: blocks_in(out))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode
    wait_for(lambda: not processes(out), 5)


def test_a_rank_of_mpi_is_none_of_torchrun(monkeypatch):
    for name, value in variables(1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    assert torchrun_ranks("allreduce") is None
