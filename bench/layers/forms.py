"""What all layers' benchmarks share: options, the forms of a case, its iteration, and trials."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from bench.harness.iteration import Iteration, nothing
from bench.harness.session import Session
from bench.harness.suite import Axes, MakeIteration, Suite, bind_cases, say_absent
from bench.harness.timing import perform, times_us
from collectives.layers.fused import FUSED, peer_forms
from collectives.layers.overlap import OVERLAPPED
from collectives.operation import Algorithm, CollectiveCase
from kernels.devices.device import Counts

CPU_SCALE = Fraction(1, 64)  # of a layer's columns, because a CPU computes slowly
USUAL = "then_library", "then_auto", "fused"
TRIES = 4  # of each candidate, after one that warms up


@dataclass(frozen=True)
class LayerOptions:
    """The cases of a run: `tokens` are the sizes of batches, `layers` the timed layers (0: all).
    `scale` None: by the device. Without `algorithm` the usual forms. `hidden` 0: the model's."""

    datatype: str
    model: str
    tokens: Sequence[int] = ()
    scale: Fraction | None = None
    hidden: int = 0
    layers: int = 0
    weights: str = "float16"
    algorithm: Sequence[Algorithm] = ()


def scale_for(options: LayerOptions, session: Session) -> Fraction:
    return options.scale or (CPU_SCALE if session.world.device.is_cpu else Fraction(1))


def of_features(session: Session) -> list[Algorithm]:
    """The algorithms that features add, such as peers. All ranks call it."""
    return [each for feature in session.features for each in feature.algorithms(session).values()]


def bind_forms(
    session: Session,
    options: LayerOptions,
    cases: Iterable[CollectiveCase],
    make_iteration: MakeIteration,
    for_library: Callable[[CollectiveCase], CollectiveCase] = lambda case: case,
) -> Suite:
    """Compute alone, and the requested forms, or the library, `auto` and fused, and those of peers;
    `for_library(case)` is the case on the library's own buffers. All ranks call it. Raises
    Refusal."""
    forms = (FUSED | OVERLAPPED)[session.options.command]
    chosen = options.algorithm or [
        forms[name] for name in USUAL if not (session.world.node and forms[name].needs_peers)
    ]
    peers = peer_forms(session.options.command, of_features(session)).values()
    listed = list(dict.fromkeys([forms["compute"], *chosen, *peers]))
    # A form that does not support a size is listed with its reason.
    axes = Axes(lambda size_bytes: listed, requested=True, mode="isolated", for_library=for_library)
    suite = bind_cases(session, axes, cases, make_iteration)
    suite.named = [form.name for form in [*options.algorithm, *peers]]
    say_absent(session, suite)
    for number, iteration in suite.iterations.items():
        header = suite.headers[number]
        iteration.group = str(header.shape)
        if header.algorithm == "compute":  # it sums nothing, so its result is partial
            iteration.check, iteration.wrong = nothing(session.world), None
    return suite


def fastest(session: Session, candidates: Mapping[Any, Iteration]) -> Any:
    """The key of the candidate that takes the slowest rank the shortest time, with the reading of
    the result. They take turns, so a disturbance hits all. All ranks call it."""
    communicator, clock_shared = session.communicator, session.world.clock_shared
    costs_us: dict[Any, list[float]] = {key: [] for key in candidates}
    for _ in range(1 + TRIES):
        for key, iteration in candidates.items():
            stamps = communicator.all_gather(perform(session, iteration, Counts(0, 1)))
            times = times_us(iteration, stamps, clock_shared)
            costs_us[key].append(float(times.time[0] + times.after[0]))
    return communicator.broadcast(min(costs_us, key=lambda key: np.median(costs_us[key][1:])))
