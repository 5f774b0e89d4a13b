"""Send and receive between pairs of ranks, one way or there and back. See kernels/sendrecv.cu."""

from functools import partial

from collectives.collective import Traffic
from collectives.operation import Algorithm, Bound, Case, World, bind_kernel

LEGS = {"one_way": 1, "ping_pong": 2}
# The receiver starts after the first chunk. sendrecv.cu has 6 to 32 in each half of a slab.
MOST_CHUNK_BYTES = 64 << 10
READ_ALONE_BYTES = 512 << 10  # registered messages up to here, between CPU cores
# Between CPU cores a flag costs little: chunks of a message from so many bytes on.
NEAR_CHUNKS = {2 << 20: MOST_CHUNK_BYTES, 512 << 10: 32 << 10, 0: 16 << 10}


def _bind(direction: str, world: World, case: Case) -> Bound:
    entry = f"{case.shape['way']}_{direction}"
    if not world.device.is_cpu:
        return bind_kernel(world, case, "sendrecv", entry, MOST_CHUNK_BYTES)
    room_bytes = (
        MOST_CHUNK_BYTES
        if case.build.chunk_bytes
        else next(chunk for least, chunk in NEAR_CHUNKS.items() if case.segment_bytes >= least)
    )
    return bind_kernel(
        world, case, "sendrecv", entry, room_bytes, WT_READ_ALONE_BYTES=str(READ_ALONE_BYTES)
    )


def _traffic(ranks: int, case: Case) -> Traffic:
    """Leg by leg. Over registered buffers both ranks of a pair can move half of the message, and a
    flag before the first leg tells that the buffers are free."""
    registered, legs = case.variant == "registered", LEGS[case.shape["way"]]
    moved = case.segment_bytes // 2 if registered else case.segment_bytes
    return Traffic(legs + registered, ((moved, moved),) * legs if ranks > 1 else (), 0)


ALGORITHMS = (
    Algorithm(
        "direct_push",
        "the sender stores into the receiver's slab",
        partial(_bind, "push"),
        _traffic,
        pushes=True,
    ),
    Algorithm(
        "direct_pull",
        "the sender stores into its own slab; the receiver reads it",
        partial(_bind, "pull"),
        _traffic,
        registered=True,
    ),
)
