"""Draws the launches of a soak: single ones and sequences, at random but alike on all ranks."""

import ctypes
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice, product

from bench.harness.iteration import Buffers, Iteration, case_iteration, come_late
from bench.harness.session import Session
from collectives.collective import Collective, Datatype
from collectives.operation import Algorithm, CollectiveCase, Unsupported, World
from collectives.registry import exact
from kernels.devices.device import (
    NEXT_ITERATION,
    PACK_BYTES,
    Action,
    DeviceError,
    Gate,
    Phase,
    Step,
    Wrong,
)

COUNTS = (1, 3, 17, 17, 255, 1023, 4099, 20011, 70001, 300007)  # awkward ones
SEQUENCES = 8  # in a batch
SEQUENCE_LAUNCHES = 3, 12
LATE_NS = {True: 20_000, False: 200_000}  # at most, in a sequence, by is_cpu


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
    """A launch that the soak may make, with the steps that write its input and check its result.
    One that `is_bare` leaves these out, and follows the launch before at once."""

    case: CollectiveCase
    iteration: Iteration
    algorithm: str = ""
    is_bare: bool = False

    def actions(self, delay: Step) -> list[Action]:
        iteration = self.iteration
        actions = [
            NEXT_ITERATION,
            Action(iteration.prepare, Phase.PREPARE),
            Action(delay, Phase.MEET),
            Action(iteration.operation.step, Phase.OPERATION),
            Action(iteration.check, Phase.CHECK),
        ]
        return [actions[0], *actions[2:4]] if self.is_bare else actions

    def wrong(self) -> Wrong:
        assert self.iteration.wrong
        return Wrong.from_buffer_copy(bytes(self.iteration.wrong.read()))

    def close(self) -> None:
        """Frees the data, but not the buffers."""
        for memory in self.iteration.keep:
            if not isinstance(memory, Buffers):
                memory.close()


@dataclass
class SoakSequence:
    """Launches in a row, with this rank's delay before each; `graph` makes all of them at once."""

    launches: list[SoakLaunch]
    delays: list[Step] = field(default_factory=list)
    graph: Step | None = None

    def actions(self, delay: Step) -> list[Action]:
        if self.graph:
            return [Action(delay, Phase.MEET), Action(self.graph, Phase.OPERATION)]

        delays = self.delays or [delay]
        return [
            action
            for launch, own in zip(self.launches, delays, strict=True)
            for action in launch.actions(own)
        ]


def captured(world: World, sequence: SoakSequence) -> Step:
    """The sequence as one graph, or as few as the device allows."""
    watch = ctypes.addressof(world.watch)
    begin = Step(world.device.loop_kernels().kernel("begin_iteration"), Gate(watch=watch))
    return world.device.replayed(
        *(action.step or begin for action in sequence.actions(sequence.delays[0]))
    )


def types_and_operations(draw: random.Random, soak: SoakOptions) -> list[tuple[Datatype, str]]:
    """Every requested datatype and operation at least once; each further pair would compile."""
    types = draw.sample(soak.datatypes, len(soak.datatypes))
    redops = draw.sample(soak.redops, len(soak.redops))
    return [*islice(zip(cycle(types), cycle(redops)), max(len(types), len(redops)))]


class Sampler:
    """Draws launches over the same buffers; all ranks draw alike."""

    def __init__(
        self, session: Session, soak: SoakOptions, draw: random.Random, buffers: Buffers
    ) -> None:
        self.session, self.soak = session, soak
        self.draw, self.buffers = draw, buffers
        every = exact(soak.collective.name, session.communicator.hosts)
        self.algorithms = soak.algorithms or every
        self.pairs = types_and_operations(draw, soak)

    def sample(self, is_first: bool = False) -> list[SoakSequence]:
        """A batch: every algorithm with every pair, and sequences. Raises Refusal."""
        singles = [SoakSequence([launch]) for launch in self.singles(is_first)]
        sequences = [self.sequence(*self.draw.choice(self.pairs)) for _ in range(SEQUENCES)]
        return singles + [sequence for sequence in sequences if sequence.launches]

    def singles(self, is_first: bool = False) -> list[SoakLaunch]:
        """Every algorithm with every pair, at a drawn size or, first, at both ends. Raises
        Refusal."""
        batch = []
        for algorithm, (datatype, redop) in product(self.algorithms, self.pairs):
            least, most = self.counts(datatype)
            counts = (least, most) if is_first else (self.draw_count(datatype, least, most),)
            batch += [self.launch(algorithm, datatype, redop, count) for count in counts]
        return [launch for launch in batch if launch]

    def counts(self, datatype: Datatype) -> tuple[int, int]:
        """The fewest and the most elements."""
        ranks = self.session.communicator.size
        soak = self.soak
        least = max(1, soak.collective.count(soak.smallest, ranks, datatype))
        return least, max(least, soak.collective.count(soak.largest, ranks, datatype))

    def draw_count(self, datatype: Datatype, least: int, most: int) -> int:
        """A number of elements: an awkward one, any, or one more than whole packs on each rank."""
        draw = self.draw

        awkward = [count for count in COUNTS if least <= count <= most]
        if awkward and draw.random() < 0.5:
            return draw.choice(awkward)

        count = round(math.exp(draw.uniform(math.log(least), math.log(most))))
        whole = self.session.communicator.size * PACK_BYTES // datatype.size_bytes
        return max(least, (count - 1) // whole * whole + 1) if draw.random() < 0.5 else count

    def sequence(self, datatype: Datatype, redop: str) -> SoakSequence:
        """Small, large and small launches, and more of either, of one algorithm or of several; one
        rank is late before some of them. All ranks call it. Raises Refusal."""
        draw, world = self.draw, self.session.world
        least, most = self.counts(datatype)
        middle = math.isqrt(least * most)
        ranges = {"small": (least, middle), "large": (middle, most)}

        sizes = ["small", "large", "small"]
        sizes += draw.choices(sizes, k=draw.randint(*SEQUENCE_LAUNCHES) - len(sizes))
        one = draw.choice(self.algorithms)
        is_mixed = draw.random() < 0.5
        is_late = draw.randrange(world.communicator.size) == world.communicator.rank

        sequence = SoakSequence([])
        for size in sizes:
            algorithm = draw.choice(self.algorithms) if is_mixed else one
            count = self.draw_count(datatype, *ranges[size])
            is_bare = draw.random() < 0.3
            late_ns = int(draw.uniform(-1, 1) * LATE_NS[world.device.is_cpu])
            launch = self.launch(algorithm, datatype, redop, count, in_sequence=True)
            if launch:
                launch.is_bare = is_bare
                sequence.launches.append(launch)
                sequence.delays.append(come_late(world, max(0, late_ns) if is_late else 0))

        number = len(sequence.launches)
        for place, launch in enumerate(sequence.launches, 1):
            kind = "graph" if world.graph else "sequence"
            launch.iteration.text += f", {place} of {number} in a {kind}"

        if world.graph and number:
            with world.communicator.all_or_none(DeviceError):
                sequence.graph = captured(world, sequence)
        return sequence

    def case(
        self, algorithm: Algorithm, datatype: Datatype, redop: str, count: int
    ) -> CollectiveCase:
        """A case with shape, variant, alignment and place as drawn."""
        draw, collective = self.draw, self.soak.collective
        communicator = self.session.communicator

        shape = draw.choice(collective.shapes)
        variant = draw.choice(algorithm.variants_in(self.session.world))
        in_place = draw.random() < 0.3 and collective.no_place is None
        send_shift = draw.choice([0, 1, 3])
        receive_shift = draw.choice([0, 1])
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
        self,
        algorithm: Algorithm,
        datatype: Datatype,
        redop: str,
        count: int,
        in_sequence: bool = False,
    ) -> SoakLaunch | None:
        """As drawn; None where the algorithm cannot. All ranks call it. Raises Refusal."""
        world = self.session.world
        name = f"{algorithm.name} {datatype.name} {redop}"
        self.session.flight.note("compile", block=None, text=name)
        most = algorithm.limits.most(world.communicator.size) / datatype.size_bytes
        count = int(min(count, most))
        whole = algorithm.limits.whole_elements
        count = -(-count // whole) * whole
        case = self.case(algorithm, datatype, redop, count)

        with world.communicator.all_or_none(DeviceError):
            operation = algorithm.bind(world, case)
            if isinstance(operation, Unsupported):  # registered in place
                case = replace(case, variant="copied")
                operation = algorithm.bind(world, case)
            if isinstance(operation, Unsupported):
                return None

            is_replay = world.graph and not in_sequence and self.draw.random() < 0.5
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
