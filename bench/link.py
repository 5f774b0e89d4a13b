"""The wire between every two ranks: data, flags, launches. `mpirun -n 2 python -m bench.link`

docs/link.md says how each figure is measured. Figures are a pair's, or of several pairs at once."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations, permutations, product
from typing import NamedTuple

from bench.harness import options
from bench.harness.command import requested_sizes
from bench.harness.iteration import Buffers, Iteration, case_iteration, link_parts, nothing
from bench.harness.options import RunOptions
from bench.harness.run import measure
from bench.harness.session import PING_PONGS, SHARED_PING_PONGS, Session, require_memory, start
from bench.harness.suite import Suite
from collectives.allreduce_copy_engine import pushed, shared_engine
from collectives.collective import DATATYPES, Array, Collective, Shape
from collectives.communicator import Refusal, launched_ranks
from collectives.operation import Case, Message, Operation, Unsupported, World
from collectives.probe import probe_kernels
from kernels.devices.device import PEER_STRUCTURES, CopyEngine, DeviceError, Memory, Step, Transfer
from reports.store.schema import CaseHeader

ABOUT = (
    "Times the wire between every two ranks: push, pull, both ways at once, flags, launches, "
    "and background traffic; between hosts, messages of the library."
)
DATATYPE = DATATYPES["float32"]
CONTENDED_BYTES = 16 << 20  # contention is measured at this size, or the largest below
SLOW_EVERY = 4  # rounds between blocks of larger sizes, which take a second
FEW_RANKS = 3  # up to this many, every size is affordable
FLAGS = 5 * PING_PONGS  # round trips in a launch, so that launching and stamping do not show
BACKGROUND_BYTES = 16 << 20  # of the host copy: whole pieces of link.cu, more than caches hold
# The kernels of link.cu; others push.
ENTRIES = {
    "pull": "link_pull",
    "host_copy_beside": "link_push_beside_host_copy",
    "ping_pong": "link_ping_pong",
}
# Parts of a wire that one rank measures alone over another's buffers: entries of link_parts.cu.
STREAMS = {
    "stores": "link_stores",
    "loads": "link_loads",
    "stores_and_loads": "link_both_streams",
}
DRAINS = {"fenced_stores": "link_fenced_stores", "unfenced_stores": "link_unfenced_stores"}
# The kernel of a graph makes no load.
LATENCIES = {"dependent_loads": "link_dependent_loads", "graph_kernel": "link_dependent_loads"}
ALONE = STREAMS | DRAINS | LATENCIES
REPEATS = 200  # of a drain or a latency in a launch
LINE_BYTES = 256  # no line of a cache is longer
DRAINED_BYTES = 16 << 10  # in front of a fence: a message of a model's decode
FAR_TRIPS = 10  # round trips of a message between hosts in an iteration
MOST_FAR_RANKS = 8  # with more, only ranks at the same place of their hosts exchange messages
Pairs = tuple[tuple[int, int], ...]  # (source, destination)


def _from_sources(sent: Array, shape: Shape, _: object) -> Array:
    sources = {destination: source for source, destination in shape["pairs"]}
    return sent[[sources.get(rank, rank) for rank in range(len(sent))]]


LINK = Collective(
    "link",
    _from_sources,
    cut=False,
    no_place="nothing moves in place",
    receives=lambda shape, rank, _: rank in dict(shape["pairs"]).values(),
)


class Part(NamedTuple):
    """One measurement of the wire: `pairs` move in one launch."""

    algorithm: str
    pairs: Pairs

    @property
    def is_far(self) -> bool:
        """Whether the library moves the data, because the ranks have no memory in common."""
        return self.algorithm.endswith("library")

    @property
    def shape(self) -> Shape:
        """The part's place in the key of its case."""
        if self.algorithm == "disjoint_pairs":
            return {"pairs": [list(pair) for pair in self.pairs]}
        return {"src": self.pairs[0][0], "dst": self.pairs[0][1]}


@dataclass(frozen=True)
class Wire:
    """Registered buffers of this rank, and the argument of a launch, with the buffers of every rank
    of this host as mapped here, still without a count and ranks; `keep` are the buffers of its host
    copy; `engine` if all ranks of this host have one. `near` is the world of these `ranks`."""

    session: Session
    near: World
    ranks: Sequence[int]
    buffers: Buffers
    transfer: Transfer
    keep: tuple[Memory, Memory]
    engine: CopyEngine | None


def parse() -> tuple[RunOptions, tuple[int, ...]]:
    """The options and the sizes, or the end of the process with status 2 and one sentence."""
    parser, what, how, output = options.rank_parser(
        "link",
        ABOUT,
        "mpirun -n 2 python -m bench.link --max-time 30",
        "the results so far are kept",
    )
    factor = 4 if (launched_ranks() or 1) <= FEW_RANKS else 128
    options.add_sizes(what, "256M", factor, f"4, and 128 with more than {FEW_RANKS} ranks")
    options.add_run_options(how)
    options.add_format(output, "table", "csv")
    options.add_output(output)
    parser.set_defaults(sizes=None, datatypes=[DATATYPE.name])
    namespace = parser.parse_args()
    sizes = requested_sizes(parser, namespace)
    parser.require_ranks()
    return options.run_options(namespace), sizes


def matchings(ranks: Sequence[int]) -> list[Pairs]:
    """Sets of at least two disjoint pairs in which every pair occurs once: the circle method of
    round-robin tournaments. With an odd number of ranks one rank rests in each set."""
    turns = len(ranks) - 1 + len(ranks) % 2
    sets: list[Pairs] = [()] * turns
    for low, high in combinations(range(len(ranks)), 2):
        # With an even number the last rank meets the rank that would rest.
        turn = (low + (high if high < turns else low)) % turns
        sets[turn] += ((ranks[low], ranks[high]),)
    return [pairs for pairs in sets if len(pairs) > 1]


def parts(nodes: Sequence[Sequence[int]], engines: bool = False) -> dict[str, list[Part]]:
    """All measurements between the ranks of these hosts, by algorithm: bandwidths, contention,
    latencies, messages between hosts; with `engines`, pushes by copy engines too."""
    host_of = {rank: number for number, node in enumerate(nodes) for rank in node}
    place_of = {rank: place for node in nodes for place, rank in enumerate(node)}
    ranks = sorted(host_of)
    near: list[Pairs] = [(pair,) for node in nodes for pair in permutations(node, 2)]
    far: list[Pairs] = [
        ((a, b),)
        for a, b in permutations(ranks, 2)
        if host_of[a] != host_of[b] and (len(ranks) <= MOST_FAR_RANKS or place_of[a] == place_of[b])
    ]
    own: list[Pairs] = [((rank, rank),) for rank in ranks]

    def both_ways(one_way: list[Pairs]) -> list[Pairs]:
        return [((a, b), (b, a)) for ((a, b),) in one_way if a < b]

    measured = {
        "push": near,
        "pull": near,
        "engine_push": near if engines else [],
        "both_directions": both_ways(near),
        "local_copy": own,
        "disjoint_pairs": [pairs for node in nodes for pairs in matchings(node)],
        "host_copy_beside": near,
        "ping_pong": both_ways(near),
        **dict.fromkeys(ALONE, near),
        "launch": own,
        "send_library": far,
        "both_directions_library": both_ways(far),
        "ping_pong_library": both_ways(far),
    }
    return {
        algorithm: [Part(algorithm, pairs) for pairs in moves]
        for algorithm, moves in measured.items()
    }


def prepare(sizes: Sequence[int], session: Session) -> Suite:
    """All parts, and the parts of every benchmark's bound at one size. Raises Refusal."""
    communicator, world = session.communicator, session.world
    wire = open_wire(session, sizes[-1])
    contended = max(size for size in sizes if size <= max(CONTENDED_BYTES, sizes[0]))
    few_sizes = {
        "disjoint_pairs": [contended],
        "host_copy_beside": [contended],
        "ping_pong": [0],
        "launch": [0],
        **{name: [contended] for name in STREAMS},
        **{name: [min(DRAINED_BYTES, contended)] for name in DRAINS},
        **{name: [0] for name in LATENCIES},
        "ping_pong_library": [DATATYPE.size_bytes],
    }
    suite = Suite()
    session.flight.note("compile", text="link")
    engines = all(communicator.all_gather(wire.engine is not None))
    measured = parts(communicator.nodes, engines)
    if any(communicator.all_gather(bool(session.world.device.reason_against_graphs()))):
        measured["graph_kernel"] = []
    for algorithm, same_kind in measured.items():
        for size, part in product(few_sizes.get(algorithm, sizes), same_kind):
            header = CaseHeader(
                collective=LINK.name,
                shape=dict(part.shape),
                size_bytes=size,
                count=size // DATATYPE.size_bytes,
                datatype=DATATYPE.name,
                redop="none",
                algorithm=algorithm,
                memory=wire.near.mapped.kind,
            )
            if part.is_far:
                header.library, header.memory = world.library.name, "private"
            # A library's ranks talk to each other here, so a failed one cannot be waited for.
            with (
                nullcontext() if part.is_far else communicator.all_or_none(DeviceError, MemoryError)
            ):
                iteration = (
                    iteration_of_messages(wire, part, size)
                    if part.is_far
                    else iteration_of_part(wire, part, size)
                )
            if isinstance(iteration, Unsupported):
                header.status, header.reason = "unsupported", iteration.reason
            suite.add(header, None if isinstance(iteration, Unsupported) else iteration)
    with communicator.all_or_none(DeviceError, MemoryError):
        suite.link_parts[contended] = link_parts(wire.near, wire.buffers, contended, wire.engine)
    return suite


def open_wire(session: Session, size_bytes: int) -> Wire:
    """Buffers of this size on all ranks. Raises Refusal if a host's ranks map no memory."""
    communicator, device = session.communicator, session.world.device
    near = session.world.node or session.world
    unmapped = near.peers.reason if isinstance(near.peers, Unsupported) else None
    if unmapped := communicator.first_word(unmapped):
        raise Refusal(f"peer memory is not mapped: {unmapped}")
    require_memory(session, size_bytes)
    ranks, peers = communicator.node_gather(communicator.rank), near.mapped
    with communicator.all_or_none(DeviceError, MemoryError):
        on_host = (
            device.private(BACKGROUND_BYTES)
            if device.is_cpu
            else device.allocate(BACKGROUND_BYTES, "host_staged")
        )
        on_device = device.private(BACKGROUND_BYTES)
    send, receive = (peers.register(size_bytes) for _ in range(2))
    arguments = peers.arguments(send.address, receive.address, 0, 0)
    for rank, (its_send, its_receive) in enumerate(zip(*peers.registered[-2:], strict=True)):
        arguments.sends[rank], arguments.receives[rank] = its_send.address, its_receive.address
    buffers = Buffers(send, receive, session.options.seed)
    transfer = Transfer(arguments, -1, -1, on_host.address, on_device.address, BACKGROUND_BYTES)
    return Wire(session, near, ranks, buffers, transfer, (on_host, on_device), shared_engine(near))


def bind(wire: Wire, part: Part, count: int) -> Operation:
    """This rank's launch of `count` elements, or round trips of a ping-pong. Raises DeviceError."""
    world, own, ranks = wire.near, wire.session.communicator.rank, len(wire.ranks)
    transfer = Transfer.from_buffer_copy(wire.transfer)
    transfer.ranks.count = count
    blocks = 1 if part.algorithm == "ping_pong" else world.device.blocks_for(4 * count)
    for source, target in part.pairs:  # a launch numbers the ranks of its host
        if own == source:
            transfer.to = wire.ranks.index(target)
        if own == target:
            transfer.from_ = wire.ranks.index(source)
    if part.algorithm == "local_copy":
        step = Step(probe_kernels(world.device, ranks).kernel("copy_local"), transfer.ranks, blocks)
    elif part.algorithm == "engine_push" and wire.engine:
        step = pushed(world, wire.engine, transfer)
    else:
        kernels = world.device.compile("link", {"WORLD": str(ranks)}, (*PEER_STRUCTURES, Transfer))
        step = Step(kernels.kernel(ENTRIES.get(part.algorithm, "link_push")), transfer, blocks)
    return Operation(step, world.device.caller(step), keep=wire)


def iteration_of_part(wire: Wire, part: Part, size_bytes: int) -> Iteration:
    """The source rewrites its buffer, the timed operation moves it, and the destination reads it:
    so the lines that a push stores into, or a pull reads, lie where a real exchange leaves them."""
    world = wire.session.world
    has_part = world.communicator.rank in chain(*part.pairs)
    idle = nothing(world)
    operation = Operation(idle, world.device.caller(idle) if has_part else lambda: None)
    if part.algorithm == "launch":
        iteration = Iteration(-1, "", idle, operation, idle, idle, from_python=True)
    elif part.algorithm in ALONE:
        iteration = iteration_alone(wire, part, size_bytes)
        return labelled(iteration, part, size_bytes, (part.pairs[0][0],))
    elif part.algorithm == "ping_pong":
        trips = SHARED_PING_PONGS if wire.near.memory == "same_device" else FLAGS
        if part.pairs[0][0] in wire.ranks:
            operation = bind(wire, part, trips)
        iteration = Iteration(-1, "", idle, operation, idle, idle, scale=1 / (2 * trips))
    else:
        count = size_bytes // DATATYPE.size_bytes
        # Every rank of the host launches, since a launch advances all epochs; but a local copy has
        # no epoch.
        if has_part or (part.pairs[0][0] in wire.ranks and part.algorithm != "local_copy"):
            operation = bind(wire, part, count)
        iteration = moving_iteration(wire, part, count, operation)
        iteration.movers = tuple(pair[1 if part.algorithm == "pull" else 0] for pair in part.pairs)
    return labelled(iteration, part, size_bytes, tuple(sorted({*chain(*part.pairs)})))


def iteration_alone(wire: Wire, part: Part, size_bytes: int) -> Iteration:
    """Only the source launches. Its data are not checked: others' cases write the buffers anew."""
    step = idle = nothing(wire.session.world)
    if wire.session.communicator.rank == part.pairs[0][0]:
        step = step_alone(wire, part, size_bytes)
    operation = Operation(step, wire.near.device.caller(step), keep=wire)
    scale = 1.0 if part.algorithm in STREAMS else 1 / REPEATS
    return Iteration(-1, "", idle, operation, idle, idle, scale=scale)


def step_alone(wire: Wire, part: Part, size_bytes: int) -> Step:
    """The source's launch over the buffers of the other rank: a stream over all blocks, or REPEATS
    of a drain or a latency by one block."""
    device, name = wire.near.device, part.algorithm
    transfer = Transfer.from_buffer_copy(wire.transfer)
    transfer.to = wire.ranks.index(part.pairs[0][1])
    blocks, transfer.ranks.count = 1, REPEATS
    if name in STREAMS:
        blocks = device.blocks_for(size_bytes)
        transfer.ranks.count = size_bytes // DATATYPE.size_bytes
    elif name in DRAINS:
        transfer.beside_bytes = max(0, size_bytes - LINE_BYTES)  # the flag has the last line
    else:
        words_bytes = wire.buffers.send.size_bytes // LINE_BYTES * LINE_BYTES
        transfer.beside_bytes = max(LINE_BYTES, words_bytes)
    macros = {"WORLD": str(len(wire.ranks))}
    kernels = device.compile("link_parts", macros, (*PEER_STRUCTURES, Transfer))
    if name == "graph_kernel":
        transfer.ranks.count = 0
        step = Step(kernels.kernel(ALONE[name]), transfer, blocks)
        return device.replayed(device.sequence([step] * REPEATS))
    return Step(kernels.kernel(ALONE[name]), transfer, blocks)


def moving_iteration(wire: Wire, part: Part, count: int, operation: Operation) -> Iteration:
    """The iteration of an operation that moves `count` elements from sources to destinations."""
    world, buffers = wire.session.world, wire.buffers
    case = Case(
        LINK,
        count,
        DATATYPE,
        "none",
        buffers.send.address,
        buffers.receive.address,
        shape={"pairs": part.pairs},
    )
    iteration = case_iteration(world, buffers, case, operation, 0)
    if world.communicator.rank not in dict(part.pairs):
        iteration.prepare = nothing(world)
    iteration.schedule.every = SLOW_EVERY if case.segment_bytes > CONTENDED_BYTES else 1
    return iteration


def iteration_of_messages(wire: Wire, part: Part, size_bytes: int) -> Iteration | Unsupported:
    """Messages of the library between two ranks without a common clock. So both first exchange an
    element, which tells that the other has arrived; one way, the source's clock runs until the
    destination has answered with an element. All ranks call it. Raises DeviceError."""
    world, library, buffers = wire.session.world, wire.session.world.library, wire.buffers
    own, (source, target) = world.communicator.rank, part.pairs[0]
    peer = {source: target, target: source}.get(own, -1)
    element = world.device.private(2 * DATATYPE.size_bytes)

    def send(address: int = element.address, length: int = DATATYPE.size_bytes) -> Message:
        return Message(True, peer, address, length)

    def receive(
        address: int = element.address + DATATYPE.size_bytes, length: int = DATATYPE.size_bytes
    ) -> Message:
        return Message(False, peer, address, length)

    to_target, answer = send(buffers.send.address, size_bytes), receive()
    if own == target:
        to_target, answer = receive(buffers.receive.address, size_bytes), send()
    groups = {
        "send_library": [[to_target], [answer]],
        "both_directions_library": [
            [send(buffers.send.address, size_bytes), receive(buffers.receive.address, size_bytes)]
        ],
        "ping_pong_library": FAR_TRIPS
        * ([[send()], [receive()]] if own == source else [[receive()], [send()]]),
    }[part.algorithm]
    arrive = library.bind_messages(world, [[send(), receive()]] if peer >= 0 else [])
    operation = library.bind_messages(world, groups if peer >= 0 else [])
    for bound in (arrive, operation):
        if isinstance(bound, Unsupported):
            return bound
    assert isinstance(arrive, Operation)
    assert isinstance(operation, Operation)
    if part.algorithm == "ping_pong_library":
        idle = nothing(world)
        iteration = Iteration(-1, "", idle, operation, idle, idle, scale=1 / (2 * FAR_TRIPS))
    else:
        iteration = moving_iteration(wire, part, size_bytes // DATATYPE.size_bytes, operation)
    iteration.late = arrive.step
    iteration.keep += [element, arrive, operation]
    both_ways = part.algorithm == "both_directions_library"
    return labelled(iteration, part, size_bytes, (source, target) if both_ways else (source,))


def labelled(
    iteration: Iteration, part: Part, size_bytes: int, ranks: tuple[int, ...]
) -> Iteration:
    shape = "-".join(map(str, part.shape.values()))
    iteration.text, iteration.ranks = f"{part.algorithm} {shape} {size_bytes} B", ranks
    return iteration


if __name__ == "__main__":
    run_options, sizes = parse()
    start(run_options, lambda session: measure(session, partial(prepare, sizes)))
