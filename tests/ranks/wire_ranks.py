"""Ranks that measure the wire between them: `wire_ranks.py DEVICE`. Rank 0 prints it in JSON."""

import json
import sys

from tests.ranks.world import connect

world, _ = connect(device=sys.argv[1])
if world.rank == 0:
    print(json.dumps(world.mapped.wire), flush=True)
