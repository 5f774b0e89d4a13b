"""Worlds of some ranks of a launch, and the sleep of the others."""

import time
from collections.abc import Callable
from dataclasses import replace

from bench.harness.session import Session
from collectives.communicator import Refusal
from collectives.connect import connect
from collectives.operation import World
from collectives.peer_buffer import PeerBuffer

SLEEP_S = 0.005  # of a rank that has nothing to do: short beside a layer, long beside a look


def of_first(world: World, count: int) -> World | None:
    """The world of the first `count` ranks; None on the others. Ranks on several hosts have the
    library alone there. All ranks call it. Raises Refusal."""
    every, few = world.communicator, None
    with every.all_or_none(Refusal):
        if every.rank < count:
            few = world.among(range(count))
            # No agreement of these ranks needs the others.
            few.communicator.whole = few.communicator
            if isinstance(world.peers, PeerBuffer):
                waits, modes = world.peers.waits, [world.peers.sharing]
                peers = connect(few.communicator, world.device, waits, modes)
                few = replace(few, peers=peers)
    return few


def without_last(world: World) -> World | None:
    """The world of all ranks but the last, where it is None, as it is with two ranks. All ranks
    call it. Raises Refusal."""
    return of_first(world, world.ranks - 1) if world.ranks > 2 else None


def while_others_sleep(
    session: Session, world: World | None, work: Callable[[World], None]
) -> None:
    """Does `work` on the ranks that have this `world`. The others sleep: ranks that wait would take
    the cores that these need. All ranks call it. Raises Refusal."""
    every, flight, refusal = session.communicator, session.flight, None
    if world:
        try:
            work(world)
        except Refusal as raised:
            refusal = raised
    end = every.world.Ibarrier()
    while not end.Test():
        flight.note("wait")  # more steps than a rank that works: no watchdog blames this one
        time.sleep(SLEEP_S)
    flight.state["steps"] = max(every.all_gather(flight.state["steps"]))
    with every.all_or_none(Refusal):
        if refusal:
            raise refusal
