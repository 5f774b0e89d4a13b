"""Run by mpirun: the stress loop over mixed algorithms, types, operations, sizes and alignments, from an epoch near
2^32.

`stress_ranks.py LAUNCHES SEED [MACRO=VALUE ...]`; rank 0 prints a JSON line {"launches", "wrong_launches", ...}. With
the macros of a negative control the same loop has to find something wrong.
"""

import ctypes
import json
import random
import subprocess
import sys
from pathlib import Path

from bench import verify
from bench.subject import pattern_of
from collectives.algorithm import ALGORITHMS
from collectives.collective import DATATYPES
from collectives.operation import Case, Operation, Unsupported
from kernels.device_cpu import FLAGS, CpuModule, find_compiler
from kernels.module import compiled
from tests.ranks import buffer_at, connect

COUNTS = (1, 3, 17, 17, 255, 1023, 4099, 20011, 70001, 300007)
START_EPOCH = 2**32 - 5


def main(launches: int, seed: int, macros: dict[str, int], names: list[str]) -> None:
    world, watch = connect(**macros)
    rank, ranks = world.communicator.rank, world.communicator.size
    draw = random.Random(seed)
    keep, items = [], []
    for _ in range(24):
        datatype = draw.choice(list(DATATYPES.values()))
        redop = draw.choice(["sum", "max"] if not datatype.is_float else ["sum", "avg"])
        count = draw.choice(COUNTS)
        size = count * datatype.size_bytes
        in_place = draw.random() < 0.3
        shift = draw.choice([0, datatype.size_bytes, 3 * datatype.size_bytes])
        send, receive = buffer_at(size, shift), buffer_at(size, draw.choice([0, datatype.size_bytes]))
        first = receive if in_place else send
        case = Case(size, datatype, redop, first.ctypes.data, receive.ctypes.data)
        operation = ALGORITHMS[draw.choice(names)].bind(world, case)
        assert isinstance(operation, Operation)
        tables = [
            verify.repeated(datatype.encode(verify.rank_table(datatype, redop, rank, seed))),
            verify.repeated(verify.expected_table(datatype, redop, ranks, seed)),
        ]
        patterns = [
            pattern_of(datatype, buffer.ctypes.data, size, table, watch)
            for buffer, table in zip((first, receive), tables, strict=True)
        ]
        keep.append((send, receive, tables, patterns, operation))
        address = ctypes.addressof
        items += [
            world.device.host_kernel("write_pattern").address,
            address(patterns[0]),
            operation.step.kernel.address,
            address(operation.step.argument),
            world.device.host_kernel("count_wrong").address,
            address(patterns[1]),
        ]

    source = Path(__file__).with_name("stress_loop.cpp")
    loop = CpuModule(compiled(source, FLAGS, "tests", ".so", lambda path: build(source, path))).library.stress_loop
    assert not isinstance(world.peers, Unsupported)
    world.peers.set_epoch(START_EPOCH)
    world.communicator.barrier()
    done = loop(
        (ctypes.c_void_p * len(items))(*items),
        ctypes.c_long(len(items) // 6),
        ctypes.c_long(launches),
        ctypes.c_uint64(seed * 2 + 1),
        ctypes.c_uint64(seed * 1000 + rank + 1),
        ctypes.byref(watch),
    )
    wrong = [kept[3][1].wrong for kept in keep]
    everyone = world.communicator.all_gather((done, sum(wrong), bool(watch.timed_out)))
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


def build(source: Path, path: Path) -> None:
    subprocess.run([*find_compiler(), "-x", "c++", *FLAGS, str(source), "-o", str(path)], check=True)


if __name__ == "__main__":
    settings = dict(item.split("=") for item in sys.argv[3:] if "=" in item)
    chosen = [item for item in sys.argv[3:] if "=" not in item]
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        {k: int(v) for k, v in settings.items()},
        chosen or ["one_shot_push", "one_shot_pull", "two_shot", "ring"],
    )
