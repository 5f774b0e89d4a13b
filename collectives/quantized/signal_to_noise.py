"""The loss of a quantised all-reduce: its signal-to-noise ratio on three kinds of data.

The ratio is 10 log10(sum of squares of the exact result / of the error), in dB, over up to 1 MiB of
results. The exact result sums the elements that the ranks send in fp64, so the rounding of inputs
to the datatype does not count.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from collectives.collective import Array, Datatype, combined
from collectives.operation import Case, Operation, Unsupported, World
from kernels.devices.device import DeviceError

MOST_BYTES = 1 << 20
LEAST = 4096  # elements: one for each channel
KINDS = ("normal", "heavy-tailed", "outlier channels")


def random_elements(kind: str, datatype: Datatype, count: int, seed: list[int]) -> Array:
    """Stored elements: normal; Student's t with 3 degrees of freedom; or normal in 4096 channels,
    every 64th of them 32 times as large."""
    draw = np.random.default_rng(seed)
    values = draw.standard_t(3, count) if kind == "heavy-tailed" else draw.normal(size=count)
    if kind == "outlier channels":
        values[::64] *= 32
    return datatype.encode(values)


def signal_to_noise_db(world: World, bind: Callable[[World, Case], Operation | Unsupported],
                       case: Case, seed: int) -> dict[str, float]:
    """The ratio in dB by kind of data, the same on every rank. Raises Disagreement."""
    communicator, datatype = world.communicator, case.datatype
    count = max(LEAST, min(case.count, MOST_BYTES // datatype.size_bytes))
    with communicator.together(DeviceError, MemoryError):
        send, receive = (world.device.private(count * datatype.size_bytes) for _ in range(2))
        operation = bind(world, replace(case, count=count, send=send.address,
                                        receive=receive.address, in_place=False))
    assert isinstance(operation, Operation), operation
    ratios_db = {}
    for number, kind in enumerate(KINDS):
        inputs = [random_elements(kind, datatype, count, [seed, number, rank])
                  for rank in range(communicator.size)]
        with communicator.together(DeviceError):
            send.write(inputs[communicator.rank].view(np.uint8))
            operation.call()
            stored: Array = receive.read()[: count * datatype.size_bytes].view(datatype.storage)
        exact = combined([datatype.decode(values) for values in inputs], case.redop)
        noise = np.sum((datatype.decode(stored) - exact) ** 2)
        ratios_db[kind] = round(float(10 * np.log10(np.sum(exact**2) / noise)), 1)
    for memory in (send, receive):
        memory.close()
    return dict(communicator.broadcast(ratios_db))
