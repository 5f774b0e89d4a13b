"""The wire between every two ranks: data, flags, launches. `mpirun -n 2 python -m bench.link`

docs/link.md says how each figure is measured. Figures are a pair's, or of several pairs at once."""

from collections.abc import Sequence
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
from collectives.communicator import launched_ranks
from collectives.operation import Case, Operation
from collectives.probe import probe_kernels
from kernels.devices.device import PEER_STRUCTURES, CopyEngine, DeviceError, Memory, Step, Transfer
from reports.store.schema import CaseHeader

ABOUT = ("Times the wire between every two ranks: push, pull, both ways at once, flags, launches, "
         "and background traffic.")
DATATYPE = DATATYPES["float32"]
CONTENDED_BYTES = 16 << 20  # contention is measured at this size, or the largest below
SLOW_EVERY = 4  # rounds between blocks of larger sizes, which take a second
FEW_RANKS = 3  # up to this many, every size is affordable
FLAGS = 5 * PING_PONGS  # round trips in a launch, so that launching and stamping do not show
BACKGROUND_BYTES = 16 << 20  # of the host copy: whole pieces of link.cu, more than caches hold
# The kernels of link.cu; others push.
ENTRIES = {"pull": "link_pull", "host_copy_beside": "link_push_beside_host_copy",
           "ping_pong": "link_ping_pong"}
Pairs = tuple[tuple[int, int], ...]  # (source, destination)


def _from_sources(sent: Array, shape: Shape, _: object) -> Array:
    sources = {destination: source for source, destination in shape["pairs"]}
    return sent[[sources.get(rank, rank) for rank in range(len(sent))]]


LINK = Collective("link", _from_sources, cut=False, no_place="nothing moves in place",
                  receives=lambda shape, rank, _: rank in dict(shape["pairs"]).values())


class Part(NamedTuple):
    """One measurement of the wire: `pairs` move in one launch."""

    algorithm: str
    pairs: Pairs

    @property
    def shape(self) -> Shape:
        """The part's place in the key of its case."""
        if self.algorithm == "disjoint_pairs":
            return {"pairs": [list(pair) for pair in self.pairs]}
        return {"src": self.pairs[0][0], "dst": self.pairs[0][1]}


@dataclass(frozen=True)
class Wire:
    """Registered buffers of this rank, and the argument of a launch, with every rank's buffers as
    mapped here, still without a count and ranks; `keep` are the buffers of its host copy; `engine`
    if all ranks have one."""

    session: Session
    buffers: Buffers
    transfer: Transfer
    keep: tuple[Memory, Memory]
    engine: CopyEngine | None


def parse() -> tuple[RunOptions, tuple[int, ...]]:
    """The options and the sizes, or the end of the process with status 2 and one sentence."""
    parser, what, how, output = options.rank_parser(
        "link", ABOUT, "mpirun -n 2 python -m bench.link --max-time 30",
        "the results so far are kept")
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


def matchings(ranks: int) -> list[Pairs]:
    """Sets of at least two disjoint pairs in which every pair occurs once: the circle method of
    round-robin tournaments. With an odd number of ranks one rank rests in each set."""
    turns = ranks - 1 + ranks % 2
    sets: list[Pairs] = [()] * turns
    for low, high in combinations(range(ranks), 2):
        # With an even number the last rank meets the rank that would rest.
        turn = (low + (high if high < turns else low)) % turns
        sets[turn] += ((low, high),)
    return [pairs for pairs in sets if len(pairs) > 1]


def parts(ranks: int, engines: bool = False) -> dict[str, list[Part]]:
    """All measurements between this many ranks, by algorithm: bandwidths, contention, latencies;
    with `engines`, pushes by copy engines too."""
    one_way: list[Pairs] = [(pair,) for pair in permutations(range(ranks), 2)]
    both_ways: list[Pairs] = [((a, b), (b, a)) for a, b in combinations(range(ranks), 2)]
    own: list[Pairs] = [((rank, rank),) for rank in range(ranks)]
    measured = {
        "push": one_way, "pull": one_way, "engine_push": one_way if engines else [],
        "both_directions": both_ways, "local_copy": own, "disjoint_pairs": matchings(ranks),
        "host_copy_beside": one_way, "ping_pong": both_ways, "launch": own}
    return {algorithm: [Part(algorithm, pairs) for pairs in moves]
            for algorithm, moves in measured.items()}


def prepare(sizes: Sequence[int], session: Session) -> Suite:
    """All parts, and the parts of every benchmark's bound at one size. Raises Disagreement."""
    wire = open_wire(session, sizes[-1])
    contended = max(size for size in sizes if size <= max(CONTENDED_BYTES, sizes[0]))
    few_sizes = {"disjoint_pairs": [contended], "host_copy_beside": [contended],
                 "ping_pong": [0], "launch": [0]}
    suite = Suite()
    session.flight.note("compile", text="link")
    with session.communicator.together(DeviceError, MemoryError):
        measured = parts(session.communicator.size, wire.engine is not None)
        for algorithm, same_kind in measured.items():
            for size, part in product(few_sizes.get(algorithm, sizes), same_kind):
                header = CaseHeader(
                    collective=LINK.name, shape=dict(part.shape), size_bytes=size,
                    count=size // DATATYPE.size_bytes, datatype=DATATYPE.name, redop="none",
                    algorithm=algorithm, memory=session.world.mapped.kind)
                suite.add(header, iteration_of_part(wire, part, size))
        suite.link_parts[contended] = link_parts(session.world, wire.buffers, contended,
                                                 wire.engine)
    return suite


def open_wire(session: Session, size_bytes: int) -> Wire:
    """Buffers of this size on all ranks. Raises Disagreement if no memory is mapped."""
    communicator, device, peers = session.communicator, session.world.device, session.world.mapped
    require_memory(session, size_bytes)
    with communicator.together(DeviceError, MemoryError):
        on_host = (device.private(BACKGROUND_BYTES) if device.near_peers
                   else device.allocate(BACKGROUND_BYTES, "host_staged"))
        on_device = device.private(BACKGROUND_BYTES)
    send, receive = (peers.register(size_bytes) for _ in range(2))
    arguments = peers.arguments(send.address, receive.address, 0, 0)
    for rank, (its_send, its_receive) in enumerate(zip(*peers.registered[-2:], strict=True)):
        arguments.sends[rank], arguments.receives[rank] = its_send.address, its_receive.address
    buffers = Buffers(send, receive, session.options.seed)
    transfer = Transfer(arguments, -1, -1, on_host.address, on_device.address, BACKGROUND_BYTES)
    return Wire(session, buffers, transfer, (on_host, on_device), shared_engine(session.world))


def bind(wire: Wire, part: Part, count: int) -> Operation:
    """This rank's launch of `count` elements, or round trips of a ping-pong. Raises DeviceError."""
    world, communicator = wire.session.world, wire.session.communicator
    rank, ranks = communicator.rank, communicator.size
    transfer = Transfer.from_buffer_copy(wire.transfer)
    transfer.ranks.count = count
    blocks = 1 if part.algorithm == "ping_pong" else world.device.blocks_for(4 * count)
    transfer.to = dict(part.pairs).get(rank, -1)
    transfer.from_ = {target: source for source, target in part.pairs}.get(rank, -1)
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
    ranks = tuple(sorted(set(chain(*part.pairs))))
    has_part = world.communicator.rank in ranks
    idle = nothing(world)
    operation = Operation(idle, world.device.caller(idle) if has_part else lambda: None)
    if part.algorithm == "launch":
        iteration = Iteration(-1, "", idle, operation, idle, idle, from_python=True)
    elif part.algorithm == "ping_pong":
        trips = SHARED_PING_PONGS if world.mapped.kind == "same_device" else FLAGS
        iteration = Iteration(-1, "", idle, bind(wire, part, trips), idle, idle,
                              scale=1 / (2 * trips))
    else:
        case = Case(LINK, size_bytes // DATATYPE.size_bytes, DATATYPE, "none",
                    wire.buffers.send.address, wire.buffers.receive.address,
                    shape={"pairs": part.pairs})
        # Every rank launches, since a launch advances all epochs; but a local copy has no epoch.
        if has_part or part.algorithm != "local_copy":
            operation = bind(wire, part, case.count)
        iteration = case_iteration(world, wire.buffers, case, operation, 0)
        if world.communicator.rank not in dict(part.pairs):
            iteration.prepare = idle
        iteration.movers = tuple(pair[1 if part.algorithm == "pull" else 0] for pair in part.pairs)
        iteration.every = SLOW_EVERY if size_bytes > CONTENDED_BYTES else 1
    shape = "-".join(map(str, part.shape.values()))
    iteration.text, iteration.ranks = f"{part.algorithm} {shape} {size_bytes} B", ranks
    return iteration


if __name__ == "__main__":
    run_options, sizes = parse()
    start(run_options, lambda session: measure(session, partial(prepare, sizes)))
