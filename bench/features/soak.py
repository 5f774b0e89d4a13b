"""The soak: checked launches of everything mixed, back to back. It times nothing and keeps no run.

A hand of launches holds each algorithm with each datatype and operation once; size, variant,
alignment and place are drawn. Ranks draw the same launches, and each its own delays. Now and then
they meet, because the next launch's flag would repair a flag that was lost at the end of a launch.
Every two seconds a new hand is dealt over the same buffers, so that memory does not grow. The first
hand holds the smallest and the largest size of each, which compiles everything.

`soak_options` starts it.
"""

import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.harness import verify
from bench.harness.iteration import (
    PatternSteps,
    Segments,
    in_one_place,
    loop_kernels,
    nothing,
    pattern_steps,
)
from bench.harness.options import FINE, INTERRUPTED, WRONG, print_out
from bench.harness.session import Session
from collectives.algorithm import ALGORITHMS, default_names, selected
from collectives.allreduce_one_shot_ll import MOST_BYTES as MOST_PACKET_BYTES
from collectives.collective import DATATYPES, REDOPS, Collective, Datatype, reason_against
from collectives.communicator import Disagreement
from collectives.operation import Algorithm, Case, Operation, Unsupported, World, first_failure
from collectives.peer_buffer import PeerBuffer, register, set_epoch
from kernels.devices.device import (
    NEXT_ITERATION,
    Action,
    Arguments,
    Counts,
    DeviceError,
    Memory,
    Phase,
    Step,
    Wrong,
)
from reports.case import words_of

COUNTS = (1, 3, 17, 17, 255, 1023, 4099, 20011, 70001, 300007)  # awkward ones
MOST_BYTES = 300007 * 8
MARGIN_BYTES = 64 << 10  # of a buffer: an element a rank, whole blocks, and a shift
QUANTIZED_BLOCK = 32
START_EPOCH = 2**32 - 1000
HAND_S = 2.0
SLICE_S = 0.05  # of launches, between looks for a stop
FIRST_LAUNCHES = 16  # of a slice; later slices fit SLICE_S
LAUNCHES_A_PROGRAM = 400  # then the program repeats: Python draws more slowly than a CPU launches
LAUNCHES_A_MEETING = 8
DELAYS = 64  # that each rank draws from


@dataclass(frozen=True)
class SoakOptions:
    """None stands for every datatype or operation, and for the soak's own sizes."""

    collective: Collective
    time_s: float
    smallest: int | None = None
    largest: int | None = None
    datatype: str | None = None
    redop: str | None = None
    algorithms: tuple[str, ...] | None = None


@dataclass
class Launch:
    """A launch that the soak may make: its operation between the steps that write its input and
    check its result."""

    operation: Operation
    steps: PatternSteps
    text: str
    datatype: Datatype
    size_bytes: int

    def actions(self, delay: Step) -> list[Action]:
        return [NEXT_ITERATION, Action(self.steps.write, Phase.PREPARE), Action(delay, Phase.MEET),
                Action(self.operation.step, Phase.OPERATION), Action(self.steps.check, Phase.CHECK)]

    def wrong(self) -> Wrong:
        return Wrong.from_buffer_copy(bytes(self.steps.wrong.read()))


def types_and_operations(draw: random.Random, soak: SoakOptions) -> list[tuple[Datatype, str]]:
    """Every requested datatype and operation at least once. Not all pairs: each compiles a kernel,
    and the protocol does not depend on them."""
    types = [DATATYPES[soak.datatype]] if soak.datatype else list(DATATYPES.values())
    redops = ["none"]
    if soak.collective.reduces:
        redops = [soak.redop] if soak.redop else list(REDOPS)
    types, redops = draw.sample(types, len(types)), draw.sample(redops, len(redops))
    pairs = [(types[i % len(types)], redops[i % len(redops)])
             for i in range(max(len(types), len(redops)))]
    if soak.redop:
        return [(kind, redop) for kind, redop in pairs if not reason_against(kind, redop)]
    return [(kind, "max" if reason_against(kind, redop) else redop) for kind, redop in pairs]


def draw_count(draw: random.Random, least: int, most: int) -> int:
    """A number of elements: an awkward one, or any."""
    awkward = [count for count in COUNTS if least <= count <= most]
    if awkward and draw.random() < 0.5:
        return draw.choice(awkward)
    return round(math.exp(draw.uniform(math.log(least), math.log(most))))


def delay_steps(world: World, draw: random.Random) -> list[Step]:
    """Steps that make a rank late: on a CPU mostly by less than a flag's round trip; on a GPU, with
    its longer launches, seldom and by more."""
    late = loop_kernels(world).kernel("come_late")
    steps = []
    for _ in range(DELAYS):
        if world.clock_shared:
            delay_ns = draw.randrange(300 if draw.random() < 0.75 else 5000)
        else:
            delay_ns = draw.randrange(2_000_000) if draw.random() < 0.05 else 0
        steps.append(Step(late, Arguments(timeout_ns=delay_ns)))
    return steps


def soak(soak: SoakOptions, session: Session) -> int:
    """Runs the soak and prints its result; returns the exit status, the same on every rank. Raises
    Disagreement if this machine cannot."""
    world, communicator, peers = session.world, session.communicator, session.world.peers
    if isinstance(peers, Unsupported):
        raise Disagreement(f"--soak: {peers.reason}")
    session.world = world = replace(world, graph=world.device.reason_against_graphs() is None)
    least, most = soak.smallest or 1, soak.largest or max(MOST_BYTES, soak.smallest or 0)
    buffers = [register(communicator, world.device, peers, most + MARGIN_BYTES) for _ in range(2)]
    names = soak.algorithms or [name for name in default_names(soak.collective.name)
                                if name != "library"]
    dealer = Dealer(session, soak, random.Random(session.options.seed), buffers, (least, most),
                    selected(ALGORITHMS[soak.collective.name], names))
    if communicator.rank == 0:
        print_out(f"{dealer.description()}\n")
    hand = dealer.deal(lambda floor, ceiling: (floor, ceiling))
    if not hand:
        raise Disagreement("--soak: none of these algorithms can do that here")
    return play(session, soak, dealer, hand)


class Dealer:
    """Draws launches over the same buffers; all ranks draw alike."""

    def __init__(self, session: Session, soak: SoakOptions, draw: random.Random,
                 buffers: Sequence[Memory], sizes: tuple[int, int],
                 algorithms: Sequence[Algorithm]) -> None:
        self.session, self.soak, self.draw = session, soak, draw
        self.buffers, self.sizes, self.algorithms = buffers, sizes, algorithms
        self.pairs = types_and_operations(draw, soak)

    def description(self) -> str:
        world, peers = self.session.world, self.session.world.peers
        assert isinstance(peers, PeerBuffer)
        pairs = ", ".join(f"{datatype.name} {redop}" for datatype, redop in self.pairs)
        delay_us = 5 if world.clock_shared else 2000
        graphs = "half of them in graphs, " if world.graph else ""
        return (f"soak of {self.soak.collective.name} for {self.soak.time_s:g} s on "
                f"{world.communicator.size} ranks ({world.device.name}, {peers.kind}), seed "
                f"{self.session.options.seed}, from epoch {START_EPOCH} on: "
                f"{', '.join(algorithm.name for algorithm in self.algorithms)}; {pairs}; "
                f"{self.sizes[0]} to {self.sizes[1]} B; copied and registered, in place and not, "
                f"shifted by 0 to 3 elements; {graphs}each rank late by up to {delay_us} us")

    def deal(self, counts: Callable[[int, int], Sequence[int]]) -> list[Launch]:
        """A hand: every algorithm with every pair, in the element counts that `counts(least, most)`
        returns. Raises Disagreement."""
        ranks, collective = self.session.communicator.size, self.soak.collective
        hand = []
        for algorithm in self.algorithms:
            for datatype, redop in self.pairs:
                name = f"{algorithm.name} {datatype.name} {redop}"
                self.session.flight.note("compile", block=None, text=name)
                least = max(1, collective.count(self.sizes[0], ranks, datatype))
                most = max(least, collective.count(self.sizes[1], ranks, datatype))
                for count in counts(least, most):
                    if launch := self.launch(algorithm, datatype, redop, count):
                        hand.append(launch)
        return hand

    def case(self, algorithm: Algorithm, datatype: Datatype, redop: str, count: int) -> Case:
        """A case with shape, variant, alignment and place as drawn."""
        draw, collective, rank = self.draw, self.soak.collective, self.session.communicator.rank
        shape = draw.choice(collective.shapes)
        variant = draw.choice(algorithm.variants(self.session.world))
        in_place = draw.random() < 0.3 and collective.no_place is None
        shifts = draw.choice([0, 1, 3]), draw.choice([0, 1])
        send, receive = (buffer.address + shift * datatype.size_bytes
                         for buffer, shift in zip(self.buffers, shifts, strict=True))
        if in_place:
            send, receive = in_one_place(collective, receive, count * datatype.size_bytes, rank)
        return Case(collective, count, datatype, redop, send, receive, in_place, variant, shape)

    def launch(self, algorithm: Algorithm, datatype: Datatype, redop: str,
               count: int) -> Launch | None:
        """A launch as drawn; None where the algorithm cannot. All ranks call it. Raises
        Disagreement."""
        world = self.session.world
        base = algorithm.name.partition("+")[0]
        if base not in default_names(self.soak.collective.name):  # quantised
            count = -(-count // QUANTIZED_BLOCK) * QUANTIZED_BLOCK
        case = self.case(algorithm, datatype, redop, count)
        with world.communicator.together(DeviceError):
            operation = algorithm.bind(world, case)
            if isinstance(operation, Unsupported):  # registered in place, or too long for packets
                if base == "one_shot_ll":
                    count = min(count, MOST_PACKET_BYTES // datatype.size_bytes)
                case = replace(case, variant="copied", count=count)
                operation = algorithm.bind(world, case)
            if isinstance(operation, Unsupported):
                return None
            replay = world.graph and self.draw.random() < 0.5
            if replay:
                operation = replace(operation, step=world.device.replayed(operation.step))
            return self.checked(algorithm, case, operation, replay)

    def checked(self, algorithm: Algorithm, case: Case, operation: Operation,
                replay: bool) -> Launch:
        """The launch with its data and its check."""
        world, collective = self.session.world, self.soak.collective
        rank, ranks = world.communicator.rank, world.communicator.size
        data = verify.Data(collective, case.datatype, case.redop, ranks, self.session.options.seed)
        result = data.received(case.shape, operation.expected_sum)
        receives = collective.segments(ranks)[1] * collective.receives(case.shape, rank, ranks)
        steps = pattern_steps(
            world, self.session.flight.watch, case.datatype,
            Segments(case.send, case.segment_bytes, case.datatype.encode(data.sent())[rank]),
            Segments(case.receive, case.segment_bytes, result[rank][:receives]))
        size_bytes = case.segment_bytes * (ranks if collective.cut else 1)
        words = [collective.name, algorithm.name, case.variant, *map(str, case.shape.values()),
                 case.datatype.name, case.redop, f"{size_bytes} B"]
        words += ["in place"] * case.in_place + ["in a graph"] * replay
        return Launch(operation, steps, " ".join(words), case.datatype, size_bytes)


class Player:
    """Plays random programs of launches, each rank with its own delays."""

    def __init__(self, session: Session) -> None:
        self.session, seed = session, session.options.seed
        self.order = random.Random(seed)  # alike on all ranks
        self.delays = random.Random(seed * 1000 + session.communicator.rank + 1)
        self.delay_steps = delay_steps(session.world, self.delays)
        self.idle, self.meet = nothing(session.world, session.flight.watch), session.meet
        self.launches, self.moved_bytes, self.slice_launches = 0, 0, FIRST_LAUNCHES

    def play(self, hand: list[Launch]) -> float:
        """Plays a slice of launches of the hand; returns rank 0's clock in seconds. A wait that
        timed out ends the process."""
        length = min(self.slice_launches, LAUNCHES_A_PROGRAM)
        counts = Counts(self.slice_launches // length, 0)
        program, actions = self.program(hand, length)
        flight, communicator = self.session.flight, self.session.communicator
        before, start_s = flight.watch.iteration, time.monotonic()
        self.session.world.device.run(actions, self.idle, counts, flight.watch)
        if flight.watch.timed_out:
            launch = program[(flight.watch.iteration - before - 1) % length]
            flight.timed_out(launch.text if launch else "a meeting")
        launched = [launch for launch in program if launch]
        self.launches += counts.warmup * len(launched)
        self.moved_bytes += counts.warmup * sum(launch.size_bytes for launch in launched)
        now_s = time.monotonic()
        now_s, slice_s = communicator.broadcast((now_s, now_s - start_s))
        played = counts.warmup * length
        self.slice_launches = max(1, min(2 * played, int(played * SLICE_S / slice_s)))
        return float(now_s)

    def program(self, hand: list[Launch], length: int) -> tuple[list[Launch | None], list[Action]]:
        """A random sequence of launches, None for a meeting, and its actions."""
        choices = [*hand, *[None] * (1 + len(hand) // LAUNCHES_A_MEETING)]
        program = self.order.choices(choices, k=length)
        actions: list[Action] = []
        for launch in program:
            delay = self.delays.choice(self.delay_steps)
            actions += launch.actions(delay) if launch else [NEXT_ITERATION,
                                                             Action(self.meet, Phase.MEET)]
        return program, actions


def play(session: Session, soak: SoakOptions, dealer: Dealer, hand: list[Launch]) -> int:
    """Plays hand after hand until the time is up, an element is wrong or somebody interrupts.
    Raises DeviceError, on all ranks, with the sentence of a library that failed."""
    communicator, flight, peers = session.communicator, session.flight, session.world.peers
    assert isinstance(peers, PeerBuffer)
    player, hands = Player(session), 1
    communicator.barrier()
    set_epoch(peers, START_EPOCH)
    communicator.barrier()
    begun_s = dealt_s = communicator.broadcast(time.monotonic())  # rank 0's clock decides
    while True:
        flight.note("soak", block=hands, text=f"{player.launches} launches")
        now_s = player.play(hand)
        wrongs = {number: wrong for number, launch in enumerate(hand)
                  if (wrong := launch.wrong()).elements}
        failure = first_failure([launch.operation for launch in hand])
        votes = communicator.all_gather((flight.interrupted_s is not None, wrongs, failure))
        for rank, (_, _, sentence) in enumerate(votes):
            if sentence:
                raise DeviceError(f"rank {rank}: {sentence}")
        is_over = now_s - begun_s >= soak.time_s
        wrong_by_rank = [vote[1] for vote in votes]
        if is_over or any(wrong_by_rank) or any(vote[0] for vote in votes):
            break
        if communicator.rank == 0 and sys.stderr.isatty():
            print(f"\r{now_s - begun_s:.0f} s of {soak.time_s:g} s, {player.launches} launches ",
                  end="", file=sys.stderr, flush=True)
        if now_s - dealt_s >= HAND_S:
            for memory in [memory for launch in hand for memory in launch.steps.keep]:
                memory.close()
            hand = dealer.deal(lambda least, most: [draw_count(dealer.draw, least, most)])
            dealt_s, hands = now_s, hands + 1
    wrong_elements = sum(wrong.elements for wrongs in wrong_by_rank for wrong in wrongs.values())
    epoch = int(peers.own.read()[:4].view(np.uint32)[0])
    passed = " past 2^32" * (epoch < START_EPOCH)
    if communicator.rank == 0:
        print_out(f"soak: {player.launches} launches in {now_s - begun_s:.0f} s, "
                  f"{player.moved_bytes / 1e9:.2f} GB of messages, {wrong_elements} wrong elements;"
                  f" {hands} hands, and the epoch went{passed} to {epoch}\n")
    if wrong_elements:
        name_first_wrong(session, hand, wrong_by_rank)
        return WRONG
    return FINE if is_over else INTERRUPTED


def name_first_wrong(session: Session, hand: list[Launch],
                     wrong_by_rank: Sequence[dict[int, Wrong]]) -> None:
    """Names the earliest wrong launch, with its element, on rank 0's standard error."""
    iteration, rank, number = min(
        (wrong.iteration, rank, number) for rank, wrongs in enumerate(wrong_by_rank)
        for number, wrong in wrongs.items())
    counts = [Wrong() for _ in wrong_by_rank]
    counts[rank] = wrong_by_rank[rank][number]
    located = verify.first_wrong(counts, hand[number].datatype)
    assert located
    if session.communicator.rank == 0:
        print(f"wiretax: {hand[number].text}, launch {iteration}: {words_of(located)}",
              file=sys.stderr, flush=True)
