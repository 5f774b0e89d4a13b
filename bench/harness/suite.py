"""The cases of a run: each requested case by every algorithm, in each variant and mode."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

from bench import STARTED_S
from bench.harness.console import FINE, print_out
from bench.harness.iteration import (
    CHAIN_CALLS,
    Buffers,
    Iteration,
    allocated,
    case_iteration,
    link_parts,
)
from bench.harness.options import SweepOptions
from bench.harness.session import Session, require_memory, say_once
from bench.machine import environment
from collectives.choice import AUTO, STABLE, kinds_of
from collectives.collective import DATATYPES, Shape
from collectives.communicator import Refusal
from collectives.copy_engine import shared_engine
from collectives.operation import (
    MARGIN_BYTES,
    MOST_CHAINED_BYTES,
    Algorithm,
    CollectiveCase,
    Operation,
    Unsupported,
    World,
)
from collectives.registry import ALGORITHMS, LIBRARY, by_default
from kernels.devices.compilers import side_by_side
from kernels.devices.device import Later, Memory
from wiretax.record.schema import CaseHeader

COMPILE_SHARE = 0.7  # of --max-time, without the compilers' time; later no case is prepared
LEAST_CASE_S = 0.1  # of a case: a pilot, and the least rounds of short blocks
# Longer operations have shorter chains: a stream holds 1,000 entries, also those between the calls.
# Behind a gate an H200 took a graph of 2,880 copies, flags and kernels, and waited for ever at one
# of 4,480.
MOST_STREAM_ENTRIES, MOST_GRAPH_ENTRIES = 640, 2880
OTHERS_EVERY = 3  # odd, so that they see odd and even rounds
# Builds the iteration of a case from its operation and the calls of a chain, 0 for none.
MakeIteration = Callable[[CollectiveCase, Operation, int], Iteration]


@dataclass
class Traced:
    """A step of case `number`, whose parts are measured after the rounds: `form` is what runs, once
    `plain` and once `noted`, in which each rank notes in `times` the ns between its operations,
    which are a product, a call and a norm in turn. `reason`: why that cannot run."""

    number: int
    form: str
    plain: Iteration
    noted: Iteration
    times: Memory
    reason: str | None = None


@dataclass
class Suite:
    """The cases of a run, and how often they run."""

    headers: list[CaseHeader] = field(default_factory=list)  # of all cases, by number
    iterations: dict[int, Iteration] = field(default_factory=dict)  # of those that can run here
    is_cut_short: bool = False  # no time was left to prepare further cases
    asked: int = 0  # works to compare, each by all algorithms
    left_out: Sequence[CollectiveCase] = ()  # those of them that the time does not allow
    link_parts: dict[int, dict[str, Iteration]] = field(default_factory=dict)  # by size in bytes
    # The table of a run that names no algorithm compares the library and `auto`. A case of another
    # algorithm then runs in one of so many rounds.
    others_every: int = 1
    named: Sequence[str] = ()  # the algorithms that the command line names
    traced: list[Traced] = field(default_factory=list)

    def add(self, header: CaseHeader, iteration: Iteration | Unsupported) -> None:
        """Adds a case, or lists why it is not measured."""
        number = len(self.headers)
        self.headers.append(header)
        if isinstance(iteration, Unsupported):
            header.status, header.reason = "unsupported", iteration.reason
        else:
            iteration.number, iteration.text = number, f"case {number} ({iteration.text})"
            self.iterations[number] = iteration


@dataclass(frozen=True)
class Axes:
    """What varies over the cases of a run."""

    algorithms: Callable[[int], Sequence[Algorithm]]  # those of a size in bytes
    # The command line names the algorithms: a size that one does not support is listed.
    requested: bool = False
    # `isolated`, `chained` or `both`. None: all isolated, and up to MOST_CHAINED_BYTES those of
    # `in_chains` chained as well.
    mode: str | None = None
    in_chains: Callable[[Algorithm], bool] = lambda algorithm: True
    chain_calls: int = CHAIN_CALLS
    # The same case on the library's own buffers.
    for_library: Callable[[CollectiveCase], CollectiveCase] = lambda case: case


@dataclass(frozen=True)
class BoundCase:
    """A case, with the functions of its steps that threads still compile. `reason`: why it is not
    measured."""

    world: World
    case: CollectiveCase
    algorithm: Algorithm
    operation: Operation | Unsupported
    chain_calls: int
    reason: str | None
    later: Sequence[Later]
    work: int = 0  # its place among those of the run

    @property
    def text(self) -> str:
        return f"{self.algorithm.name} {self.case.size_bytes} B"


def bind_cases(
    session: Session, axes: Axes, cases: Iterable[CollectiveCase], make_iteration: MakeIteration
) -> Suite:
    """The cases of the run, bound if they can be, as long as time is left to measure them. Their
    files are compiled side by side. All ranks call it. Raises Refusal."""
    works = list(cases)
    suite, device = Suite(asked=len(works)), session.world.device
    with side_by_side(device):
        bound, n_bound = bind_all(session, axes, works)
        device.later, text = [], ""
        suite.left_out = works[n_bound:]
        for each in bound:
            session.flight.note("compile", text=each.text)
            if each.text != text and is_late(session, bool(suite.iterations)):
                suite.left_out = works[each.work :]
                keep_whole(suite, each.work)
                break
            text = each.text
            add_case(session, suite, each, make_iteration)
        suite.is_cut_short = len(suite.left_out) > 0
        if len(works) == 1:
            suite.left_out = ()
        with session.communicator.all_or_none():
            device.finish_builds()
    return suite


def keep_whole(suite: Suite, work: int) -> None:
    """Leaves out the cases of this work, of which others are missing, unless it is the only one."""
    whole = {number: each for number, each in suite.iterations.items() if each.work != work}
    suite.iterations = whole or suite.iterations


def is_late(session: Session, has_case: bool, needed_s: float = 0.0) -> bool:
    """Whether no further case is prepared, on all ranks, which call it: too much time has passed,
    or what is prepared needs the rest."""
    max_time_s = session.options.max_time_s
    allowed_s = min(COMPILE_SHARE * max_time_s, max_time_s - needed_s)
    late_s = STARTED_S + allowed_s + session.uncounted_s()
    return bool(session.communicator.broadcast(has_case and time.monotonic() > late_s))


def bind_all(
    session: Session, axes: Axes, works: Sequence[CollectiveCase]
) -> tuple[list[BoundCase], int]:
    """The cases, and how many of the works have all of theirs. Time for further ones was short; of
    a work that has some alone none is kept, unless it is the first."""
    bound = list[BoundCase]()
    # A run of one type goes on, with fewer rounds of more sizes.
    several = len({(case.datatype, case.redop) for case in works}) > 1
    least_s = LEAST_CASE_S if several and not session.options.iterations else 0.0
    for place, case in enumerate(works):
        whole = len(bound)
        if is_late(session, bool(bound), least_s * len(bound)):
            return bound, place
        for algorithm in axes.algorithms(case.size_bytes):
            session.flight.note("compile", text=f"{algorithm.name} {case.size_bytes} B")
            worlds = worlds_for(algorithm, session.world)
            is_chained = case.size_bytes <= MOST_CHAINED_BYTES and axes.in_chains(algorithm)
            modes = [axes.mode or "isolated"]
            if axes.mode == "both" or (axes.mode is None and is_chained):
                modes = ["isolated", "chained"]
            variants = algorithm.variants_in(session.world)
            placed = axes.for_library(case) if algorithm.is_library else case
            if is_late(session, bool(bound)):
                return bound[:whole] or bound, place
            for world, variant, mode in product(worlds, variants, modes):
                varied = replace(placed, variant=variant, mode=mode)
                if each := bind_case(session, axes, world, varied, algorithm):
                    bound.append(replace(each, work=place))
    return bound, len(works)


def bind_case(
    session: Session, axes: Axes, world: World, case: CollectiveCase, algorithm: Algorithm
) -> BoundCase | None:
    """The bound case. None if nobody requested it and it cannot be."""
    communicator, first = session.communicator, len(world.device.later)
    chain_calls, reason = axes.chain_calls if case.mode == "chained" else 0, None
    if chain_calls:
        reason = case.collective.reason_against_chain(case.shape, case.redop, case.datatype)
    if reason and axes.mode is None:
        return None
    # A library's ranks talk to each other here, so a failed one cannot be waited for.
    with nullcontext() if not algorithm.needs_peers else communicator.all_or_none():
        operation = algorithm.bind(world, case)
    if isinstance(operation, Unsupported):
        if operation.depends_on_size and not axes.requested:
            return None
        reason = operation.reason
    later = tuple(world.device.later[first:])
    return BoundCase(world, case, algorithm, operation, chain_calls, reason, later)


def add_case(
    session: Session, suite: Suite, bound: BoundCase, make_iteration: MakeIteration
) -> None:
    """Adds a case whose files are compiled, or lists why it is not measured."""
    communicator, operation, chain_calls = session.communicator, bound.operation, bound.chain_calls
    if isinstance(operation, Operation):
        with communicator.all_or_none():
            for each in bound.later:
                each.take()
        if chain_calls:
            entries = max(communicator.all_gather(operation.step.entries))
            most = MOST_GRAPH_ENTRIES if session.world.graph else MOST_STREAM_ENTRIES
            chain_calls = min(chain_calls, max(1, most // entries))
    header = header_of(session, bound.world, bound.case, bound.algorithm, operation)
    header.calls = chain_calls or 1
    if isinstance(operation, Unsupported) or bound.reason:
        suite.add(header, Unsupported(bound.reason or ""))
        return
    with communicator.all_or_none():
        iteration = make_iteration(bound.case, operation, chain_calls)
        for feature in session.options.features:
            feature.change(session, bound.case, iteration)
    iteration.text, iteration.work = f"{bound.text} {bound.case.mode}", bound.work
    suite.add(header, iteration)


def of_features(session: Session) -> list[Algorithm]:
    """The algorithms that features add, such as contenders. All ranks call it."""
    return [each for feature in session.options.features for each in feature.algorithms(session)]


def worlds_for(algorithm: Algorithm, world: World) -> Sequence[World]:
    """The kinds of memory over which to measure: `auto` chooses one, a library uses none."""
    if algorithm.is_baseline or algorithm.base in (AUTO, STABLE):
        return [world]
    return [world, *world.other_memory]


def header_of(
    session: Session,
    world: World,
    case: CollectiveCase,
    algorithm: Algorithm,
    operation: Operation | Unsupported,
) -> CaseHeader:
    """The header of a bound case. Raises Refusal."""
    memory = kinds_of(world) if algorithm.base in (AUTO, STABLE) else world.memory
    header = CaseHeader(
        collective=case.collective.name,
        shape=dict(case.shape) or None,
        size_bytes=case.size_bytes,
        count=case.count,
        datatype=case.datatype.name,
        redop=case.redop,
        mode=case.mode,
        algorithm=algorithm.name,
        in_place=case.in_place,
        variant=case.variant,
        memory="private" if algorithm.is_baseline else memory,
        library=algorithm.performer(world),
    )
    if isinstance(operation, Operation):
        header.chosen = operation.choice
        if algorithm.is_library and world.device.is_cpu:
            header.chosen = environment.settings_of(case.collective.name)
        header.snr_db = operation.snr_db
        algorithm = operation.chosen or algorithm
        if case.collective.reduces:
            header.sums_in_rank_order = algorithm.sums_in_rank_order
    # What bounds the algorithm's time from below: flags and bytes. The link is measured in the
    # session's memory alone. Ranks that share a GPU share its memory, which serves all at once.
    is_bounded = world is session.world and not world.node and world.device.sharers == 1
    if is_bounded and (traffic := algorithm.traffic(world.ranks, case)):
        header.bound_parts = {
            "hops": traffic.hops,
            "stages": traffic.stages,
            # In place nothing moves from one buffer to the other.
            "memory_bytes": 0 if case.in_place else traffic.memory_bytes,
        }
        if algorithm.pushes and not world.device.is_cpu:
            header.bound_parts["pushes"] = True
    return header


def prepare(
    sweep: SweepOptions,
    session: Session,
    algorithms: Callable[[int], Sequence[Algorithm]] | None = None,
) -> Suite:
    """The suite of a sweep. `algorithms(size_bytes)` replaces its own, and leaves out the parts of
    a bound. Raises Refusal."""
    world = session.world
    largest = max(sweep.sizes)
    require_memory(session, largest)
    session.flight.note("allocate", text=f"{largest} B")
    room, seed = largest + 2 * MARGIN_BYTES, session.options.seed
    buffers, library_buffers = allocated(world, seed, room, MARGIN_BYTES)
    stable = [ALGORITHMS[sweep.collective.name][STABLE]] if sweep.stable else []
    named = list(dict.fromkeys([*sweep.algorithms, *stable, *of_features(session)]))
    listed = named if sweep.algorithms else [*by_default(sweep.collective.name, world), *named]
    # Of a default run the table compares these. On a GPU a chain is what a model runs.
    compares_all = bool(named or algorithms)
    compared = AUTO, LIBRARY.base
    axes = Axes(
        algorithms or (lambda size_bytes: listed),
        bool(sweep.algorithms),
        sweep.mode,
        lambda each: compares_all or not world.device.is_cpu or each.base in compared,
        for_library=partial(library_buffers.place, world),
    )
    suite = bind_cases(
        session, axes, sweep_cases(sweep, session, buffers), partial(case_iteration, world, buffers)
    )
    if sweep.algorithms and not suite.iterations:
        reason = next((header.reason for header in suite.headers), "none fits these sizes")
        raise Refusal(f"no case can be measured: {reason}; --list says what can run here")
    if not (compares_all or session.options.iterations):
        suite.others_every = OTHERS_EVERY
        for number, iteration in suite.iterations.items():
            if suite.headers[number].algorithm not in compared:
                iteration.every = OTHERS_EVERY
    suite.named = [algorithm.name for algorithm in named]
    if algorithms or isinstance(world.peers, Unsupported):
        return suite
    engine = shared_engine(world)
    with side_by_side(world.device), session.communicator.all_or_none():
        for size in sorted({suite.headers[number].size_bytes for number in suite.iterations}):
            if parts := link_parts(world, buffers, size, engine):
                suite.link_parts[size] = parts
        world.device.finish_builds()
    return suite


def say_absent(session: Session, suite: Suite) -> None:
    """Says on standard error which of the algorithms that the command line names cannot run here in
    any case, and why: a table has only a note on them."""
    for name in suite.named:
        own = [header for header in suite.headers if header.algorithm == name]
        if own and all(header.status == "unsupported" for header in own):
            say_once(
                session.communicator, session.options, f"{name} is not measured: {own[0].reason}"
            )


def sweep_cases(
    sweep: SweepOptions, session: Session, buffers: Buffers
) -> Iterator[CollectiveCase]:
    """Every datatype and operation, at every size in every shape."""
    collective = sweep.collective
    shapes: Sequence[Shape] = collective.shapes
    for feature in session.options.features:
        shapes = feature.shapes(shapes)
    for name, redop, requested_bytes, shape in product(
        sweep.datatypes, sweep.redops, sweep.sizes, shapes
    ):
        datatype = DATATYPES[name]
        count = collective.count(requested_bytes, session.communicator.size, datatype)
        case = CollectiveCase(collective, count, datatype, redop, 0, 0, sweep.in_place, shape=shape)
        yield buffers.place(session.world, case)


def list_algorithms(sweep: SweepOptions, session: Session) -> int:
    """Prints every algorithm, and why one is not available here; on rank 0. Returns the status."""
    world = session.world
    algorithms = ALGORITHMS[sweep.collective.name].values()
    # Whole blocks of the quantised forms in each segment, and what an algorithm wants at least.
    sizes = [max(8 * 32, algorithm.limits.least_bytes) * world.ranks for algorithm in algorithms]
    buffers, _ = allocated(world, 0, max(sizes))
    width = max(len(algorithm.name) for algorithm in algorithms)
    for algorithm, size in zip(algorithms, sizes, strict=True):
        case = next(sweep_cases(replace(sweep, sizes=(size,)), session, buffers))
        bound = algorithm.bind(world, replace(case, variant=algorithm.variants_in(world)[0]))
        why = f" -- not here: {bound.reason}" if isinstance(bound, Unsupported) else ""
        if world.rank == 0:
            print_out(f"{algorithm.name:{width}} {algorithm.about}{why}\n")
    return FINE
