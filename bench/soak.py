"""The soak: launches of everything mixed, back to back, each one checked, for as long as asked. It times nothing and
leaves no run.

A hand of launches has each algorithm with each type and operation once; its size, variant, alignment and place are
drawn. Ranks draw the same launches and each its own delays; now and then they meet, because the next launch's flag
makes good for one that was lost at the end of a launch. Every two seconds a new hand is dealt over the same buffers, so
that memory does not grow. The first has the smallest and the largest size of each, which compiles all there is to be.
"""

import ctypes
import math
import random
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.harness import verify
from bench.harness.iteration import in_one_place, nothing, on_device, pattern_of
from bench.harness.options import FINE, INTERRUPTED, WRONG
from bench.harness.run import opened
from bench.harness.watchdog import Flight
from collectives.algorithm import ALGORITHMS, asked_for
from collectives.allreduce_one_shot_ll import MOST_BYTES as MOST_PACKET_BYTES
from collectives.allreduce_two_shot_quantized import BLOCK
from collectives.collective import DATATYPES, REDOPS, Collective, Datatype, reason_against
from collectives.communicator import Communicator, Disagreement
from collectives.operation import (
    WRONG_BYTES,
    Algorithm,
    Case,
    DeviceError,
    Item,
    Memory,
    Operation,
    Step,
    Unsupported,
    Watch,
    World,
    Wrong,
    first_failure,
)
from collectives.peer_buffer import register, set_epoch
from reports.case import words_of

COUNTS = (1, 3, 17, 17, 255, 1023, 4099, 20011, 70001, 300007)
MOST_BYTES = 300007 * 8
ROOM_BYTES = 64 << 10  # of a buffer beyond the largest size: for an element a rank, whole blocks, and a shift
START_EPOCH = 2**32 - 1000
HAND_S = 2.0
SLICE_S = 0.05  # of launches, between which a stop is looked for
LAUNCHES_A_MEETING = 8


@dataclass(kw_only=True)
class Drawn(Item):
    """A launch that may be made: what it is in words, and what it points into. `keep` is closed with its hand."""

    bound: Operation
    text: str
    datatype: Datatype
    size_bytes: int
    wrong: Memory
    keep: list[Any]


def checked(world: World, watch: Watch, operation: Operation, sides: Sequence[tuple[int, int, int]],
            tables: Sequence[Any], datatype: Datatype, text: str = "", size_bytes: int = 0) -> Drawn:
    """An operation between the writing of what it reads and the check of what it leaves. `sides` are the two buffers:
    address, segments and the bytes of each; `tables` one period of what each segment holds, as stored."""
    wrong = world.device.private(WRONG_BYTES)
    held = [on_device(world, verify.repeated(table)) for table in tables]
    kernels = world.device.compile("iteration", {})
    prepare, check = (
        Step(kernels.kernel(name), pattern_of(datatype, *side, memory, wrong, watch), operation.step.blocks)
        for name, side, memory in zip(("write_pattern", "count_wrong"), sides, held, strict=True))
    return Drawn(prepare=prepare, operation=operation.step, check=check, bound=operation, text=text, datatype=datatype,
                 size_bytes=size_bytes, wrong=wrong, keep=[*held, wrong])


def draw_launch(world: World, watch: Watch, draw: random.Random, buffers: Sequence[Memory], what: Collective,
                algorithm: Algorithm, datatype: Datatype, redop: str, count: int, seed: int) -> Drawn | None:
    """A launch of so many elements a segment, in a shape, variant and place as drawn, over the registered buffers; None
    where the algorithm cannot. All ranks call it."""
    rank, ranks = world.communicator.rank, world.communicator.size
    shape, variant = draw.choice(what.shapes), draw.choice(algorithm.variants(world))
    in_place = draw.random() < 0.3 and what.no_place is None
    shifts = draw.choice([0, 1, 3]) * datatype.size_bytes, draw.choice([0, 1]) * datatype.size_bytes
    send, receive = (buffer.address + shift for buffer, shift in zip(buffers, shifts, strict=True))
    if algorithm.lossy:
        count = -(-count // BLOCK) * BLOCK
    if in_place:
        send, receive = in_one_place(what, receive, count * datatype.size_bytes, rank)
    case = Case(what, count, datatype, redop, send, receive, in_place, variant, shape)
    with world.communicator.together(DeviceError):
        operation = algorithm.bind(world, case)
        if isinstance(operation, Unsupported):  # in place and registered, or too long for packets
            most = MOST_PACKET_BYTES // datatype.size_bytes
            case = replace(case, variant="copied", count=min(count, most) if algorithm.name == "one_shot_ll" else count)
            operation = algorithm.bind(world, case)
        if isinstance(operation, Unsupported):
            return None
        sends, receives = what.segments(ranks)
        values = verify.sent(what, datatype, redop, ranks, seed)
        result = verify.received(what, shape, datatype, redop, ranks, seed, operation.summed)
        gets = receives * what.receives(shape, rank, ranks)
        size_bytes = case.segment_bytes * (ranks if what.cut else 1)
        replay = world.graph and draw.random() < 0.5
        operation = replace(operation, step=world.device.replayed(operation.step)) if replay else operation
        text = " ".join([what.name, algorithm.name, case.variant, *map(str, shape.values()), datatype.name, redop,
                         f"{size_bytes} B", *["in place"] * in_place, *["in a graph"] * replay])
        sides = (send, sends, case.segment_bytes), (receive, gets, case.segment_bytes)
        tables = datatype.encode(values)[rank], result[rank]
        return checked(world, watch, operation, sides, tables, datatype, text, size_bytes)


def draw_count(draw: random.Random, least: int, most: int) -> int:
    """So many elements at least and at most: known to be awkward ones, or any."""
    awkward = [count for count in COUNTS if least <= count <= most]
    if awkward and draw.random() < 0.5:
        return draw.choice(awkward)
    return round(math.exp(draw.uniform(math.log(least), math.log(most))))


def types_and_operations(draw: random.Random, datatype: str | None, redop: str | None,
                         reduces: bool) -> list[tuple[Datatype, str]]:
    """Each type and each operation at least once, of those asked for; not all pairs, each of which is a kernel to be
    compiled, for of the protocol nothing depends on them."""
    types = [DATATYPES[datatype]] if datatype else draw.sample(list(DATATYPES.values()), len(DATATYPES))
    redops = ["none"] if not reduces else [redop] if redop else draw.sample(REDOPS, len(REDOPS))
    pairs = [(types[i % len(types)], redops[i % len(redops)]) for i in range(max(len(types), len(redops)))]
    return [(kind, "max" if reason_against(kind, how) and not redop else how) for kind, how in pairs
            if not (reason_against(kind, how) and redop)]


def soak(options: Namespace, communicator: Communicator, flight: Flight) -> int:
    """Runs the soak and prints what came of it; returns the exit status, the same on every rank. Raises Disagreement
    where this machine cannot."""
    world, _, _ = opened(options, communicator, flight)
    peers = world.peers
    if isinstance(peers, Unsupported):
        raise Disagreement(f"--soak: {peers.reason}")
    world = replace(world, graph=world.device.reason_against_graphs() is None)
    what, ranks, draw = options.collective, communicator.size, random.Random(options.seed)
    least, most = options.minbytes or 1, options.maxbytes or max(MOST_BYTES, options.minbytes or 0)
    algorithms = [algorithm for algorithm in asked_for(ALGORITHMS[what.name], options.algorithm,
                                                       options.lossy is not None)
                  if options.algorithm or algorithm.name != "library"]
    pairs = types_and_operations(draw, options.datatype, vars(options).get("op"), what.reduces)
    buffers = [register(communicator, world.device, peers, most + ROOM_BYTES) for _ in range(2)]
    drawn_from = "; ".join([
        ", ".join(algorithm.name for algorithm in algorithms), ", ".join(f"{kind.name} {how}" for kind, how in pairs),
        f"{least} to {most} B", "copied and registered, in place and not, shifted by 0 to 3 elements",
        f"{'half of them in graphs, ' * world.graph}each rank late by up to {5 if world.clock_shared else 2000} us"])
    told = (f"soak of {what.name} for {options.soak} s on {ranks} ranks ({world.device.name}, {peers.kind}), seed "
            f"{options.seed}, from epoch {START_EPOCH} on: {drawn_from}")
    if communicator.rank == 0:
        print(told, flush=True)

    def deal(counts: Callable[[int, int], Sequence[int]]) -> list[Drawn]:
        hand = []
        for algorithm in algorithms:
            for kind, how in pairs:
                flight.note("compile", block=None, text=f"{algorithm.name} {kind.name} {how}")
                floor = max(1, what.count(least, ranks, kind))
                for count in counts(floor, max(floor, what.count(most, ranks, kind))):
                    if found := draw_launch(world, flight.watch, draw, buffers, what, algorithm, kind, how, count,
                                            options.seed):
                        hand.append(found)
        return hand

    hand = deal(lambda floor, ceiling: (floor, ceiling))
    if not hand:
        raise Disagreement("--soak: none of these algorithms can do that here")
    return play(options, world, flight, hand, lambda: deal(lambda floor, ceiling: [draw_count(draw, floor, ceiling)]))


def play(options: Namespace, world: World, flight: Flight, hand: list[Drawn], deal: Callable[[], list[Drawn]]) -> int:
    """Launches hand after hand, until the time is up, an element is wrong, or somebody interrupts. Raises
    DeviceError, on all ranks, with the sentence of a library that failed."""
    communicator, device, watch, peers = world.communicator, world.device, flight.watch, world.peers
    assert not isinstance(peers, Unsupported)
    idle = nothing(world, watch)
    meet = Step(device.compile("link_probe", {"WORLD": str(communicator.size)}).kernel("meet"),
                peers.arguments(0, 0, 0, 0))
    communicator.barrier()
    set_epoch(peers, START_EPOCH)
    communicator.barrier()
    draws = (ctypes.c_uint64 * 2)(options.seed * 2 + 1, options.seed * 1000 + communicator.rank + 1)
    begun_s = dealt_s = communicator.broadcast(time.monotonic())  # one clock decides for all ranks
    launches, moved_bytes, wrong_elements, share, hands = 0, 0, 0, 16, 1
    while True:
        meetings = [Item(prepare=idle, operation=meet, check=idle) for _ in range(1 + len(hand) // LAUNCHES_A_MEETING)]
        items = [*hand, *meetings]
        flight.note("soak", block=hands, text=f"{launches} launches")
        slice_s = time.monotonic()
        device.mix(items, share, draws, watch)
        slice_s = time.monotonic() - slice_s
        if watch.timed_out:
            flight.timed_out(items[watch.calls].text if watch.calls < len(hand) else "a meeting")
        launches += sum(item.launches for item in hand)
        moved_bytes += sum(item.launches * item.size_bytes for item in hand)
        for item in hand:
            item.launches = 0
        found = [(n, Wrong.from_buffer_copy(bytes(item.wrong.read()))) for n, item in enumerate(hand)]
        said = communicator.all_gather((flight.interrupted_s is not None, slice_s, time.monotonic(),
                                        [(its.iteration, n, its) for n, its in found if its.elements]))
        _, slice_s, now_s, _ = said[0]
        failures = communicator.all_gather(first_failure([item.bound for item in hand]))
        if failed := next((f"rank {rank}: {failure}" for rank, failure in enumerate(failures) if failure), None):
            raise DeviceError(failed)
        wrong = sorted((at, rank, n) for rank, (_, _, _, its) in enumerate(said) for at, n, _ in its)
        is_over = now_s - begun_s >= options.soak
        if wrong or is_over or any(word[0] for word in said):
            break
        share = max(1, min(2 * share, int(share * SLICE_S / slice_s)))
        if communicator.rank == 0 and sys.stderr.isatty():
            progress = f"\r{now_s - begun_s:.0f} s of {options.soak} s, {launches} launches "
            print(progress, end="", file=sys.stderr, flush=True)
        if now_s - dealt_s >= HAND_S:
            for memory in [memory for item in hand for memory in item.keep]:
                memory.close()
            hand, dealt_s, hands = deal(), now_s, hands + 1
    wrong_elements = sum(its.elements for _, _, _, found_there in said for _, _, its in found_there)
    epoch = int(peers.own.read()[:4].view(np.uint32)[0])
    passed = " past 2^32" * (epoch < START_EPOCH)
    if communicator.rank == 0:
        print(f"soak: {launches} launches in {now_s - begun_s:.0f} s, {moved_bytes / 1e9:.2f} GB of messages, "
              f"{wrong_elements} wrong elements; {hands} hands, and the epoch went{passed} to {epoch}", flush=True)
    if wrong:
        at, first, n = wrong[0]
        of_all = [next((its for _, m, its in theirs if m == n), Wrong()) if rank == first else Wrong()
                  for rank, (_, _, _, theirs) in enumerate(said)]
        located = verify.first_wrong(of_all, hand[n].datatype)
        assert located
        if communicator.rank == 0:
            print(f"wiretax: {hand[n].text}, launch {at}: {words_of(located)}", file=sys.stderr, flush=True)
        return WRONG
    return FINE if is_over else INTERRUPTED
