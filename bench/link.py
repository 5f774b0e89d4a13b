"""The wire between every two ranks: data, flags, launches. `mpirun -n 2 python -m bench.link`

docs/link.md says how each figure is measured.
"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from bench.harness import options, verify
from bench.harness.iteration import (
    Buffers,
    Iteration,
    Segments,
    idle_operation,
    nothing,
    pattern_steps,
)
from bench.harness.link_parts import link_parts
from bench.harness.options import RunOptions
from bench.harness.run import measure
from bench.harness.session import PING_PONGS, SHARED_PING_PONGS, Session, start
from bench.harness.suite import Suite
from bench.harness.sweep_options import sizes_between
from collectives.collective import DATATYPES
from collectives.link import LINK, Part, Wire, bind, open_wire, parts
from collectives.operation import Operation, plain_arguments
from collectives.peer_buffer import probe_kernels
from kernels.devices.device import DeviceError, Step
from reports.result import CaseHeader

ABOUT = ("Times the wire between every two ranks: push, pull, both ways at once, flags, launches, "
         "and background traffic.")
DATATYPE = DATATYPES["float32"]
CONTENDED_BYTES = 16 << 20  # contention is measured at this size, or the largest below
SLOW_EVERY = 4  # rounds between blocks of larger sizes, which take a second
FEW_RANKS = 3  # up to this many, every size is affordable
FLAGS = 5 * PING_PONGS  # round trips in a launch, so that launching and stamping do not show


@dataclass(frozen=True)
class LinkOptions:
    """The range of sizes in bytes; `factor` None: by the number of ranks."""

    smallest: int
    largest: int
    factor: int | None


def parse(argv: Sequence[str] | None = None) -> tuple[RunOptions, LinkOptions]:
    """The options, or the end of the process with status 2 and one sentence."""
    parser = options.rank_parser("link", ABOUT, "mpirun -n 2 python -m bench.link --max-time 30",
                                 "the results so far are kept")
    groups = [parser.add_argument_group(title).add_argument for title in ("what", "how", "output")]
    options.add_sizes(groups[0], "256M", None, f"4, and 128 with more than {FEW_RANKS} ranks")
    options.add_run_options(groups[1])
    groups[2]("--format", choices=("table", "csv"), default="table", metavar="FORMAT",
              help="table or csv (table)")
    options.add_output(groups[2])
    namespace = parser.parse_args(argv)
    smallest, largest = namespace.minbytes, namespace.maxbytes
    if smallest < DATATYPE.size_bytes:
        parser.error(f"{smallest} B hold no {DATATYPE.name}, which has {DATATYPE.size_bytes} B")
    if largest < smallest:
        parser.error(f"the sizes begin at {smallest} B, above their end at {largest} B")
    parser.require_ranks()
    link = LinkOptions(smallest, largest, namespace.stepfactor)
    return options.run_options("link", namespace), link


def measurements(ranks: int, sizes: Sequence[int]) -> Iterator[tuple[Part, int]]:
    """Every part at each of its sizes; 0 for parts that move no data."""
    contended = max([size for size in sizes if size <= CONTENDED_BYTES] or sizes[:1])
    for name, same_kind in parts(ranks).items():
        at_one_size = name in ("disjoint_pairs", "host_copy_beside")
        moving = [part for part in same_kind if part.moves_data]
        for size in [contended] if at_one_size else sizes:
            yield from ((part, size) for part in moving)
        yield from ((part, 0) for part in same_kind if not part.moves_data)


def prepare(link: LinkOptions, session: Session) -> Suite:
    """All parts, and at the size of the contention the link's parts that every benchmark takes its
    bound from. Raises Disagreement if no memory is mapped."""
    ranks = session.communicator.size
    factor = link.factor or (4 if ranks <= FEW_RANKS else 128)
    element_bytes = DATATYPE.size_bytes
    sizes = [size // element_bytes * element_bytes
             for size in sizes_between(link.smallest, link.largest, factor, element_bytes)]
    wire = open_wire(session.world, sizes[-1])
    suite = Suite()
    session.flight.note("compile", text="link")
    with session.communicator.together(DeviceError, MemoryError):
        for part, size in measurements(ranks, sizes):
            header = CaseHeader(
                collective=LINK.name, shape=dict(part.shape), size_bytes=size,
                count=size // element_bytes, datatype=DATATYPE.name, redop="none",
                algorithm=part.algorithm, memory=wire.kind)
            suite.add(header, iteration_of_part(session, wire, part, size))
        most = max(CONTENDED_BYTES, sizes[0])
        contended = max(header.size_bytes for header in suite.headers
                        if header.size_bytes <= most)
        buffers = Buffers(wire.send, wire.receive, session.options.seed)
        suite.link_parts[contended] = link_parts(session, buffers, contended)
    return suite


def iteration_of_part(session: Session, wire: Wire, part: Part, size_bytes: int) -> Iteration:
    """The source rewrites its buffer, the timed operation moves it, and the destination reads it:
    so the lines that a push stores into, or a pull reads, lie where a real exchange leaves them."""
    rank, watch, world = session.communicator.rank, session.flight.watch, wire.world
    shape = "-".join(map(str, part.shape.values()))
    text = f"{part.algorithm} {shape} {size_bytes} B"
    idle, no_operation = nothing(world, watch), Operation(nothing(world, watch), lambda: None)
    if part.algorithm == "launch":
        is_mine = part.shape["src"] == rank
        launch = idle_operation(world, watch) if is_mine else no_operation
        return Iteration(-1, text, idle, launch, idle, idle, from_python=True,
                         ranks=(part.shape["src"],))
    if part.algorithm == "ping_pong":
        trips = SHARED_PING_PONGS if wire.kind == "same_device" else FLAGS
        return Iteration(-1, text, idle, bind(wire, part, trips), idle, idle,
                         scale=1 / (2 * trips), ranks=part.pairs[0])
    data = verify.Data(LINK, DATATYPE, "none", session.communicator.size, session.options.seed)
    steps = pattern_steps(
        world, watch, DATATYPE,
        Segments(wire.send.address, size_bytes, DATATYPE.encode(data.sent())[rank]),
        Segments(wire.receive.address, size_bytes, data.received({"pairs": part.pairs})[rank]))
    count = size_bytes // DATATYPE.size_bytes
    reading = plain_arguments(rank, wire.send.address, wire.receive.address, count, watch)
    kernels = probe_kernels(world.device, len(wire.sends))
    read = Step(kernels.kernel("read_own"), reading, world.device.blocks_for(size_bytes))
    is_source = any(source == rank for source, _ in part.pairs)
    is_target = any(target == rank for _, target in part.pairs)
    # Every rank launches, since a launch advances all epochs; only a local copy concerns one rank.
    launches = is_source or is_target or part.algorithm != "local_copy"
    mover = 1 if part.algorithm == "pull" else 0
    return Iteration(
        -1, text, steps.write if is_source else idle,
        bind(wire, part, count) if launches else no_operation, read if is_target else idle,
        steps.check if is_target else idle, wrong=steps.wrong, keep=[steps],
        ranks=tuple(sorted({rank for pair in part.pairs for rank in pair})),
        movers=tuple(pair[mover] for pair in part.pairs),
        every=SLOW_EVERY if size_bytes > CONTENDED_BYTES else 1)


if __name__ == "__main__":
    started_s = time.monotonic()
    run_options, link_options = parse()
    start(run_options, started_s, lambda session: measure(
        session, partial(prepare, link_options)))
