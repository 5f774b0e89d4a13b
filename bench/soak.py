"""Launches random mixtures for hours and checks every result: `mpirun -n 2 python -m bench.soak`

It times nothing and keeps no run. A batch of launches holds each algorithm with each datatype and
operation once; size, variant, alignment and place are drawn. Ranks draw the same launches, and each
its own delays. Now and then they meet: the next launch's flag would repair a flag that was lost at
the end of a launch. A batch also has sequences of alternating sizes with one rank late, on a GPU a
graph each: others' kernels were wrong in these alone. Between slices a sequence or launch repeats
with its epoch set forward: what the first one left, flags or packets, must not pass for new. Every
two seconds a new batch is drawn over the same buffers; the first one compiles everything. What a
batch launches, in which order and with which delays, follows from the seed and its number, so
`--batch` repeats it."""

import random
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn

import numpy as np

from bench.harness import options, verify
from bench.harness.console import FINE, INTERRUPTED, WRONG, print_out, say
from bench.harness.iteration import Buffers, come_late, nothing
from bench.harness.options import RunOptions, SizeOptions, SweepOptions
from bench.harness.parser import NOTHING, Option, duration_s, fill, whole
from bench.harness.sampler import Sampler, SoakLaunch, SoakSequence
from bench.harness.session import Session, require_memory, start
from collectives.binding import first_failure
from collectives.collective import COLLECTIVES, REDOPS
from collectives.communicator import Refusal
from collectives.operation import World
from collectives.peer_buffer import set_epoch, skip_launches
from collectives.registry import ALGORITHMS
from kernels.devices.device import Action, Counts, DeviceError, Phase, Step, Wrong
from wiretax.common.program import on_ranks
from wiretax.record.wrong import describe_wrong

MARGIN_BYTES = 64 << 10  # of a buffer: an element a rank, whole blocks, and a shift
LAUNCHES_TO_WRAP = 1000
START_EPOCH = 2**32 - LAUNCHES_TO_WRAP
# Epochs from a launch to its repetition: where marks of 8, 16 and 31 bits and the sign of a
# difference would err. An epoch returns after 2^32 launches, or 65,536 repetitions at 2^16.
AGES = 2**8, 2**16, 2**31, 2**31 + 1
BATCH_S = 2.0
SLICE_S = 0.05  # of launches, between looks for a stop
FIRST_LENGTH = 16  # of a slice, in sequences; later slices fit SLICE_S
MOST_A_PROGRAM = 400  # then the program repeats: Python draws more slowly than a CPU launches
DRAWS_A_MEETING = 8
DELAYS = 64  # that each rank draws from


Drawn = tuple[SoakSequence, list[Action]]


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


class Runner:
    """Runs random programs of launches, each rank with its own delays."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.idle = nothing(session.world)
        self.launches = Counter[str]()  # by algorithm

    def begin(self, batch: int) -> None:
        """Begins the order and the delays of the batch with this number."""
        seed = f"{self.session.options.seed} {batch}"
        self.order = random.Random(seed)  # alike on all ranks
        self.repetitions = random.Random(seed)  # of its own: a slice's length depends on the time
        self.delays = random.Random(f"{seed} {self.session.communicator.rank}")
        self.delay_steps = delay_steps(self.session.world, self.delays)
        self.slice_length = FIRST_LENGTH

    def run(self, batch: list[SoakSequence]) -> float:
        """Runs a slice of sequences; returns rank 0's clock in seconds. A timeout ends the run."""
        length = min(self.slice_length, MOST_A_PROGRAM)
        repeats, start_s = self.slice_length // length, time.monotonic()
        self.perform([self.drawn(batch) for _ in range(length)], repeats)
        drawn = repeats * length
        now_s, start_s = self.session.communicator.broadcast((time.monotonic(), start_s))
        self.slice_length = max(1, min(2 * drawn, int(drawn * SLICE_S / (now_s - start_s))))
        return float(now_s)

    def drawn(self, batch: list[SoakSequence]) -> Drawn:
        """A sequence of the batch with a delay of this rank, and now and then a barrier."""
        sequence = self.order.choice(batch)
        actions = sequence.actions(self.delays.choice(self.delay_steps))
        if self.order.randrange(DRAWS_A_MEETING) == 0:
            actions.append(Action(self.session.meet, Phase.MEET))
        return sequence, actions

    def perform(self, program: Sequence[Drawn], repeats: int = 1) -> None:
        """Makes these launches. A timeout ends the run."""
        actions = [action for _, of_sequence in program for action in of_sequence]
        launches = [launch for sequence, _ in program for launch in sequence.launches]
        watch = self.session.flight.watch
        before = watch.iteration
        self.session.world.device.run(actions, self.idle, Counts(repeats, 0), watch)
        if watch.timed_out:
            launch = launches[(watch.iteration - before - 1) % len(launches)]
            self.session.watchdog.wait_for_end(launch.iteration.text)
        for launch in launches:
            self.launches[launch.algorithm] += repeats


def soak(soak: SweepOptions, first: int, session: Session) -> int:
    """Runs batch after batch, from number `first` on, until the time is up, an element is wrong or
    somebody interrupts. Returns the exit status, the same on every rank. Raises Refusal, and
    DeviceError, on all ranks, with the sentence of a library that failed."""
    world, communicator = session.world, session.communicator
    peers = (world.node or world).mapped
    session.world = world = replace(world, graph=world.device.reason_against_graphs() is None)
    (smallest, largest), time_s = soak.sizes, session.options.max_time_s
    room, seed = largest + MARGIN_BYTES, session.options.seed
    require_memory(session, room)
    send, receive = (peers.register(room) for _ in range(2))
    sampler = Sampler(session, soak, Buffers(send, receive, seed))
    names = ", ".join(algorithm.name for algorithm in sampler.algorithms)
    hosts = f" on {communicator.hosts} hosts" if communicator.hosts > 1 else ""
    pairs = ", ".join(f"{datatype.name} {redop}" for datatype, redop in sampler.pairs)
    if communicator.rank == 0:
        print_out(
            f"soak of {soak.collective.name} for {time_s:g} s on {communicator.size} "
            f"ranks{hosts} ({world.device.name}, {peers.kind}), seed {seed}, from epoch "
            f"{START_EPOCH} on: {names}; {pairs}; {smallest} to {largest} B\n"
        )
    number, batch = first, sampler.sample(first)
    if not batch:
        raise Refusal("--soak: none of these algorithms can do that here")
    communicator.barrier()
    set_epoch(peers, START_EPOCH)
    communicator.barrier()
    runner = Runner(session)
    runner.begin(number)
    begun_s = communicator.broadcast(time.monotonic())  # rank 0's clock decides
    sampled_s = 0.0  # after that
    while True:
        launches = [launch for sequence in batch for launch in sequence.launches]
        before = runner.launches.total()
        session.flight.note("soak", block=number, text=f"{before} launches")
        soaked_s = runner.run(batch) - begun_s
        if before > LAUNCHES_TO_WRAP:
            # A sequence twice, each launch one of AGES after itself.
            again = runner.repetitions.choice(batch)
            program = [(again, again.actions(runner.repetitions.choice(runner.delay_steps)))]
            runner.perform(program)
            communicator.barrier()
            skip_launches(peers, runner.repetitions.choice(AGES) - len(again.launches))
            runner.perform(program)
        failure = first_failure([launch.iteration.operation for launch in launches])
        mine = [launch.iteration.read_wrong() for launch in launches]
        votes = communicator.all_gather((mine, session.watchdog.interrupted_s is not None, failure))
        wrongs, interrupted, failures = zip(*votes, strict=True)
        for rank, sentence in enumerate(failures):
            if sentence:
                raise DeviceError(f"{communicator.rank_name(rank)}: {sentence}")
        wrong_elements = sum(wrong.elements for of_rank in wrongs for wrong in of_rank)
        total, is_over = runner.launches.total(), soaked_s >= time_s
        if is_over or any(interrupted) or wrong_elements:
            break
        session.flight.progress.show("soak", f"{soaked_s:.0f} s of {time_s:g} s, {total} launches")
        if soaked_s - sampled_s >= BATCH_S:
            for launch in launches:
                launch.close()
            number, sampled_s = number + 1, soaked_s
            batch = sampler.sample(number)
            runner.begin(number)
    if communicator.rank == 0:
        epoch = int(peers.own.read()[:4].view(np.uint32)[0])
        print_out(
            f"soak: {total} launches in {soaked_s:.0f} s, {wrong_elements} wrong elements; "
            f"{number - first + 1} batches, each algorithm at least "
            f"{min(runner.launches.values())} times, and the epoch went to {epoch}\n"
        )
        if wrong_elements:
            say_first_wrong(launches, wrongs)
            line = re.sub(r" --batch[ =]\d+", "", f" {shlex.join(sys.argv[1:])}")
            command = on_ranks(communicator.size, "soak")
            say("wiretax", f"it was batch {number}; to repeat it: {command}{line} --batch {number}")
    if wrong_elements:
        return WRONG
    return FINE if is_over else INTERRUPTED


def say_first_wrong(launches: Sequence[SoakLaunch], wrongs: Sequence[Sequence[Wrong]]) -> None:
    """Says which launch was the first with a wrong element, and where. `wrongs` are what the checks
    counted, by rank and launch."""
    located = [
        (wrong, launch.iteration.text)
        for launch, by_rank in zip(launches, zip(*wrongs, strict=True), strict=True)
        if (wrong := verify.first_wrong(by_rank, launch.case.datatype))
    ]
    wrong, text = min(located, key=lambda each: each[0].iteration)
    say("wiretax", f"{text}, launch {wrong.iteration}: {describe_wrong(wrong)}")


def main() -> NoReturn:
    """The soak, from its command line to its exit status; 2 and one sentence for a mistake."""
    parser = options.rank_parser(
        "soak",
        "Launches random mixtures of everything, checks every result, and times nothing.",
        f"{on_ranks(2, 'soak')} --soak 10m",
        "no wrong element so far",
    )
    duration = Option(
        NOTHING,
        ["--soak"],
        group="what",
        type=duration_s,
        default="10m",
        metavar="TIME",
        help="how long to soak, such as 90s, 10m or 2h (%(default)s)",
    )
    parser.add_option("max_time_s", duration)
    batch = Option(
        NOTHING,
        ["--batch"],
        group="what",
        **whole(1),
        default=1,
        help="begin with batch N of the seed, which a soak names where it finds a fault "
        "(%(default)s)",
    )
    parser.add_option("batch", batch)
    collectives = options.collective_option([*COLLECTIVES])
    parser.add(SweepOptions, "algorithms", collective=collectives)
    parser.add(SizeOptions, "minbytes", "maxbytes")
    parser.add(SweepOptions, "datatypes", "redops")
    options.add_run_options(parser)
    parser.set_defaults(minbytes="1", maxbytes="2344K")  # 300,007 elements of 8 B
    parser.set_defaults(datatypes="all", redops="all")
    parser.none_if_absent = ["redops"]
    parser.set_help(algorithms="only these (all of ours but lossy ones)")
    namespace = parser.parse_args()
    collective = COLLECTIVES[namespace.collective]
    smallest, largest = namespace.minbytes, namespace.maxbytes
    if largest < max(smallest, 1):
        parser.error(f"the sizes begin at {smallest} B, above their end at {largest} B")
    if namespace.redops and not collective.reduces:
        parser.error(f"-o: {collective.name} reduces nothing")
    algorithms = options.named_algorithms(parser, ALGORITHMS[collective.name], namespace.algorithms)
    parser.require_ranks()
    redops = namespace.redops or (REDOPS if collective.reduces else ["none"])
    what = fill(
        SweepOptions,
        namespace,
        collective=collective,
        redops=redops,
        sizes=(smallest, largest),
        algorithms=algorithms,
    )
    start(fill(RunOptions, namespace), partial(soak, what, namespace.batch))


if __name__ == "__main__":
    main()
