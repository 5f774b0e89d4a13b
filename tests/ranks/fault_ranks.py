"""Run by mpirun: `bench.allreduce` with a fault on one rank.

`fault_ranks.py RANK POINT CALL EFFECT ...options of bench.allreduce`: the fault strikes when RANK
reaches POINT for the CALL-th time (from 1). EFFECT is `raise` (an exception), `kill` or `stop` (the
process), `exit` (with status 0), or `sleep` (for a minute). `kill:0` or `stop:0` strikes rank 0
instead, after a delay, so that rank 0 already waits for RANK. POINT is
`device`, `map` or `plan` (in set-up), `block`, `store`, `operation` or `check`
(in the native loop, before its first instruction), `results` (on rank 0) or `close` (of the flight
record, after MPI). With LATE_RANK=1, rank 1 exits 0.1 s after the others.
"""

import ctypes
import dataclasses
import os
import signal
import sys
import time
from functools import partial

import psutil

import bench.harness.run
import bench.harness.session
import bench.harness.suite
import bench.harness.timing
import bench.sweep
from bench.harness.iteration import Iteration
from bench.harness.watchdog import Watchdog
from kernels.devices.device import Step, ready
from wiretax.common.launched import launched_rank
from wiretax.record.writing import RunFile

STALL_S = 60.0
LATE_S = 0.3  # by then the other ranks wait


def strike(effect: str) -> None:
    kind, _, victim = effect.partition(":")
    if victim:
        time.sleep(LATE_S)
    print(f"struck at {time.time()}", file=sys.stderr, flush=True)
    if kind == "raise":
        raise ValueError("struck")
    if kind == "sleep":
        time.sleep(STALL_S)
    elif kind == "exit":
        os._exit(0)
    else:
        number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[kind]
        os.kill(process_of(victim) if victim else os.getpid(), number)


def process_of(rank: str) -> int:
    """Return the process id of another rank of this launch. Its guard has the same command line,
    and so has its parent."""
    mine = psutil.Process().cmdline()
    ours = {
        process.pid: process
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"] == mine and process.environ().get("PMI_RANK") == rank
    }
    return next(pid for pid, process in ours.items() if process.ppid() in ours)


def exit_late(status: int, leave=os._exit) -> None:
    time.sleep(0.1)
    print("exits late", file=sys.stderr, flush=True)
    leave(status)


def struck(function, call: int, fault):
    """Return the function, with the fault before its `call`-th call."""
    calls = 0

    def wrapper(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == call:
            fault()
        return function(*arguments, **named)

    return wrapper


def iteration_with(point: str, call: int, fault):
    """Return a `case_iteration` that counts calls of all operations, or of all checks, and strikes
    at the `call`-th."""
    make = bench.harness.suite.case_iteration  # type: ignore[attr-defined]
    fault = struck(lambda: None, call, fault)

    def case_iteration(*arguments) -> Iteration:
        iteration: Iteration = make(*arguments)
        native = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        whole = iteration.check if point == "check" else iteration.operation.step
        function = native(ready(whole.function))

        def passage(argument) -> None:
            fault()
            function(argument)

        entry = native(passage)
        iteration.keep.append(entry)
        step = Step("struck", ctypes.cast(entry, ctypes.c_void_p).value, whole.argument)
        if point == "check":
            iteration.check = step
        else:
            iteration.operation = dataclasses.replace(iteration.operation, step=step)
        return iteration

    return case_iteration


def main(rank: int, point: str, call: int, effect: str) -> None:
    fault = partial(strike, effect)
    points = {
        "device": (bench.harness.session, "open_linked", fault),
        "map": (bench.harness.session, "open_world", fault),
        "plan": (bench.harness.suite, "prepare", fault),
        "block": (
            bench.harness.run,
            "measure_block",
            lambda: setattr(bench.harness.timing, "perform", lambda *_: fault()),
        ),
        "store": (RunFile, "append", fault),
        "results": (RunFile, "finish", fault),
        "close": (Watchdog, "close", fault),
    }
    if str(launched_rank()) == os.environ.get("LATE_RANK"):
        os._exit = exit_late  # type: ignore[assignment]
    if launched_rank() == rank and point in points:
        owner, name, at = points[point]
        setattr(owner, name, struck(getattr(owner, name), call, at))
    elif launched_rank() == rank:
        with_fault = iteration_with(point, call, fault)
        setattr(bench.harness.suite, "case_iteration", with_fault)  # noqa: B010
    bench.sweep.main("allreduce", "all_reduce", "All-reduce with a fault.")


if __name__ == "__main__":
    words = sys.argv[1:5]
    sys.argv[1:] = sys.argv[5:]
    main(int(words[0]), words[1], int(words[2]), words[3])
