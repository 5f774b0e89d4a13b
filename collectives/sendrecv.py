"""Send and receive between pairs of ranks, one way or there and back. See kernels/sendrecv.cu."""

from functools import partial

from collectives.operation import (
    Algorithm,
    Case,
    Operation,
    Traffic,
    Unsupported,
    World,
    bind_kernel,
    copied_or_registered,
)
from collectives.peer_buffer import HALF_BYTES

SLOTS = 8  # as in sendrecv.cu
MOST_CHUNK_BYTES = 64 << 10  # the receiver starts after the first chunk


def _bind(direction: str, world: World, case: Case) -> Operation | Unsupported:
    room_bytes = min(MOST_CHUNK_BYTES, HALF_BYTES / SLOTS)
    return bind_kernel(world, case, "sendrecv", f"{case.shape['way']}_{direction}", room_bytes)


def _traffic(ranks: int, case: Case) -> Traffic:
    """One way; there and back costs twice as much. Over registered buffers both ranks of a pair
    move half of the message."""
    registered = case.variant == "registered"
    moved = case.segment_bytes // 2 if registered else case.segment_bytes
    return Traffic(2 if registered else 1, ((moved, moved),) if ranks > 1 else (), 0)


PUSH = Algorithm(
    "direct_push", "the sender stores into the receiver's slab", partial(_bind, "push"), _traffic,
    pushes=True)
PULL = Algorithm(
    "direct_pull", "the sender stores into its own slab; the receiver reads it",
    partial(_bind, "pull"), _traffic, copied_or_registered)
ALGORITHMS = (PUSH, PULL)
