"""Fixtures of the tests of recorded machines."""

import sys

import pytest

from bench.machine import gpu_state
from bench.machine.gpus import examine
from tests.bench.machines import fake_nvml, lay_out, write


@pytest.fixture
def nvml(monkeypatch):
    """Installs `machines.fake_nvml`."""

    def install(gpus, status=0):
        fake = fake_nvml(gpus, status)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        forget()
        return fake

    def forget():
        gpu_state.nvml.cache_clear()
        gpu_state.handle.cache_clear()

    forget()
    yield install
    forget()


@pytest.fixture
def examined(tmp_path, machine, nvml):
    """A function that returns the facts of GPUs on a recorded machine, with more or other files."""

    def facts_of(name, *ids, nvml_of=None, status=0, **files):
        root = tmp_path / str(len([*tmp_path.iterdir()]))
        machine(write(lay_out(root, name) if name else root, files))
        if nvml_of is not None:
            nvml(nvml_of, status)
        return examine([f"0000:{bus}" for bus in ids])

    return facts_of
