"""Run by mpirun on two ranks: the benchmark's flag ping-pong and a bare C loop over as many cache lines of the same
kind of memory, in turn, on the same two cores.

`link_ranks.py PAIRS`; rank 0 prints a JSON line {"ours_ns": [...], "bare_ns": [...]}, a figure of each a pair.
"""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.harness.timing import make_bench, run, times_us
from bench.harness.watchdog import Flight
from bench.link import FLAGS, subject_of_part
from bench.machine.placement import pin
from collectives.communicator import Communicator
from collectives.link import open_wire, parts
from collectives.operation import Unsupported
from collectives.world import open_device, open_world
from kernels.devices.compile_cache import compiled
from kernels.devices.cpu import FLAGS as COMPILED_WITH
from kernels.devices.cpu import find_compiler
from tests.launch import ROOT


def bare_loop():
    """The function of ping_pong.cpp, compiled as kernels are."""
    source = ROOT / "tests/ping_pong.cpp"

    def compile_to(unfinished: Path, target: Path) -> None:
        subprocess.run([*find_compiler(), *COMPILED_WITH, str(source), "-o", str(unfinished)], check=True)
        unfinished.rename(target)

    path = compiled(source, COMPILED_WITH, " ".join(find_compiler()), ".so", compile_to)
    function = ctypes.CDLL(str(path)).bare_ping_pong
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int]
    function.restype = ctypes.c_double
    return function


def main(pairs: int) -> None:
    communicator = Communicator()
    device, _ = open_device(communicator, "cpu", False)
    crowded = pin(communicator).crowded
    flight = Flight("test", None, communicator.rank, 30.0)
    world = open_world(communicator, device, flight.watch, crowded, 30.0)
    assert not isinstance(world.peers, Unsupported)
    assert not crowded
    bench, wire = make_bench(world, flight, 0, 1, "native"), open_wire(world, 1 << 20)
    subject = subject_of_part(wire, bench, 0, 0, parts(2)["ping_pong"][0], 0)
    bare, rank = bare_loop(), communicator.rank
    ours_ns, bare_ns = [], []
    for _ in range(pairs):
        wire.send.write(np.zeros(1, np.uint64))
        communicator.barrier()
        bare_ns.append(bare(wire.sends[1 - rank], wire.sends[rank], FLAGS, rank == 0))
        stamps = communicator.gather(run(bench, subject, 0, 1, 0))
        if stamps is not None:
            ours_ns.append(1e3 * subject.scale * float(times_us(stamps, True, subject)["time"][0]))
    if rank == 0:
        print(json.dumps({"ours_ns": ours_ns, "bare_ns": bare_ns}))


main(int(sys.argv[1]))
