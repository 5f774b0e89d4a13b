"""What it costs on the timed path that no wait is without an end and that each rank leaves a record.

    python -m tests.guard_cost [LAUNCHES]

Kernels and the timed loop are built twice, as they are and as `tests/unguarded.py` leaves them, and one launch times
both over the same buffers, in blocks of 10 ms that take turns (AB, BA, ...): whatever the link does, neighbours see the
same. A launch gives the median of its pairs' ratios; the verdict, as of `reports compare`, is over launches. Prints a
line a case; the exit status is 1 where one is SLOWER.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.harness.iteration import Buffers, Subject, subject_of
from bench.harness.sweep import CHAIN_CALLS
from bench.harness.timing import Bench, make_bench, run, times_us
from bench.harness.watchdog import Flight
from bench.machine.placement import pin
from collectives.algorithm import ALGORITHMS
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.communicator import Communicator
from collectives.operation import Operation, World
from collectives.world import open_device, open_world
from kernels.devices import cpu as device_cpu
from kernels.devices.compile_cache import SOURCES
from reports.result import Planned
from reports.verdict import MARGIN, once
from tests.launch import MPIRUN, ROOT
from tests.unguarded import GUARDS, without_guards

PAIRS = 30
BLOCK_S = 0.01
SIZES = [(16 << 10) << step for step in range(12)]
CASES = [*(("auto", "isolated", size) for size in SIZES), *(("auto", "chained", size) for size in SIZES[:6]),
         *(("one_shot_ll", mode, size) for mode in ("isolated", "chained") for size in SIZES[:2])]


@contextmanager
def sources(folder: Path):
    """Kernels are compiled from there."""
    setattr(device_cpu, "SOURCES", folder)  # noqa: B010
    try:
        yield
    finally:
        setattr(device_cpu, "SOURCES", SOURCES)  # noqa: B010


def unguarded_sources(folder: Path) -> Path:
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("__pycache__", "*.py"), dirs_exist_ok=True)
    for path in GUARDS:
        if path.startswith("kernels/"):
            (folder / Path(path).relative_to("kernels")).write_text(without_guards(path))
    return folder


def subjects(world: World, bench: Bench, buffers: Buffers) -> list[Subject]:
    what, datatype, found = COLLECTIVES["all_reduce"], DATATYPES["float32"], []
    for number, (name, mode, size_bytes) in enumerate(CASES):
        count = size_bytes // datatype.size_bytes
        case = buffers.case(what, what.shapes[0], count, datatype, "sum", False, "copied", world.communicator.rank)
        operation = ALGORITHMS["all_reduce"][name].bind(world, case)
        assert isinstance(operation, Operation), operation
        planned = Planned(collective="all_reduce", size_bytes=size_bytes, count=count, datatype="float32", redop="sum",
                          algorithm=name, mode=mode, calls=CHAIN_CALLS if mode == "chained" else 1)
        found.append(subject_of(world, bench.flight.watch, buffers, number, planned, case, operation))
    return found


def launch() -> None:
    """On each rank; rank 0 prints the logarithm of guarded over unguarded, for each case."""
    communicator = Communicator()
    flight = Flight("", None, communicator.rank, 30.0)
    device, _ = open_device(communicator, "cpu", False)
    place = pin(communicator)
    world = open_world(communicator, device, flight.watch, place.crowded, 30.0)
    buffers = Buffers(device.private(SIZES[-1]), device.private(SIZES[-1]), 0)
    sides: list[tuple[Bench, list[Subject]]] = []
    # A folder of the same name on all ranks, or each would compile for itself.
    folder = Path(communicator.broadcast(tempfile.mkdtemp()))
    if communicator.rank == 0:
        unguarded_sources(folder)
    communicator.barrier()
    for at in (folder, SOURCES):
        with sources(at):
            its_own = replace(world, device=device_cpu.CpuDevice())
            bench = make_bench(its_own, flight, 0, 0, "native")
            sides.append((bench, subjects(its_own, bench, buffers)))
    communicator.barrier()
    if communicator.rank == 0:
        shutil.rmtree(folder)
    ratios = []
    for number in range(len(CASES)):
        pair = [(bench, made[number]) for bench, made in sides]
        stamps = run(*pair[1], 2, 3, 0)
        took_s = float((stamps[:, 3] - stamps[:, 0]).mean()) / 1e9
        iterations = communicator.broadcast(int(np.clip(BLOCK_S / took_s, 3, 2000)))
        medians_us = np.zeros((2, PAIRS))
        for turn in range(PAIRS):
            for side in (0, 1) if turn % 2 else (1, 0):
                every = communicator.all_gather(run(*pair[side], 2, iterations, 0))
                times = times_us(list(every), True, pair[side][1])
                medians_us[side, turn] = np.median(times["time"] + (0 if pair[side][1].calls else times["after"]))
        ratios.append(float(np.median(np.log(medians_us[1] / medians_us[0]))))
    if communicator.rank == 0:
        print(json.dumps(ratios))


def main(launches: int) -> int:
    """Launches so often, prints a line a case; the number of cases that guards make slower."""
    found = []
    for _ in range(launches):
        command = [str(MPIRUN), "-n", "2", sys.executable, "-m", "tests.guard_cost", "rank"]
        found.append(json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout))
    logs = np.array(found).T
    judged = once(logs)
    print(f"guarded over unguarded, {launches} launches of {PAIRS} pairs of blocks a case, margin {MARGIN:.0%}")
    for (name, mode, size_bytes), ratio, low, high, verdict in zip(
            CASES, judged.shown.estimate, judged.shown.low, judged.shown.high, judged.verdicts, strict=True):
        interval = f"[{np.exp(low):.4f} {np.exp(high):.4f}]"
        print(f"{name:12} {mode:9} {size_bytes >> 10:6} KiB  {np.exp(ratio):.4f} {interval}  {verdict}")
    return sum(verdict == "SLOWER" for verdict in judged.verdicts)


if __name__ == "__main__":
    if sys.argv[1:] == ["rank"]:
        launch()
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 12) > 0)
