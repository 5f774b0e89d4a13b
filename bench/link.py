"""The link between every two ranks: data and flags. `mpirun -n 2 python -m bench.link`

docs/link.md says how each figure is measured. Figures are a pair's, or of several pairs at once."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations, permutations, product

from bench.harness import options
from bench.harness.command import requested_sizes
from bench.harness.iteration import Buffers, Iteration, case_iteration, nothing
from bench.harness.options import RunOptions
from bench.harness.run import measure
from bench.harness.session import Session, require_memory, start
from bench.harness.suite import Suite
from collectives.collective import DATATYPES, Array, Collective, Shape
from collectives.communicator import launched_ranks
from collectives.copy_engine import pushed, shared_engine
from collectives.operation import CollectiveCase, Message, Operation, Unsupported, World
from collectives.probe import SHARED_PING_PONGS
from kernels.devices.device import CopyEngine, Step, Transfer
from reports.store.program import on_ranks
from reports.store.schema import CaseHeader

ABOUT = (
    "Times the wire between every two ranks: push, pull, both ways at once, and flags; "
    "between hosts, messages of the library."
)
DATATYPE = DATATYPES["float32"]
CONTENDED_BYTES = 16 << 20  # contention is measured at this size, or the largest below
SLOW_EVERY = 4  # rounds between blocks of larger sizes, which take a second
FEW_RANKS = 3  # up to this many, every size is affordable
MESSAGE_BYTES = 16 << 10  # in front of a fence: of a model's decode
LINE_BYTES = 256  # no line of a cache is longer
FAR_TRIPS = 10  # round trips of a message between hosts in an iteration
MOST_FAR_RANKS = 8  # with more, only ranks at the same place of their hosts exchange messages
Pairs = tuple[tuple[int, int], ...]  # (source, destination)
Messages = list[Message]


def _from_sources(sent: Array, shape: Shape, _: object) -> Array:
    sources = {destination: source for source, destination in shape["pairs"]}
    return sent[[sources.get(rank, rank) for rank in range(len(sent))]]


LINK = Collective(
    "link",
    _from_sources,
    cut=False,
    no_place="nothing moves in place",
    sends=lambda shape, rank: rank in dict(shape["pairs"]),
    receives=lambda shape, rank, _: rank in dict(shape["pairs"]).values(),
)


@dataclass(frozen=True)
class Link:
    """What a launch on this host needs. `near` is the world of its ranks; `buffers` are this
    rank's, registered. `transfer`, the argument of a launch without its count and its two ranks,
    has the buffers of all ranks as mapped here, and their whole lines. `engine` is None unless each
    rank has one."""

    session: Session
    near: World
    buffers: Buffers
    transfer: Transfer
    engine: CopyEngine | None


def parse() -> tuple[RunOptions, tuple[int, ...]]:
    """The options and the sizes, or the end of the process with status 2 and one sentence."""
    parser, what, how, output = options.rank_parser(
        "link",
        ABOUT,
        f"{on_ranks(2, 'link')} --max-time 30",
        "the results so far are kept",
    )
    factor = 4 if (launched_ranks() or 1) <= FEW_RANKS else 128
    options.add_sizes(what, "256M", factor)
    options.add_run_options(how)
    options.add_samples(output)
    namespace = parser.parse_args()
    sizes = requested_sizes(parser, namespace)
    parser.require_ranks()
    return options.run_options(namespace), sizes


def matchings(ranks: Sequence[int]) -> list[Pairs]:
    """Sets of at least two disjoint pairs in which every pair occurs once: the circle method of
    round-robin tournaments. With an odd number of ranks one rank rests in each set."""
    n_sets = len(ranks) - 1 + len(ranks) % 2
    sets: list[Pairs] = [()] * n_sets
    for low, high in combinations(range(len(ranks)), 2):
        # With an even number the last rank meets the rank that would rest.
        number = (low + (high if high < n_sets else low)) % n_sets
        sets[number] += ((ranks[low], ranks[high]),)
    return [pairs for pairs in sets if len(pairs) > 1]


def sets_of_pairs(nodes: Sequence[Sequence[int]]) -> dict[str, list[Pairs]]:
    """The pairs of ranks that are measured at once: within the hosts (near) and between them (far),
    one way or both ways; each rank with itself; several pairs of a host."""
    ranks = sorted(chain(*nodes))
    partners = product if len(ranks) <= MOST_FAR_RANKS else zip
    near = [pair for node in nodes for pair in permutations(node, 2)]
    far = [pair for hosts in permutations(nodes, 2) for pair in partners(*hosts)]

    def both_ways(pairs: list[tuple[int, int]]) -> list[Pairs]:
        return [((a, b), (b, a)) for a, b in pairs if a < b]

    return {
        "near": [(pair,) for pair in near],
        "near_both": both_ways(near),
        "own": [((rank, rank),) for rank in ranks],
        "disjoint": [pairs for node in nodes for pairs in matchings(node)],
        "far": [(pair,) for pair in far],
        "far_both": both_ways(far),
    }


class Measurement:
    """One measurement of the link: `pairs` of ranks move `size_bytes` in one launch.

    `key` is the algorithm of its cases. It takes the sets of pairs `among` those of `sets_of_pairs`
    and the sizes `at` of `prepare`, where all ranks have what it `needs`. Its kernel in `file`,
    `entry` or that of its key, is performed by one block `repeats` times, or at 0 by many blocks
    once. All ranks of the host launch it, since its flags advance all epochs, unless the source
    `is_alone`, whose clock then counts. A destination checks the data if it `is_checked`; the
    arrival of the `mover` of each pair begins the time."""

    key: str
    among, at, needs = "near", "every", "nothing"
    file, entry = "link", ""
    repeats, mover = 0, 0
    is_alone, is_checked = False, True

    def __init__(self, link: Link, pairs: Pairs, size_bytes: int) -> None:
        self.link, self.pairs, self.size_bytes = link, pairs, size_bytes
        self.world, self.device = link.session.world, link.near.device
        self.own, (self.source, self.target) = self.world.rank, pairs[0]
        self.ranks = link.near.communicator.ranks  # of this host
        self.scale = 1 / max(1, self.repeats)

    @staticmethod
    def shape(pairs: Pairs) -> Shape:
        """The place of the pairs in the key of their case."""
        return {"src": pairs[0][0], "dst": pairs[0][1]}

    def transfer(self) -> Transfer:
        """The argument of the kernel: a launch numbers the ranks of its host."""
        transfer = Transfer.from_buffer_copy(self.link.transfer)
        transfer.ranks.count = self.repeats or self.size_bytes // DATATYPE.size_bytes
        if self.size_bytes:
            transfer.bytes = max(0, self.size_bytes - LINE_BYTES)  # a flag has the last line
        for source, target in self.pairs:
            if self.own == source:
                transfer.to = self.ranks.index(target)
            if self.own == target:
                transfer.from_ = self.ranks.index(source)
        return transfer

    def step(self) -> Step:
        """This rank's launch. Raises DeviceError."""
        blocks = 1 if self.repeats else self.device.blocks_for(self.size_bytes)
        entry, transfer, ranks = self.entry or f"link_{self.key}", self.transfer(), len(self.ranks)
        return self.device.step(self.file, entry, transfer, blocks, WT_WORLD=ranks)

    def iteration(self) -> Iteration | Unsupported:
        """What is timed. All ranks call it. Raises DeviceError, MemoryError."""
        operation = Operation(nothing(self.world))
        if self.source in ([self.own] if self.is_alone else self.ranks):
            operation = Operation(self.step())
        iteration = self.timed(operation)
        iteration.keep.append(self.link)
        iteration.movers = tuple(pair[self.mover] for pair in self.pairs)
        return iteration

    def timed(self, operation: Operation) -> Iteration:
        """Checked data are rewritten by the source, moved, and read by the destination: the lines
        that a push stores into, or a pull reads, lie where a real exchange leaves them."""
        if not self.is_checked:
            idle = nothing(self.world)
            iteration = Iteration("", idle, operation, idle, idle, scale=self.scale)
        else:
            count, buffers = self.size_bytes // DATATYPE.size_bytes, self.link.buffers
            case = CollectiveCase(LINK, count, DATATYPE, "none", 0, 0, shape={"pairs": self.pairs})
            case = buffers.place(self.world, case)
            iteration = case_iteration(self.world, buffers, case, operation)
            iteration.every = SLOW_EVERY if case.segment_bytes > CONTENDED_BYTES else 1
        ranks = sorted({*chain(*self.pairs)})
        iteration.ranks = (self.source,) if self.is_alone else tuple(ranks)
        return iteration


class Push(Measurement):
    key = "push"


class Pull(Measurement):
    key, needs, mover = "pull", "reads", 1


class EnginePush(Measurement):
    key, needs = "engine_push", "engines"

    def step(self) -> Step:
        assert self.link.engine, "needs"
        return pushed(self.link.near, self.link.engine, self.transfer())


class BothDirections(Measurement):
    key, among, entry = "both_directions", "near_both", "link_push"


class LocalCopy(Measurement):
    key, among, is_alone = "local_copy", "own", True


class DisjointPairs(Measurement):
    key, among, at, entry = "disjoint_pairs", "disjoint", "contended", "link_push"

    @staticmethod
    def shape(pairs: Pairs) -> Shape:
        return {"pairs": [list(pair) for pair in pairs]}


class PingPong(Measurement):  # so many that launching and stamping do not show
    key, among, at = "ping_pong", "near_both", "none"
    repeats, is_checked = 500, False

    def __init__(self, link: Link, pairs: Pairs, size_bytes: int) -> None:
        if link.near.memory == "same_device":
            self.repeats = SHARED_PING_PONGS
        super().__init__(link, pairs, size_bytes)
        self.scale /= 2


class WirePart(Measurement):
    """A part of a wire: a kernel of the source alone, over the buffers of another rank. Nobody
    checks its data: other cases write the buffers anew."""

    at, file = "contended", "link_parts"
    is_alone, is_checked = True, False


class Stores(WirePart):
    key = "stores"


class Loads(WirePart):
    key, needs = "loads", "reads"


class StoresAndLoads(WirePart):
    key, needs = "stores_and_loads", "reads"


class FencedStores(WirePart):
    key, at, repeats = "fenced_stores", "message", 200


class UnfencedStores(FencedStores):
    key = "unfenced_stores"


class DependentLoads(WirePart):
    key, at, needs, repeats = "dependent_loads", "none", "reads", 200


class GraphKernel(WirePart):  # of loads, without a load
    key, at, needs, repeats = "graph_kernel", "none", "graphs", 200
    entry = "link_dependent_loads"

    def step(self) -> Step:
        step = super().step()
        step.argument.ranks.count = 0
        return self.device.replayed(*[step] * self.repeats)


class LibraryMessage(Measurement):
    """A message of the library between two ranks without a common clock. So both first exchange an
    element, which tells that the other has arrived; one way, the source's clock runs until the
    destination has answered with an element."""

    key, among, is_alone = "send_library", "far", True

    def groups(self, data: Messages, elements: Messages) -> list[Messages]:
        """This rank's messages, a group at once: `data` or `elements`, to send and to receive."""
        (send, receive), (one_element, its_answer) = data, elements
        return [[send], [its_answer]] if self.own == self.source else [[receive], [one_element]]

    def iteration(self) -> Iteration | Unsupported:
        library, buffers, element_bytes = self.world.library, self.link.buffers, DATATYPE.size_bytes
        peer = {self.source: self.target, self.target: self.source}.get(self.own, -1)
        memory = self.world.device.private(2 * element_bytes)
        elements = [
            Message(True, peer, memory.address, element_bytes),
            Message(False, peer, memory.address + element_bytes, element_bytes),
        ]
        data = [
            Message(True, peer, buffers.send.address, self.size_bytes),
            Message(False, peer, buffers.receive.address, self.size_bytes),
        ]
        groups = self.groups(data, elements)
        arrive = library.bind_messages(self.world, [elements] if peer >= 0 else [])
        operation = library.bind_messages(self.world, groups if peer >= 0 else [])
        if isinstance(arrive, Unsupported):
            return arrive
        if isinstance(operation, Unsupported):
            return operation
        iteration = self.timed(operation)
        iteration.late = arrive.step
        iteration.keep += [memory, arrive, operation]
        return iteration


class LibraryBothDirections(LibraryMessage):
    key, among, is_alone = "both_directions_library", "far_both", False

    def groups(self, data: Messages, elements: Messages) -> list[Messages]:
        return [data]


class LibraryPingPong(LibraryMessage):
    key, among, at, is_checked = "ping_pong_library", "far_both", "element", False
    repeats = 2 * FAR_TRIPS

    def groups(self, data: Messages, elements: Messages) -> list[Messages]:
        return super().groups(elements, elements) * FAR_TRIPS


MEASUREMENTS: tuple[type[Measurement], ...] = (
    Push,
    Pull,
    EnginePush,
    BothDirections,
    LocalCopy,
    DisjointPairs,
    PingPong,
    Stores,
    Loads,
    StoresAndLoads,
    FencedStores,
    UnfencedStores,
    DependentLoads,
    GraphKernel,
    LibraryMessage,
    LibraryBothDirections,
    LibraryPingPong,
)


def prepare(sizes: Sequence[int], session: Session) -> Suite:
    """All measurements, over buffers of the largest size. Raises Refusal, also if a host's ranks
    map no memory."""
    communicator, world = session.communicator, session.world
    near = world.node or world
    peers = near.mapped
    require_memory(session, sizes[-1])
    send, receive = (peers.register(sizes[-1]) for _ in range(2))
    arguments = peers.arguments(send.address, receive.address)
    peers.locate(send.address, arguments.sends)
    peers.locate(receive.address, arguments.receives)
    buffers, engine = Buffers(send, receive, session.options.seed), shared_engine(near)
    lines_bytes = max(1, sizes[-1] // LINE_BYTES) * LINE_BYTES
    link = Link(session, near, buffers, Transfer(arguments, -1, -1, lines_bytes), engine)
    has = {
        "nothing": True,
        "reads": not peers.shown.no_reads,
        "engines": engine is not None,
        "graphs": not near.device.reason_against_graphs(),
    }
    ranks_have = communicator.all_gather(has)
    contended = max(size for size in sizes if size <= max(CONTENDED_BYTES, sizes[0]))
    at_sizes = {
        "every": sizes,
        "contended": [contended],  # at which many ranks contend
        "message": [min(MESSAGE_BYTES, contended)],
        "element": [DATATYPE.size_bytes],
        "none": [0],
    }
    suite, sets = Suite(), sets_of_pairs(communicator.nodes)
    session.flight.note("compile", text="link")
    for kind in MEASUREMENTS:
        is_here = all(rank_has[kind.needs] for rank_has in ranks_have)
        for size, pairs in product(at_sizes[kind.at], sets[kind.among] if is_here else []):
            header = CaseHeader(
                collective=LINK.name,
                shape=dict(kind.shape(pairs)),
                size_bytes=size,
                count=size // DATATYPE.size_bytes,
                datatype=DATATYPE.name,
                redop="none",
                algorithm=kind.key,
                memory=peers.kind,
            )
            is_far = issubclass(kind, LibraryMessage)
            if is_far:
                header.library, header.memory = world.library.name, "private"
            # A library's ranks talk to each other here: a failed one cannot be waited for.
            with nullcontext() if is_far else communicator.all_or_none():
                iteration = kind(link, pairs, size).iteration()
            if isinstance(iteration, Iteration):
                ranks = "-".join(map(str, kind.shape(pairs).values()))
                iteration.text = f"{kind.key} {ranks} {size} B"
            suite.add(header, iteration)
    return suite


if __name__ == "__main__":
    run_options, sizes = parse()
    start(run_options, lambda session: measure(session, partial(prepare, sizes)))
