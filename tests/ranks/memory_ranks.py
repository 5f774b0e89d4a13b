"""Ranks that map each other's memory, and say which sharing mode passed the probe.

`memory_ranks.py [DEVICE] [MEMORY]`; rank 0 prints a JSON line: `sharing`, `refusals`,
the `ProbeResult`, and whether the ranks flush the HDP, or `reason` if no mode passed. `descriptors`
are those that this process has opened since: with more shared memory, and without it.
"""

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict

from collectives.communicator import Refusal
from collectives.operation import Unsupported
from collectives.peer_buffer import share
from tests.ranks.world import connect

SHARED = 5  # memories of a rank

try:
    world, _ = connect(
        timeout_s=5.0, device=(*sys.argv[1:], "cpu")[0], memory=(*sys.argv[2:], "auto")[0]
    )
except Refusal as error:
    sys.exit(str(error))
peers = world.peers


def opened() -> int:
    return len(os.listdir("/proc/self/fd"))


if isinstance(peers, Unsupported):
    report: dict[str, object] = {"reason": peers.reason}
else:
    report = {name: getattr(peers, name) for name in ("sharing", "refusals", "types")}
    report |= asdict(peers.shown)
    before, counts = opened(), list[int]()
    with ExitStack() as undo:
        for _memory in range(SHARED):
            share(world.communicator, world.device, peers.sharing, 4096, undo, ordinary=True)
        counts.append(opened() - before)
    report["descriptors"] = [*counts, opened() - before]
if world.communicator.rank == 0:
    print(json.dumps(report), flush=True)
