"""Run by mpirun: the stress loop over mixed algorithms, types, operations, sizes and alignments, from an epoch near
2^32.

`stress_ranks.py LAUNCHES SEED [device=NAME] [memory=KIND] [MACRO=VALUE ...] [ALGORITHM|KERNEL ...]`, of all-reduces or
fused kernels; rank 0 prints a JSON line {"launches", "wrong_elements", ...}. With the macros of a negative control the
same loop has to find something wrong.
"""

import ctypes
import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import fused, verify
from bench.subject import on_device, pattern_of
from collectives.algorithm import ALGORITHMS
from collectives.allreduce_one_shot_ll import MOST_BYTES as MOST_PACKET_BYTES
from collectives.allreduce_two_shot_quantized import BLOCK
from collectives.allreduce_two_shot_quantized import DATATYPES as QUANTIZED
from collectives.alltoall_routed import ALGORITHMS as ROUTED
from collectives.alltoall_routed import RoutedCase, make_tables, record_bytes
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.fused import COLLECTIVE, FUSED, GemvCase, NormCase
from collectives.operation import Case, Gate, Operation, Step, Unsupported, Watch, World
from collectives.peer_buffer import register
from collectives.routing import draw as draw_routes
from kernels.device_cpu import FLAGS, CpuModule, find_compiler
from kernels.module import compiled
from tests.ranks import connect, set_epoch

COUNTS = (1, 3, 17, 17, 255, 1023, 4099, 20011, 70001, 300007)
START_EPOCH = 2**32 - 5


def main(launches: int, seed: int, device: str, memory: str, macros: dict[str, int], names: list[str]) -> None:
    # Without the flip a packet may be overwritten before it was read, and is then waited for in vain.
    world, watch = connect(2.0 if "WITHOUT_EPOCH_FLIP" in macros else 30.0, device, memory, **macros)
    rank, ranks = world.communicator.rank, world.communicator.size
    draw = random.Random(seed)
    keep: list[Any] = []
    items: list[tuple[Step, Step, Step]] = []
    loop_kernels = world.device.compile("timed_loop", {})
    for kind in ([routed_item] * 6 if not names else []) + [
            make for name, make in FUSED_ITEMS.items() if name in names or not names] * 5:
        item, kept = kind(world, draw, seed, watch)
        items.append(item)
        keep.append(kept)
    plain = [name for name in names if name not in FUSED]
    # One type and operation a collective, others by another seed: of the protocol nothing depends on them, and each
    # pair is a kernel to be compiled.
    datatypes = {name: draw.choice(list(DATATYPES.values())) for name in COLLECTIVES}
    redops = {name: draw.choice(["sum", "avg" if kind.is_float else "max"]) for name, kind in datatypes.items()}
    for _ in range(24 if plain or not names else 0):
        what = COLLECTIVES[draw.choice(list(COLLECTIVES) if not names else ["all_reduce"])]
        shape = draw.choice(what.shapes)
        datatype, redop = datatypes[what.name], redops[what.name]
        known = ALGORITHMS[what.name]
        fits = [name for name, its in known.items() if datatype.name in QUANTIZED or not its.lossy]
        algorithm = known[draw.choice(plain or [name for name in fits if name != "library"])]
        count = draw.choice(COUNTS)
        if algorithm.lossy:
            count = -(-count // BLOCK) * BLOCK
        sends, receives = what.segments(ranks)
        size = max(sends, receives) * count * datatype.size_bytes
        in_place = draw.random() < 0.3 and what.no_place is None
        shift = draw.choice([0, datatype.size_bytes, 3 * datatype.size_bytes])
        variant = draw.choice(algorithm.variants(world))
        assert not isinstance(world.peers, Unsupported)
        buffers = [register(world.communicator, world.device, world.peers, size + 64) for _ in range(2)]
        receive = buffers[1].address + draw.choice([0, datatype.size_bytes])
        first = buffers[0].address + shift
        if in_place:
            own = receive + (rank * count * datatype.size_bytes if what.cut else 0)
            first, receive = receive if what.sends_all else own, receive if what.receives_all else own
        case = Case(what, count, datatype, redop, first, receive, in_place, variant, shape)
        operation = algorithm.bind(world, case)
        if isinstance(operation, Unsupported):  # in place and registered, or too long for packets
            most = MOST_PACKET_BYTES // datatype.size_bytes
            case = replace(case, variant="copied", count=min(count, most) if algorithm.name == "one_shot_ll" else count)
            operation = algorithm.bind(world, case)
        assert isinstance(operation, Operation)
        receives *= what.receives(shape, rank, ranks)
        tables = [
            on_device(world, verify.repeated(table))
            for table in (
                datatype.encode(verify.sent(what, datatype, redop, ranks, seed))[rank],
                verify.received(what, shape, datatype, redop, ranks, seed, operation.summed)[rank],
            )
        ]
        wrong = world.device.private(8)
        patterns = [
            pattern_of(datatype, address, segments, case.segment_bytes, table, wrong, watch)
            for address, segments, table in zip((first, receive), (sends, receives), tables, strict=True)
        ]
        keep.append((wrong, buffers, tables))
        prepare, check = (
            Step(loop_kernels.kernel(name), pattern, operation.step.blocks)
            for name, pattern in zip(("write_pattern", "count_wrong"), patterns, strict=True)
        )
        items.append((prepare, operation.step, check))

    assert not isinstance(world.peers, Unsupported)
    set_epoch(world.peers, START_EPOCH)
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


def routed_item(world: World, draw: random.Random, seed: int, watch: Watch) -> tuple[Any, Any]:
    """The steps of a round trip of tokens over experts that change nothing, and what they point into."""
    rank, ranks = world.communicator.rank, world.communicator.size
    datatype = DATATYPES[draw.choice(["float32", "bfloat16"])]
    top_k, hidden = draw.choice([1, 2, 3]), draw.choice([31, 248, 1024])
    tokens, skew = draw.choice([1, 5, 64, 500]), draw.choice(["uniform", "zipf:1.5", "hot:3"])
    routes = draw_routes(skew, ranks, 8, tokens, top_k, draw.randrange(1 << 30))
    row_bytes = hidden * datatype.size_bytes
    assert not isinstance(world.peers, Unsupported)
    sizes = (tokens * row_bytes, tokens * row_bytes, tokens * top_k * row_bytes)
    buffers = [register(world.communicator, world.device, world.peers, size) for size in sizes]
    made = make_tables(world, routes, buffers[2], record_bytes(row_bytes, top_k))
    algorithm = draw.choice([a for a in ROUTED if a.name != "library"])
    case = RoutedCase(
        COLLECTIVES["alltoall"],
        hidden,
        datatype,
        "none",
        buffers[0].address,
        buffers[1].address,
        variant=draw.choice(algorithm.variants(world)),
        shape={"way": "round_trip"},
        tables=made,
    )
    operation = algorithm.bind(world, case)
    assert isinstance(operation, Operation)
    values = verify.row_tables(datatype, tokens, [seed])
    given = [values[routes.rows_of(d)[0]] for d in range(ranks)]
    sent, right = (
        on_device(world, verify.repeated(table[routes.home == rank]))
        for table in (datatype.encode(values), verify.combined_rows(routes, datatype, given))
    )
    wrong, rows = world.device.private(8), int(routes.tokens_of[rank])
    kernels = world.device.compile("timed_loop", {})
    prepare, check = (
        Step(
            kernels.kernel(name),
            pattern_of(datatype, memory.address, rows, row_bytes, table, wrong, watch),
            operation.step.blocks,
        )
        for name, memory, table in (("write_pattern", buffers[0], sent), ("count_wrong", buffers[1], right))
    )
    return (prepare, operation.step, check), (wrong, buffers, sent, right, operation, made)


def fused_case(world: World, draw: random.Random, name: str, sizes: dict[str, int]) -> tuple[dict[str, Any], list[Any]]:
    """What all cases of fused kernels have, and their registered buffers of so many bytes, which are kept."""
    assert not isinstance(world.peers, Unsupported)
    made = {key: register(world.communicator, world.device, world.peers, size) for key, size in sizes.items()}
    variant = draw.choice(FUSED[name]["fused"].variants(world))
    addresses = {key: memory.address for key, memory in made.items()}
    return {"collective": COLLECTIVE[name], "redop": "sum", "variant": variant, **addresses}, list(made.values())


def fused_item(world: World, case: Any, sides: tuple[fused.Side, fused.Side], tables: Any, keep: Any,
               watch: Watch) -> tuple[Any, Any]:
    """The steps of a fused kernel, and what they point into; `sides` and `tables` are those of bench.fused."""
    operation = FUSED[case.collective.name]["fused"].bind(world, case)
    assert isinstance(operation, Operation), operation
    wrong, stored = world.device.private(8), [on_device(world, verify.repeated(table)) for table in tables]
    kernels = world.device.compile("timed_loop", {})
    prepare, check = (
        Step(kernels.kernel(name), pattern_of(case.datatype, *side, memory, wrong, watch), operation.step.blocks)
        for name, side, memory in zip(("write_pattern", "count_wrong"), sides, stored, strict=True)
    )
    return (prepare, operation.step, check), (wrong, stored, operation, keep)


def norm_item(world: World, draw: random.Random, seed: int, watch: Watch) -> tuple[Any, Any]:
    """All-reduce, residual and RMSNorm of rows that are alike in size."""
    rank, ranks = world.communicator.rank, world.communicator.size
    datatype = DATATYPES[("float32", "bfloat16", "float16")[seed % 3]]
    hidden = draw.choice([1, 31, 248, 1024, 8192])
    count = draw.choice([1, 3, 9, 40]) * hidden
    size = count * datatype.size_bytes
    parts, residual, total = fused.tables_of_norm(datatype, ranks, seed)
    tables = [datatype.encode(np.stack(two)) for two in ((parts[rank], residual), (fused.normed(total), total))]
    said, keep = fused_case(world, draw, "allreduce_rmsnorm", {"send": 2 * size, "receive": 2 * size})
    weight = on_device(world, datatype.encode(np.full(hidden, fused.NORM_WEIGHT)))
    case = NormCase(**said, count=count, datatype=datatype, hidden=hidden, residual=said["send"] + size,
                    residual_out=said["receive"] + size, weight=weight.address, summed=0)
    sides = (said["send"], 2, size), (said["receive"], 2, size)
    return fused_item(world, case, sides, tables, (keep, weight), watch)


def gemv_item(world: World, draw: random.Random, seed: int, watch: Watch) -> tuple[Any, Any]:
    """A matrix of +1 and -1 times a few tokens, and the all-reduce."""
    rank, ranks = world.communicator.rank, world.communicator.size
    datatype = DATATYPES[("float32", "float16", "bfloat16")[seed % 3]]
    tokens, hidden, inner = 1 + seed % 8, draw.choice([64, 320, 2048]), draw.choice([64, 128, 320])
    stored = fused.encoded_weights(fused.matrix(hidden, inner, rank, seed)[0], "int8")
    given = np.random.default_rng([seed, tokens]).integers(1, 4, (ranks, tokens, verify.PERIOD)).astype(float)
    each = [fused.products(fused.matrix(1, inner, r, seed)[1], inner, given[r]) for r in range(ranks)]
    tables = [datatype.encode(given[rank]), datatype.encode(np.sum(each, axis=0) * fused.ROW_SCALE)]
    weights, scales = on_device(world, stored), on_device(world, np.full(hidden, fused.ROW_SCALE, np.float32))
    row_bytes = inner * datatype.size_bytes, hidden * datatype.size_bytes
    said, keep = fused_case(world, draw, "gemv_allreduce",
                            {"send": 4, "receive": tokens * row_bytes[1], "activations": tokens * row_bytes[0]})
    case = GemvCase(**said, count=tokens * hidden, datatype=datatype, hidden=hidden, inner=inner, tokens=tokens,
                    weight_type="int8", weights=weights.address, row_scales=scales.address, stride=inner, copies=1)
    sides = (said["activations"], tokens, row_bytes[0]), (said["receive"], tokens, row_bytes[1])
    return fused_item(world, case, sides, tables, (keep, weights, scales), watch)


FUSED_ITEMS = {"allreduce_rmsnorm": norm_item, "gemv_allreduce": gemv_item}


def run_natively(world: World, items: list[tuple[Step, Step, Step]], launches: int, seed: int, watch: Watch) -> int:
    pointers = [p for item in items for s in item for p in (s.kernel.function, ctypes.addressof(s.argument))]
    source = Path(__file__).with_name("stress_loop.cpp")
    loop = CpuModule(compiled(source, FLAGS, "tests", ".so", partial(build, source))).library.stress_loop
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


def build(source: Path, unfinished: Path, target: Path) -> None:
    subprocess.run([*find_compiler(), "-x", "c++", *FLAGS, str(source), "-o", str(unfinished)], check=True)
    unfinished.rename(target)


if __name__ == "__main__":
    settings = dict(item.split("=") for item in sys.argv[3:] if "=" in item)
    where = settings.pop("device", "cpu"), settings.pop("memory", "auto")
    chosen = [item for item in sys.argv[3:] if "=" not in item]
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        *where,
        {k: int(v) for k, v in settings.items()},
        chosen,
    )
