"""Draws the launches of a soak: single ones and sequences, at random but alike on all ranks."""

import ctypes
import math
import random
from dataclasses import dataclass, replace
from itertools import cycle, islice, product
from typing import NamedTuple

from bench.harness.iteration import Buffers, Iteration, case_iteration, come_late
from bench.harness.options import SweepOptions
from bench.harness.session import Session
from collectives.collective import DATATYPES, Datatype
from collectives.operation import Algorithm, CollectiveCase, Unsupported, World
from collectives.registry import exact
from kernels.devices.device import NEXT_ITERATION, PACK_BYTES, Action, Gate, Phase, Step

SEQUENCES = 8  # in a batch
MORE_LAUNCHES = 9  # at most, after the first three of a sequence
CPU_LATE_NS, GPU_LATE_NS = 20_000, 200_000  # at most, in a sequence


@dataclass
class SoakLaunch:
    """A launch that the soak may make, with the steps that write its input and check its result;
    in a sequence its iteration has a delay, `late`. One that `is_bare` leaves out input and check,
    and follows the launch before at once."""

    case: CollectiveCase
    iteration: Iteration
    algorithm: str = ""
    is_bare: bool = False

    def actions(self, delay: Step) -> list[Action]:
        iteration = self.iteration
        late = Action(iteration.late or delay, Phase.MEET)
        launch = Action(iteration.operation.step, Phase.OPERATION)
        if self.is_bare:
            return [NEXT_ITERATION, late, launch]
        prepare = Action(iteration.prepare, Phase.PREPARE)
        check = Action(iteration.check, Phase.CHECK)
        return [NEXT_ITERATION, prepare, late, launch, check]

    def close(self) -> None:
        """Frees the data, but not the buffers."""
        for memory in self.iteration.keep:
            if not isinstance(memory, Buffers):
                memory.close()


class SoakSequence(NamedTuple):
    """Launches in a row; `graph` makes all of them at once."""

    launches: list[SoakLaunch]
    graph: Step | None = None

    def actions(self, delay: Step) -> list[Action]:
        if self.graph:
            return [Action(delay, Phase.MEET), Action(self.graph, Phase.OPERATION)]
        return [action for launch in self.launches for action in launch.actions(delay)]


def captured(world: World, launches: list[SoakLaunch]) -> SoakSequence:
    """The launches as one graph, or as few as the device allows."""
    watch = ctypes.addressof(world.watch)
    begin = world.device.loop_step("begin_iteration", Gate(watch=watch))
    actions = SoakSequence(launches).actions(come_late(world))
    steps = [action.step or begin for action in actions]
    return SoakSequence(launches, world.device.replayed(*steps))


class Sampler:
    """Draws launches over the same buffers, in sizes between the two of `soak`; all ranks draw
    alike, and each batch from the seed and its number alone. Without algorithms it takes all of
    ours for these hosts but lossy ones."""

    def __init__(self, session: Session, soak: SweepOptions, buffers: Buffers) -> None:
        self.session, self.soak, self.buffers = session, soak, buffers
        self.draw = draw = random.Random(session.options.seed)
        self.algorithms = soak.algorithms or exact(soak.collective.name, session.communicator.hosts)
        # Every requested datatype and operation at least once; each further pair would compile.
        types = [DATATYPES[name] for name in draw.sample(soak.datatypes, len(soak.datatypes))]
        redops = draw.sample(soak.redops, len(soak.redops))
        most = max(len(types), len(redops))
        self.pairs = [*islice(zip(cycle(types), cycle(redops)), most)]

    def sample(self, batch: int) -> list[SoakSequence]:
        """The batch with this number: every algorithm with every pair, and sequences. Raises
        Refusal."""
        self.draw = random.Random(f"{self.session.options.seed} {batch}")
        singles = [SoakSequence([launch]) for launch in self.singles(batch == 1)]
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
        collective = self.soak.collective
        least, most = (max(1, collective.count(size, ranks, datatype)) for size in self.soak.sizes)
        return least, most

    def draw_count(self, datatype: Datatype, least: int, most: int) -> int:
        """A number of elements, or one more than whole packs on each rank."""
        draw = self.draw
        count = round(math.exp(draw.uniform(math.log(least), math.log(most))))
        whole = self.session.communicator.size * PACK_BYTES // datatype.size_bytes
        return max(least, (count - 1) // whole * whole + 1) if draw.random() < 0.5 else count

    def sequence(self, datatype: Datatype, redop: str) -> SoakSequence:
        """Small, large and small launches, and more of either, of one algorithm or of several; one
        rank is late before some of them. All ranks call it. Raises Refusal."""
        draw, world = self.draw, self.session.world
        least, most = self.counts(datatype)
        middle = math.isqrt(least * most)
        small, large = (least, middle), (middle, most)
        sizes = [small, large, small]
        sizes += draw.choices(sizes, k=draw.randint(0, MORE_LAUNCHES))
        algorithms = draw.choice([self.algorithms, [draw.choice(self.algorithms)]])
        is_late = draw.randrange(world.communicator.size) == world.communicator.rank

        most_ns = CPU_LATE_NS if world.device.is_cpu else GPU_LATE_NS
        launches = []
        for size in sizes:
            algorithm = draw.choice(algorithms)
            count = self.draw_count(datatype, *size)
            late_ns = int(draw.uniform(-1, 1) * most_ns)
            if launch := self.launch(algorithm, datatype, redop, count):
                launch.is_bare = draw.random() < 0.3
                launch.iteration.late = come_late(world, max(0, late_ns) if is_late else 0)
                launches.append(launch)

        kind = "graph" if world.graph else "sequence"
        for place, launch in enumerate(launches, 1):
            launch.iteration.text += f", {place} of {len(launches)} in a {kind}"
        if not (world.graph and launches):
            return SoakSequence(launches)
        with world.communicator.all_or_none():
            return captured(world, launches)

    def launch(
        self, algorithm: Algorithm, datatype: Datatype, redop: str, count: int
    ) -> SoakLaunch | None:
        """With shape, variant, alignment and place as drawn; None where the algorithm cannot. All
        ranks call it. Raises Refusal."""
        draw, world, collective = self.draw, self.session.world, self.soak.collective
        size, ranks = datatype.size_bytes, world.communicator.size
        self.session.flight.note(
            "compile", block=None, text=f"{algorithm.name} {datatype.name} {redop}"
        )
        count = int(min(count, algorithm.limits.most(ranks) / size))
        whole = algorithm.limits.whole_elements
        count = -(-count // whole) * whole

        shape = draw.choice(collective.shapes)
        variant = draw.choice(algorithm.variants_in(world))
        in_place = draw.random() < 0.3 and collective.no_place is None
        send_shift, receive_shift = draw.choice([0, 1, 3]), draw.choice([0, 1])
        if in_place:
            send_shift = receive_shift
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
        )
        case = self.buffers.place(world, case)
        case = replace(
            case, send=case.send + send_shift * size, receive=case.receive + receive_shift * size
        )

        with world.communicator.all_or_none():
            operation = algorithm.bind(world, case)
            if isinstance(operation, Unsupported):  # registered in place
                case = replace(case, variant="copied")
                operation = algorithm.bind(world, case)
            if isinstance(operation, Unsupported):
                return None

            iteration = case_iteration(world, self.buffers, case, operation)

        way = "".join(f" {value}" for value in shape.values())
        iteration.text = (
            f"{collective.name} {algorithm.name} {case.variant}{way} {datatype.name} {redop} "
            f"{case.size_bytes} B"
        )
        if in_place:
            iteration.text += " in place"
        return SoakLaunch(case, iteration, algorithm.name)
