"""Runs ranks as threads of one process, over kernels built with a sanitizer; the tests load the
sanitizer's run-time into this Python.

`sanitized_ranks.py RANKS SEED [short|misaligned] [ITEM ...]`; without an item: every entry of every
kernel file that waits for a peer, and the probes of the link. $CXX names the compiler with the
sanitizer's flags. A JSON line reports the number of launches and the items with wrong results; the
sanitizer prints its reports on standard error.

malloc allocates every buffer at its exact size, so the sanitizer owns the first byte beyond it.
Nothing orders one rank after another between launches: one native loop runs all of a rank's
launches, in one order for all ranks. Each launch has its own input and a check of every element. A
Python lock between launches would hide the races that ThreadSanitizer must find.
"""

import ctypes
import json
import os
import random
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from bench.harness import verify
from bench.harness.iteration import Segments, checked_iteration, nothing
from bench.links.measurement import LINK
from collectives.algorithms.allreduce_quantized import BLOCK, QUANTIZED
from collectives.algorithms.allreduce_quantized import DATATYPES as QUANTIZED_DATATYPES
from collectives.build import Build
from collectives.collective import COLLECTIVES, DATATYPES, REDOPS, Array
from collectives.experts import routing
from collectives.experts.alltoall_routed import ALGORITHMS as ROUTED
from collectives.experts.alltoall_routed import WAYS
from collectives.operation import Algorithm, CollectiveCase, Operation, Unsupported, World
from collectives.peer_buffer import PeerBuffer, WaitPolicy, WireSpeed, set_epoch, slab_bytes
from collectives.probe import MEMORY_ACCESSES, PROBE_BYTES
from collectives.registry import ALGORITHMS
from kernels.devices.cpu import FLAGS, CpuDevice
from kernels.devices.device import (
    MOST_RANKS,
    NEXT_ITERATION,
    Action,
    Bytes,
    Control,
    Counts,
    Device,
    Memory,
    Own,
    Step,
    Transfer,
    Watch,
)
from tests.ranks.layer_cases import LocalRanks, gemv_item, norm_item, routed_item
from tests.ranks.stable_layer import LEAVES, drawn_item
from wiretax.record.case import FUSED_STABLE

SMALL_CHUNKS = Build(chunk_bytes=4 << 10)
LAUNCHES = 6  # of each item
START_EPOCH = 2**32 - 20
WIRE = WireSpeed(2_000.0, 50.0, 40.0)  # `connect` would measure one, for the choice of `auto`
LINE_BYTES = 128  # the alignment of flags and packs in a slab
COUNTS = (1, 17, 255, 1023, 4099)
LIBC = ctypes.CDLL(None)


class ExactMemory:
    """Zeroed memory of the sanitizer's malloc: exactly `size_bytes` long, `shift` bytes after the
    start of a line."""

    handle, type, flush_register = b"", "exact", 0

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

    def first_reason(self, rank: int, reason: str | None) -> str | None:
        return next(filter(None, self.all_gather(rank, reason)), None)

    def all_gather(self, rank: int, item: Any) -> list[Any]:
        self.contributions[rank] = item
        self.all_here.wait()
        gathered = list(self.contributions)
        self.all_here.wait()
        return gathered


@dataclass
class Bed(LocalRanks):
    """All ranks' worlds, the random draws, and the items: for each rank its steps and its counter
    of wrong elements."""

    draw: random.Random
    plant: str
    items: dict[str, list[tuple[list[Step], Memory | None]]] = field(default_factory=dict)

    def memory(self, size_bytes: int) -> Any:
        return ExactMemory(size_bytes)

    def buffers(self, size_bytes: int, element_bytes: int = 0) -> list[int]:
        """The addresses of every rank's buffer of this size, mapped by all ranks. `element_bytes`
        shifts each start by a random number of elements."""
        shifts = [self.draw.choice([0, 1, 3]) * element_bytes for _ in self.worlds]
        if self.plant == "misaligned":
            shifts = [1] * self.ranks
        made = [ExactMemory(size_bytes, shift) for shift in shifts]
        for world in self.worlds:
            cast(PeerBuffer, world.peers).registered.append(cast(Any, made))
        return [memory.address for memory in made]

    def bind(self, bind: Callable[[World, CollectiveCase], Any], cases: list[Any]) -> list[Any]:
        """Each rank's operation. In parallel, because the ranks exchange the addresses of their
        buffers."""
        with ThreadPoolExecutor(self.ranks) as ranks:
            return list(ranks.map(bind, self.worlds, cases))

    def add(
        self,
        name: str,
        cases: list[Any],
        bind: Callable[[World, CollectiveCase], Any],
        contents: Callable[[Any, int], Iterable[Segments]],
    ) -> None:
        """Bind a case on every rank, between writing and checking; `contents(case, rank)` gives
        the input and the result."""
        operations = self.bind(bind, cases)
        if isinstance(operations[0], Unsupported):
            return
        self.items[name] = []
        for rank, world in enumerate(self.worlds):
            case, operation = cases[rank], operations[rank]
            assert isinstance(operation, Operation), operation
            source, target = contents(case, rank)
            made = checked_iteration(world, case, operation, source, target, case)
            self.items[name].append(([made.prepare, operation.step, made.check], made.wrong))
            self.keep.append(made)

    def wrong_elements(self, name: str) -> int:
        counters = [counted for _, counted in self.items[name] if counted]
        return sum(int(counted.read()[:4].view("u4")[0]) for counted in counters)


def plain_items(bed: Bed, wanted: Callable[[str], bool]) -> None:
    """Every algorithm of every collective in each shape and variant, also in place if the
    collective supports it."""
    turns: dict[str, int] = {}
    for collective in COLLECTIVES.values():
        for algorithm in ALGORITHMS[collective.name].values():
            if not algorithm.needs_peers:
                continue
            # One datatype and operation for each kernel file, because each pair needs a build.
            stem = collective.name
            if collective is COLLECTIVES["all_reduce"]:
                base = algorithm.name.replace("_push", "").replace("_pull", "")
                stem += base.rstrip("468int")
            turn = bed.seed + turns.setdefault(stem, len(turns))
            is_lossy = algorithm.name in QUANTIZED
            fitting = QUANTIZED_DATATYPES if is_lossy else list(DATATYPES)
            if algorithm.name == "one_shot_sentinel":
                fitting = [name for name in fitting if DATATYPES[name].is_float]
            datatype = DATATYPES[fitting[turn % len(fitting)]]
            redop = "sum" if is_lossy else REDOPS[turn % len(REDOPS)]
            places = (False, True) if collective.no_place is None else (False,)
            variants = algorithm.variants_in(bed.worlds[0])
            for shape, variant, in_place in product(collective.shapes, variants, places):
                words = [collective.name, algorithm.name, *shape.values(), variant]
                name = " ".join(words + ["in place"] * in_place)
                case = CollectiveCase(
                    collective, 0, datatype, redop, 0, 0, in_place, variant, shape
                )
                if wanted(name):
                    plain_item(bed, name, algorithm, case)


def plain_item(bed: Bed, name: str, algorithm: Algorithm, form: CollectiveCase) -> None:
    """`form` still lacks its buffers, the limit of its chunks and, if it is 0, its count."""
    ranks, collective, datatype = bed.ranks, form.collective, form.datatype
    count = form.count or bed.draw.choice(COUNTS)
    count += -count % BLOCK if algorithm.name in QUANTIZED else 0
    size, segment = datatype.size_bytes, count * datatype.size_bytes
    sends, receives = collective.segments(ranks)
    # On a GPU a quantised form refuses buffers that are not aligned.
    shift = 0 if algorithm.name in QUANTIZED and not bed.worlds[0].device.is_cpu else size
    first, into = (bed.buffers(segments * segment, shift) for segments in (sends, receives))
    if form.in_place:
        into = bed.buffers(max(sends, receives) * segment, shift)
        own = [at + (rank * segment if collective.cut else 0) for rank, at in enumerate(into)]
        first, into = (
            into if collective.sends_all else own,
            into if collective.receives_all else own,
        )
    build = replace(form.build, chunk_bytes=bed.draw.choice([None, 1 << 10]))
    too_many = int(bed.plant == "short")  # elements beyond the end of the buffers
    cases = [
        replace(
            form,
            count=count + too_many,
            send=send,
            receive=receive,
            build=build,
        )
        for send, receive in zip(first, into, strict=True)
    ]

    def contents(_: CollectiveCase, rank: int) -> tuple[Segments, Segments]:
        quantized = QUANTIZED.get(algorithm.name)
        expected_sum = partial(quantized.expected_sum, form.redop) if quantized else None
        data = verify.Data(collective, datatype, form.redop, ranks, bed.seed, expected_sum)
        gets = receives * collective.receives(form.shape, rank, ranks)
        return (
            Segments(first[rank], segment, datatype.encode(data.sent())[rank]),
            Segments(into[rank], segment, data.received(form.shape)[rank][:gets]),
        )

    bed.add(name, cases, algorithm.bind, contents)


def routed_items(bed: Bed, wanted: Callable[[str], bool]) -> None:
    """The dispatch of tokens to experts that change nothing, and the combine; also by the bed's
    library, if it has one."""
    datatype = DATATYPES[("float32", "bfloat16", "float64", "float16")[bed.seed % 4]]
    left_out = ["auto"] if bed.worlds[0].library else ["auto", "library"]
    algorithms = [algorithm for algorithm in ROUTED if algorithm.name not in left_out]
    for algorithm, way in product(algorithms, WAYS):
        for variant in algorithm.variants_in(bed.worlds[0]):
            if wanted(name := f"routed {algorithm.name} {way} {variant}"):
                hidden = bed.draw.choice([31, 248])
                tokens, top_k = bed.draw.choice([bed.ranks, 7, 64]), bed.draw.choice([1, 2, 3])
                skew = bed.draw.choice(["uniform", "zipf:1.5", "zipf:9"])
                routes = routing.draw(skew, bed.ranks, 8, tokens, top_k, bed.seed)
                options = {"variant": variant, "build": SMALL_CHUNKS}
                routed_item(bed, name, algorithm, way, datatype, hidden, routes, **options)


def fused_items(bed: Bed, wanted: Callable[[str], bool]) -> None:
    """All-reduce and norm of rows of similar size; a matrix of +1 and -1 times tokens, with the
    all-reduce."""
    datatype = DATATYPES[QUANTIZED_DATATYPES[bed.seed % len(QUANTIZED_DATATYPES)]]
    # Registered, a single token is pulled, and others are summed directly.
    for variant, tokens in (
        ("copied", 3),
        ("registered", 1),
        ("registered", 9),
    ):
        if wanted(name := f"allreduce_rmsnorm {variant} {tokens}"):
            hidden, options = bed.draw.choice([31, 248, 1024]), {"variant": variant}
            norm_item(bed, name, datatype, tokens, hidden, build=SMALL_CHUNKS, **options)
    if wanted(name := "allreduce_rmsnorm push 3"):
        hidden = bed.draw.choice([31, 248, 1024])
        norm_item(bed, name, datatype, 3, hidden, form="fused_push", build=SMALL_CHUNKS)
    if wanted(name := "allreduce_rmsnorm stable 3"):  # of fp32 parts alone, not with three ranks
        hidden, parts = bed.draw.choice([31, 248, 1024]), DATATYPES["float32"]
        norm_item(bed, name, parts, 3, hidden, form=FUSED_STABLE, build=SMALL_CHUNKS)
    if wanted(name := "gemv_allreduce"):
        hidden, inner = (bed.draw.choice([64, 320]) for _ in range(2))
        gemv_item(bed, name, datatype, 1 + bed.seed % 8, hidden, inner)
    if wanted(name := "gemv_allreduce stable") and LEAVES % bed.ranks == 0:
        drawn_item(bed, name, datatype)


def link_items(bed: Bed, wanted: Callable[[str], bool]) -> None:
    """The kernels of bench.link, of the link's state and bound, and the probe of memory. Ranks meet
    before those that wait for nobody, as in a run."""
    ring = [[rank, (rank + 1) % bed.ranks] for rank in range(bed.ranks)]
    for entry, pairs in {
        "link_push": ring,
        "link_pull": ring,
        "link_local_copy": [[rank, rank] for rank in range(bed.ranks)],
    }.items():
        if wanted(name := f"link {entry}"):
            form = CollectiveCase(
                LINK, 0, DATATYPES["float32"], "none", 0, 0, shape={"pairs": pairs}
            )
            moved = Algorithm(entry, "moves a buffer between ranks", partial(bind_transfer, entry))
            plain_item(bed, name, moved, form)
    unchecked = {"link parts": part_steps, "link state": state_steps}
    for name, steps in unchecked.items():
        if wanted(name):
            addresses = zip(*(bed.buffers(8 << 10) for _ in range(2)), strict=True)
            bed.items[name] = [
                (steps(world, *at), None) for world, at in zip(bed.worlds, addresses, strict=True)
            ]
    for entry in ("show_stores", "show_reads", "show_later", "show_later_stores", "show_packets"):
        if wanted(name := f"link {entry}"):
            bed.items[name] = [probe_item(bed, world, entry) for world in bed.worlds]


def meeting(world: World) -> Step:
    return world.device.step("link_probe", "meet", world.mapped.arguments(), WT_WORLD=world.ranks)


def bind_transfer(entry: str, world: World, case: CollectiveCase) -> Operation:
    """A transfer of `case.count` elements between registered buffers, after all ranks have met."""
    arguments = world.mapped.arguments(case.send, case.receive, case.count)
    world.mapped.locate(case.send, arguments.sends)
    world.mapped.locate(case.receive, arguments.receives)
    sent = dict(case.shape["pairs"])
    received = {target: source for source, target in sent.items()}
    transfer = Transfer(arguments, sent[world.rank], received[world.rank])
    blocks = world.device.blocks_for(case.segment_bytes)
    step = world.device.step("link", entry, transfer, blocks, WT_WORLD=world.ranks)
    return Operation(world.device.sequence([meeting(world), step]))


def part_steps(world: World, send: int, receive: int) -> list[Step]:
    """The parts of a wire, which meet nobody: over this rank's own buffers."""
    arguments = world.mapped.arguments(count=15)
    arguments.sends[world.rank], arguments.receives[world.rank] = send, receive
    transfer = Transfer(arguments, world.rank, -1, 2 << 10)
    streams = "stores", "loads", "stores_and_loads"
    return [
        world.device.step("link_parts", f"link_{part}", transfer, WT_WORLD=world.ranks)
        for part in (*streams, "dependent_loads", "fenced_stores", "unfenced_stores")
    ]


def state_steps(world: World, send: int, receive: int) -> list[Step]:
    """Flags between pairs of ranks, then the parts of an all-reduce."""
    flags = world.mapped.arguments(receive=receive, count=40, chunk_bytes=1)
    data = world.mapped.arguments(send, receive, 1023, 2 << 10)
    own = world.mapped.arguments(send, receive, 1023)
    own.half_bytes = 0  # between the results of segments: here is one
    partner = partner if (partner := world.rank ^ 1) < world.ranks else -1
    step, meet = partial(world.device.step, WT_WORLD=world.ranks), meeting(world)
    return [
        step("link_probe", "flag_ping_pong", flags),
        meet,
        step("link", "link_ping_pong", Transfer(flags, partner, partner)),
        meet,
        step("link_probe", "copy_in", data),
        meet,
        step("link_probe", "read_peer", data),
        meet,
        step("link_probe", "push_out", data),
        meet,
        step("link_probe", "store_to_all", data),
        meet,
        step("link_probe", "read_from_all", data),
        meet,
        step("link_probe", "store_and_read_all", data),
        meet,
        *(step("link_probe", entry, own) for entry in ("read_own", "copy_local", "chain_link")),
        meet,
    ]


def probe_item(bed: Bed, world: World, entry: str) -> tuple[list[Step], Any]:
    """The probe's kernel, and its counts of what was old or wrong as one. `show_later` compares
    what the launch before has stored."""
    memory = bed.memory(4 * len(MEMORY_ACCESSES) * MOST_RANKS)
    bed.keep.append(memory)
    steps = [
        world.device.step(
            "memory_probe",
            entry,
            world.mapped.arguments(0, memory.address, rounds, PROBE_BYTES),
            world.device.blocks_for(PROBE_BYTES),
            WT_WORLD=world.ranks,
        )
        for rounds in ((0, 1, 1) if entry.startswith("show_later") else (3,))
    ]

    def total() -> Bytes:
        counts: Bytes = memory.read().view(np.uint32).sum(keepdims=True).view(np.uint8)
        return counts

    return steps, SimpleNamespace(read=total)


def open_bed(
    devices: Sequence[Device],
    seed: int,
    plant: str = "",
    timeout_s: float = 30.0,
    allocate: Callable[[int], Any] = ExactMemory,
    sharing: str = "threads",
    library: Any = None,
) -> Bed:
    """A rank in this process on each device; they map each other's slabs."""
    ranks = len(devices)
    slabs = [allocate(slab_bytes(device)) for device in devices]
    controls = [allocate(ctypes.sizeof(Control)) for _ in range(ranks)]
    worlds, gathering = list[World](), Gathering(ranks)
    for r, device in enumerate(devices):
        communicator: Any = SimpleNamespace(
            rank=r,
            size=ranks,
            hosts=1,
            all_gather=partial(gathering.all_gather, r),
            first_reason=partial(gathering.first_reason, r),
        )
        waits = WaitPolicy(device.watch(Watch()), True, timeout_s)
        own = allocate(ctypes.sizeof(Own))
        peers = PeerBuffer(communicator, device, slabs, controls, own, waits, sharing)
        peers.wire = WIRE
        set_epoch(peers, START_EPOCH)
        worlds.append(World(communicator, device, peers, library, waits.watch))
    return Bed(worlds, seed, random.Random(seed), plant)


def actions_of(bed: Bed, rank: int, order: list[str]) -> list[Action]:
    """All launches of a rank, each with the next iteration's data.

    All ranks meet first. Otherwise a rank could start after another rank had finished, with
    Python's locks between them.
    """
    peers = cast(PeerBuffer, bed.worlds[rank].peers)
    arguments = peers.arguments(0, 0, 0, 0)
    meet = peers.device.step("link_probe", "meet", arguments, WT_WORLD=bed.ranks)
    actions = [Action(meet)]
    for name in order:
        actions += [NEXT_ITERATION, *(Action(step) for step in bed.items[name][rank][0])]
    return actions


def run_in_threads(bed: Bed, order: list[str]) -> None:
    """Launches these items on every rank of a CPU, in this order, and waits for their end."""

    def run(rank: int, world: World) -> None:
        actions, idle = actions_of(bed, rank, order), nothing(world)
        world.device.run(actions, idle, Counts(1, 0), world.watch)

    threads = [threading.Thread(target=run, args=numbered) for numbered in enumerate(bed.worlds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(ranks: int, seed: int, plant: str, names: list[str]) -> None:
    FLAGS[FLAGS.index("-O3")] = (
        "-Og"  # compiles in a sixth of the time, and reports name the right lines
    )
    bed = open_bed([ExactDevice()] * ranks, seed, plant)
    for make in (plain_items, routed_items, fused_items, link_items):
        make(bed, lambda name: not names or any(name.startswith(prefix) for prefix in names))
    order = bed.draw.sample(
        [name for name in bed.items for _ in range(LAUNCHES)], LAUNCHES * len(bed.items)
    )
    run_in_threads(bed, order)
    report = {
        "items": len(bed.items),
        "launches": len(order),
        "wrong": {name: wrong for name in bed.items if (wrong := bed.wrong_elements(name))},
        "timed_out": any(world.watch.timed_out for world in bed.worlds),
    }
    print(json.dumps(report))


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
