"""The link between every two ranks: data, flags, launches. `mpirun -n 2 python -m bench.link`

docs/link.md says how each figure is measured. Figures are a pair's, or of several pairs at once."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, combinations, permutations, product
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.harness import options
from bench.harness.command import requested_sizes
from bench.harness.iteration import Buffers, Iteration, case_iteration, link_parts, nothing
from bench.harness.options import RunOptions
from bench.harness.run import measure
from bench.harness.session import SHARED_PING_PONGS, Session, require_memory, start
from bench.harness.suite import Suite
from collectives.collective import DATATYPES, Array, Collective, Shape
from collectives.communicator import Refusal, launched_ranks
from collectives.copy_engine import pushed, shared_engine
from collectives.operation import CollectiveCase, Message, Operation, Unsupported, World
from collectives.probe import probe_kernels
from kernels.devices.compile_cache import SOURCES, CompileError
from kernels.devices.cpu import CpuModule, compile_kernel
from kernels.devices.device import (
    PEER_STRUCTURES,
    CopyEngine,
    Device,
    DeviceError,
    Echo,
    Kernel,
    Step,
    Transfer,
)
from reports.store.schema import CaseHeader

ABOUT = (
    "Times the wire between every two ranks: push, pull, both ways at once, flags and launches; "
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


@dataclass(frozen=True)
class Method:
    """How an algorithm is measured, as in link.toml."""

    pairs: str
    by: str
    size: str = "every"
    entry: str = ""
    repeats: int = 0

    @property
    def is_checked(self) -> bool:
        """Whether data arrive at a destination that checks them."""
        return self.by in ("link", "engine", "probe") and not self.repeats


TABLE = Path(__file__).with_suffix(".toml")
METHODS = {name: Method(**row) for name, row in msgspec.toml.decode(TABLE.read_bytes()).items()}


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


class Part(NamedTuple):
    """One measurement of the link: `pairs` move in one launch."""

    algorithm: str
    pairs: Pairs

    @property
    def is_far(self) -> bool:
        """Whether the library moves the data, because the ranks have no memory in common."""
        return METHODS[self.algorithm].by == "library"

    @property
    def shape(self) -> Shape:
        """The part's place in the key of its case."""
        if self.algorithm == "disjoint_pairs":
            return {"pairs": [list(pair) for pair in self.pairs]}
        return {"src": self.pairs[0][0], "dst": self.pairs[0][1]}


@dataclass(frozen=True)
class Link:
    """What a launch on this host needs. `near` is the world of its `ranks`. `buffers` are this
    rank's, registered. `transfer` is the argument of a launch without its count and its two ranks:
    the buffers of all ranks as mapped here. `engine` is a copy engine if each of the ranks has
    one."""

    session: Session
    near: World
    ranks: Sequence[int]
    buffers: Buffers
    transfer: Transfer
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
    options.add_sizes(what, "256M", factor)
    options.add_run_options(how)
    options.add_output(output)
    parser.set_defaults(sizes=None, datatypes=[DATATYPE.name])
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
    host_of = {rank: host for host, node in enumerate(nodes) for rank in node}
    place_of = {rank: place for node in nodes for place, rank in enumerate(node)}
    ranks = sorted(host_of)
    near = [pair for node in nodes for pair in permutations(node, 2)]
    far = [
        (a, b)
        for a, b in permutations(ranks, 2)
        if host_of[a] != host_of[b] and (len(ranks) <= MOST_FAR_RANKS or place_of[a] == place_of[b])
    ]

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


def parts(nodes: Sequence[Sequence[int]]) -> dict[str, list[Part]]:
    """All measurements between the ranks of these hosts, by algorithm."""
    pairs_of = sets_of_pairs(nodes)
    return {
        algorithm: [Part(algorithm, pairs) for pairs in pairs_of[method.pairs]]
        for algorithm, method in METHODS.items()
    }


def prepare(sizes: Sequence[int], session: Session) -> Suite:
    """All parts, and the parts of every benchmark's bound at one size. Raises Refusal."""
    communicator, world = session.communicator, session.world
    link = open_link(session, sizes[-1])
    contended = max(size for size in sizes if size <= max(CONTENDED_BYTES, sizes[0]))
    at_sizes = {
        "every": sizes,
        "contended": [contended],
        "message": [min(MESSAGE_BYTES, contended)],
        "element": [DATATYPE.size_bytes],
        "none": [0],
    }
    suite = Suite()
    session.flight.note("compile", text="link")
    lacks = {
        "engine_push": not link.engine,
        "graph_kernel": bool(world.device.reason_against_graphs()),
        "host_echo": world.device.is_cpu or host_kernel() is None,
    }
    absent = {name for each in communicator.all_gather(lacks) for name in each if each[name]}
    for algorithm, same_kind in parts(communicator.nodes).items():
        if algorithm in absent:
            continue
        for size, part in product(at_sizes[METHODS[algorithm].size], same_kind):
            header = CaseHeader(
                collective=LINK.name,
                shape=dict(part.shape),
                size_bytes=size,
                count=size // DATATYPE.size_bytes,
                datatype=DATATYPE.name,
                redop="none",
                algorithm=algorithm,
                memory=link.near.mapped.kind,
            )
            if part.is_far:
                header.library, header.memory = world.library.name, "private"
                # The library's ranks talk to each other here: a failed one cannot be waited for.
                iteration = iteration_of_messages(link, part, size)
            else:
                with communicator.all_or_none(DeviceError, MemoryError):
                    iteration = iteration_of_part(link, part, size)
            if isinstance(iteration, Unsupported):
                header.status, header.reason = "unsupported", iteration.reason
                suite.add(header, None)
            else:
                ranks = "-".join(map(str, part.shape.values()))
                iteration.text = f"{algorithm} {ranks} {size} B"
                suite.add(header, iteration)
    with communicator.all_or_none(DeviceError, MemoryError):
        suite.link_parts[contended] = link_parts(link.near, link.buffers, contended, link.engine)
    return suite


def open_link(session: Session, size_bytes: int) -> Link:
    """Buffers of this size on all ranks. Raises Refusal if a host's ranks map no memory."""
    communicator = session.communicator
    near = session.world.node or session.world
    unmapped = near.peers.reason if isinstance(near.peers, Unsupported) else None
    if unmapped := communicator.first_reason(unmapped):
        raise Refusal(f"peer memory is not mapped: {unmapped}")
    require_memory(session, size_bytes)
    ranks, peers = communicator.node_gather(communicator.rank), near.mapped
    send, receive = (peers.register(size_bytes) for _ in range(2))
    arguments = peers.arguments(send.address, receive.address, 0, 0)
    peers.locate(send.address, arguments.sends)
    peers.locate(receive.address, arguments.receives)
    buffers = Buffers(send, receive, session.options.seed)
    transfer = Transfer(arguments, -1, -1)
    return Link(session, near, ranks, buffers, transfer, shared_engine(near))


@cache
def host_kernel() -> Kernel | None:
    """The echo, built for the CPU; None where no compiler can: the link has its other parts."""
    structures = *PEER_STRUCTURES, Transfer, Echo
    try:
        path = compile_kernel(SOURCES / "link_parts.cu", {"WT_WORLD": "1"}, structures)
    except CompileError:
        return None
    return CpuModule(path).kernel("link_echo")


def repeats_of(link: Link, part: Part) -> int:
    """How often a launch performs the part; 0 for a part that moves its size once."""
    if part.algorithm == "ping_pong" and link.near.memory == "same_device":
        return SHARED_PING_PONGS
    return METHODS[part.algorithm].repeats


def bind(link: Link, part: Part, size_bytes: int) -> Operation:
    """This rank's launch. Raises DeviceError."""
    world, own, ranks = link.near, link.session.communicator.rank, len(link.ranks)
    device, name, method = world.device, part.algorithm, METHODS[part.algorithm]
    repeats = repeats_of(link, part)
    transfer = Transfer.from_buffer_copy(link.transfer)
    transfer.ranks.count = repeats or size_bytes // DATATYPE.size_bytes
    blocks = 1 if repeats else device.blocks_for(size_bytes)
    for source, target in part.pairs:  # a launch numbers the ranks of its host
        if own == source:
            transfer.to = link.ranks.index(target)
        if own == target:
            transfer.from_ = link.ranks.index(source)
    if method.by == "nothing":
        step = nothing(world)
    elif method.by == "probe":
        step = Step(probe_kernels(device, ranks).kernel(method.entry), transfer.ranks, blocks)
    elif method.by == "engine" and link.engine:
        step = pushed(world, link.engine, transfer)
    else:
        if name == "dependent_loads":
            lines = max(1, link.buffers.send.size_bytes // LINE_BYTES)
            transfer.bytes = lines * LINE_BYTES
        elif name == "graph_kernel":
            transfer.ranks.count = 0
        elif method.size == "message":
            transfer.bytes = max(0, size_bytes - LINE_BYTES)  # the flag has the last line
        file = "link_parts" if method.by in ("source", "host") else "link"
        kernels = device.compile(file, {"WT_WORLD": str(ranks)}, (*PEER_STRUCTURES, Transfer))
        step = Step(kernels.kernel(method.entry), transfer, blocks)
        if name == "graph_kernel":
            step = device.replayed(*[step] * repeats)
        elif method.by == "host":
            return answered(device, step)
    return Operation(step, device.caller(step), keep=link)


def answered(device: Device, ask: Step) -> Operation:
    """A kernel that waits for answers, and this thread, which answers. Only for calls from Python:
    a stream behind a gate would wait for the thread, and the thread for it. Raises DeviceError."""
    kernel = host_kernel()
    assert kernel, "where it is missing nobody echoes"
    ask.argument.ranks.more = flags = device.pinned(Echo)
    answering = Transfer.from_buffer_copy(ask.argument)
    answering.bytes = 1
    answer = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel.function)
    reply = device.python("answer", lambda: answer(ctypes.addressof(answering)))
    perform = device.caller(device.sequence([ask, reply]))

    def call() -> None:
        ctypes.memset(flags, 0, ctypes.sizeof(Echo))
        perform()

    return Operation(ask, call)


def iteration_of_part(link: Link, part: Part, size_bytes: int) -> Iteration:
    """The source rewrites its buffer, the timed operation moves it, and the destination reads it:
    so the lines that a push stores into, or a pull reads, lie where a real exchange leaves them.
    What the source measures alone is not checked: other cases write the buffers anew."""
    world, method, source = link.session.world, METHODS[part.algorithm], part.pairs[0][0]
    idle = nothing(world)
    operation = Operation(idle, lambda: None)
    # All ranks of the host launch what has flags, since that advances all epochs.
    launching = link.ranks if method.by in ("link", "engine") else [source]
    if source in link.ranks and world.communicator.rank in launching:
        operation = bind(link, part, size_bytes)
    if method.is_checked:
        iteration = moving_iteration(link, part, size_bytes, operation)
        iteration.movers = tuple(pair[1 if part.algorithm == "pull" else 0] for pair in part.pairs)
    else:
        timed = repeats_of(link, part) * (2 if part.algorithm == "ping_pong" else 1)
        iteration = Iteration(-1, "", idle, operation, idle, idle, scale=1 / max(1, timed))
        iteration.from_python = part.algorithm in ("launch", "host_echo")
    ranks = [source] if method.by == "source" else sorted({*chain(*part.pairs)})
    iteration.ranks = tuple(ranks)
    return iteration


def moving_iteration(link: Link, part: Part, size_bytes: int, operation: Operation) -> Iteration:
    """The iteration of an operation that moves data from sources to destinations."""
    world, buffers = link.session.world, link.buffers
    case = CollectiveCase(
        LINK,
        size_bytes // DATATYPE.size_bytes,
        DATATYPE,
        "none",
        buffers.send.address,
        buffers.receive.address,
        shape={"pairs": part.pairs},
    )
    iteration = case_iteration(world, buffers, case, operation, 0)
    iteration.schedule.every = SLOW_EVERY if case.segment_bytes > CONTENDED_BYTES else 1
    return iteration


def iteration_of_messages(link: Link, part: Part, size_bytes: int) -> Iteration | Unsupported:
    """Messages of the library between two ranks without a common clock. So both first exchange an
    element, which tells that the other has arrived; one way, the source's clock runs until the
    destination has answered with an element. All ranks call it. Raises DeviceError."""
    world, buffers, name = link.session.world, link.buffers, part.algorithm
    own, (source, target) = world.communicator.rank, part.pairs[0]
    peer = {source: target, target: source}.get(own, -1)
    element_bytes = DATATYPE.size_bytes
    elements = world.device.private(2 * element_bytes)
    send = Message(True, peer, elements.address, element_bytes)
    receive = Message(False, peer, elements.address + element_bytes, element_bytes)
    send_all = Message(True, peer, buffers.send.address, size_bytes)
    receive_all = Message(False, peer, buffers.receive.address, size_bytes)
    one_way, trip = [[send_all], [receive]], [[send], [receive]]
    if own == target:
        one_way, trip = [[receive_all], [send]], [[receive], [send]]
    groups = {
        "send_library": one_way,
        "both_directions_library": [[send_all, receive_all]],
        "ping_pong_library": trip * FAR_TRIPS,
    }[name]
    arrive = world.library.bind_messages(world, [[send, receive]] if peer >= 0 else [])
    operation = world.library.bind_messages(world, groups if peer >= 0 else [])
    if isinstance(arrive, Unsupported):
        return arrive
    if isinstance(operation, Unsupported):
        return operation
    if name == "ping_pong_library":
        idle = nothing(world)
        iteration = Iteration(-1, "", idle, operation, idle, idle, scale=1 / (2 * FAR_TRIPS))
    else:
        iteration = moving_iteration(link, part, size_bytes, operation)
    iteration.late = arrive.step
    iteration.keep += [elements, arrive, operation]
    iteration.ranks = (source, target) if name == "both_directions_library" else (source,)
    return iteration


if __name__ == "__main__":
    run_options, sizes = parse()
    start(run_options, lambda session: measure(session, partial(prepare, sizes)))
