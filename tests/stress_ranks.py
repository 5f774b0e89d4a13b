"""Run by mpirun: the stress loop over mixed algorithms, types, operations, sizes and alignments, from an epoch near
2^32.

`stress_ranks.py LAUNCHES SEED [device=NAME] [memory=KIND] [MACRO=VALUE ...] [ALGORITHM ...]`; rank 0 prints a JSON line
{"launches", "wrong_elements", ...}. With the macros of a negative control the same loop has to find something wrong.
"""

import ctypes
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import verify
from bench.subject import on_device, pattern_of
from collectives.algorithm import ALGORITHMS
from collectives.collective import DATATYPES
from collectives.operation import Case, Gate, Operation, Step, Unsupported, Watch, World
from kernels.device_cpu import FLAGS, CpuModule, find_compiler
from kernels.module import compiled
from tests.ranks import connect

COUNTS = (1, 3, 17, 17, 255, 1023, 4099, 20011, 70001, 300007)
START_EPOCH = 2**32 - 5


def main(launches: int, seed: int, device: str, memory: str, macros: dict[str, int], names: list[str]) -> None:
    world, watch = connect(30.0, device, memory, **macros)
    rank, ranks = world.communicator.rank, world.communicator.size
    draw = random.Random(seed)
    keep: list[Any] = []
    items: list[tuple[Step, Step, Step]] = []
    loop_kernels = world.device.compile("timed_loop", {})
    for _ in range(24):
        datatype = draw.choice(list(DATATYPES.values()))
        redop = draw.choice(["sum", "max"] if not datatype.is_float else ["sum", "avg"])
        count = draw.choice(COUNTS)
        size = count * datatype.size_bytes
        in_place = draw.random() < 0.3
        shift = draw.choice([0, datatype.size_bytes, 3 * datatype.size_bytes])
        buffers = [world.device.private(size + 64) for _ in range(2)]
        receive = buffers[1].address + draw.choice([0, datatype.size_bytes])
        first = receive if in_place else buffers[0].address + shift
        operation = ALGORITHMS[draw.choice(names)].bind(world, Case(size, datatype, redop, first, receive))
        assert isinstance(operation, Operation)
        tables = [
            on_device(world.device, verify.repeated(table))
            for table in (
                datatype.encode(verify.rank_table(datatype, redop, rank, seed)),
                verify.expected_table(datatype, redop, ranks, seed),
            )
        ]
        wrong = world.device.private(8)
        patterns = [
            pattern_of(datatype, address, size, table, wrong, watch)
            for address, table in zip((first, receive), tables, strict=True)
        ]
        keep.append((wrong, buffers, tables))
        prepare, check = (
            Step(loop_kernels.kernel(name), pattern, operation.step.blocks)
            for name, pattern in zip(("write_pattern", "count_wrong"), patterns, strict=True)
        )
        items.append((prepare, operation.step, check))

    assert not isinstance(world.peers, Unsupported)
    world.peers.set_epoch(START_EPOCH)
    world.communicator.barrier()
    run = run_natively if world.device.name == "cpu" else run_in_stream
    done = run(world, items, launches, seed, watch)
    wrong_elements = sum(int(kept[0].read()[:4].view("u4")[0]) for kept in keep)
    everyone = world.communicator.all_gather((done, wrong_elements, bool(watch.timed_out)))
    if rank == 0:
        print(
            json.dumps(
                {
                    "launches": min(d for d, _, _ in everyone),
                    "wrong_elements": sum(w for _, w, _ in everyone),
                    "timed_out": any(t for _, _, t in everyone),
                }
            )
        )


def run_natively(world: World, items: list[tuple[Step, Step, Step]], launches: int, seed: int, watch: Watch) -> int:
    pointers = [p for item in items for s in item for p in (s.kernel.function, ctypes.addressof(s.argument))]
    source = Path(__file__).with_name("stress_loop.cpp")
    loop = CpuModule(compiled(source, FLAGS, "tests", ".so", lambda path: build(source, path))).library.stress_loop
    return int(
        loop(
            (ctypes.c_void_p * len(pointers))(*pointers),
            ctypes.c_long(len(items)),
            ctypes.c_long(launches),
            ctypes.c_uint64(seed * 2 + 1),
            ctypes.c_uint64(seed * 1000 + world.communicator.rank + 1),
            ctypes.byref(watch),
        )
    )


def run_in_stream(world: World, items: list[tuple[Step, Step, Step]], launches: int, seed: int, watch: Watch) -> int:
    """Puts all of it into a GPU's stream, each rank at its own pace, and waits for the end."""
    order, delays = random.Random(seed), random.Random(seed * 1000 + world.communicator.rank)
    begin = Step(world.device.compile("timed_loop", {}).kernel("begin_iteration"), Gate(watch=ctypes.addressof(watch)))
    nothing = Step(world.device.compile("timed_loop", {}).kernel("nothing"), Gate())
    for _ in range(launches):
        for step in (begin, *order.choice(items)):
            step.kernel.function(step.blocks, step.argument)
        if delays.random() < 0.05:
            time.sleep(delays.random() * 0.002)
    world.device.caller(nothing)()
    return int(watch.iteration)


def build(source: Path, path: Path) -> None:
    subprocess.run([*find_compiler(), "-x", "c++", *FLAGS, str(source), "-o", str(path)], check=True)


if __name__ == "__main__":
    settings = dict(item.split("=") for item in sys.argv[3:] if "=" in item)
    where = settings.pop("device", "cpu"), settings.pop("memory", "auto")
    chosen = [item for item in sys.argv[3:] if "=" not in item]
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        *where,
        {k: int(v) for k, v in settings.items()},
        chosen or ["one_shot_push", "one_shot_pull", "two_shot", "ring"],
    )
