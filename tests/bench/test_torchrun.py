"""Ranks that torchrun has started, or anything that sets its variables: no mpirun runs then."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from collectives import torchrun
from tests.launch import ROOT

LAUNCHED = {name: value for name, value in os.environ.items() if not name.startswith("PMI")}
SWEEP = "allreduce --sizes 16K --mode isolated --algorithm ring --iters 2"


def free_port():
    """A port with a free one behind it, as torchrun's own store needs the first."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


def started(cwd, **variables):
    words = [sys.executable, "-m", "wiretax", *SWEEP.split()]
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
        ({"WORLD_SIZE": "0"}, "RANK=0 WORLD_SIZE=0 "),
        ({"WORLD_SIZE": "9" * 20}, f"RANK=0 WORLD_SIZE={'9' * 20} "),
        ({"MASTER_ADDR": ""}, "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR= "),
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


def test_no_rank_that_errs_or_leaves_keeps_the_port_or_the_process():
    """MPICH crashes if its connection ends: the others keep theirs, and their watchdog speaks."""
    port, greeting = free_port(), b"wiretax 3\n"
    listener = torchrun._listen("127.0.0.1", port)
    server = threading.Thread(target=torchrun._serve, args=(listener, greeting, 3), daemon=True)
    server.start()
    ranks = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(2)]
    for rank in ranks:
        rank.sendall(greeting)
        assert rank.recv(100) == greeting
    ranks[0].sendall(b"cmd=spawn nprocs=2\n")
    assert ranks[0].recv(100) == b"cmd=spawn_result rc=-1\n"
    ranks[0].sendall(b"cmd=barrier_in\n")
    ranks[1].close()  # lost; the third never comes

    ranks[0].settimeout(0.5)
    with pytest.raises(TimeoutError):
        ranks[0].recv(100)
    socket.create_server(("127.0.0.1", port)).close()  # which the next run takes
    ranks[0].close()
    server.join(20)
    assert not server.is_alive()


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
