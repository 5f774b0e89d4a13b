"""The cases of one collective over sizes, and `--list`."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NoReturn

from bench.harness.iteration import Buffers, Iteration, case_iteration
from bench.harness.link_parts import add_link_parts
from bench.harness.options import FINE, RunOptions, print_out
from bench.harness.run import measure
from bench.harness.session import Session, start
from bench.harness.suite import Axes, Suite, bind_cases
from bench.harness.sweep_options import SweepOptions
from collectives.algorithm import ALGORITHMS, default_names
from collectives.collective import DATATYPES
from collectives.operation import Case, Operation, Unsupported
from kernels.devices.device import DeviceError


def run_sweep(sweep: SweepOptions, options: RunOptions, started_s: float) -> NoReturn:
    """Runs the sweep, or lists its algorithms, and exits."""
    if not options.keeps_run:
        start(options, started_s, partial(list_algorithms, sweep))
    start(options, started_s, lambda session: measure(
        session, partial(prepare, sweep), features=sweep.features))


def prepare(sweep: SweepOptions, session: Session) -> Suite:
    """The cases of the sweep, and the link's parts at their sizes. Raises Disagreement."""
    names = sweep.algorithms or default_names(sweep.collective.name)
    axes = Axes(ALGORITHMS[sweep.collective.name], lambda size_bytes: names,
                sweep.algorithms is not None, sweep.mode, features=sweep.features)
    return prepare_with(sweep, axes, session)


def prepare_with(sweep: SweepOptions, axes: Axes, session: Session) -> Suite:
    """The cases of the sweep over these axes. Raises Disagreement."""
    world = session.world
    with session.communicator.together(DeviceError, MemoryError):
        send, receive = (world.library.allocate(world, max(sweep.sizes)) for _ in range(2))
    buffers = Buffers(send, receive, session.options.seed)

    def iteration(case: Case, operation: Operation, chain_calls: int) -> Iteration:
        return case_iteration(world, session.flight.watch, buffers, case, operation,
                              chain_calls)

    suite = bind_cases(session, axes, sweep_cases(sweep, session, buffers), iteration)
    add_link_parts(session, suite, buffers)
    return suite


def sweep_cases(sweep: SweepOptions, session: Session, buffers: Buffers) -> Iterator[Case]:
    """Every size in every shape."""
    collective, datatype = sweep.collective, DATATYPES[sweep.datatype]
    rank, ranks = session.communicator.rank, session.communicator.size
    shapes: Sequence[Any] = collective.shapes
    for feature in sweep.features:
        shapes = feature.shapes(shapes)
    for requested_bytes, shape in product(sweep.sizes, shapes):
        count = collective.count(requested_bytes, ranks, datatype)
        segment_bytes = count * datatype.size_bytes
        send, receive = buffers.addresses(collective, segment_bytes, rank, sweep.in_place)
        yield Case(collective, count, datatype, sweep.redop, send, receive, sweep.in_place,
                   shape=shape, size_bytes=segment_bytes * (ranks if collective.cut else 1))


def list_algorithms(sweep: SweepOptions, session: Session) -> int:
    """Prints every algorithm, and why one is not available here; on rank 0. Returns the status."""
    world, collective = session.world, sweep.collective
    count = 32  # a block of the quantised forms
    room_bytes = 8 * count * world.communicator.size  # a segment for each rank
    buffer = world.device.private(2 * room_bytes)
    case = Case(collective, count, DATATYPES[sweep.datatype], sweep.redop, buffer.address,
                buffer.address + room_bytes, shape=collective.shapes[0])
    for algorithm in ALGORITHMS[collective.name].values():
        bound = algorithm.bind(world, case)
        why = f" -- not here: {bound.reason}" if isinstance(bound, Unsupported) else ""
        if world.communicator.rank == 0:
            print_out(f"{algorithm.name:14} {algorithm.about}{why}\n")
    return FINE
