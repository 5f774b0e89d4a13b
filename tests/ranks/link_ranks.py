"""Run by mpirun on two ranks: the benchmark's flag ping-pong and a bare C loop in turn, on the same
two cores. Both use the same number of cache lines in the same kind of memory.

`link_ranks.py PAIRS`; rank 0 prints a JSON line {"ours_ns": [...], "bare_ns": [...]} with one
figure of each per pair.
"""

import ctypes
import json
import sys

import numpy as np

from bench.harness.options import RunOptions
from bench.harness.session import Session, start
from bench.harness.timing import perform, times_us
from bench.link import PingPong, open_link
from collectives.operation import Unsupported
from kernels.devices.cpu import compile_kernel
from kernels.devices.device import Counts
from tests.launch import ROOT


def bare_loop():
    """The function of ping_pong.cpp, compiled like a kernel."""
    function = ctypes.CDLL(
        str(compile_kernel(ROOT / "tests/ranks/ping_pong.cpp", {}))
    ).bare_ping_pong
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int]
    function.restype = ctypes.c_double
    return function


def compare(session: Session) -> int:
    assert not session.place.oversubscribed
    link = open_link(session, 1 << 20)
    iteration = PingPong(link, ((0, 1), (1, 0)), 0).iteration()
    assert not isinstance(iteration, Unsupported)
    sends, communicator = link.transfer.ranks.sends, session.communicator
    bare, rank = bare_loop(), communicator.rank
    ours_ns, bare_ns = [], []
    for _ in range(int(sys.argv[1])):
        link.buffers.send.write(np.zeros(1, np.uint64))
        communicator.barrier()
        bare_ns.append(bare(sends[1 - rank], sends[rank], PingPong.repeats, rank == 0))
        stamps = communicator.gather(perform(session, iteration, Counts(0, 1)))
        if stamps is not None:
            times = times_us(iteration, stamps, True)
            ours_ns.append(1e3 * iteration.scale * float(times.time[0]))
    if rank == 0:
        print(json.dumps({"ours_ns": ours_ns, "bare_ns": bare_ns}), flush=True)
    return 0


start(RunOptions("link", device="cpu", keeps_run=False), compare)
