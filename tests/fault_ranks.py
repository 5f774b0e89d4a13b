"""Run by mpirun: `bench.allreduce` with a fault on one rank.

`fault_ranks.py RANK WHERE CALL WHAT ...options of bench.allreduce`: on that rank the CALL-th passage (from 1) through
WHERE raises an exception, kills the process, stops it, or sleeps for a minute. WHERE is `plan` (in set-up), `block`,
`check`, `store`, `between` (blocks), `operation` (inside the native loop, in place of the collective's first
instruction), `results` (rank 0 alone) or `compiler` (the process is a shell script, which see).
"""

import ctypes
import dataclasses
import os
import signal
import sys
import time

import bench.run
from bench.measure import Subject
from collectives.communicator import launched_rank
from kernels.device import Kernel, Step
from reports.result import RunFile

STALL_S = 60.0


def strike(what: str) -> None:
    if what == "raise":
        raise ValueError("struck")
    if what == "sleep":
        time.sleep(STALL_S)
    else:
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[what])


def struck(function, call: int, what: str):
    """The function, with the fault before its `call`-th call."""
    calls = 0

    def wrapper(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == call:
            strike(what)
        return function(*arguments, **named)

    return wrapper


def subject_with(part: str, call: int, what: str):
    """`subject_of`, whose subjects all count passages through their `part` together."""
    make = bench.run.subject_of
    fault = struck(lambda: None, call, what)

    def check_first(check):
        fault()
        return check()

    def subject_of(*arguments) -> Subject:
        subject = make(*arguments)
        if part == "check":
            if check := subject.verify_chain:
                subject.verify_chain = lambda: check_first(check)
            return subject
        native = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        operation = native(subject.operation.step.kernel.address)

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
    if launched_rank() == rank:
        places = {
            "plan": (bench.run, "plan_cases"),
            "block": (bench.run, "measure_block"),
            "store": (RunFile, "append"),
            "between": (bench.run, "agreed_stop"),
            "results": (RunFile, "finish"),
        }
        if where in places:
            owner, name = places[where]
            setattr(owner, name, struck(getattr(owner, name), call, what))
        else:
            bench.run.subject_of = subject_with(where, call, what)
    bench.run.main("allreduce", "All-reduce with a fault.", options)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5:])
