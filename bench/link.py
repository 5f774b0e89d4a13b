"""The wire, first: what moves between each pair of ranks, how fast, and how soon. `mpirun -n 2 python -m bench.link`

docs/link.md says how each figure is measured.
"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say

from argparse import Namespace
from collections.abc import Iterator, Sequence

from bench.harness import options as cli
from bench.harness import sweep, verify
from bench.harness.iteration import Buffers, Subject, link_subjects, nothing, on_device, pattern_of
from bench.harness.plan import Prepared
from bench.harness.timing import PING_PONGS, SHARED_PING_PONGS, Bench
from collectives.collective import DATATYPES
from collectives.communicator import launched_rank
from collectives.link import LINK, Part, Wire, bind, open_wire, parts
from collectives.operation import WRONG_BYTES, DeviceError, Operation, Step, plain_arguments
from reports.result import Planned

ABOUT = "Times the wire between every two ranks: push, pull, both ways at once, flags, launches, and what runs beside."
DATATYPE = DATATYPES["float32"]
CONTENDED_BYTES = 16 << 20  # contention is measured at one size: this, or the largest below
LARGE_EVERY = 4  # rounds from block to block of what is larger, where a block takes a second
FEW_RANKS = 3  # of these, every size is affordable
FLAGS = 5 * PING_PONGS  # round trips in a launch, so that launching and stamping do not show


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options, or the end of the process with status 2 and one sentence."""
    p = cli.parser_of_ranks(
        "link", ABOUT,
        "example:\n  mpirun -n 2 python -m bench.link --max-time 30\n\nexit status:\n  0 fine; 1 data arrived "
        "wrong or a rank was lost; 2 the command line;\n  3 this machine cannot run that; 130 interrupted, what was "
        "measured is kept")
    what, how, where = (p.add_argument_group(title).add_argument for title in ("what", "how", "output"))
    cli.size_options(what, "256M", None, f"4, and 128 with more than {FEW_RANKS} ranks")
    cli.run_options(how)
    where("--format", choices=("table", "csv"), default="table", metavar="FORMAT", help="table or csv (table)")
    cli.lean_option(where)
    cli.output_options(where)
    p.set_defaults(beside=None, cudagraph=0, slowed_percent=None, list=False, check=1, warmup_iters=None,
                   dispatch="native", iters=0, output_file=None, long=False, mpi_thread_level=None, tuned="none",
                   lossy=None)
    options = p.parse_args(argv)
    if options.minbytes < DATATYPE.size_bytes:
        p.error(f"{options.minbytes} B hold no {DATATYPE.name}, which has {DATATYPE.size_bytes} B")
    if options.maxbytes < options.minbytes:
        p.error(f"the sizes begin at {options.minbytes} B, above their end at {options.maxbytes} B")
    if launched_rank() is None:
        p.error("this is one process, and a wire needs two: mpirun -n 2 python -m bench.link")
    return options


def to_measure(ranks: int, sizes: Sequence[int]) -> Iterator[tuple[Part, int]]:
    """Every part at every size that it is measured at; 0 for what moves no data."""
    contended = max([size for size in sizes if size <= CONTENDED_BYTES] or sizes[:1])
    for name, found in parts(ranks).items():
        at = [contended] if name in ("disjoint_pairs", "host_copy_beside") else sizes
        yield from ((part, size) for size in at if found and found[0].moves_data for part in found)
        yield from ((part, 0) for part in found if not part.moves_data)


def prepare(options: Namespace, bench: Bench) -> Prepared:
    """All cases, and at the size of the contention the link's parts that every benchmark has its bound from. Raises
    Disagreement where no memory is mapped."""
    world, ranks = bench.world, bench.world.communicator.size
    factor = options.stepfactor or (4 if ranks <= FEW_RANKS else 128)
    sizes = [size // DATATYPE.size_bytes * DATATYPE.size_bytes
             for size in sweep.sizes(options.minbytes, options.maxbytes, factor, DATATYPE.size_bytes)]
    wire = open_wire(world, sizes[-1])
    planned: list[Planned] = []
    subjects: dict[int, Subject] = {}
    bench.flight.note("compile", text="link")
    with world.communicator.together(DeviceError, MemoryError):
        for number, (part, size) in enumerate(to_measure(ranks, sizes)):
            planned.append(Planned(
                collective=LINK.name, shape=dict(part.shape), size_bytes=size, count=size // DATATYPE.size_bytes,
                datatype=DATATYPE.name, redop="none", algorithm=part.algorithm, memory=wire.kind))
            subjects[number] = subject_of_part(wire, bench, options.seed, number, part, size)
        contended = max(case.size_bytes for case in planned if case.size_bytes <= max(CONTENDED_BYTES, sizes[0]))
        buffers = Buffers(wire.send, wire.receive, options.seed)
        links = {contended: link_subjects(world, bench.flight.watch, buffers, contended)}
    return planned, subjects, links


def subject_of_part(wire: Wire, bench: Bench, seed: int, number: int, part: Part, size_bytes: int) -> Subject:
    """Who gives writes its buffer anew, what is timed moves it, and who gets it reads it: so the lines that a push
    stores into, or a pull reads, are where a real exchange would have them."""
    world, rank, watch = wire.world, wire.world.communicator.rank, bench.flight.watch
    device, count, idle = world.device, size_bytes // DATATYPE.size_bytes, nothing(wire.world, watch)
    text = f"{part.algorithm} {'-'.join(map(str, part.shape.values()))} {size_bytes} B"
    no_operation = Operation(idle, lambda: None)
    if part.algorithm == "launch":
        submitted = Operation(idle, device.caller(idle)) if part.shape["src"] == rank else no_operation
        return Subject(number, text, idle, submitted, idle, idle, from_python=True, ranks=(part.shape["src"],))
    if part.algorithm == "ping_pong":
        trips = SHARED_PING_PONGS if wire.kind == "same_device" else FLAGS
        return Subject(number, text, idle, bind(wire, part, trips), idle, idle, scale=1 / (2 * trips),
                       ranks=part.pairs[0])
    gives, takes = (any(pair[end] == rank for pair in part.pairs) for end in (0, 1))
    values = verify.sent(LINK, DATATYPE, "none", world.communicator.size, seed)
    right = verify.received(LINK, {"pairs": part.pairs}, DATATYPE, "none", world.communicator.size, seed)
    tables, wanted = (on_device(world, verify.repeated(t[rank])) for t in (DATATYPE.encode(values), right))
    wrong, blocks = device.private(WRONG_BYTES), device.blocks_for(size_bytes)
    loop, probe = device.compile("iteration", {}), device.compile("link_probe", {"WORLD": str(len(wire.sends))})
    sent = pattern_of(DATATYPE, wire.send.address, 1, size_bytes, tables, wrong, watch)
    got = pattern_of(DATATYPE, wire.receive.address, 1, size_bytes, wanted, wrong, watch)
    reading = plain_arguments(rank, wire.send.address, wire.receive.address, count, watch)
    takes_part = gives or takes or part.algorithm != "local_copy"  # other launches turn every rank's epoch
    return Subject(
        number, text, prepare=Step(loop.kernel("write_pattern"), sent, blocks) if gives else idle,
        operation=bind(wire, part, count) if takes_part else no_operation,
        consume=Step(probe.kernel("read_own"), reading, blocks) if takes else idle,
        check=Step(loop.kernel("count_wrong"), got, blocks) if takes else idle, wrong=wrong, keep=[tables, wanted],
        ranks=tuple(sorted({rank for pair in part.pairs for rank in pair})),
        movers=tuple(pair[part.algorithm == "pull"] for pair in part.pairs),
        every=LARGE_EVERY if size_bytes > CONTENDED_BYTES else 1)


if __name__ == "__main__":
    started_s = time.monotonic()
    from bench.harness.session import start

    start("link", parse(), prepare, started_s)
