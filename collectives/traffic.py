"""What the algorithms move, for their bounds."""

from collectives.collective import Traffic
from collectives.operation import CollectiveCase

HOPS = {"one_way": 1, "ping_pong": 2}  # of a message, by its way


def direct_traffic(
    ranks: int, case: CollectiveCase, copies: int | None = None, wire_bytes: int | None = None
) -> Traffic:
    """One step in which a rank gets a segment from every other. It stores `copies` (default: one a
    peer); over registered buffers none, and a second flag tells that these are free again.
    `wire_bytes` (default: all) of a segment cross the wire."""
    segment, others = case.segment_bytes, ranks - 1
    if case.variant == "registered":
        return Traffic(2, ((0, others * segment),), segment, segment)
    moved = segment if wire_bytes is None else wire_bytes
    copied = min(others if copies is None else copies, others) * moved
    return Traffic(1, ((copied, 0), (0, others * moved)), segment, segment + moved)


def two_shot_traffic(
    ranks: int, case: CollectiveCase, wire_bytes: int | None = None, pushes: bool = False
) -> Traffic:
    """Each rank gets a part of all inputs, then the sums of all other parts. `wire_bytes` (default:
    all) of its data cross the wire. If it `pushes`, it reads both in its own slab."""
    moved = case.segment_bytes if wire_bytes is None else wire_bytes
    own = moved // ranks
    others = moved - own
    contended = 0
    stages = [(others, 0), (others if pushes else own, others), (0, others)]
    if case.variant == "registered":
        moved = own
        if pushes:  # the owners' stores fill the buffers
            contended, stages = others, stages[:2]
        else:
            stages = stages[1:]
    if ranks == 1:
        stages = []
    return Traffic(2, tuple(stages), case.segment_bytes, moved, contended)
