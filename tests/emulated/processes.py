"""Run by mpirun: a rank program of tests/ranks on emulated GPUs, whose memory the processes share.

`processes.py ARCH TURN PROGRAM EXAMPLES SEED [DEVICE [MEMORY [COLLECTIVE ...]]]`. TURN is a file of 4 zero bytes.
"""

import ctypes
import importlib
import mmap
import os
import random
import sys
from typing import Any
from unittest import mock

from collectives.operation import Unsupported
from tests.collectives import collective_examples
from tests.emulated.device import EmulatedDevice, HostLibrary
from tests.emulated.machine import Machine
from tests.ranks.world import connect

MOST_BYTES = 16 << 10  # of a buffer: the rank programs draw up to megabytes
MOST_ROW_BYTES = 2 << 10  # a row must fit into a slot


def smaller(drawn: Any) -> Any:
    """`routed_ranks.drawn`, again until the rows are short."""

    def draw(chance: random.Random, ranks: int) -> Any:
        while True:
            example = drawn(chance, ranks)
            row_bytes = example.hidden * example.datatype.size_bytes
            if (
                row_bytes <= MOST_ROW_BYTES
                and example.tokens * example.top_k * row_bytes <= MOST_BYTES
            ):
                return example

    return draw


def connected(*arguments: Any, **macros: Any) -> Any:
    """`connect` of tests/ranks/world.py; without a peer's memory no kernel of ours would run."""
    world, watch = connect(*arguments, **macros)
    assert not isinstance(world.peers, Unsupported), world.peers.reason
    return world, watch


def main(arch: str, turn: str, program: str, *arguments: str) -> None:
    module: Any = importlib.import_module(f"tests.ranks.{program}")
    machine = Machine(os.getpid())
    with open(turn, "r+b") as file:
        machine.turn = ctypes.c_uint32.from_buffer(mmap.mmap(file.fileno(), 0))
    opened: tuple[EmulatedDevice, list[str]] = (
        EmulatedDevice(machine, arch, threads=64, most_blocks=2),
        [],
    )
    if program == "routed_ranks":
        module.drawn = smaller(module.drawn)
    if program == "quantized_ranks":
        module.MOST = MOST_BYTES // 4
    if program == "fused_ranks":
        module.MOST = 1 << 17  # elements: the widest matrix has 1984 columns, and at least 64 rows
    with (
        mock.patch("tests.ranks.world.open_device", return_value=opened),
        mock.patch("collectives.world._open_library", HostLibrary),
        mock.patch.object(module, "connect", connected),
        mock.patch.object(collective_examples, "MOST_BYTES", MOST_BYTES),
    ):
        module.main(*(int(word) if word.isdigit() else word for word in arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
