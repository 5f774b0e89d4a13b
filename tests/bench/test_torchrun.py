"""Ranks that torchrun has started, or anything that sets its variables: no mpirun runs then."""

import os
import re
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from collectives import torchrun
from tests.bench.faulty_runs import blocks_in, wait_for
from tests.launch import ROOT

LAUNCHED = {name: value for name, value in os.environ.items() if not name.startswith("PMI")}
SWEEP = "allreduce --sizes 16K --mode isolated --algorithm ring --iters 2"


def is_free(port):
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def free_port():
    """A port with a free one behind it, as torchrun's own store needs the first."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            if is_free(port + 1):
                return port


def started(cwd, options="", **variables):
    words = [sys.executable, "-m", "wiretax", *f"{SWEEP} {options}".split()]
    environment = {**LAUNCHED, "PYTHONPATH": str(ROOT), **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


def variables(rank, port):
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def test_ranks_find_each_other_at_the_masters_address(tmp_path):
    port = free_port()
    ranks = [started(tmp_path, **variables(rank, port)) for rank in (1, 0)]
    second, first = (process.communicate(timeout=120) for process in ranks)
    assert [process.returncode for process in ranks] == [0, 0], (first, second)
    assert "allreduce: 2 ranks on" in first[0]
    assert second[0] == ""
    assert len([*(tmp_path / "results").glob("*.jsonl")]) == 1


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"LOCAL_RANK": "", "MASTER_PORT": ""}, "RANK=0 WORLD_SIZE=2 LOCAL_RANK= MASTER_ADDR=127."),
        ({"RANK": "two"}, "RANK=two WORLD_SIZE=2 LOCAL_RANK=0 "),
        ({"WORLD_SIZE": "9" * 20}, f"RANK=0 WORLD_SIZE={'9' * 20} "),
    ],
)
def test_variables_that_are_half_set_are_a_sentence(tmp_path, changed, sentence):
    process = started(tmp_path, **variables(0, 29500) | changed)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said.count("\n")) == (2, "", 1)
    assert said.startswith(f"wiretax allreduce: torchrun's variables cannot be {sentence}")
    assert said.endswith(": start this with torchrun, or unset RANK WORLD_SIZE LOCAL_RANK\n")
    assert not [*tmp_path.iterdir()]


def test_a_port_in_use_is_a_sentence(tmp_path):
    port = free_port()
    with socket.create_server(("127.0.0.1", port + 1)):
        process = started(tmp_path, **variables(0, port))
        out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, "")
    assert said.startswith(
        f"wiretax allreduce: rank 0 cannot listen at 127.0.0.1, port {port + 1}, the one behind "
        "MASTER_PORT: Address already in use"
    )
    assert said.count("\n") == 1


def test_the_loss_of_a_rank_ends_the_other_and_frees_the_port(tmp_path):
    """MPICH crashes if its connection ends: the other keeps its own, and names the lost rank."""
    port = free_port()
    ranks = [started(tmp_path, "--iters 0 -T 2", **variables(rank, port)) for rank in (0, 1)]
    wait_for(lambda: blocks_in(tmp_path / "results"))
    ranks[1].kill()
    (_, said), _ = (process.communicate(timeout=60) for process in ranks)
    assert ranks[0].returncode == 1
    assert re.fullmatch("wiretax: rank 1 ended without a word.*\n", said), said
    wait_for(lambda: is_free(port + 1), 5)


def test_a_rank_that_leaves_before_mpi_has_started_keeps_no_other_waiting(tmp_path):
    """The other waited for the whole time-out."""
    port = free_port()
    process = started(tmp_path, "-T 60", **variables(0, port))
    other = socket.socket()
    wait_for(lambda: other.connect_ex(("127.0.0.1", port + 1)) == 0)
    other.sendall(f"wiretax 2 {port + 1} \n".encode())
    assert other.recv(100)
    other.close()
    _, said = process.communicate(timeout=40)
    sentence = "bench.allreduce: one of 2 ranks has left before MPI had started them all\n"
    assert (process.returncode, said) == (1, sentence)


BROKEN = """
from collectives import torchrun
torchrun.JOIN_S = 2
def serve(*_):
    raise LookupError("no such key")
torchrun._serve = serve
torchrun.join()
"""


def test_an_error_of_the_process_that_joins_the_ranks_is_seen():
    """It has no stream of its own, for which torchrun would wait."""
    environment = {**LAUNCHED, "PYTHONPATH": str(ROOT), **variables(0, free_port())}
    words = [sys.executable, "-c", BROKEN]
    done = subprocess.run(words, env=environment, stderr=subprocess.PIPE, text=True, timeout=60)
    assert "\nLookupError: no such key\n" in done.stderr
    assert "\nOSError: rank 0 does not answer at 127.0.0.1" in done.stderr


def test_an_mpi_launcher_or_an_address_alone_is_no_torchrun(monkeypatch):
    for name in (*torchrun.VARIABLES, *torchrun.LAUNCHERS):
        monkeypatch.delenv(name, raising=False)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, variables(0, 29500)[name])
    assert not torchrun.announce()
    for name, value in variables(0, 29500).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    assert not torchrun.announce()
