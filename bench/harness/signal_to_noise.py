"""What a lossy algorithm loses: its signal-to-noise ratio against fp64 on three kinds of data, measured where it runs.

Ratios are 10 log10(sum of squares of the exact result / of the error), in dB, over up to 1 MiB of results. The exact
result is that of what the ranks really send, so the rounding of inputs to the type does not count.
"""

from dataclasses import replace

import numpy as np

from collectives.collective import Array, Datatype, combined
from collectives.operation import Algorithm, Case, DeviceError, Operation, World

MOST_BYTES = 1 << 20
LEAST = 4096  # elements: as many as there are channels
KINDS = ("normal", "heavy-tailed", "outlier channels")


def drawn(kind: str, datatype: Datatype, count: int, seed: list[int]) -> Array:
    """So many stored elements: normal; of Student's t with 3 degrees of freedom; or normal in 4096 channels, of which
    every 64th is 32 times as large."""
    draw = np.random.default_rng(seed)
    values = draw.standard_t(3, count) if kind == "heavy-tailed" else draw.normal(size=count)
    if kind == "outlier channels":
        values[::64] *= 32
    return datatype.encode(values)


def measured(world: World, algorithm: Algorithm, case: Case, seed: int) -> dict[str, float]:
    """By kind of data, in dB, the same on every rank. Raises Disagreement."""
    communicator, datatype = world.communicator, case.datatype
    count = max(LEAST, min(case.count, MOST_BYTES // datatype.size_bytes))
    with communicator.together(DeviceError, MemoryError):
        send, receive = (world.device.private(count * datatype.size_bytes) for _ in range(2))
        bound = algorithm.bind(world, replace(case, count=count, send=send.address, receive=receive.address,
                                              in_place=False))
    assert isinstance(bound, Operation), bound
    found = {}
    for number, kind in enumerate(KINDS):
        sent = [drawn(kind, datatype, count, [seed, number, rank]) for rank in range(communicator.size)]
        with communicator.together(DeviceError):
            send.write(sent[communicator.rank].view(np.uint8))
            bound.call()
            result = datatype.decode(receive.read()[: count * datatype.size_bytes].view(datatype.storage))
        exact = combined([datatype.decode(one) for one in sent], case.redop)
        found[kind] = round(float(10 * np.log10(np.sum(exact**2) / np.sum((result - exact) ** 2))), 1)
    for memory in (send, receive):
        memory.close()
    return dict(communicator.broadcast(found))
