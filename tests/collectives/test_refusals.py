"""Refused peer memory: the sentence says what to type.

Real ranks run on the software GPU, which refuses as ROCm does: in real namespaces, and with the
variable that public images set.
"""

import sys

import pytest

from collectives.connect import REMEDY
from tests.fake_gpu import environment
from tests.launch import MPIRUN, end_of
from tests.reliability.launch_matrix import UNSHARE, has_namespaces

namespaces = pytest.mark.skipif(not has_namespaces(), reason="no namespace can be had here")
ONE = "--algorithm ring -b 4K -e 4K --mode isolated -n 2 -w 0 --max-time 60"
LEGACY = {"HSA_ENABLE_IPC_MODE_LEGACY": "1"}


def run(out, second=(), vmm="pu", **variables):
    """Runs the command on two ranks; the second one behind these words, such as `unshare --net`.
    Returns the process and its output in one line."""
    gpu = environment(vendor="hip", fail="hipHostRegister", vmm=vmm)
    rank = [sys.executable, "-m", "bench.allreduce", *ONE.split(), "--device", "hip", "--out", out]
    line = MPIRUN, "-n", "1", *rank, ":", "-n", "1", *second, *rank
    done = end_of(*line, timeout_s=120, **(gpu | variables))
    return done, " ".join(f"{done.stdout} {done.stderr}".split())


def test_the_variable_of_public_images_is_named_on_a_fake_gpu(tmp_path):
    done, text = run(str(tmp_path), vmm="-", **LEGACY)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert f"{REMEDY}; mapped vmm uncached, mapped vmm: " in text
    assert "unset HSA_ENABLE_IPC_MODE_LEGACY" in text


@namespaces
def test_containers_without_a_common_network_are_named_on_a_fake_gpu(tmp_path):
    """ROCm then opens no handle (error 17), though both ranks may signal each other and share
    files. Nor can a rank pass a file descriptor there."""
    done, text = run(str(tmp_path), [*UNSHARE, "--net"])
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert f"hipErrorInvalidDevicePointer: invalid device pointer{REMEDY}" in text
    assert "docker run --network=host" in text
    refused = "mapped vmm uncached, mapped vmm: rank 0: a file descriptor of its memory cannot be"
    assert f"{refused} passed to rank 1: Connection refused (containers: " in text
