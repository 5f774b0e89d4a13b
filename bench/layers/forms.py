"""What all layers' benchmarks share: options, the forms of a case, its iteration, and trials."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from bench.harness.iteration import Iteration, nothing
from bench.harness.session import Session
from bench.harness.suite import Axes, MakeIteration, Suite, bind_cases
from bench.harness.timing import perform, times_us
from collectives.algorithm import BETWEEN_HOSTS
from collectives.operation import Algorithm, Case
from kernels.devices.device import Counts

CPU_SCALE = Fraction(1, 64)  # of a layer's columns, because a CPU computes slowly
SMALL_BYTES = 256 << 10  # below it, a latency decides
# The names of what performs a collective between hosts, beside the library.
SPANNING = {algorithm.name for algorithms in BETWEEN_HOSTS.values() for algorithm in algorithms}
TRIES = 4  # of each candidate, after one that warms up


@dataclass(frozen=True)
class LayerOptions:
    """The cases of a run: `tokens` are the sizes of batches, `layers` the timed layers (0: all).
    `scale` None: by the device. `algorithm` None: all that suit a size. `hidden` 0: the model's."""

    datatype: str
    model: str
    tokens: Sequence[int] = ()
    scale: Fraction | None = None
    hidden: int = 0
    layers: int = 0
    weights: str = "float16"
    output: str | None = None
    algorithm: Sequence[str] | None = None


def scale_for(options: LayerOptions, session: Session) -> Fraction:
    return options.scale or (CPU_SCALE if session.world.device.is_cpu else Fraction(1))


def bind_forms(
    session: Session,
    forms: Mapping[str, Algorithm],
    options: LayerOptions,
    cases: Iterable[Case],
    make_iteration: MakeIteration,
    for_library: Callable[[Case], Case] = lambda case: case,
) -> Suite:
    """Compute alone, and the requested or all useful forms; `for_library(case)` is the case on the
    library's own buffers. All ranks call it. Raises Refusal.

    Between near peers pushing equals pulling; packets expose 9 us at 32 KiB, the others 1.4."""
    far_peers = not session.world.device.is_cpu

    def names(size_bytes: int) -> list[str]:
        is_small = size_bytes < SMALL_BYTES
        skipped = {"ring", "two_shot", "two_shot_direct"} if is_small else {"ring"}
        if is_small or not far_peers:
            skipped |= {
                "two_shot_push",
                "two_shot_copy_engine",
                "ring_copy_engine",
                "two_shot_multimem",
            }
        if not (far_peers and is_small):
            skipped |= {"one_shot_ll", "one_shot_sentinel", "one_shot_push", "one_shot_multimem"}
        collective = {name: name.removeprefix("then_") for name in forms}
        useful = [name for name in forms if collective[name] not in skipped | SPANNING]
        if session.world.node:
            useful = [name for name in forms if collective[name] in SPANNING | {"library"}]
        return list(dict.fromkeys(["compute", *(options.algorithm or useful)]))

    # A form that does not support a size is listed with its reason.
    axes = Axes(forms, names, requested=True, mode="isolated", for_library=for_library)
    suite = bind_cases(session, axes, cases, make_iteration)
    for number, iteration in suite.iterations.items():
        header = suite.headers[number]
        iteration.schedule.group = str(header.shape)
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
            times = times_us(stamps, clock_shared)
            costs_us[key].append(float(times.time[0] + times.after[0]))
    return communicator.broadcast(min(costs_us, key=lambda key: np.median(costs_us[key][1:])))
