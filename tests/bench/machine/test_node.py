"""The label of a node: stable for a host, different between hosts with equal hardware, without the
host's name."""

import re
import socket

import pytest

from bench.machine import node
from tests.bench.launches import launch, run
from tests.bench.machines import write

SMALL = "-b 16K -e 16K -n 2 --mode isolated --algorithm library"


@pytest.fixture
def host(tmp_path, machine, monkeypatch):
    """Makes this process see a host with this name and machine id, and returns its label."""
    monkeypatch.delenv(node.VARIABLE, raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def become(name, machine_id, **files):
        folder = tmp_path / str(len([*tmp_path.iterdir()]))
        files = {"proc/stat": "", "etc/machine-id": machine_id, **files}
        machine(write(folder, files))
        monkeypatch.setattr(socket, "gethostname", lambda: name)
        return node.host_label()

    return become


def test_hosts_with_one_machine_id_differ_by_name_and_a_host_keeps_its_label(host):
    first = host("wt1", "3d12")
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert host("wt2", "3d12") != first
    assert host("wt1", "9e0f") != first  # clones with one name
    assert host("wt1", "3d12") == first


def test_a_container_whose_name_changes_has_no_label(host, monkeypatch):
    assert host("4fa6e0f0c678", "3d12") is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert host("bench-7d9f-x2b", "3d12") is None


def test_a_run_stores_the_label_of_its_host(tmp_path):
    _, result = run(tmp_path, SMALL, WIRETAX_NODE="rack3-n07")
    assert result.run.nodes == ["rack3-n07"]


def test_a_bad_name_is_refused_once_before_anything_is_written(tmp_path):
    done = launch(tmp_path, SMALL, WIRETAX_NODE="two words")
    name = "the name of a node has 1 to 32 letters, digits, dots, dashes or underscores"
    assert done.returncode == 2
    assert done.stderr == f"bench.allreduce: WIRETAX_NODE is 'two words', and {name}\n"
    assert not [*tmp_path.iterdir()]
