"""Run without mpirun: runs all ranks in one launch on one GPU, over slabs in its memory, without a
link or a second process.

`one_launch.py EXAMPLES SEED RANKS`.
"""

import ctypes
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np

from collectives.algorithm import ALGORITHMS
from collectives.operation import Library, Operation, Unsupported, World
from collectives.peer_buffer import SLAB_BYTES, PeerBuffer, WaitPolicy, set_epoch
from kernels.devices import gpu_driver
from kernels.devices.device import Arguments, Control, Own, Step, Watch
from kernels.devices.gpu import GpuDevice
from kernels.devices.gpu_driver import visible_gpus
from tests.collectives.collective_examples import ROOM_BYTES, Buffers, Example, check
from tests.kernels.broken_kernels import ONE_LAUNCH, copy_kernels
from tests.ranks.world import compile_with, launch


def main(examples: int, seed: int, ranks: int) -> None:
    device = GpuDevice(visible_gpus()[1][0], sharers=ranks)
    slabs = [device.private(SLAB_BYTES) for _ in range(ranks)]
    controls = [device.private(ctypes.sizeof(Control)) for _ in range(ranks)]
    watches = [device.watch(Watch()) for _ in range(ranks)]
    buffers = [
        Buffers(r, ranks, device.private(ROOM_BYTES), device.private(ROOM_BYTES))
        for r in range(ranks)
    ]
    everyone = device.private(ranks * ctypes.sizeof(Arguments))
    compile_with(device, {"STREAM_SLAB": seed % 2, "STREAM_RECEIVE": seed // 2 % 2})
    worlds = []
    for r in range(ranks):
        own = device.private(ctypes.sizeof(Own))
        waits = WaitPolicy(watches[r], timeout_s=20.0)
        communicator: Any = SimpleNamespace(
            rank=r, size=ranks, hosts=1, all_gather=lambda place: [place]
        )
        peers = PeerBuffer(communicator, device, slabs, controls, own, waits, "same_device")
        set_epoch(peers, 2**32 - 1 - examples // 2)  # the epoch wraps during the examples
        worlds.append(World(communicator, device, peers, cast(Library, None), watches[r]))

    def problem(example: Example, every: np.ndarray) -> str | None:
        if example.algorithm == "library":
            return None
        bind, steps = ALGORITHMS[example.collective.name][example.algorithm].bind, []
        for r in range(ranks):
            operation = bind(worlds[r], buffers[r].case(example, every))
            if isinstance(operation, Unsupported):
                return None
            assert isinstance(operation, Operation)
            steps.append(operation.step)
        everyone.write(np.frombuffer(b"".join(bytes(step.argument) for step in steps), np.uint8))
        step = Step(steps[0].kernel, Arguments(more=everyone.address), ranks * steps[0].blocks)
        launch(device, step, 1 if example.in_place else example.launches)
        for r in range(ranks):
            if watches[r].timed_out:
                return f"rank {r}: rank {watches[r].peer} never came"
            if error := buffers[r].problem(example, every):
                return f"rank {r}: {error}"
        alike = example.collective.name in ("all_reduce", "all_gather")
        same = len({b.result(example).tobytes() for b in buffers}) == 1
        return "ranks got different bits" if alike and not same else None

    # The device has already loaded its own kernels, which run on one rank.
    with tempfile.TemporaryDirectory() as folder:
        kernels = copy_kernels(Path(folder), ONE_LAUNCH)
        with mock.patch.object(gpu_driver, "SOURCES", kernels):
            check(examples, seed, problem, ranks)
    print(f"{examples} examples right on {ranks} ranks")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
