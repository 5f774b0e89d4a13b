"""Runs ranks as threads of one process, over kernels built with a sanitizer; the tests load the sanitizer's run-time
into this Python.

`sanitized_ranks.py RANKS SEED [short|misaligned] [ITEM ...]`; without an item: every entry of every kernel file that
waits for a peer. $CXX names the compiler with the sanitizer's flags. A JSON line reports the number of launches and the
items with wrong results; the sanitizer prints its reports on standard error.

malloc allocates every buffer at its exact size, so the sanitizer owns the first byte beyond it. Nothing orders one rank
after another between launches: one native loop runs all of a rank's launches, in one order for all ranks. Each launch
has its own input and a check of every element. A Python lock between launches would hide the races that ThreadSanitizer
must find.
"""

import ctypes
import json
import os
import random
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from bench.harness import verify
from bench.harness.iteration import Segments, nothing, pattern_of
from bench.layers import fused
from bench.layers.experts import combined_rows, row_tables
from collectives.algorithm import ALGORITHMS
from collectives.build import Build
from collectives.collective import COLLECTIVES, DATATYPES, REDOPS, Array, Collective, Datatype
from collectives.experts.alltoall_routed import ALGORITHMS as ROUTED
from collectives.experts.alltoall_routed import WAYS, RoutedCase, make_tables
from collectives.experts.routing import draw as draw_routes
from collectives.layers.fused import COLLECTIVE, FUSED, Gemv, GemvCase, Norm, NormCase
from collectives.operation import Algorithm, Case, Library, Operation, Unsupported, World
from collectives.peer_buffer import SLAB_BYTES, PeerBuffer, WaitPolicy, set_epoch
from collectives.probe import PROBE_BYTES, probe_kernels
from collectives.quantized import ALGORITHMS as QUANTIZED
from collectives.quantized import BLOCK
from collectives.quantized import DATATYPES as QUANTIZED_DATATYPES
from kernels.devices.cpu import FLAGS, CpuDevice
from kernels.devices.device import (
    NEXT_ITERATION,
    PEER_STRUCTURES,
    Action,
    Bytes,
    Control,
    Counts,
    Device,
    Own,
    Step,
    Transfer,
    Watch,
)

LOSSY = {algorithm.name for algorithm in QUANTIZED}
LAUNCHES = 6  # of each item
START_EPOCH = 2**32 - 20
LINE_BYTES = 128  # the alignment of flags and packs in a slab
COUNTS = (1, 17, 255, 1023, 4099)
LIBC = ctypes.CDLL(None)


class ExactMemory:
    """Zeroed memory of the sanitizer's malloc: exactly `size_bytes` long, `shift` bytes after the start of a line."""

    handle, type = b"", "exact"

    def __init__(self, size_bytes: int, shift: int = 0) -> None:
        at, self.size_bytes = ctypes.c_void_p(), size_bytes
        size = ctypes.c_size_t(size_bytes + shift)
        assert LIBC.posix_memalign(ctypes.byref(at), ctypes.c_size_t(LINE_BYTES), size) == 0
        self.address = (at.value or 0) + shift
        ctypes.memset(self.address, 0, size_bytes)

    def read(self) -> Bytes:
        return np.frombuffer(ctypes.string_at(self.address, self.size_bytes), np.uint8)

    def write(self, data: Array, offset: int = 0) -> None:
        ctypes.memmove(self.address + offset, np.ascontiguousarray(data).tobytes(), data.nbytes)

    def close(self) -> None:
        raise AssertionError(
            "every buffer lives as long as the program, so that no two buffers share an address"
        )


class ExactDevice(CpuDevice):
    """The CPU, with ExactMemory as its private memory."""

    def private(self, size_bytes: int) -> Any:
        return ExactMemory(size_bytes)


class Gathering:
    """An all-gather among the ranks' threads."""

    def __init__(self, ranks: int) -> None:
        self.contributions: list[Any] = [None] * ranks
        self.all_here = threading.Barrier(ranks, timeout=300)

    def all_gather(self, rank: int, item: Any) -> list[Any]:
        self.contributions[rank] = item
        self.all_here.wait()
        gathered = list(self.contributions)
        self.all_here.wait()
        return gathered


@dataclass
class Bed:
    """All ranks' worlds, the random draws, and the items: for each rank its steps and its counter of wrong elements."""

    worlds: list[World]
    draw: random.Random
    seed: int
    plant: str
    items: dict[str, list[tuple[list[Step], ExactMemory | None]]] = field(default_factory=dict)
    keep: list[Any] = field(default_factory=list)

    @property
    def ranks(self) -> int:
        return len(self.worlds)

    def buffers(self, size_bytes: int, element_bytes: int = 0) -> list[int]:
        """The addresses of every rank's buffer of this size, mapped by all ranks. `element_bytes` shifts each start by
        a random number of elements."""
        shifts = [self.draw.choice([0, 1, 3]) * element_bytes for _ in self.worlds]
        if self.plant == "misaligned":
            shifts = [1] * self.ranks
        made = [ExactMemory(size_bytes, shift) for shift in shifts]
        for world in self.worlds:
            cast(PeerBuffer, world.peers).registered.append(cast(Any, made))
        return [memory.address for memory in made]

    def bind(self, bind: Callable[[World, Case], Any], cases: list[Any]) -> list[Any]:
        """Each rank's operation. In parallel, because the ranks exchange the addresses of their buffers."""
        with ThreadPoolExecutor(self.ranks) as ranks:
            return list(ranks.map(bind, self.worlds, cases))

    def add(
        self,
        name: str,
        cases: list[Any],
        bind: Callable[[World, Case], Any],
        contents: Callable[[int, Operation], tuple[Segments, Segments]],
    ) -> bool:
        """Bind a case on every rank, between writing and checking; `contents(rank, operation)` gives the input and the
        result."""
        operations = self.bind(bind, cases)
        if isinstance(operations[0], Unsupported):
            return False
        self.items[name] = []
        for rank, (world, case, operation) in enumerate(
            zip(self.worlds, cases, operations, strict=True)
        ):
            assert isinstance(operation, Operation), operation
            wrong = world.device.private(64)
            steps: list[Step] = []
            for entry, segments in zip(
                ("write_pattern", "count_wrong"), contents(rank, operation), strict=True
            ):
                tables = world.device.store(np.tile(segments.tables, verify.REPEATS + 1))
                pattern = pattern_of(world, case.datatype, segments, tables, wrong)
                steps.append(Step(world.device.loop_kernels().kernel(entry), pattern))
                self.keep.append(tables)
            write, check = steps
            self.items[name].append(([write, operation.step, check], cast(ExactMemory, wrong)))
            self.keep.append((case, operation))
        return True


def plain_items(bed: Bed, wanted: Callable[[str], bool]) -> None:
    """Every algorithm of every collective in each shape and variant, also in place if the collective supports it."""
    turns: dict[str, int] = {}
    for collective in COLLECTIVES.values():
        for algorithm in ALGORITHMS[collective.name].values():
            # One datatype and operation for each kernel file, because each pair needs a build.
            stem = collective.name + algorithm.name.removesuffix("_push").removesuffix(
                "_pull"
            ).rstrip("4831fpint")
            stem = stem if collective.name == "all_reduce" else collective.name
            turn = bed.seed + turns.setdefault(stem, len(turns))
            if algorithm.name in ("library", "auto"):
                continue
            is_lossy = algorithm.name in LOSSY
            fitting = QUANTIZED_DATATYPES if is_lossy else list(DATATYPES)
            if algorithm.name == "one_shot_sentinel":
                fitting = [name for name in fitting if DATATYPES[name].is_float]
            datatype = DATATYPES[fitting[turn % len(fitting)]]
            redop = "sum" if is_lossy else REDOPS[turn % len(REDOPS)]
            for shape in collective.shapes:
                for variant in algorithm.variants(bed.worlds[0]):
                    for place in ("", " in place") if collective.no_place is None else ("",):
                        name = (
                            " ".join([collective.name, algorithm.name, *shape.values(), variant])
                            + place
                        )
                        if wanted(name):
                            plain_item(
                                bed,
                                name,
                                collective,
                                algorithm,
                                datatype,
                                redop,
                                variant,
                                shape,
                                bool(place),
                            )


def plain_item(
    bed: Bed,
    name: str,
    collective: Collective,
    algorithm: Algorithm,
    datatype: Datatype,
    redop: str,
    variant: str,
    shape: Any,
    in_place: bool,
) -> None:
    ranks, size = bed.ranks, datatype.size_bytes
    count = bed.draw.choice(COUNTS)
    count += -count % BLOCK if algorithm.name in LOSSY else 0
    sends, receives = collective.segments(ranks)
    first = bed.buffers(sends * count * size, size)
    into = bed.buffers(receives * count * size, size)
    if in_place:
        into = bed.buffers(max(sends, receives) * count * size, size)
        own = [at + (rank * count * size if collective.cut else 0) for rank, at in enumerate(into)]
        first, into = (
            into if collective.sends_all else own,
            into if collective.receives_all else own,
        )
    build = Build(chunk_bytes=bed.draw.choice([None, 1 << 10]))
    too_many = int(bed.plant == "short")  # elements beyond the end of the buffers
    cases = [
        Case(collective, count + too_many, datatype, redop, *at, in_place, variant, shape, build)
        for at in zip(first, into, strict=True)
    ]

    def contents(rank: int, operation: Operation) -> tuple[Segments, Segments]:
        case = cases[rank]
        assert (operation.expected_sum is not None) == (algorithm.name in LOSSY)
        data = verify.Data(collective, datatype, redop, ranks, bed.seed, operation.expected_sum)
        result = data.received(shape)[rank]
        gets = receives * collective.receives(shape, rank, ranks)
        return (
            Segments(case.send, count * size, datatype.encode(data.sent())[rank]),
            Segments(case.receive, count * size, result[:gets]),
        )

    bed.add(name, cases, algorithm.bind, contents)


def routed_items(bed: Bed, wanted: Callable[[str], bool]) -> None:
    """The dispatch of tokens to experts that change nothing, and the combine."""
    datatype = DATATYPES[("float32", "bfloat16", "float64", "float16")[bed.seed % 4]]
    for algorithm in ROUTED:
        for way in WAYS if algorithm.name not in ("library", "auto") else ():
            for variant in algorithm.variants(bed.worlds[0]):
                if wanted(name := f"routed {algorithm.name} {way} {variant}"):
                    routed_item(bed, name, algorithm, way, variant, datatype)


def routed_item(
    bed: Bed, name: str, algorithm: Any, way: str, variant: str, datatype: Datatype
) -> None:
    ranks, hidden = bed.ranks, bed.draw.choice([31, 248])
    tokens, top_k = bed.draw.choice([ranks, 7, 64]), bed.draw.choice([1, 2, 3])
    routes = draw_routes(
        bed.draw.choice(["uniform", "zipf:1.5", "hot:3"]), ranks, 8, tokens, top_k, bed.seed
    )
    row_bytes = hidden * datatype.size_bytes
    of_ranks = [np.flatnonzero(routes.home == r) for r in range(ranks)]
    tokens_by_rank = [routes.rows_of(r)[0] for r in range(ranks)]
    values = row_tables(tokens, [bed.seed])
    experts = [values[rows] for rows in tokens_by_rank]
    if way == "combine":
        experts = [row_tables(len(rows), [bed.seed, r]) for r, rows in enumerate(tokens_by_rank)]
    back = datatype.encode(combined_rows(routes, datatype, experts))
    sends = bed.buffers(max(map(len, of_ranks)) * row_bytes, datatype.size_bytes)
    receives = bed.buffers(max(map(len, of_ranks)) * row_bytes, datatype.size_bytes)
    rows = [ExactMemory(len(mine) * row_bytes) for mine in tokens_by_rank]
    cases, both = [], []
    for r, world in enumerate(bed.worlds):
        tables = make_tables(world, routes, cast(Any, rows[r]), row_bytes)
        cases.append(
            RoutedCase(
                COLLECTIVES["alltoall"],
                hidden,
                datatype,
                "none",
                sends[r],
                receives[r],
                variant=variant,
                shape={"way": way},
                build=Build(chunk_bytes=4 << 10),
                tables=tables,
            )
        )
        at_experts = Segments(rows[r].address, row_bytes, datatype.encode(experts[r]))
        at_home = Segments(sends[r], row_bytes, datatype.encode(values[of_ranks[r]]))
        summed = Segments(receives[r], row_bytes, back[of_ranks[r]])
        both.append(
            (
                at_experts if way == "combine" else at_home,
                at_experts if way == "dispatch" else summed,
            )
        )
    bed.add(name, cases, algorithm.bind, lambda rank, _: both[rank])


def fused_items(bed: Bed, wanted: Callable[[str], bool]) -> None:
    """All-reduce and norm of rows of similar size; a matrix of +1 and -1 times tokens, with the all-reduce."""
    datatype = DATATYPES[QUANTIZED_DATATYPES[bed.seed % len(QUANTIZED_DATATYPES)]]
    # Registered, a single token is pulled, and others are summed directly.
    for variant, tokens in (("copied", 3), ("registered", 1), ("registered", 9)):
        if wanted(name := f"allreduce_rmsnorm {variant} {tokens}"):
            norm_item(bed, name, variant, datatype, tokens)
    for variant in ("copied", "registered"):
        if wanted(name := f"gemv_allreduce {variant}"):
            gemv_item(bed, name, variant, datatype)


def norm_item(bed: Bed, name: str, variant: str, datatype: Datatype, tokens: int) -> None:
    hidden, ranks = bed.draw.choice([31, 248, 1024]), bed.ranks
    count = tokens * hidden
    size = count * datatype.size_bytes
    parts, residual, total = fused.tables_of_norm(datatype, ranks, bed.seed)
    sends, receives = (bed.buffers(2 * size, datatype.size_bytes) for _ in range(2))
    weight = bed.worlds[0].device.store(datatype.encode(np.full(hidden, fused.NORM_WEIGHT)))
    cases = [
        NormCase(
            COLLECTIVE["allreduce_rmsnorm"],
            count,
            datatype,
            "sum",
            send,
            receive,
            variant=variant,
            build=Build(chunk_bytes=4 << 10),
            summed=0,
            norm=Norm(
                hidden=hidden,
                residual=send + size,
                residual_out=receive + size,
                weight=weight.address,
            ),
        )
        for send, receive in zip(sends, receives, strict=True)
    ]
    bed.keep.append(weight)
    bed.add(
        name,
        cases,
        FUSED["allreduce_rmsnorm"]["fused"].bind,
        lambda rank, _: (
            Segments(sends[rank], size, datatype.encode(np.stack([parts[rank], residual]))),
            Segments(receives[rank], size, datatype.encode(np.stack([fused.normed(total), total]))),
        ),
    )


def gemv_item(bed: Bed, name: str, variant: str, datatype: Datatype) -> None:
    ranks, tokens, hidden, inner = (
        bed.ranks,
        1 + bed.seed % 8,
        bed.draw.choice([64, 320]),
        bed.draw.choice([64, 320]),
    )
    inputs = fused.drawn_activations(ranks, tokens, bed.seed)
    row_bytes = inner * datatype.size_bytes, hidden * datatype.size_bytes
    activations, receives = (bed.buffers(tokens * row) for row in row_bytes)
    scales = bed.worlds[0].device.store(np.full(hidden, fused.ROW_SCALE, np.float32))
    weights = [
        bed.worlds[r].device.store(fused.matrix(hidden, inner, r, bed.seed).astype(np.int8))
        for r in range(ranks)
    ]
    bed.keep.append((scales, weights))
    cases = [
        GemvCase(
            COLLECTIVE["gemv_allreduce"],
            tokens * hidden,
            datatype,
            "sum",
            0,
            receives[r],
            variant=variant,
            tokens=tokens,
            weight_type="int8",
            layer=Gemv(
                hidden=hidden,
                inner=inner,
                weights=weights[r].address,
                stride=inner,
                copies=1,
                row_scales=scales.address,
                activations=activations[r],
            ),
        )
        for r in range(ranks)
    ]
    right = datatype.encode(fused.summed_products(inner, inputs, bed.seed) * fused.ROW_SCALE)
    bed.add(
        name,
        cases,
        FUSED["gemv_allreduce"]["fused"].bind,
        lambda rank, _: (
            Segments(activations[rank], row_bytes[0], datatype.encode(inputs[rank])),
            Segments(receives[rank], row_bytes[1], right),
        ),
    )


def link_items(bed: Bed, wanted: Callable[[str], bool]) -> None:
    """The probe kernels of the link between two meetings, as bench times them; the other items check their data."""
    count, ranks = 1023, bed.ranks
    sends, receives = bed.buffers(4 * count), bed.buffers(4 * count)
    beside, target = (bed.worlds[0].device.private(2 << 16) for _ in range(2))
    bed.keep.append((beside, target))
    for name, entries in (
        ("meet", ["meet", "meet"]),
        ("ping-pong", ["flag_ping_pong"]),
        ("slabs", ["meet", "copy_in", "meet", "read_peer", "meet", "push_out", "meet"]),
        *(
            (entry, ["meet", entry, "meet"])
            for entry in ("link_push", "link_pull", "link_ping_pong", "link_push_beside_host_copy")
        ),
    ):
        if not wanted(name := f"link {name}"):
            continue
        of_ranks: list[tuple[list[Step], ExactMemory | None]] = []
        for r, world in enumerate(bed.worlds):
            arguments = cast(PeerBuffer, world.peers).arguments(
                sends[r], receives[r], count, 1 << 11
            )
            arguments.sends[:ranks], arguments.receives[:ranks] = sends, receives
            partner = -1 if (r ^ 1) >= ranks else r ^ 1
            transfer = Transfer(
                arguments,
                partner,
                partner,
                beside.address + (r << 16) % (2 << 16),
                target.address + (r << 16) % (2 << 16),
                1 << 16,
            )
            probes = probe_kernels(world.device, ranks)
            transfers = world.device.compile(
                "link", {"WORLD": str(ranks)}, (*PEER_STRUCTURES, Transfer)
            )
            of_ranks.append(
                (
                    [
                        Step(transfers.kernel(entry), transfer)
                        if entry.startswith("link")
                        else Step(probes.kernel(entry), arguments)
                        for entry in entries
                    ],
                    None,
                )
            )
        bed.items[name] = of_ranks
    for entry in ("show_stores", "show_packets"):
        if wanted(name := f"link {entry}"):
            of_ranks = []
            for r, world in enumerate(bed.worlds):
                probe = world.device.compile("memory_probe", {"WORLD": str(ranks)}, PEER_STRUCTURES)
                rounds = cast(PeerBuffer, world.peers).arguments(0, receives[r], 3, PROBE_BYTES)
                of_ranks.append(([Step(probe.kernel(entry), rounds)], None))
            bed.items[name] = of_ranks


def open_bed(devices: Sequence[Device], seed: int, plant: str = "", timeout_s: float = 30.0) -> Bed:
    """A rank in this process on each device; they map each other's slabs."""
    ranks = len(devices)
    slabs = [ExactMemory(SLAB_BYTES) for _ in range(ranks)]
    controls = [ExactMemory(ctypes.sizeof(Control)) for _ in range(ranks)]
    worlds, gathering = list[World](), Gathering(ranks)
    for r, device in enumerate(devices):
        communicator: Any = SimpleNamespace(
            rank=r, size=ranks, hosts=1, all_gather=partial(gathering.all_gather, r)
        )
        waits = WaitPolicy(Watch(), True, timeout_s)
        peers = PeerBuffer(
            communicator,
            device,
            cast(Any, slabs),
            cast(Any, controls),
            cast(Any, ExactMemory(ctypes.sizeof(Own))),
            waits,
            "threads",
        )
        set_epoch(peers, START_EPOCH)
        worlds.append(World(communicator, device, peers, cast(Library, None), waits.watch))
    return Bed(worlds, random.Random(seed), seed, plant)


def actions_of(bed: Bed, rank: int, order: list[str]) -> list[Action]:
    """All launches of a rank, each with the next iteration's data.

    All ranks meet first. Otherwise a rank could start after another rank had finished, with Python's locks between
    them.
    """
    peers = cast(PeerBuffer, bed.worlds[rank].peers)
    meet = Step(
        probe_kernels(bed.worlds[rank].device, bed.ranks).kernel("meet"),
        peers.arguments(0, 0, 0, 0),
    )
    actions = [Action(meet)]
    for name in order:
        actions += [NEXT_ITERATION, *(Action(step) for step in bed.items[name][rank][0])]
    return actions


def main(ranks: int, seed: int, plant: str, names: list[str]) -> None:
    FLAGS[FLAGS.index("-O3")] = (
        "-Og"  # compiles in a sixth of the time, and reports name the right lines
    )
    device = ExactDevice()
    bed = open_bed([device] * ranks, seed, plant)
    watches = [world.watch for world in bed.worlds]
    for make in (plain_items, routed_items, fused_items, link_items):
        make(bed, lambda name: not names or any(name.startswith(prefix) for prefix in names))
    order = bed.draw.sample(
        [name for name in bed.items for _ in range(LAUNCHES)], LAUNCHES * len(bed.items)
    )
    threads = [
        threading.Thread(
            target=device.run,
            args=(actions_of(bed, rank, order), nothing(bed.worlds[rank]), Counts(1, 0), watch),
        )
        for rank, watch in enumerate(watches)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = {
        name: count
        for name, of_ranks in bed.items.items()
        if (
            count := sum(
                int(counted.read()[:4].view("u4")[0]) for _, counted in of_ranks if counted
            )
        )
    }
    print(
        json.dumps(
            {
                "items": len(bed.items),
                "launches": len(order),
                "wrong": wrong,
                "timed_out": any(watch.timed_out for watch in watches),
            }
        )
    )


if __name__ == "__main__":
    os.environ.pop(
        "LD_PRELOAD", None
    )  # the compiler, which this process starts, must run without the sanitizer
    words = sys.argv[3:]
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        next((word for word in words if word in ("short", "misaligned")), ""),
        [word for word in words if word not in ("short", "misaligned")],
    )
