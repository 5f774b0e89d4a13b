"""What a matmul and a collective lose to each other: each is timed alone, and while the other runs
beside it, on a GPU in a second stream, on a CPU in a second thread of the rank.

| form | timed | beside it | checked |
|---|---|---|---|
| `compute` | the matmul | | |
| `collective_X` | X, `auto` or the library | | bit by bit |
| `beside_X` | X | the matmul, again and again | bit by bit |
| `compute_beside_X` | the matmul | X, again and again | |

What runs beside begins before the first stamp. Its calls take twice as long as what is timed, each
alone, so that it does not end first; the wait for its end comes after the last stamp."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from queue import SimpleQueue
from threading import Thread

import numpy as np
from msgspec.structs import replace as changed

from bench.harness.iteration import Buffers, Iteration, allocated, case_iteration, nothing
from bench.harness.session import Session
from bench.harness.suite import Suite
from collectives.binding import first_failure
from collectives.choice import AUTO
from collectives.layers import overlap
from collectives.operation import Algorithm, CollectiveCase, Operation, Unsupported
from collectives.registry import ALGORITHMS, LIBRARY
from kernels.devices.device import Device, Step
from kernels.devices.gpu_stream import MOST_QUEUED
from wiretax.record.case import BESIDE, COLLECTIVE_ALONE, COMPUTE, COMPUTE_BESIDE

TRIES = 5  # calls of each, which tell how long it takes
OUTLASTS = 2.0  # times as long as what is timed, so that both may become slower


def beside(device: Device, step: Step, calls: int, cpus: Sequence[int] = ()) -> tuple[Step, Step]:
    """Begins these calls beside what follows, on a CPU in a thread, on these CPUs if there are any;
    and waits for their end."""
    if not device.is_cpu:
        return device.beside([step] * calls)
    perform, begun, ended = device.caller(step), SimpleQueue[None](), SimpleQueue[None]()

    def perform_calls() -> None:
        if cpus:
            os.sched_setaffinity(0, cpus)  # of this thread alone
        while True:
            begun.get()
            for _ in range(calls):
                perform()
            ended.put(None)

    Thread(target=perform_calls, daemon=True).start()
    return (
        device.python("begin of the calls beside", lambda: begun.put(None)),
        device.python("end of the calls beside", ended.get),
    )


@dataclass(frozen=True)
class Footprint:
    """Adds the forms of matmuls to a suite, which has their form `compute`. `compute_iteration`
    makes the iteration of a matmul alone."""

    session: Session
    suite: Suite
    compute_iteration: Callable[[overlap.MatmulCase, Operation], Iteration]

    def add(self, case: overlap.MatmulCase, algorithm: Algorithm, buffers: Buffers) -> None:
        """The forms of this matmul and of a collective in these buffers. All ranks call it. Raises
        DeviceError."""
        world, compute = self.session.world, overlap.compute(self.session.world, case)
        alone = CollectiveCase(
            overlap.ALONE[case.collective.name],
            case.count,
            case.datatype,
            case.redop,
            0,
            0,
            variant=algorithm.variants_in(world)[0],
        )
        alone = buffers.place(world, alone)
        bound = algorithm.bind(world, alone)
        forms = dict[str, Iteration | Unsupported]()
        if isinstance(bound, Unsupported):
            forms = dict.fromkeys((COLLECTIVE_ALONE, BESIDE, COMPUTE_BESIDE), bound)
        else:
            own_us = [
                world.device.time_us(each.step, TRIES, world.watch) for each in (compute, bound)
            ]
            slowest_us = np.max(world.communicator.all_gather(own_us), axis=0)
            ratio = float(slowest_us[0] / slowest_us[1])
            timed = partial(case_iteration, world, buffers, alone)
            forms[COLLECTIVE_ALONE] = timed(bound)
            forms[BESIDE] = self.with_calls_of(compute, ceil(OUTLASTS / ratio), timed(bound))
            computing = self.compute_iteration(case, compute)
            computing.check, computing.wrong = nothing(world), None  # as of the compute alone
            forms[COMPUTE_BESIDE] = self.with_calls_of(bound, ceil(OUTLASTS * ratio), computing)
            is_mpi = algorithm.is_library and world.device.is_cpu
            if is_mpi and world.communicator.thread_level != "multiple":
                forms[COMPUTE_BESIDE] = Unsupported(
                    "MPI takes calls of one thread alone: --mpi-thread-level multiple"
                )
        header = next(
            header
            for header in self.suite.headers
            if header.algorithm == COMPUTE and header.shape == case.shape
        )
        for kind, iteration in forms.items():
            own = changed(
                header,
                algorithm=f"{kind}{algorithm.base}",
                variant=alone.variant,
                memory="private" if algorithm.is_library else world.memory,
                library=algorithm.performer(world),
                chosen=getattr(bound, "choice", None),
            )
            if isinstance(iteration, Iteration):
                iteration.group = str(header.shape)
                iteration.text = f"{own.algorithm} {header.size_bytes} B"
            self.suite.add(own, iteration)

    def with_calls_of(
        self, other: Operation, calls: int, iteration: Iteration
    ) -> Iteration | Unsupported:
        """The iteration with so many calls of the other operation beside what it times."""
        device, operation = self.session.world.device, iteration.operation
        most = (MOST_QUEUED // 2) // other.step.entries
        if not device.is_cpu and calls > most:
            return Unsupported(
                f"{calls} calls beside it are needed, and a stream has room for {most}"
            )
        begin, end = beside(device, other.step, calls, self.session.place.beside)
        iteration.late = begin
        iteration.consume = device.sequence([end, iteration.consume])
        failure = partial(first_failure, [operation, other])
        iteration.operation = Operation(operation.step, failure=failure)
        iteration.keep += [begin, end, other]
        return iteration


def add_footprint(
    session: Session,
    suite: Suite,
    cases: Sequence[overlap.MatmulCase],
    compute_iteration: Callable[[overlap.MatmulCase, Operation], Iteration],
) -> None:
    """Adds the footprint of each case, for `auto` and the library. All ranks call it. Raises
    Refusal."""
    world, place = session.world, session.place
    own, of_library = allocated(world, session.options.seed, max(case.size_bytes for case in cases))
    footprint = Footprint(session, suite, compute_iteration)
    for case in cases:
        session.flight.note("plan the footprint", text=str(case.shape))
        auto = ALGORITHMS[overlap.ALONE[case.collective.name].name][AUTO]
        footprint.add(case, auto, own)
        footprint.add(case, LIBRARY, of_library)
    if world.device.is_cpu:
        where = "take turns on its core, so the scheduler decides what each loses"
        if place.beside:
            where = "have a core each"
        elif len(place.cpus) > 1:
            where = f"share its {len(place.cpus)} CPUs"
        session.notes.append(
            f"A matmul and the collective beside it are two threads of a rank: they {where}."
        )
