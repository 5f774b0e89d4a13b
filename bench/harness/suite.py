"""The cases of a run: each requested case by every algorithm, in each variant and mode."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from bench.harness.feature import Feature
from bench.harness.iteration import CHAIN_CALLS, Iteration
from bench.harness.session import Session
from collectives.algorithm import selected
from collectives.operation import Algorithm, Case, Operation, Unsupported
from kernels.devices.device import DeviceError
from reports.result import CaseHeader

MOST_CHAINED_BYTES = 512 << 10  # the sizes that decoding has
# Builds the iteration of a case from its operation and the calls of a chain, 0 for none.
MakeIteration = Callable[[Case, Operation, int], Iteration]


@dataclass
class Suite:
    """The measurements of a run: the header of every case; the iterations of the cases that can run
    here, by number; and the parts of the link, by size in bytes."""

    headers: list[CaseHeader] = field(default_factory=list)
    iterations: dict[int, Iteration] = field(default_factory=dict)
    link_parts: dict[int, dict[str, Iteration]] = field(default_factory=dict)

    def add(self, header: CaseHeader, iteration: Iteration | None) -> None:
        """Adds a case; without an iteration it is only listed."""
        number = len(self.headers)
        self.headers.append(header)
        if iteration:
            iteration.number = number
            self.iterations[number] = iteration

    @property
    def all_iterations(self) -> list[Iteration]:
        """Of the cases, then of the link."""
        parts = [part for parts in self.link_parts.values() for part in parts.values()]
        return [*self.iterations.values(), *parts]


@dataclass(frozen=True)
class Axes:
    """What varies over the cases of a run. `names(size_bytes)` are the algorithms of a size; with
    `requested` the command line names them, and a size that one does not support is listed.
    `mode` None: isolated, and chained up to MOST_CHAINED_BYTES; `as_used`: one of both by size."""

    algorithms: Mapping[str, Algorithm]
    names: Callable[[int], Sequence[str]]
    requested: bool = False
    mode: str | None = None
    chain_calls: int = CHAIN_CALLS
    features: Sequence[Feature] = ()

    def modes(self, size_bytes: int) -> list[str]:
        is_small = size_bytes <= MOST_CHAINED_BYTES
        if self.mode == "as_used":
            return ["chained" if is_small else "isolated"]
        if self.mode == "both" or (self.mode is None and is_small):
            return ["isolated", "chained"]
        return [self.mode or "isolated"]


def bind_cases(session: Session, axes: Axes, cases: Iterable[Case],
               make_iteration: MakeIteration) -> Suite:
    """Every case of the run, and the iterations of those that can be measured here. All ranks call
    it. Raises Disagreement."""
    suite = Suite()
    for case in cases:
        for algorithm in selected(axes.algorithms, axes.names(case.size_bytes)):
            session.flight.note("compile", text=f"{algorithm.name} {case.size_bytes} B")
            variants, modes = algorithm.variants(session.world), axes.modes(case.size_bytes)
            for variant, mode in product(variants, modes):
                _bind(session, axes, suite, (replace(case, variant=variant), algorithm, mode),
                      make_iteration)
    return suite


def _bind(session: Session, axes: Axes, suite: Suite, choice: tuple[Case, Algorithm, str],
          make_iteration: MakeIteration) -> None:
    """Adds one case, unless nobody requested it and it cannot be."""
    case, algorithm, mode = choice
    communicator = session.communicator
    reasons = [feature.reason_against(case, communicator.size) for feature in axes.features]
    if mode == "chained":
        reasons.append(case.collective.reason_against_chain(case.shape, case.redop))
    reason = next(filter(None, reasons), None)
    if mode == "chained" and reason and axes.mode in (None, "as_used"):
        return
    is_library = algorithm.name.endswith("library")
    # A library's ranks talk to each other here, so a failed one cannot be waited for.
    with nullcontext() if is_library else communicator.together(DeviceError):
        operation = algorithm.bind(session.world, case)
    if isinstance(operation, Unsupported):
        if operation.depends_on_size and not axes.requested:
            return
        reason = operation.reason
    header = header_of(session, axes, case, (algorithm, operation))
    header.mode, header.reason = mode, reason
    header.status = "unsupported" if reason else "ok"
    header.calls = axes.chain_calls if mode == "chained" else 1
    iteration = None
    if isinstance(operation, Operation) and not reason:
        with communicator.together(DeviceError, MemoryError):
            chain_calls = axes.chain_calls if mode == "chained" else 0
            iteration = make_iteration(case, operation, chain_calls)
            for feature in axes.features:
                iteration = feature.change(session, header, case, iteration)
        iteration.text = f"{algorithm.name} {case.size_bytes} B {mode}"
    suite.add(header, iteration)


def header_of(session: Session, axes: Axes, case: Case,
              bound: tuple[Algorithm, Operation | Unsupported]) -> CaseHeader:
    """The header of a bound case. Raises Disagreement."""
    (algorithm, operation), world = bound, session.world
    is_library = algorithm.name.endswith("library")
    kind = "mapped" if isinstance(world.peers, Unsupported) else world.peers.kind
    header = CaseHeader(
        collective=case.collective.name, shape=dict(case.shape) or None,
        size_bytes=case.size_bytes, count=case.count, datatype=case.datatype.name,
        redop=case.redop, algorithm=algorithm.name, in_place=case.in_place, variant=case.variant,
        memory="private" if is_library else kind,
        library=world.library.name if is_library else None)
    if isinstance(operation, Operation):
        header.chosen = operation.chosen
        header.blocks = None if is_library else operation.step.blocks
        if operation.signal_to_noise_db:
            header.snr_db = operation.signal_to_noise_db(session.options.seed)
        if operation.chosen and not is_library:
            algorithm = axes.algorithms[operation.chosen.partition("+")[0]]
    header.bound_parts = bound_parts(session, algorithm, case)
    return header


def bound_parts(session: Session, algorithm: Algorithm, case: Case) -> dict[str, Any] | None:
    """The parts that the bound counts: flags, and bytes copied and read. In place nothing moves
    from one buffer to the other."""
    traffic = algorithm.traffic(session.communicator.size, case)
    if traffic is None:
        return None
    parts = asdict(traffic)
    if case.in_place:
        parts["memory_bytes"] = 0
    if algorithm.pushes and not session.world.device.near_peers:
        parts["pushes"] = True
    return parts
