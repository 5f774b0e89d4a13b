"""A matmul to go on beside a collective: fp32, as wide as the device, and ours, so that it is the same everywhere."""

import numpy as np

from collectives.operation import PACK_BYTES, Beside, World
from kernels.devices.device import Gemm, Step

ROWS, LANES = 8, PACK_BYTES // 4  # rows and columns of an item of gemm.cu
COLUMNS, INNER = 1040, 1024  # rows of 4160 B: those of 4 KiB would all lie in the same few sets of a cache
WIDTH = 32  # of a CPU's matmul, in multiprocessors


def bind_gemm(world: World, core: int | None) -> Beside:
    """The matmul: on a GPU all of it in a launch, on a CPU item by item on this core. Raises DeviceError."""
    device = world.device
    width = device.facts.get("multiprocessors", WIDTH)
    rows = 2 * ROWS * width  # on a GPU work for each of 520 threads of a multiprocessor
    a, b, c = buffers = tuple(device.private(4 * n) for n in (rows * INNER, INNER * COLUMNS, rows * COLUMNS))
    drawn = np.random.default_rng(0)
    a.write(drawn.standard_normal(rows * INNER, np.float32))
    b.write(drawn.standard_normal(INNER * COLUMNS, np.float32))
    items = rows // ROWS * COLUMNS // LANES
    in_a_launch = 1 if device.name == "cpu" else items
    argument = Gemm(a.address, b.address, c.address, COLUMNS, INNER, 0, in_a_launch)
    step = Step(device.compile("gemm", {}).kernel("gemm"), argument, width)
    return Beside(step, 2.0 * ROWS * LANES * INNER * in_a_launch, items // in_a_launch, core, buffers)
