"""The link between every two ranks: data, flags, and what a rank's own launch takes.
`mpirun -n 2 python -m bench.link`

docs/link.md says how each figure is measured. Figures are a pair's, or of several pairs at once."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import product

from bench.harness.iteration import Buffers
from bench.harness.options import RunOptions, SizeOptions, add_run_options, rank_parser
from bench.harness.parser import fill
from bench.harness.run import measure
from bench.harness.session import Session, require_memory, start
from bench.harness.suite import Suite
from bench.links.measurement import LINE_BYTES, Measurement, RankLink
from bench.links.messages import BothDirectionsLibrary, PingPongLibrary, SendLibrary
from bench.links.parts import (
    DependentLoads,
    FencedStores,
    GraphKernel,
    Loads,
    Stores,
    StoresAndLoads,
    UnfencedStores,
)
from bench.links.submissions import SubmitWait, SubmitWaitGraph
from bench.links.transfers import (
    BothDirections,
    DisjointPairs,
    EnginePush,
    LocalCopy,
    PingPong,
    Pull,
    Push,
)
from bench.sweep import requested_sizes
from collectives.copy_engine import shared_engine
from collectives.operation import Unsupported
from kernels.devices.device import Transfer
from wiretax.common.launched import launched_ranks
from wiretax.common.program import on_ranks

ABOUT = (
    "Times the wire between every two ranks: push, pull, both ways at once, and flags; "
    "between hosts, messages of the library; and a launch with the wait for its end."
)
FEW_RANKS = 3  # up to this many, every size is affordable
MEASUREMENTS: tuple[Measurement, ...] = (
    Push(),
    Pull(),
    EnginePush(),
    BothDirections(),
    LocalCopy(),
    DisjointPairs(),
    PingPong(),
    Stores(),
    Loads(),
    StoresAndLoads(),
    FencedStores(),
    UnfencedStores(),
    DependentLoads(),
    GraphKernel(),
    SubmitWait(),
    SubmitWaitGraph(),
    SendLibrary(),
    BothDirectionsLibrary(),
    PingPongLibrary(),
)


def parse() -> tuple[RunOptions, tuple[int, ...]]:
    """The options and the sizes, or the end of the process with status 2 and one sentence."""
    example = f"{on_ranks(2, 'link')} --max-time 30"
    parser = rank_parser("link", ABOUT, example, "the results so far are kept")
    parser.add(SizeOptions)
    add_run_options(parser, "max_time_s", "samples")
    factor = 4 if (launched_ranks() or 1) <= FEW_RANKS else 128
    parser.set_defaults(maxbytes="256M", stepfactor=factor)
    namespace = parser.parse_args()
    sizes = requested_sizes(parser, fill(SizeOptions, namespace))
    parser.require_ranks()
    return fill(RunOptions, namespace), sizes


def prepare(sizes: Sequence[int], session: Session) -> Suite:
    """All measurements, over buffers of the largest size; those that read peers are listed with
    the reason where no read is routed. Raises Refusal, also if a host's ranks map no memory."""
    link, communicator = open_link(session, sizes[-1]), session.communicator
    ranks_can = communicator.all_gather([each.is_possible(link) for each in MEASUREMENTS])
    no_reads = communicator.first_reason(link.near.mapped.shown.no_reads)
    suite = Suite()
    session.flight.note("compile", text="link")
    for measurement, possible in zip(MEASUREMENTS, zip(*ranks_can, strict=True), strict=True):
        if not all(possible):
            continue
        groups = measurement.groups(communicator.nodes)
        for size_bytes, pairs in product(measurement.sizes(sizes), groups):
            header = measurement.header(link, pairs, size_bytes)
            if measurement.reads_peers and no_reads:
                suite.add(header, Unsupported(no_reads))
                continue
            # A library's ranks talk to each other here: a failed one cannot be waited for.
            with nullcontext() if measurement.is_by_library else communicator.all_or_none():
                iteration = measurement.iteration(link, pairs, size_bytes)
            if not isinstance(iteration, Unsupported):
                iteration.text = measurement.text(pairs, size_bytes)
            suite.add(header, iteration)
    return suite


def open_link(session: Session, size_bytes: int) -> RankLink:
    """This rank's buffers of so many bytes, and those of its host's ranks as mapped here. All ranks
    call it. Raises Refusal."""
    near = session.world.node or session.world
    peers = near.mapped
    require_memory(session, size_bytes)
    send, receive = (peers.register(size_bytes) for _ in range(2))
    arguments = peers.arguments(send.address, receive.address)
    peers.locate(send.address, arguments.sends)
    peers.locate(receive.address, arguments.receives)
    lines_bytes = max(1, size_bytes // LINE_BYTES) * LINE_BYTES
    buffers = Buffers(send, receive, session.options.seed)
    whole = Transfer(arguments, -1, -1, lines_bytes)
    return RankLink(session, near, buffers, whole, shared_engine(near))


if __name__ == "__main__":
    run_options, sizes = parse()
    start(run_options, lambda session: measure(session, partial(prepare, sizes)))
