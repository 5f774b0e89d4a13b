"""What the first wave of each rank executes in an all-reduce of two ranks, in AMD's machine code:
`python -m tests.emulated.counts` prints docs/experiments/kernels.md's table. This wave also sends
and awaits the flags of its block. The counts depend on the compiler, and say nothing about time."""

import ctypes
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import NamedTuple, cast

from collectives.build import Build
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import CollectiveCase, Operation
from collectives.registry import ALGORITHMS
from tests.emulated.device import EmulatedDevice
from tests.emulated.machine import FAMILIES, Machine, Wave, emulator
from tests.emulated.ranks import Grid, enqueue, open_ranks

NAMES = (
    "one_shot_push",
    "one_shot_push_int8",
    "two_shot_push_int8",
    "one_shot_push_int6",
    "two_shot_push_int6",
)
ORDERS = 3  # of the waves
ONE_CHUNK = Build(chunk_bytes=1 << 20)


class Counts(NamedTuple):
    """Of a rank: its blocks; of its first wave: instructions, those that load from memory and
    store there, waits for loads or stores, and barriers of the block."""

    blocks: int
    instructions: int
    loads: int
    stores: int
    waits: int
    barriers: int


class CountingMachine(Machine):
    """Keeps how often the first wave of each block executes each instruction. These execute one at
    a time, so the ranks' hardly drift apart."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.executed_by = dict[Wave, Counter[str] | None]()
        self.names = dict[int, str]()  # by address

    def _ends(self, wave: Wave, most: int) -> bool:
        if wave not in self.executed_by:  # its first register holds the thread's number
            self.executed_by[wave] = None if wave.state._read_vgpr(0, 0) else Counter()
        counter = self.executed_by[wave]
        if counter is None:
            return super()._ends(wave, most)
        address, family = wave.state.pc, FAMILIES[wave.launch.kernel.code.arch]
        if address not in self.names:
            instruction = emulator().decode_inst(ctypes.string_at(address, 16), family)
            self.names[address] = str(getattr(instruction, "op", ""))
        counter[self.names[address]] += 1
        return super()._ends(wave, 1)


def counts_of(wave: Wave, executed: Counter[str]) -> Counts:
    def of(*parts: str) -> int:
        return sum(n for name, n in executed.items() if any(part in name for part in parts))

    return Counts(
        wave.launch.blocks,
        executed.total(),
        of("GLOBAL_LOAD", "FLAT_LOAD"),
        of("GLOBAL_STORE", "FLAT_STORE"),
        of("S_WAIT_LOADCNT", "S_WAIT_STORECNT", "S_WAITCNT"),
        of("S_BARRIER_WAIT") or of("S_BARRIER"),
    )


def counted(arch: str, name: str, size_bytes: int, datatype: str = "bfloat16") -> Counts:
    """The counts of an algorithm, in one chunk: of the wave that executes most, in the order with
    the fewest polls."""
    kind, found = DATATYPES[datatype], list[Counts]()
    for seed in range(ORDERS):
        bed = open_ranks(Grid(arch, 2, 512, 32), seed)
        devices = [cast(EmulatedDevice, world.device) for world in bed.worlds]
        machine = CountingMachine(seed)
        places = zip(bed.buffers(size_bytes), bed.buffers(size_bytes), strict=True)
        form = CollectiveCase(
            COLLECTIVES["all_reduce"], size_bytes // kind.size_bytes, kind, "sum", 0, 0
        )
        form = replace(form, build=ONE_CHUNK)
        cases = [replace(form, send=send, receive=receive) for send, receive in places]
        for operation in bed.bind(ALGORITHMS["all_reduce"][name].bind, cases):
            assert isinstance(operation, Operation), operation
            enqueue(operation.step)
        machine.run([device.launches() for device in devices])
        of_waves = [counts_of(wave, of) for wave, of in machine.executed_by.items() if of]
        found.append(max(of_waves, key=lambda counts: counts.instructions))
    return min(found, key=lambda counts: counts.instructions)


def main() -> None:
    for arch, size_bytes, name in product(("gfx1201", "gfx942"), (4 << 10, 64 << 10), NAMES):
        row = [arch, f"{size_bytes >> 10} KiB", f"`{name}`", *counted(arch, name, size_bytes)]
        print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
