"""Run by mpirun: the stress loop over mixed algorithms, types, operations, sizes and alignments, from an epoch near
2^32.

`stress_ranks.py LAUNCHES SEED [device=NAME] [memory=KIND] [MACRO=VALUE ...] [ALGORITHM|KERNEL ...]`, of all-reduces or
fused kernels; rank 0 prints a JSON line {"launches", "wrong_elements", ...}. With the macros of a negative control the
same loop has to find something wrong.
"""

import ctypes
import json
import random
import sys
from typing import Any

import numpy as np

from bench.harness import verify
from bench.harness.iteration import on_device
from bench.layers import fused
from bench.soak import COUNTS, ROOM_BYTES, Drawn, checked, draw_launch
from collectives.algorithm import ALGORITHMS
from collectives.allreduce_two_shot_quantized import DATATYPES as QUANTIZED
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.experts.alltoall_routed import ALGORITHMS as ROUTED
from collectives.experts.alltoall_routed import RoutedCase, make_tables, record_bytes
from collectives.experts.routing import draw as draw_routes
from collectives.layers.fused import COLLECTIVE, FUSED, GemvCase, NormCase
from collectives.operation import Operation, Unsupported, Watch, World, Wrong
from collectives.peer_buffer import register, set_epoch
from tests.ranks import connect

START_EPOCH = 2**32 - 5


def main(launches: int, seed: int, device: str, memory: str, macros: dict[str, int], names: list[str]) -> None:
    # Without the flip a packet may be overwritten before it was read, and is then waited for in vain.
    world, watch = connect(2.0 if "WITHOUT_EPOCH_FLIP" in macros else 30.0, device, memory, **macros)
    rank, ranks = world.communicator.rank, world.communicator.size
    draw = random.Random(seed)
    items: list[Drawn] = []
    for kind in ([routed_item] * 6 if not names else []) + [
            make for name, make in FUSED_ITEMS.items() if name in names or not names] * 5:
        items.append(kind(world, draw, seed, watch))
    plain = [name for name in names if name not in FUSED]
    # One type and operation a collective, others by another seed: of the protocol nothing depends on them, and each
    # pair is a kernel to be compiled.
    datatypes = {name: draw.choice(list(DATATYPES.values())) for name in COLLECTIVES}
    redops = {name: draw.choice(["sum", "avg" if kind.is_float else "max"]) for name, kind in datatypes.items()}
    assert not isinstance(world.peers, Unsupported)
    room = ranks * 8 * max(COUNTS) + ROOM_BYTES
    buffers = [register(world.communicator, world.device, world.peers, room) for _ in range(2)]
    for _ in range(24 if plain or not names else 0):
        what = COLLECTIVES[draw.choice(list(COLLECTIVES) if not names else ["all_reduce"])]
        datatype, redop = datatypes[what.name], redops[what.name]
        known = ALGORITHMS[what.name]
        fits = [name for name, its in known.items() if datatype.name in QUANTIZED or not its.lossy]
        algorithm = known[draw.choice(plain or [name for name in fits if name != "library"])]
        drawn = draw_launch(world, watch, draw, buffers, what, algorithm, datatype, redop, draw.choice(COUNTS), seed)
        assert drawn
        items.append(drawn)

    set_epoch(world.peers, START_EPOCH)
    world.communicator.barrier()
    draws = (ctypes.c_uint64 * 2)(seed * 2 + 1, seed * 1000 + rank + 1)
    world.device.mix(items, launches, draws, watch)
    wrong_elements = sum(Wrong.from_buffer_copy(bytes(item.wrong.read())).elements for item in items)
    done = sum(item.launches for item in items)
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


def routed_item(world: World, draw: random.Random, seed: int, watch: Watch) -> Drawn:
    """A round trip of tokens over experts that change nothing."""
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
    sides = (buffers[0].address, rows := int(routes.tokens_of[rank]), row_bytes), (buffers[1].address, rows, row_bytes)
    item = checked(world, watch, operation, sides, [table[routes.home == rank] for table in (
        datatype.encode(values), verify.combined_rows(routes, datatype, given))], datatype)
    item.keep = [*item.keep, *buffers, operation, made]
    return item


def fused_case(world: World, draw: random.Random, name: str, sizes: dict[str, int]) -> tuple[dict[str, Any], list[Any]]:
    """What all cases of fused kernels have, and their registered buffers of so many bytes, which are kept."""
    assert not isinstance(world.peers, Unsupported)
    made = {key: register(world.communicator, world.device, world.peers, size) for key, size in sizes.items()}
    variant = draw.choice(FUSED[name]["fused"].variants(world))
    addresses = {key: memory.address for key, memory in made.items()}
    return {"collective": COLLECTIVE[name], "redop": "sum", "variant": variant, **addresses}, list(made.values())


def fused_item(world: World, case: Any, sides: tuple[fused.Side, fused.Side], tables: Any, keep: Any,
               watch: Watch) -> Drawn:
    """A launch of a fused kernel; `sides` and `tables` are those of bench.layers.fused."""
    operation = FUSED[case.collective.name]["fused"].bind(world, case)
    assert isinstance(operation, Operation), operation
    item = checked(world, watch, operation, sides, tables, case.datatype)
    item.keep = [*item.keep, operation, keep]
    return item


def norm_item(world: World, draw: random.Random, seed: int, watch: Watch) -> Drawn:
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


def gemv_item(world: World, draw: random.Random, seed: int, watch: Watch) -> Drawn:
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
