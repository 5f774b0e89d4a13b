"""Launches random mixtures for hours and checks every result: `mpirun -n 2 python -m bench.soak`

It times nothing and keeps no run. A batch of launches holds each algorithm with each datatype and
operation once; size, variant, alignment and place are drawn. Ranks draw the same launches, and each
its own delays. Now and then they meet: the next launch's flag would repair a flag that was lost at
the end of a launch. Between slices a launch repeats with its epoch set forward: what the first one
left, flags or packets, must not pass for new. Every two seconds a new batch is drawn over the same
buffers; the first one compiles everything."""

import argparse
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice, product
from typing import NoReturn

import numpy as np

from bench.harness import options, verify
from bench.harness.console import FINE, INTERRUPTED, WRONG, print_out
from bench.harness.iteration import Buffers, Iteration, case_iteration, come_late, nothing
from bench.harness.options import Parser
from bench.harness.session import Session, require_memory, start
from collectives.binding import first_failure
from collectives.collective import COLLECTIVES, DATATYPES, REDOPS, Collective, Datatype
from collectives.communicator import Refusal
from collectives.operation import Algorithm, CollectiveCase, Unsupported, World
from collectives.peer_buffer import PeerBuffer, set_epoch, skip_launches
from collectives.registry import ALGORITHMS, exact
from kernels.devices.device import (
    NEXT_ITERATION,
    PACK_BYTES,
    Action,
    Counts,
    DeviceError,
    Phase,
    Step,
    Wrong,
)
from reports.store.program import on_ranks
from reports.store.wrong import describe_wrong

MOST_BYTES = 300007 * 8
COUNTS = (1, 3, 17, 17, 255, 1023, 4099, 20011, 70001, 300007)  # awkward ones
MARGIN_BYTES = 64 << 10  # of a buffer: an element a rank, whole blocks, and a shift
LAUNCHES_TO_WRAP = 1000
START_EPOCH = 2**32 - LAUNCHES_TO_WRAP
# Epochs from a launch to its repetition: where marks of 8, 16 and 31 bits and the sign of a
# difference would err. An epoch returns after 2^32 launches, or 65,536 repetitions at 2^16.
AGES = 2**8, 2**16, 2**31, 2**31 + 1
BATCH_S = 2.0
SLICE_S = 0.05  # of launches, between looks for a stop
FIRST_LAUNCHES = 16  # of a slice; later slices fit SLICE_S
LAUNCHES_A_PROGRAM = 400  # then the program repeats: Python draws more slowly than a CPU launches
LAUNCHES_A_MEETING = 8
DELAYS = 64  # that each rank draws from


@dataclass(frozen=True)
class SoakOptions:
    """What to soak, in sizes from `smallest` to `largest` bytes; without `algorithms` all
    of ours for these hosts but lossy ones."""

    collective: Collective
    time_s: float
    smallest: int
    largest: int
    datatypes: Sequence[Datatype]
    redops: Sequence[str]
    algorithms: Sequence[Algorithm]


@dataclass
class SoakLaunch:
    """A launch that the soak may make, with the steps that write its input and check its result."""

    case: CollectiveCase
    iteration: Iteration
    algorithm: str = ""

    def actions(self, delay: Step) -> list[Action]:
        iteration = self.iteration
        return [
            NEXT_ITERATION,
            Action(iteration.prepare, Phase.PREPARE),
            Action(delay, Phase.MEET),
            Action(iteration.operation.step, Phase.OPERATION),
            Action(iteration.check, Phase.CHECK),
        ]

    def wrong(self) -> Wrong:
        assert self.iteration.wrong
        return Wrong.from_buffer_copy(bytes(self.iteration.wrong.read()))

    def close(self) -> None:
        """Frees the data, but not the buffers."""
        for memory in self.iteration.keep:
            if not isinstance(memory, Buffers):
                memory.close()


def types_and_operations(draw: random.Random, soak: SoakOptions) -> list[tuple[Datatype, str]]:
    """Every requested datatype and operation at least once; each further pair would compile."""
    types = draw.sample(soak.datatypes, len(soak.datatypes))
    redops = draw.sample(soak.redops, len(soak.redops))
    return [*islice(zip(cycle(types), cycle(redops)), max(len(types), len(redops)))]


def draw_count(draw: random.Random, least: int, most: int, whole: int) -> int:
    """A number of elements: an awkward one, any, or one more than a multiple of `whole`."""
    awkward = [count for count in COUNTS if least <= count <= most]
    if awkward and draw.random() < 0.5:
        return draw.choice(awkward)
    count = round(math.exp(draw.uniform(math.log(least), math.log(most))))
    return max(least, (count - 1) // whole * whole + 1) if draw.random() < 0.5 else count


def delay_steps(world: World, draw: random.Random) -> list[Step]:
    """Delays of a rank: on a CPU mostly below a flag's round trip; on a GPU seldom, and longer."""
    steps = []
    for _ in range(DELAYS):
        if world.device.is_cpu:
            delay_ns = draw.randrange(300 if draw.random() < 0.75 else 5000)
        else:
            delay_ns = draw.randrange(2_000_000) if draw.random() < 0.05 else 0
        steps.append(come_late(world, delay_ns))
    return steps


class Sampler:
    """Draws launches over the same buffers; all ranks draw alike."""

    def __init__(
        self, session: Session, soak: SoakOptions, draw: random.Random, buffers: Buffers
    ) -> None:
        self.session, self.soak, self.draw, self.buffers = session, soak, draw, buffers
        every = exact(soak.collective.name, session.communicator.hosts)
        self.algorithms = soak.algorithms or every
        self.pairs = types_and_operations(draw, soak)

    def sample(self, is_first: bool = False) -> list[SoakLaunch]:
        """A batch: every algorithm with every pair. Raises Refusal."""
        ranks, soak = self.session.communicator.size, self.soak
        batch = []
        for algorithm, (datatype, redop) in product(self.algorithms, self.pairs):
            name = f"{algorithm.name} {datatype.name} {redop}"
            self.session.flight.note("compile", block=None, text=name)
            least = max(1, soak.collective.count(soak.smallest, ranks, datatype))
            most = max(least, soak.collective.count(soak.largest, ranks, datatype))
            whole = ranks * PACK_BYTES // datatype.size_bytes  # packs on every rank
            drawn = draw_count(self.draw, least, most, whole)
            counts = (least, most) if is_first else (drawn,)
            batch += [self.launch(algorithm, datatype, redop, count) for count in counts]
        return [launch for launch in batch if launch]

    def case(
        self, algorithm: Algorithm, datatype: Datatype, redop: str, count: int
    ) -> CollectiveCase:
        """A case with shape, variant, alignment and place as drawn."""
        draw, collective, communicator = self.draw, self.soak.collective, self.session.communicator
        shape = draw.choice(collective.shapes)
        variant = draw.choice(algorithm.variants_in(self.session.world))
        in_place = draw.random() < 0.3 and collective.no_place is None
        send_shift, receive_shift = draw.choice([0, 1, 3]), draw.choice([0, 1])
        if in_place:
            send_shift = receive_shift
        size = datatype.size_bytes
        case = CollectiveCase(
            collective,
            count,
            datatype,
            redop,
            0,
            0,
            in_place,
            variant=variant,
            shape=shape,
            size_bytes=count * size * (communicator.size if collective.cut else 1),
        )
        case = self.buffers.place(self.session.world, case)
        return replace(
            case, send=case.send + send_shift * size, receive=case.receive + receive_shift * size
        )

    def launch(
        self, algorithm: Algorithm, datatype: Datatype, redop: str, count: int
    ) -> SoakLaunch | None:
        """As drawn; None where the algorithm cannot. All ranks call it. Raises Refusal."""
        world = self.session.world
        most = algorithm.limits.most(world.ranks) / datatype.size_bytes
        count = int(min(count, most))
        count = -(-count // algorithm.limits.whole_elements) * algorithm.limits.whole_elements
        case = self.case(algorithm, datatype, redop, count)
        with world.communicator.all_or_none():
            operation = algorithm.bind(world, case)
            if isinstance(operation, Unsupported):  # registered in place
                case = replace(case, variant="copied")
                operation = algorithm.bind(world, case)
            if isinstance(operation, Unsupported):
                return None
            is_replay = world.graph and self.draw.random() < 0.5
            if is_replay:
                operation = replace(operation, step=world.device.replayed(operation.step))
            iteration = case_iteration(world, self.buffers, case, operation, 0)
        words = [
            case.collective.name,
            algorithm.name,
            case.variant,
            *map(str, case.shape.values()),
            datatype.name,
            redop,
            f"{case.size_bytes} B",
        ]
        if case.in_place:
            words.append("in place")
        if is_replay:
            words.append("in a graph")
        iteration.text = " ".join(words)
        return SoakLaunch(case, iteration, algorithm.name)


class Runner:
    """Runs random programs of launches, each rank with its own delays."""

    def __init__(self, session: Session) -> None:
        self.session, seed = session, session.options.seed
        self.order = random.Random(seed)  # alike on all ranks
        self.delays = random.Random(seed * 1000 + session.communicator.rank + 1)
        self.delay_steps = delay_steps(session.world, self.delays)
        self.idle = nothing(session.world)
        self.launches = Counter[str]()  # by algorithm
        self.slice_launches = FIRST_LAUNCHES

    def run(self, batch: list[SoakLaunch]) -> float:
        """Runs a slice of launches; returns rank 0's clock in seconds. A timeout ends the run."""
        length = min(self.slice_launches, LAUNCHES_A_PROGRAM)
        repeats, start_s = self.slice_launches // length, time.monotonic()
        self.perform(self.order.choices(batch, k=length), repeats)
        launched = repeats * length
        now_s = time.monotonic()
        now_s, slice_s = self.session.communicator.broadcast((now_s, now_s - start_s))
        self.slice_launches = max(1, min(2 * launched, int(launched * SLICE_S / slice_s)))
        return float(now_s)

    def repeat_aged(self, batch: list[SoakLaunch], peers: PeerBuffer) -> None:
        """Makes a launch twice, with one of AGES between. A timeout ends the run."""
        again = [self.order.choice(batch)]
        self.perform(again)
        self.session.communicator.barrier()
        skip_launches(peers, self.order.choice(AGES) - 1)
        self.perform(again)

    def perform(self, program: list[SoakLaunch], repeats: int = 1) -> None:
        """Makes these launches. A timeout ends the run."""
        actions: list[Action] = []
        for launch in program:
            actions += launch.actions(self.delays.choice(self.delay_steps))
            if self.order.randrange(LAUNCHES_A_MEETING) == 0:
                actions.append(Action(self.session.meet, Phase.MEET))
        watch = self.session.flight.watch
        before = watch.iteration
        self.session.world.device.run(actions, self.idle, Counts(repeats, 0), watch)
        if watch.timed_out:
            launch = program[(watch.iteration - before - 1) % len(program)]
            self.session.watchdog.wait_for_end(launch.iteration.text)
        for launch in program:
            self.launches[launch.algorithm] += repeats


def soak(soak: SoakOptions, session: Session) -> int:
    """Runs the soak. Returns the exit status, the same on every rank. Raises Refusal."""
    world, communicator = session.world, session.communicator
    peers = (world.node or world).mapped
    session.world = world = replace(world, graph=world.device.reason_against_graphs() is None)
    room, seed = soak.largest + MARGIN_BYTES, session.options.seed
    require_memory(session, room)
    send, receive = (peers.register(room) for _ in range(2))
    sampler = Sampler(session, soak, random.Random(seed), Buffers(send, receive, seed))
    names = ", ".join(algorithm.name for algorithm in sampler.algorithms)
    hosts = f" on {communicator.hosts} hosts" if communicator.hosts > 1 else ""
    pairs = ", ".join(f"{datatype.name} {redop}" for datatype, redop in sampler.pairs)
    if communicator.rank == 0:
        print_out(
            f"soak of {soak.collective.name} for {soak.time_s:g} s on {communicator.size} "
            f"ranks{hosts} ({world.device.name}, {peers.kind}), seed {seed}, from epoch "
            f"{START_EPOCH} on: {names}; {pairs}; {soak.smallest} to {soak.largest} B\n"
        )
    batch = sampler.sample(is_first=True)
    if not batch:
        raise Refusal("--soak: none of these algorithms can do that here")
    communicator.barrier()
    set_epoch(peers, START_EPOCH)
    communicator.barrier()
    return repeat(session, sampler, batch, peers)


def repeat(session: Session, sampler: Sampler, batch: list[SoakLaunch], peers: PeerBuffer) -> int:
    """Runs batch after batch until the time is up, an element is wrong or somebody interrupts.
    Raises DeviceError, on all ranks, with the sentence of a library that failed."""
    runner, batches, time_s = Runner(session), 1, sampler.soak.time_s
    is_first_rank = session.communicator.rank == 0
    begun_s = sampled_s = session.communicator.broadcast(time.monotonic())  # rank 0's clock decides
    while True:
        launches = runner.launches.total()
        session.flight.note("soak", block=batches, text=f"{launches} launches")
        now_s = runner.run(batch)
        if launches > LAUNCHES_TO_WRAP:
            runner.repeat_aged(batch, peers)
        wrongs, is_interrupted = gather_wrongs(session, batch)
        wrong_elements = sum(wrong.elements for of_rank in wrongs for wrong in of_rank)
        is_over = now_s - begun_s >= time_s
        if is_over or is_interrupted or wrong_elements:
            break
        session.flight.progress.show(
            "soak",
            f"{now_s - begun_s:.0f} s of {time_s:g} s, {runner.launches.total()} launches",
        )
        if now_s - sampled_s >= BATCH_S:
            for launch in batch:
                launch.close()
            batch, batches, sampled_s = sampler.sample(), batches + 1, now_s
    if is_first_rank:
        epoch = int(peers.own.read()[:4].view(np.uint32)[0])
        passed = " past 2^32" if epoch < START_EPOCH else ""
        print_out(
            f"soak: {runner.launches.total()} launches in {now_s - begun_s:.0f} s, "
            f"{wrong_elements} wrong elements; {batches} batches, each algorithm at least "
            f"{min(runner.launches.values())} times, and the epoch went{passed} to {epoch}\n"
        )
        if wrong_elements:
            print(f"wiretax: {first_wrong(batch, wrongs)}", file=sys.stderr, flush=True)
    if wrong_elements:
        return WRONG
    return FINE if is_over else INTERRUPTED


def gather_wrongs(session: Session, batch: list[SoakLaunch]) -> tuple[list[list[Wrong]], bool]:
    """Wrong elements by rank and launch, and whether a rank was interrupted. Raises DeviceError."""
    failure = first_failure([launch.iteration.operation for launch in batch])
    is_interrupted = session.watchdog.interrupted_s is not None
    votes = session.communicator.all_gather(
        ([launch.wrong() for launch in batch], is_interrupted, failure)
    )
    for rank, (_, _, sentence) in enumerate(votes):
        if sentence:
            raise DeviceError(f"{session.communicator.rank_name(rank)}: {sentence}")
    return [vote[0] for vote in votes], any(vote[1] for vote in votes)


def first_wrong(batch: list[SoakLaunch], wrongs: list[list[Wrong]]) -> str:
    """The earliest wrong launch, with its element."""
    located = [
        (verify.first_wrong(by_rank, launch.case.datatype), launch.iteration.text)
        for launch, by_rank in zip(batch, zip(*wrongs, strict=True), strict=True)
    ]
    wrong, text = min(
        ((wrong, text) for wrong, text in located if wrong), key=lambda each: each[0].iteration
    )
    return f"{text}, launch {wrong.iteration}: {describe_wrong(wrong)}"


def soak_parser() -> Parser:
    parser, add, how, output = options.rank_parser(
        "soak",
        "Launches random mixtures of everything, checks every result, and times nothing.",
        f"{on_ranks(2, 'soak')} --soak 10m",
        "no wrong element so far",
    )
    add(
        "--soak",
        type=options.duration_s,
        default=600.0,
        metavar="TIME",
        help="how long to soak, such as 90s, 10m or 2h (10m)",
    )
    add(
        "--collective",
        choices=list(COLLECTIVES),
        default="all_reduce",
        metavar="NAME",
        help=f"{', '.join(COLLECTIVES)} (all_reduce)",
    )
    add(
        "-b",
        "--minbytes",
        type=options.size_bytes,
        default=1,
        metavar="SIZE",
        help="smallest size (one element)",
    )
    add(
        "-e",
        "--maxbytes",
        type=options.size_bytes,
        default=MOST_BYTES,
        metavar="SIZE",
        help="largest size (2.3M)",
    )
    add(
        "-d",
        "--datatype",
        type=options.datatype_names,
        default=[*DATATYPES],
        metavar="A,B",
        dest="datatypes",
        help="only these datatypes (all)",
    )
    add(
        "-o",
        "--op",
        type=options.redop_names,
        metavar="A,B",
        dest="redops",
        help="only these operations (all)",
    )
    options.add_algorithms(add, "all of ours but lossy ones")
    options.add_run_options(how, max_time_s=None)  # --soak is the time
    options.add_output(output)
    return parser


def soak_options(parser: Parser, namespace: argparse.Namespace) -> SoakOptions:
    """The options, or the end of the process with status 2 and one sentence."""
    collective, smallest, largest = (
        COLLECTIVES[namespace.collective],
        namespace.minbytes,
        namespace.maxbytes,
    )
    if not largest:
        parser.error("-e 0: a soak checks elements, and 0 B hold no element")
    if largest < smallest:
        parser.error(f"the sizes begin at {smallest} B, above their end at {largest} B")
    if namespace.redops and not collective.reduces:
        parser.error(f"-o: {collective.name} reduces nothing")
    algorithms = options.named_algorithms(parser, ALGORITHMS[collective.name], namespace.algorithm)
    parser.require_ranks()
    redops = namespace.redops or (REDOPS if collective.reduces else ["none"])
    datatypes = [DATATYPES[name] for name in namespace.datatypes]
    return SoakOptions(
        collective,
        namespace.soak,
        smallest,
        largest,
        datatypes,
        redops,
        algorithms,
    )


def main() -> NoReturn:
    """The soak, from its command line to its exit status."""
    parser = soak_parser()
    namespace = parser.parse_args()
    soaked = soak_options(parser, namespace)
    start(options.run_options(namespace), partial(soak, soaked))


if __name__ == "__main__":
    main()
