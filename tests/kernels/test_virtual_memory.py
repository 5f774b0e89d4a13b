"""Peers' memory by the driver's virtual memory management, where its IPC fails: on the software
GPU, which checks the calls as the drivers do."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernels.devices.virtual_memory import VirtualMemory
from tests.bench.launches import launch, stored
from tests.collectives.test_copy_engine import ONE_SHOT, wrong_results
from tests.fake_gpu import environment
from tests.kernels.test_memory_probe import probed
from tests.launch import count, few, mpirun, printed

NO_GET, NO_OPEN = {"fail": "ipcGetMemHandle"}, {"fail": "ipcOpenMemHandle:rank1"}
HIP = {"vendor": "hip", **NO_GET}
SHARED = 5  # memories of tests/ranks/memory_ranks.py


def mapped(**faults):
    """What ranks on this software GPU say about their peers' memory."""
    vendor = str(faults.setdefault("vendor", "cuda"))
    return probed(vendor, **environment(**faults))


@pytest.mark.parametrize(
    ("faults", "sharing", "refusal"),
    few(
        [
            (NO_OPEN, "mapped vmm", "mapped: rank 1: .*ipcOpenMemHandle"),
            # A descriptor goes by its address until HIP 7.0, and by its value from 7.1 on.
            (HIP, "mapped vmm uncached", "mapped uncached, mapped fine_grained: rank 0: .*ipcGet"),
            (
                {**HIP, "runtime": 70253211, "cached": "u"},
                "mapped vmm",
                "mapped vmm uncached: within one launch rank",
            ),
            (
                {**HIP, "vmm": "p"},  # as ROCm before 7.0.2
                "mapped vmm",
                "mapped vmm uncached: rank 0: .*hipMemGetAllocationGranularity fails: error 1$",
            ),
            (
                {"fail": "ipcGetMemHandle,cuMemSetAccess:rank1"},
                "host_staged",
                "mapped: rank 0: .*ipcGetMemHandle.*mapped vmm: rank 1: .*cuMemSetAccess fails",
            ),
            ({**NO_GET, "vmm": "-"}, "host_staged", "mapped vmm: rank 0: .*fails: error 801"),
            ({**NO_GET, "count": 1}, "same_device vmm", "same_device: on .*ipcGetMemHandle"),
            ({**HIP, "cached": "pu"}, "host_staged", "uncached, mapped vmm: within one launch"),
            ({**NO_GET, "corrupt_ipc": 4096}, "host_staged", "mapped vmm: within one launch"),
            ({**NO_GET, "peer": 0}, "host_staged", "mapped vmm: .*refuses peer access"),
            ({**NO_GET, "peer": 0, "visible": 1}, "host_staged", "cuMemSetAccess fails: error 217"),
            ({**HIP, "visible": 1}, "host_staged", "mapped vmm: .*does not see GPU"),
        ],
        6,
    ),
    ids=str,
)
def test_where_ipc_fails_the_driver_s_virtual_memory_is_mapped_and_probed(faults, sharing, refusal):
    report = mapped(**faults)
    assert report["sharing"] == report["types"]["behaved"] == sharing
    said = "; ".join(report["refusals"])
    assert re.search(refusal, said)
    # Who has mapped memory has nothing to install.
    assert ("docker run" in said) == ("vmm" not in sharing), said
    if "vmm" in sharing:
        # Each process's driver keeps one for each memory; nothing else is left open.
        assert report["descriptors"] == [2 * SHARED, 0]
        prefix = "hip" if "vendor" in faults else "cu"
        uncached = " uncached" if sharing.endswith("uncached") else ""
        assert report["types"]["data"] == f"{prefix}MemCreate{uncached}"


@pytest.mark.parametrize("options", few(["--device cuda --memory mapped", "--device hip"], 2))
def test_a_run_over_virtual_memory_is_right_and_names_it(tmp_path, options):
    """On CUDA each rank sees its own GPU alone, as under Slurm; on HIP a flush may be due."""
    is_cuda = "cuda" in options
    faults = {"closed": 1, "visible": 1, **NO_OPEN} if is_cuda else HIP
    words = f"{options} --mode isolated -n 2 -w 0 --max-time 60 -b 8K -e 8K --algorithm "
    done = launch(tmp_path, words + "two_shot,one_shot_push,one_shot_ll", **environment(**faults))
    assert done.returncode == 0, done.stderr
    result = stored(tmp_path)
    cases = [case for case in result.cases if not case.library]
    assert {(case.status, case.n_wrong, case.memory) for case in cases} == {("ok", 0, "mapped")}
    assert {case.variant for case in cases} == {"copied", "registered"}
    mode = "mapped vmm" if is_cuda else "mapped vmm uncached"
    assert result.run.memory["behaved"] == result.run.world["gpus"]["peers"] == mode
    assert f"Peer memory is {mode} (" in " ".join(done.stdout.split())


@pytest.mark.parametrize(("named", "used"), [(4096, 2 << 20), (64 << 20, 64 << 20)])
def test_memory_has_large_pages_whatever_the_driver_recommends(named, used):
    device: Any = SimpleNamespace(name="hip", ordinal=0, driver_value=lambda *_: named)
    assert VirtualMemory(device).unit_bytes("uncached") == used


def test_many_launches_over_virtual_memory_are_right():
    launches = count(120)
    how = environment(**NO_OPEN)
    words = "-m", "tests.ranks.stress_ranks", str(launches), "1", "device=cuda"
    report = json.loads(printed(2, *words, timeout_s=300, **how))
    assert report == {"launches": launches, "wrong_elements": 0, "timed_out": False}


def test_copy_engines_reach_virtual_memory():
    assert wrong_results(2, "1", "none", ONE_SHOT, **NO_OPEN) == 0


def test_a_descriptor_that_a_rank_cannot_open_is_named():
    """A limit of open files leaves no number for it; then all ranks take the host's memory."""
    program = """
import resource
from collectives import descriptors
from tests.ranks import world
plain = descriptors._receive
def receive(inbox):
    resource.setrlimit(resource.RLIMIT_NOFILE, (4, limits[1]))
    try:
        return plain(inbox)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
descriptors._receive = receive
from tests.ranks import memory_ranks
"""
    out = printed(2, "-c", program, "cuda", **environment(**NO_GET))
    report = json.loads(out)
    assert report["sharing"] == "host_staged"
    reason = "mapped vmm: this process cannot open a peer's file descriptor beside its others"
    assert reason in report["refusals"]


def test_ranks_that_die_while_they_pass_descriptors_leave_nothing():
    program = """
import os, signal
from collectives import descriptors
def send(inbox, *rest):
    print(inbox.getsockname()[1:].decode(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
descriptors._send = send
from tests.ranks import memory_ranks
"""
    done = mpirun(2, "-c", program, "cuda", timeout_s=100, **environment(**NO_GET))
    names = re.findall(r"wiretax-\w{32}", done.stdout)
    assert done.returncode
    assert names
    sockets = Path("/proc/net/unix").read_text()
    assert not [name for name in names if name in sockets]
