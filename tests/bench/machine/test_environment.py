"""Tests the facts of a machine, on this machine and on recorded trees of /proc and /sys.

A wrong identity would compare a baseline with another machine. A shared result file must not
contain names, and the table must report every threat.
"""

import re
import socket

import pytest

from bench.machine.environment import (
    cpu_ticks,
    describe,
    identities,
    of_gpus,
    scrub_argv,
    scrub_value,
    steal_share,
    threats,
)
from bench.machine.placement import SIBLINGS
from tests.bench.machines import write

pytestmark = pytest.mark.unit

CPUINFO = "processor\t: 0\nmodel name\t: Some CPU @ 3GHz\nflags\t\t: fpu avx2 f16c{more}\n"


def test_nothing_names_the_host_the_user_or_a_path(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "node-seven")
    secrets = {
        "UCX_NET_DEVICES": "mlx5_0:1", "CXX": "/home/someone/bin/g++",
        "NCCL_COMM_ID": "10.0.0.1:99", "FI_PROVIDER": "node7.cluster.local",
        "CUDA_VISIBLE_DEVICES": "GPU-8a7b6c5d-1234-5678-9abc-def012345678",
        "AWS_SECRET_ACCESS_KEY": "topsecret", "UCX_TLS": "self,sm"}  # fmt: skip
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    env = describe(compiler="g++ 12.2.0 (/home/someone/gcc)")
    text = " ".join(str(fact["value"]) for fact in env.values())
    for leak in ("node-seven", "mlx5", "someone", "10.0.0.1", "GPU-8a", "cluster", "topsecret"):
        assert leak not in text
    assert "/" not in text
    assert env["env.UCX_TLS"]["value"] == "self,sm"
    assert env["env.CXX"]["value"] == "<set>"


WRITTEN = (
    "bench/allreduce.py -b 16K --tuned none --out private --out=private "
    "--algorithm one_shot,library --plot=/tmp/a=b.png me@host 10.0.0.1 -T 2.5 ~ "
    "--scale 1/64 --scale=1/64/"
)
STORED = (
    "<path> -b 16K --tuned none --out <path> --out=<path> "
    "--algorithm one_shot,library --plot=<path> <set> <set> -T 2.5 <path> "
    "--scale 1/64 --scale=<path>"
)


def test_values_that_could_be_names_are_replaced():
    names = "/opt/x", "a:b", "10.0.0.1", "fe80::1", "me@there", "a.b", "x" * 33, "a b", "a\nb"
    assert {scrub_value(value) for value in names} == {"<set>"}
    for value in ("self,sm", "Ring", "^openib", "4", "0.5", "", "release_gather", "-1"):
        assert scrub_value(value) == value


def test_algorithms_that_pin_a_library_are_stored_by_collective():
    """A run must say how its library was pinned, and still name no host."""
    assert scrub_value("ring,tree;allreduce:tree") == "ring,tree;allreduce:tree"
    for value in ("tree;node:8080", "allreduce:a.b", "allreduce:tree:8080", "myreduce:tree"):
        assert scrub_value(value) == "<set>"


def test_command_line_keeps_its_meaning_without_its_paths():
    assert scrub_argv(WRITTEN.split()) == STORED.split()


def test_the_two_identities_follow_hardware_and_software():
    env = describe()

    def with_value(name, value):
        return {**env, name: {**env[name], "value": value}}

    libraries = "MPICH 5.0.2", "g++ 12"
    ids = machine_id, software_id = identities(env, *libraries)
    assert all(re.fullmatch("[0-9a-f]{12}", digits) for digits in ids)
    of_kernel = identities(with_value("os.kernel", "1.0"), *libraries)
    of_cpu = identities(with_value("cpu.model", "another"), *libraries)
    assert of_kernel[0] == machine_id != of_cpu[0]
    assert of_cpu[1] == software_id != of_kernel[1]
    assert identities(env, "MPICH 5.0.2", "g++ 13")[1] != software_id
    assert identities(with_value("os.load_1min", 99.0), *libraries) == ids


@pytest.fixture
def described(tmp_path, machine):
    """A function that describes a machine with these files."""

    def describe_with(**files):
        machine(write(tmp_path, files))
        return describe()

    return describe_with


def test_recorded_tree_of_a_troubled_virtual_machine(described):
    cpu, files = "sys/devices/system/cpu", dict[str, str]()
    for number in range(4):
        files |= {
            f"{cpu}/cpu{number}/cpufreq/scaling_governor": "powersave",
            SIBLINGS.format(number): ("0-1", "2-3")[number // 2],
        }
    env = described(
        **files,
        **{
            "proc/cpuinfo": CPUINFO.format(more=" hypervisor avx512f"),
            "proc/loadavg": "1.26 0.5 0.1 2/83 4159",
            "proc/stat": "cpu  50 0 20 100 0 0 0 30 0 0\ncpu0 1 1 1 1",
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/cpu.max": "max 100000",
            "sys/fs/cgroup/a/cpu.max": "150000 100000",
            "sys/fs/cgroup/a/b/cpu.max": "300000 100000",
            "sys/class/dmi/id/sys_vendor": "QEMU",
            f"{cpu}/intel_pstate/no_turbo": "0",
        },
    )
    expected = {
        "cpu.model": "Some CPU @ 3GHz",
        "cpu.cores": 2,
        "cpu.governor": "powersave",
        "cpu.turbo": True,
        "os.virtualisation": "QEMU",
        "os.load_1min": 1.26,
        "os.steal_share_since_boot": 0.15,
        "os.cgroup_cpu_quota": 1.5,
    }
    assert {name: env[name]["value"] for name in expected} == expected
    env["cpu.logical"]["value"] = 4
    text = " ".join(threats(env))
    for word in ("virtual machine (QEMU)", "powersave", "1.3", "SMT", "1.5 CPUs", "15%", "Turbo"):
        assert word in text


@pytest.mark.parametrize(
    ("ranks", "sentence"),
    [
        ([(0, [0]), (1, [4])], "Ranks 0 and 1 share a physical core (CPUs 0-4)"),
        ([(0, [0, 1, 4, 5]), (1, [0, 1, 4, 5])], None),  # not pinned
    ],
)
def test_ranks_on_one_core_of_a_recorded_tree_are_a_threat(tmp_path, ranks, sentence, machine):
    """Two ranks on one core take twice the time, and the timings do not show the cause."""
    machine(
        write(tmp_path, {SIBLINGS.format(cpu): f"{cpu % 4},{cpu % 4 + 4}" for cpu in (0, 1, 4, 5)})
    )
    sentences = list(threats({}, ranks))
    assert len(sentences) == (1 if sentence else 0)
    assert not sentence or sentence in sentences[0]


def test_time_withheld_during_a_run_counts_only_the_ranks_cpus_in_a_recorded_tree(
    tmp_path, machine
):
    """On a machine with many CPUs, the loss of two CPUs would vanish among the idle ones."""
    stat = (
        "cpu  0 0 0 9000 0 0 0 {} 0 0\ncpu0 {} 0 0 0 0 0 0 10 0 0\n"
        "cpu1 100 0 0 0 0 0 0 {} 7 0\ncpu10 {} 0 0 0 0 0 0 99 0 0"
    )
    machine(tmp_path)
    assert cpu_ticks({0, 1}) is None
    write(tmp_path, {"proc/stat": stat.format(10, 100, 0, 5)})
    before = cpu_ticks({0, 1})
    write(tmp_path, {"proc/stat": stat.format(50, 260, 40, 999)})
    assert steal_share(before, cpu_ticks({0, 1})) == 0.2
    assert steal_share(before, None) is None


def test_throttling_of_gpus_is_a_fact_and_a_threat():
    """A GPU at its power cap would be compared with a GPU at full clock."""
    software = {
        "driver": "1",
        "runtime": "2",
        "module": "nvidia 4",
        "cupy": "3",
    }
    reasons = ["SwPowerCap"], ["SwPowerCap", "HwSlowdown"]
    of_ranks = [{"gpu": "H200", "throttle": of_gpu, **software} for of_gpu in reasons]
    facts = describe(more=of_gpus(of_ranks))
    assert facts["gpu.throttle_reasons"]["value"] == "HwSlowdown SwPowerCap"
    assert any("HwSlowdown SwPowerCap" in sentence for sentence in threats(facts))
