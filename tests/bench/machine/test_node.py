"""The label of a node: stable for a host, different between hosts with equal hardware, without the host's name."""

import re
import socket
import subprocess
import sys
from typing import Any, cast

import pytest

from bench.machine import node
from reports.store.result import read
from tests.bench.machines import write
from tests.launch import ROOT, mpirun

SMALL = (
    "-m",
    "bench.allreduce",
    "-b",
    "16K",
    "-e",
    "16K",
    "-n",
    "12",
    "--lean",
    "--algorithm",
    "library",
)


@pytest.fixture
def host(tmp_path, machine, monkeypatch):
    """Makes this process see a host with this name and these files."""
    monkeypatch.delenv(node.VARIABLE, raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def become(name, **paths):
        number = len([*tmp_path.iterdir()])
        files = {path.replace("__", "/").replace("_", "-"): text for path, text in paths.items()}
        machine(write(tmp_path / str(number), {"proc/stat": "", **files}))
        monkeypatch.setattr(socket, "gethostname", lambda: name)
        return node.host_label()

    return become


def test_hosts_with_one_machine_id_differ_by_name_and_a_host_keeps_its_label(host):
    first = host("wt1", etc__machine_id="3d12")
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert host("wt2", etc__machine_id="3d12") != first
    assert host("wt1", etc__machine_id="9e0f") != first  # clones with one name
    assert host("wt1", etc__machine_id="3d12") == first


def test_an_id_drawn_at_each_boot_is_no_key(host):
    boots = [host("wt1", etc__machine_id=drawn, run__machine_id=drawn) for drawn in ("aa", "bb")]
    assert boots[0] == boots[1]
    assert host("wt2", etc__machine_id="aa", run__machine_id="aa") != boots[0]


def test_a_container_whose_name_changes_has_no_label(host, monkeypatch):
    assert host("4fa6e0f0c678", etc__machine_id="3d12") is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert host("bench-7d9f-x2b", etc__machine_id="3d12") is None


def test_two_real_hosts_of_one_machine_id_differ():
    """Hosts out of namespaces, as `unshare` makes them."""
    words = "hostname $0 && exec $1 -c 'from bench.machine import node; print(node.host_label())'"
    seen = []
    for name in ("wt1", "wt2", "wt1"):
        done = subprocess.run(
            ["unshare", "--uts", "sh", "-c", words, name, sys.executable],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"no namespace can be made: {done.stderr.strip()[-80:]}")
        seen.append(done.stdout)
    assert seen[0] == seen[2] != seen[1]


class Ranks:
    """The first rank of a host, in a run over hosts with these names."""

    local_rank = 0

    def __init__(self, *names):
        self.names = names

    def all_gather(self, item):
        return [*self.names]


def label_in(*names):
    return node.label(cast("Any", Ranks(*names)))


def test_a_name_counts_unless_several_hosts_have_it(host, monkeypatch):
    """MPICH's mpirun passes the variables of its host on to all hosts."""
    own = host("wt1", etc__machine_id="3d12")
    monkeypatch.setenv(node.VARIABLE, "r1n1")
    assert label_in("r1n1", "r1n2", None) == "r1n1"
    assert label_in("r1n1", "r1n1", None) == own


def test_a_run_stores_the_label_and_not_the_name_of_its_host(tmp_path):
    for name, folder in (("", tmp_path / "own"), ("rack3-n07", tmp_path / "named")):
        done = mpirun(2, *SMALL, "--out", str(folder), WIRETAX_NODE=name)
        assert done.returncode == 0, done.stderr
    (own,), (named,) = ([*(tmp_path / folder).glob("*.jsonl")] for folder in ("own", "named"))
    assert read(named).run.node == "rack3-n07"
    assert read(own).run.nodes == [node.host_label()] * bool(node.host_label())


def test_a_bad_name_is_refused_once_before_anything_is_written(tmp_path):
    done = mpirun(2, *SMALL, "--out", str(tmp_path), WIRETAX_NODE="two words")
    assert done.returncode == 2
    assert done.stderr == (
        "bench.allreduce: WIRETAX_NODE is 'two words', and the name of a node has 1 to 32 letters, "
        "digits, dots, dashes or underscores\n"
    )
    assert not [*tmp_path.iterdir()]
