"""Run without mpirun: runs all ranks in one launch on one GPU, over slabs in its memory, without a
link or a second process.

`one_launch.py EXAMPLES SEED RANKS`.
"""

import ctypes
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

from collectives.operation import Unsupported
from collectives.registry import ALGORITHMS
from kernels.devices import gpu_driver
from kernels.devices.device import Arguments
from kernels.devices.gpu import GpuDevice
from kernels.devices.gpu_driver import visible_gpus
from tests.collectives.collective_examples import ROOM_BYTES, Buffers, Example, check
from tests.kernels.broken_kernels import ONE_LAUNCH, copy_kernels
from tests.ranks.sanitized_ranks import open_bed
from tests.ranks.world import compile_with, launch


def main(examples: int, seed: int, ranks: int) -> None:
    device = GpuDevice(visible_gpus()[1][0], sharers=ranks)
    bed = open_bed(
        [device] * ranks, seed, timeout_s=20.0, allocate=device.private, sharing="same_device"
    )
    buffers = [
        Buffers(r, ranks, device.private(ROOM_BYTES), device.private(ROOM_BYTES))
        for r in range(ranks)
    ]
    everyone = device.private(ranks * ctypes.sizeof(Arguments))
    compile_with(device, {"WT_STREAM_SLAB": seed % 2, "WT_STREAM_RECEIVE": seed // 2 % 2})

    def problem(example: Example, every: np.ndarray) -> str | None:
        if example.algorithm == "library":
            return None
        bind = ALGORITHMS[example.collective.name][example.algorithm].bind
        operations = bed.bind(bind, [of_rank.case(example, every) for of_rank in buffers])
        if isinstance(operations[0], Unsupported):
            return None
        steps = [operation.step for operation in operations]
        everyone.write(np.frombuffer(b"".join(bytes(step.argument) for step in steps), np.uint8))
        step = replace(
            steps[0], argument=Arguments(more=everyone.address), blocks=ranks * steps[0].blocks
        )
        launch(device, step, 1 if example.in_place else example.launches)
        for r, world in enumerate(bed.worlds):
            if world.watch.timed_out:
                return f"rank {r}: rank {world.watch.peer} never came"
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
