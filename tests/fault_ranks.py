"""Run by mpirun: `bench.allreduce` with a fault on one rank.

`fault_ranks.py RANK WHERE CALL WHAT ...options of bench.allreduce`: on that rank the CALL-th passage (from 1) through
WHERE raises an exception (WHAT is `raise`), kills or stops the process, or sleeps for a minute. WHERE is `plan` (in
set-up), `block`, `probe` (of the link, twice a block), `store`, `between` (blocks), `operation` (in the native loop,
before the collective's first instruction) or `results` (on rank 0).
"""

import ctypes
import dataclasses
import os
import signal
import sys
import time
from functools import partial

import bench.command
import bench.measure
import bench.run
import bench.subject
from bench.subject import Subject
from collectives.communicator import launched_rank
from kernels.device import Kernel, Step
from reports.result import RunFile

STALL_S = 60.0


def strike(what: str) -> None:
    print(f"struck at {time.time()}", file=sys.stderr, flush=True)
    if what == "raise":
        raise ValueError("struck")
    if what == "sleep":
        time.sleep(STALL_S)
    else:
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[what])


def struck(function, call: int, fault):
    """The function, with the fault before its `call`-th call."""
    calls = 0

    def wrapper(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == call:
            fault()
        return function(*arguments, **named)

    return wrapper


def subject_with(call: int, strike):
    """`subject_of`, whose subjects all count passages through their operation together."""
    make = bench.subject.subject_of
    fault = struck(lambda: None, call, strike)

    def subject_of(*arguments) -> Subject:
        subject = make(*arguments)
        native = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        operation = native(subject.operation.step.kernel.function)

        def passage(argument) -> None:
            fault()
            operation(argument)

        entry = native(passage)
        subject.keep.append(entry)
        kernel = Kernel("struck", ctypes.cast(entry, ctypes.c_void_p).value or 0)
        step = Step(kernel, subject.operation.step.argument)
        subject.operation = dataclasses.replace(subject.operation, step=step)
        return subject

    return subject_of


def main(rank: int, where: str, call: int, what: str, options: list[str]) -> None:
    fault = partial(strike, what)
    places = {
        "plan": (bench.plan, "plan_cases", fault),
        "block": (bench.run, "measure_block", lambda: setattr(bench.measure, "run", lambda *_: fault())),
        "probe": (bench.measure, "round_trip_ns", fault),
        "store": (RunFile, "append", fault),
        "between": (bench.run, "agreed_stop", fault),
        "results": (RunFile, "finish", fault),
    }
    if launched_rank() == rank and where in places:
        owner, name, at = places[where]
        setattr(owner, name, struck(getattr(owner, name), call, at))
    elif launched_rank() == rank:
        bench.plan.subject_of = subject_with(call, fault)  # type: ignore[attr-defined]
    bench.command.main("allreduce", "all_reduce", "All-reduce with a fault.", options)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5:])
