"""Ranks that map each other's memory, and say which sharing mode passed the probe.

`memory_ranks.py [DEVICE] [MEMORY]`; rank 0 prints a JSON line: `sharing`, `refusals`,
the `ProbeResult`, and whether the ranks flush the HDP, or `reason` if no mode passed.
"""

import json
import sys
from dataclasses import asdict

from collectives.communicator import Refusal
from collectives.operation import Unsupported
from tests.ranks.world import connect

try:
    world, _ = connect(
        timeout_s=5.0, device=(*sys.argv[1:], "cpu")[0], memory=(*sys.argv[2:], "auto")[0]
    )
except Refusal as error:
    sys.exit(str(error))
peers = world.peers
if isinstance(peers, Unsupported):
    report: dict[str, object] = {"reason": peers.reason}
else:
    report = {name: getattr(peers, name) for name in ("sharing", "refusals", "types")}
    report |= asdict(peers.shown)
if world.communicator.rank == 0:
    print(json.dumps(report), flush=True)
