"""Times the host path: launching from Python, storing a block, reading a run. The times have no limits here."""

import itertools

import numpy as np
import pytest

from bench.harness import verify
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import plain_arguments
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import Step, Watch
from reports.store.result import read
from reports.store.schema import Block
from reports.store.writing import RunFile
from tests.reports.synthetic_run import write_run


@pytest.mark.benchmark(group="host path")
def test_launch_from_python(benchmark):
    device, watch = CpuDevice(), Watch()
    buffer = np.zeros(64, np.float32)
    step = Step(
        device.compile("link_probe", {"WORLD": "1"}).kernel("read_own"),
        plain_arguments(0, buffer.ctypes.data, buffer.ctypes.data, 16, watch),
    )
    benchmark(device.caller(step))


@pytest.mark.benchmark(group="host path")
def test_store_a_block(benchmark, tmp_path):
    run = write_run(tmp_path / "model").run
    names = itertools.count()

    def fresh():
        run.run_id = f"run-{next(names)}"
        return (RunFile.create(tmp_path, run),), {}

    def store(file):
        file.append(Block(case=0, block=0, round=0, n=1, time_us=1.0, link_rtt_ns=(1.0, 1.0)))

    benchmark.pedantic(store, setup=fresh, rounds=50)


@pytest.mark.benchmark(group="host path")
def test_read_a_run(benchmark, tmp_path):
    path = write_run(tmp_path).path
    assert benchmark(read, path).complete


@pytest.mark.benchmark(group="host path")
def test_make_the_checked_data(benchmark):
    data = verify.Data(COLLECTIVES["all_reduce"], DATATYPES["float32"], "sum", 8, 0)
    table = benchmark(data.received, {})
    assert table.shape == (8, 1, verify.PERIOD)
