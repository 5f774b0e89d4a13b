"""Refused peer memory: the cause, and what to type.

Real ranks run on the software GPU, which refuses as ROCm does: in real namespaces, and with the
variable that public images set.
"""

import sys

import pytest

from tests.fake_gpu import environment
from tests.launch import MPIRUN, ROOT, end_of
from tests.reliability.launch_matrix import UNSHARE, has_namespaces

namespaces = pytest.mark.skipif(not has_namespaces(), reason="no namespace can be had here")
ONE = "--algorithm ring -b 4K -e 4K --mode isolated -n 2 -w 0 --max-time 60"
LEGACY = {"HSA_ENABLE_IPC_MODE_LEGACY": "1"}
UNSET = (
    " (HSA_ENABLE_IPC_MODE_LEGACY=1 is set, and hipIpcGetMemHandle then fails "
    "without AMD's own driver module: "
    "unset HSA_ENABLE_IPC_MODE_LEGACY)"
)


def run(out, *options, second=(), device="hip", variables=LEGACY, **faults):
    """Runs the command on two ranks; the second one behind these words, such as `unshare --net`.
    Returns the process and its output in one line."""
    gpu = environment(vendor=device, **faults) if device != "cpu" else {}
    own = [*ONE.split(), "--device", device, "--out", str(out), *options]
    rank = [sys.executable, "-m", "bench.allreduce", *own]
    line = MPIRUN, "-n", "1", *rank, ":", "-n", "1", *second, *rank
    done = end_of(*line, timeout_s=120, **{"PYTHONPATH": str(ROOT), **gpu, **variables})
    return done, " ".join(f"{done.stdout} {done.stderr}".split())


def test_a_run_without_memory_names_the_variable_of_public_images_on_a_fake_gpu(tmp_path):
    done, text = run(tmp_path, fail="hipHostRegister")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert f"{UNSET}; host_staged: " in text


@namespaces
def test_containers_without_a_common_network_are_named_on_a_fake_gpu(tmp_path):
    """ROCm then opens no handle (error 17), though both ranks may signal each other and share
    files."""
    done, text = run(tmp_path, second=[*UNSHARE, "--net"], variables={}, fail="hipHostRegister")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert (
        "hipErrorInvalidDevicePointer: invalid device pointer (the ranks of one machine "
        "do not share their net namespace: start all ranks in one container, or "
        "each with docker run --network=host)"
    ) in text


@namespaces
def test_containers_that_mpi_takes_for_hosts_are_named(tmp_path):
    """A variable makes MPICH see two nodes on one machine, as it does if containers have names of
    their own."""
    second, nodes = [*UNSHARE, "--ipc"], {"MPIR_CVAR_NUM_CLIQUES": "2"}
    alone = "--algorithm", "library"
    done, text = run(tmp_path, *alone, second=second, device="cpu", variables=nodes)
    assert done.returncode == 0, done.stderr
    assert "do not share their ipc namespace: start all ranks in one container" in text
    assert "docker run --ipc=host" in text
