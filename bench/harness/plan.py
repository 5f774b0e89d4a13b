"""Which cases a run has: everything that is asked for, by every algorithm, in each of its variants and each mode."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from bench.harness import sweep
from bench.harness.iteration import LINK_WORD_BYTES, Buffers, Subject, link_subjects, subject_of
from bench.harness.signal_to_noise import measured
from bench.harness.timing import Bench
from collectives.algorithm import ALGORITHMS, asked_for
from collectives.collective import DATATYPES, Shape
from collectives.library import mpi as library
from collectives.operation import Algorithm, Case, DeviceError, Operation, Unsupported, World
from reports.result import Planned

Prepared = tuple[list[Planned], dict[int, Subject], dict[int, dict[str, Subject]]]  # as a Session has them


@dataclass(frozen=True)
class Work:
    """One thing to be done: a collective in a shape, `size_bytes` of it, `count` elements in each of its parts.

    `case(variant)` says what an algorithm is bound to; `subject(number, planned, case, operation)` how it is measured.
    """

    shape: Shape
    size_bytes: int
    count: int
    case: Callable[[str], Case]
    subject: Callable[[int, Planned, Case, Operation], Subject]
    routing: dict[str, Any] | None = None
    chain_calls: int = sweep.CHAIN_CALLS


def bound_parts(world: World, algorithm: Algorithm, case: Case) -> dict[str, Any] | None:
    """What the bound counts; in place nothing has to get from one buffer to another. A CPU's memory is near to all."""
    found = algorithm.traffic(world.communicator.size, case)
    if found is None:
        return None
    traffic = asdict(found)
    pushes = algorithm.pushes and world.device.name != "cpu"
    return traffic | ({"memory_bytes": 0} if case.in_place else {}) | ({"pushes": True} if pushes else {})


def plan_cases(options: Namespace, bench: Bench, algorithms: Mapping[str, Algorithm],
               works: Iterable[Work]) -> tuple[list[Planned], dict[int, Subject]]:
    """Every case of the run, and the steps of those that can be measured here. Raises Disagreement."""
    communicator = bench.world.communicator
    kind = "mapped" if isinstance(bench.world.peers, Unsupported) else bench.world.peers.kind
    name = library.library_name(bench.world)
    ratios_db: dict[tuple[str, int], dict[str, float]] = {}

    def signal_to_noise(algorithm: Algorithm, case: Case) -> dict[str, float]:
        """Measured once for a size, however the algorithm is built or timed: its results are the same."""
        known = algorithm.name, case.count
        if known not in ratios_db:
            ratios_db[known] = measured(bench.world, algorithm, case, options.seed)
        return ratios_db[known]

    planned: list[Planned] = []
    subjects: dict[int, Subject] = {}
    for work in works:
        names = options.algorithm[work.size_bytes] if isinstance(options.algorithm, dict) else options.algorithm
        for algorithm in asked_for(algorithms, names, options.lossy is not None):
            bench.flight.note("compile", text=f"{algorithm.name} {work.size_bytes} B")
            variants = algorithm.variants(bench.world)
            for variant, mode in product(variants, sweep.modes(options.mode, work.size_bytes, "beside" in work.shape)):
                senseless = sweep.reason_against(mode, options.op, work.shape, communicator.size)
                if mode == "chained" and senseless and options.mode is None:
                    continue  # nobody has asked for it
                case, is_library = work.case(variant), algorithm.name.endswith("library")
                with nullcontext() if is_library else communicator.together(DeviceError):  # a library's ranks talk here
                    operation = algorithm.bind(bench.world, case)
                snr_db = None
                if isinstance(operation, Operation) and operation.summed:
                    base = algorithms[(operation.chosen or algorithm.name).partition("+")[0]]
                    snr_db = signal_to_noise(base, case)
                    if algorithm.name == "auto" and min(snr_db.values()) < options.lossy:
                        snr_db = None
                        with communicator.together(DeviceError):
                            operation = algorithm.bind(replace(bench.world, lossy=False), case)
                if isinstance(operation, Unsupported) and operation.of_size and not options.algorithm:
                    continue
                chosen = None if isinstance(operation, Unsupported) else operation.chosen
                moves = algorithms[chosen.partition("+")[0]] if chosen and not is_library else algorithm
                reason = operation.reason if isinstance(operation, Unsupported) else senseless
                planned.append(Planned(
                    collective=case.collective.name, shape=dict(work.shape) or None, size_bytes=work.size_bytes,
                    count=work.count, datatype=case.datatype.name, redop=options.op, algorithm=algorithm.name,
                    mode=mode, in_place=case.in_place, variant=variant, memory="private" if is_library else kind,
                    library=name if is_library else None,
                    chosen=chosen,
                    blocks=None if is_library or isinstance(operation, Unsupported) else operation.step.blocks,
                    calls=work.chain_calls if mode == "chained" else 1, status="unsupported" if reason else "ok",
                    reason=reason, bound_parts=bound_parts(bench.world, moves, case), routing=work.routing,
                    snr_db=snr_db))
                if not isinstance(operation, Unsupported) and not reason:
                    number = len(planned) - 1
                    with communicator.together(DeviceError, MemoryError):
                        subjects[number] = work.subject(number, planned[number], case, operation)
    return planned, subjects


def link_parts(bench: Bench, buffers: Buffers, planned: list[Planned],
               subjects: Mapping[int, Subject]) -> dict[int, dict[str, Subject]]:
    """The link's parts at each size that is measured and holds one of their words, where memory is mapped. Raises
    Disagreement."""
    sizes = sorted({size for number in subjects if (size := planned[number].size_bytes) >= LINK_WORD_BYTES})
    mapped = not isinstance(bench.world.peers, Unsupported)
    with bench.world.communicator.together(DeviceError):
        return {size: link_subjects(bench.world, bench.flight.watch, buffers, size) for size in sizes if mapped}


def prepare_collective(options: Namespace, bench: Bench) -> Prepared:
    """The cases of a collective, and the link's parts at each of their sizes."""
    world, communicator, collective = bench.world, bench.world.communicator, options.collective
    with communicator.together(DeviceError, MemoryError):
        send, receive = (library.allocate(world, max(options.sizes)) for _ in range(2))
    buffers, datatype = Buffers(send, receive, options.seed), DATATYPES[options.datatype]
    segments = communicator.size if collective.cut else 1
    shapes = sweep.disturbed(collective.shapes, options.arrival_skew, options.beside)

    def works() -> Iterable[Work]:
        for asked, shape in product(options.sizes, shapes):
            count = collective.count(asked, communicator.size, datatype)

            def case(variant: str, count: int = count, shape: Shape = shape) -> Case:
                return buffers.case(collective, shape, count, datatype, options.op, options.in_place, variant,
                                    communicator.rank)

            size = count * datatype.size_bytes * segments
            yield Work(shape, size, count, case, partial(subject_of, world, bench.flight.watch, buffers))

    planned, subjects = plan_cases(options, bench, ALGORITHMS[collective.name], works())
    return planned, subjects, link_parts(bench, buffers, planned, subjects)
