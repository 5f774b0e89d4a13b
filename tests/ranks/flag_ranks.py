"""Run by mpirun on two ranks: the flag ping-pong of bench.link and a bare C loop in turn, on the
same two cores, over lines of the same kind of memory.

`flag_ranks.py PAIRS`; rank 0 prints a JSON line {"ours_ns": [...], "bare_ns": [...]} with one
figure of each a pair.
"""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

from bench.harness.flight import FlightRecord
from bench.harness.iteration import Buffers
from bench.harness.options import RunOptions
from bench.harness.session import Session
from bench.harness.stamped_times import times_us
from bench.harness.timing import perform
from bench.harness.watchdog import Watchdog
from bench.links.measurement import RankLink
from bench.links.transfers import PingPong
from bench.machine.placement import pin
from collectives.communicator import Communicator
from collectives.peer_buffer import WaitPolicy
from collectives.world import open_device, open_world
from kernels.devices.cpu import load
from kernels.devices.device import Counts, Transfer

SIZE_BYTES = 1 << 20


def main(pairs: int) -> None:
    communicator = Communicator()
    rank, device = communicator.rank, open_device(communicator, "cpu", False)[0]
    place = pin(communicator)
    assert not place.oversubscribed
    watchdog = Watchdog(FlightRecord(None, rank), 30.0, {})
    waits = WaitPolicy(watchdog.flight.watch, place.oversubscribed)
    world = open_world(communicator, device, waits)
    session = Session(RunOptions("link"), world, watchdog, place)
    peers = world.mapped
    send, receive = (peers.register(SIZE_BYTES) for _ in range(2))
    arguments = peers.arguments(send.address, receive.address)
    peers.locate(send.address, arguments.sends)
    peers.locate(receive.address, arguments.receives)
    transfer = Transfer(arguments, -1, -1, SIZE_BYTES)
    link = RankLink(session, world, Buffers(send, receive, 0), transfer, None)
    measurement = PingPong()
    iteration = measurement.iteration(link, ((0, 1), (1, 0)), 0)
    trips = measurement.round_trips(link)
    bare = load(Path(__file__).with_name("ping_pong.cpp"), {}).bare_ping_pong
    bare.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int]
    bare.restype = ctypes.c_double
    ours_ns, bare_ns = [], []
    for _ in range(pairs):
        send.write(np.zeros(1, np.uint64))
        communicator.barrier()
        lines = arguments.sends[1 - rank], arguments.sends[rank]
        bare_ns.append(bare(*lines, trips, rank == 0))
        stamps = communicator.gather(perform(session, iteration, Counts(0, 1)))
        if stamps is not None:
            ours_ns.append(1e3 * float(times_us(iteration, stamps, world).time[0]))
    if rank == 0:
        print(json.dumps({"ours_ns": ours_ns, "bare_ns": bare_ns}))


main(int(sys.argv[1]))
