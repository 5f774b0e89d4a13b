"""The link between every two ranks: data, flags, and what a rank's own launch takes.
`mpirun -n 2 python -m bench.link`

docs/link.md says how each figure is measured. Figures are a pair's, or of several pairs at once."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations, permutations, product
from typing import Any

from bench.harness import options
from bench.harness.iteration import Buffers, Iteration, case_iteration, nothing
from bench.harness.options import RunOptions
from bench.harness.run import measure
from bench.harness.session import Session, require_memory, start
from bench.harness.suite import Suite
from bench.sweep import requested_sizes
from collectives.collective import DATATYPES, Array, Collective, Shape
from collectives.copy_engine import pushed, shared_engine
from collectives.operation import CollectiveCase, Message, Operation, Unsupported, World
from collectives.probe import SHARED_PING_PONGS
from kernels.devices.device import CopyEngine, Step, Transfer
from wiretax.common.launched import launched_ranks
from wiretax.common.program import on_ranks
from wiretax.record.schema import CaseHeader

ABOUT = (
    "Times the wire between every two ranks: push, pull, both ways at once, and flags; "
    "between hosts, messages of the library; and a launch with the wait for its end."
)
DATATYPE = DATATYPES["float32"]
CONTENDED_BYTES = 16 << 20  # contention is measured at this size, or the largest below
SLOW_EVERY = 4  # rounds between blocks of larger sizes, which take a second
FEW_RANKS = 3  # up to this many, every size is affordable
MESSAGE_BYTES = 16 << 10  # in front of a fence: of a model's decode
LINE_BYTES = 256  # no line of a cache is longer
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
class Kind:
    """A measurement of the link: pairs of ranks move bytes at once.

    `key` is the algorithm of its cases. It takes the sets of pairs `among` those of `sets_of_pairs`
    and the sizes `at` of `prepare`, where all ranks have what it `needs`. Within a host its kernel,
    `entry` or that of its key, is performed by one block `repeats` times, or at 0 by many blocks
    once; all ranks launch it, since its flags advance all epochs, unless the source `is_alone`,
    whose clock then counts. Repeats are round trips, of which the half is timed, but of a part of a
    wire. The arrival of the `mover` of each pair begins the time. A kind that `submits` times an
    empty launch of the source and the wait for its end, by the clock of the host."""

    key: str
    among: str = "near"
    at: str = "every"
    needs: str = "nothing"
    entry: str = ""
    repeats: int = 0
    mover: int = 0
    is_alone: bool = False
    is_part: bool = False
    submits: bool = False

    @property
    def is_far(self) -> bool:
        """Whether messages of the library move the bytes, between hosts."""
        return self.among.startswith("far")

    def shape(self, pairs: Pairs) -> Shape:
        """The place of the pairs in the key of their case."""
        if self.among == "disjoint":
            return {"pairs": [list(pair) for pair in pairs]}
        return {"src": pairs[0][0], "dst": pairs[0][1]}


# A part of a wire: a kernel of the source alone, over the buffers of another rank. Nobody checks
# its data: other cases write the buffers anew.
part = partial(Kind, is_alone=True, is_part=True)
submission = partial(part, among="own", at="none", submits=True)
MEASUREMENTS = (
    Kind("push"),
    Kind("pull", needs="reads", mover=1),
    Kind("engine_push", needs="engines"),
    Kind("both_directions", "near_both", entry="link_push"),
    Kind("local_copy", "own", is_alone=True),
    Kind("disjoint_pairs", "disjoint", "contended", entry="link_push"),
    # So many that launching and stamping do not show.
    Kind("ping_pong", "near_both", "none", repeats=500),
    part("stores", at="contended"),
    part("loads", at="contended", needs="reads"),
    part("stores_and_loads", at="contended", needs="reads"),
    part("fenced_stores", at="message", repeats=200),
    part("unfenced_stores", at="message", repeats=200),
    part("dependent_loads", at="none", needs="reads", repeats=200),
    part("graph_kernel", at="none", needs="graphs", entry="link_dependent_loads", repeats=200),
    submission("submit_wait"),
    submission("submit_wait_graph", needs="graphs"),
    Kind("send_library", "far", is_alone=True),
    Kind("both_directions_library", "far_both"),
    Kind("ping_pong_library", "far_both", "element", repeats=10, is_alone=True),
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

    def iteration(self, kind: Kind, pairs: Pairs, size_bytes: int) -> Iteration | Unsupported:
        """What is timed where these pairs move so many bytes. All ranks call it. Raises
        DeviceError, MemoryError."""
        world, source = self.session.world, pairs[0][0]
        idle, late, keep = nothing(world), None, list[Any]([self])
        operation: Operation | Unsupported = Operation(idle)
        if kind.is_far:
            memory = world.device.private(2 * DATATYPE.size_bytes)
            arrive, operation = (
                world.library.bind_messages(world, groups)
                for groups in self.messages(kind, pairs[0], size_bytes, memory.address)
            )
            if isinstance(arrive, Unsupported):
                return arrive
            late, keep = arrive.step, [self, memory, arrive]
        elif source in ([world.rank] if kind.is_alone else self.near.communicator.ranks):
            operation = Operation(self.step(kind, pairs, size_bytes))
        if isinstance(operation, Unsupported):
            return operation
        if kind.is_part or kind.repeats:
            one_way = max(1, kind.repeats * (1 if kind.is_part else 2))
            iteration = Iteration("", idle, operation, idle, idle, scale=1 / one_way)
        else:
            # The source rewrites the data, and the destination reads and checks them: the lines
            # that a push stores into, or a pull reads, lie where a real exchange leaves them.
            count = size_bytes // DATATYPE.size_bytes
            case = CollectiveCase(LINK, count, DATATYPE, "none", 0, 0, shape={"pairs": pairs})
            case = self.buffers.place(world, case)
            iteration = case_iteration(world, self.buffers, case, operation)
            iteration.every = SLOW_EVERY if case.segment_bytes > CONTENDED_BYTES else 1
        ranks = "-".join(map(str, kind.shape(pairs).values()))
        iteration.text, iteration.late = f"{kind.key} {ranks} {size_bytes} B", late
        iteration.keep += keep
        # A CPU has no launch: its iteration is one without a collective.
        iteration.from_host = kind.submits and not world.device.is_cpu
        iteration.ranks = (source,)
        if not kind.is_alone:
            iteration.ranks = tuple(sorted({*chain(*pairs)}))
            iteration.movers = tuple(pair[kind.mover] for pair in pairs)
        return iteration

    def step(self, kind: Kind, pairs: Pairs, size_bytes: int) -> Step:
        """This rank's launch, which numbers the ranks of its host. Raises DeviceError."""
        device, ranks, own = self.near.device, self.near.communicator.ranks, self.session.world.rank
        if kind.submits:
            empty = nothing(self.near)
            return device.replayed(empty) if kind.needs == "graphs" else empty
        transfer, is_replayed = Transfer.from_buffer_copy(self.transfer), kind.needs == "graphs"
        if not is_replayed:  # a kernel of loads, without a load
            transfer.ranks.count = kind.repeats or size_bytes // DATATYPE.size_bytes
        if size_bytes:
            transfer.bytes = max(0, size_bytes - LINE_BYTES)  # a flag has the last line
        for source, target in pairs:
            if own == source:
                transfer.to = ranks.index(target)
            if own == target:
                transfer.from_ = ranks.index(source)
        if self.engine and kind.needs == "engines":
            return pushed(self.near, self.engine, transfer)
        step = device.step(
            "link_parts" if kind.is_part else "link",
            kind.entry or f"link_{kind.key}",
            transfer,
            1 if kind.repeats else device.blocks_for(size_bytes),
            WT_WORLD=len(ranks),
        )
        return device.replayed(*[step] * kind.repeats) if is_replayed else step

    def messages(
        self, kind: Kind, pair: tuple[int, int], size_bytes: int, address: int
    ) -> tuple[list[Messages], list[Messages]]:
        """This rank's messages with a rank that has no common clock, a group at once: both first
        exchange an element, which tells that the other has arrived. One way, the source's clock
        runs until the destination has answered with an element. Elements lie at `address`."""
        own, buffers = self.session.world.rank, self.buffers
        if own not in pair:
            return [], []
        peer, element_bytes = sum(pair) - own, DATATYPE.size_bytes
        answer = Message(True, peer, address, element_bytes)
        its_answer = Message(False, peer, address + element_bytes, element_bytes)
        send = Message(True, peer, buffers.send.address, size_bytes)
        receive = Message(False, peer, buffers.receive.address, size_bytes)
        groups = [[send, receive]]
        if kind.is_alone:
            groups = [[send], [its_answer]] if own == pair[0] else [[receive], [answer]]
        return [[answer, its_answer]], groups * max(1, kind.repeats)


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
        if kind.key == "ping_pong" and near.memory == "same_device":
            kind = replace(kind, repeats=SHARED_PING_PONGS)
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
            if kind.is_far:
                header.library, header.memory = world.library.name, "private"
            # A library's ranks talk to each other here: a failed one cannot be waited for.
            with nullcontext() if kind.is_far else communicator.all_or_none():
                suite.add(header, link.iteration(kind, pairs, size))
    return suite


if __name__ == "__main__":
    run_options, sizes = parse()
    start(run_options, lambda session: measure(session, partial(prepare, sizes)))
