"""Measures the cost of the guards on the timed path: time-outs of all waits, and each rank's flight record.

    python -m tests.reliability.guard_cost [LAUNCHES]

The test builds kernels and timed loop twice, with and without the guards that `tests/reliability/unguarded.py` removes.
One launch times both over the same buffers, in alternating blocks of 10 ms (AB, BA, ...), so that adjacent blocks see
the same state of the link. A launch gives the median of its pairs' ratios; the verdict, as in `reports compare`, is
over launches. Prints a line per case; the exit status is 1 if a case is SLOWER.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

from bench.harness.iteration import CHAIN_CALLS, Buffers, Iteration, case_iteration
from bench.harness.options import RunOptions
from bench.harness.session import Session
from bench.harness.timing import perform, times_us
from bench.harness.watchdog import FlightRecord
from bench.machine.placement import pin
from collectives.algorithm import ALGORITHMS
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.communicator import Communicator
from collectives.operation import Case, Operation
from collectives.peer_buffer import WaitPolicy
from collectives.world import open_device, open_world
from kernels.devices import cpu as device_cpu
from kernels.devices.compile_cache import SOURCES
from kernels.devices.device import Counts
from reports.verdicts.verdict import MARGIN, once
from tests.kernels.broken_kernels import copy_kernels
from tests.launch import MPIRUN, ROOT
from tests.reliability.unguarded import KERNEL_GUARDS

PAIRS = 30
BLOCK_S = 0.01
SIZES = [(16 << 10) << step for step in range(12)]
CASES = [
    *(("auto", "isolated", size) for size in SIZES),
    *(("auto", "chained", size) for size in SIZES[:6]),
    *(("one_shot_ll", mode, size) for mode in ("isolated", "chained") for size in SIZES[:2]),
]


@contextmanager
def sources(folder: Path):
    """Makes the CPU device compile its kernels and its timed loop from this folder."""
    places = {"SOURCES": folder, "__file__": str(folder / "devices/cpu.py")}
    with mock.patch.dict(vars(device_cpu), places):
        yield


def iterations_of(session: Session, buffers: Buffers) -> list[Iteration]:
    """An iteration of each case, compiled from the current sources."""
    world, collective, datatype = session.world, COLLECTIVES["all_reduce"], DATATYPES["float32"]
    iterations = []
    for name, mode, size_bytes in CASES:
        send, receive = buffers.addresses(collective, size_bytes, world.communicator.rank, False)
        case = Case(
            collective,
            size_bytes // datatype.size_bytes,
            datatype,
            "sum",
            send,
            receive,
            shape=collective.shapes[0],
            size_bytes=size_bytes,
        )
        operation = ALGORITHMS["all_reduce"][name].bind(world, case)
        assert isinstance(operation, Operation), operation
        chain_calls = CHAIN_CALLS if mode == "chained" else 0
        iterations.append(case_iteration(world, buffers, case, operation, chain_calls))
    return iterations


def launch() -> None:
    """Runs on each rank; rank 0 prints log(guarded / unguarded) for each case."""
    communicator = Communicator()
    flight = FlightRecord("", None, communicator.rank, 30.0, {})
    device, _ = open_device(communicator, "cpu", False)
    place = pin(communicator)
    world = open_world(communicator, device, WaitPolicy(flight.watch, place.crowded))
    buffers = Buffers(device.private(SIZES[-1]), device.private(SIZES[-1]), 0)
    sides: list[tuple[Session, list[Iteration]]] = []
    options = RunOptions("allreduce", device="cpu", keeps_run=False)
    # All ranks use one folder name: with different names, each rank would compile for itself.
    folder = Path(communicator.broadcast(tempfile.mkdtemp()))
    if communicator.rank == 0:
        copy_kernels(folder, KERNEL_GUARDS)
    communicator.barrier()
    for at in (folder / "kernels", SOURCES):
        with sources(at):
            own_world = replace(world, device=device_cpu.CpuDevice())
            session = Session(options, own_world, flight, place)
            assert session.meet  # compiles from these sources
            sides.append((session, iterations_of(session, buffers)))
    communicator.barrier()
    if communicator.rank == 0:
        shutil.rmtree(folder)
    ratios = []
    for number in range(len(CASES)):
        pair = [(session, iterations[number]) for session, iterations in sides]
        stamps = perform(*pair[1], Counts(2, 3))
        took_s = float((stamps.max(axis=1) - stamps.min(axis=1)).mean()) / 1e9
        counts = communicator.broadcast(Counts(2, int(np.clip(BLOCK_S / took_s, 3, 2000))))
        medians_us = np.zeros((2, PAIRS))
        for turn in range(PAIRS):
            for side in (0, 1) if turn % 2 else (1, 0):
                times = times_us(communicator.all_gather(perform(*pair[side], counts)), True)
                is_chained = pair[side][1].chain_calls > 0
                medians_us[side, turn] = np.median(times.time + (0 if is_chained else times.after))
        ratios.append(float(np.median(np.log(medians_us[1] / medians_us[0]))))
    if communicator.rank == 0:
        print(json.dumps(ratios))


def main(launches: int) -> int:
    """Launches `launches` times, prints a line per case, and returns the number of cases that guards make slower."""
    ratios = []
    for _ in range(launches):
        command = [
            str(MPIRUN),
            "-n",
            "2",
            sys.executable,
            "-m",
            "tests.reliability.guard_cost",
            "rank",
        ]
        ratios.append(
            json.loads(
                subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
            )
        )
    logs = np.array(ratios).T
    judged = once(logs)
    print(
        f"guarded over unguarded, {launches} launches of {PAIRS} pairs of blocks a case, margin {MARGIN:.0%}"
    )
    for (name, mode, size_bytes), ratio, low, high, verdict in zip(
        CASES, judged.estimate, judged.low, judged.high, judged.verdict, strict=True
    ):
        interval = f"[{np.exp(low):.4f} {np.exp(high):.4f}]"
        print(
            f"{name:12} {mode:9} {size_bytes >> 10:6} KiB  {np.exp(ratio):.4f} {interval}  {verdict}"
        )
    return sum(verdict == "SLOWER" for verdict in judged.verdict)


if __name__ == "__main__":
    if sys.argv[1:] == ["rank"]:
        launch()
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 12) > 0)
