"""Send and receive between pairs of ranks, one way or there and back. See kernels/sendrecv.cu."""

from functools import partial

from collectives.binding import bind_kernel
from collectives.collective import Traffic
from collectives.operation import Bound, CollectiveCase, KernelAlgorithm, World
from collectives.traffic import HOPS

MOST_CHUNK_BYTES = 64 << 10  # sendrecv.cu has 6 to 32 chunks in each half of a slab
LEAST_CHUNK_BYTES = 16 << 10
CHUNKS = 32  # of a message between CPUs, where a flag costs little: the receiver starts after one


def _bind(direction: str, world: World, case: CollectiveCase) -> Bound:
    room_bytes = MOST_CHUNK_BYTES
    if world.device.is_cpu and not case.build.chunk_bytes:
        wanted_bytes = max(LEAST_CHUNK_BYTES, case.segment_bytes // CHUNKS)
        room_bytes = min(wanted_bytes, MOST_CHUNK_BYTES)
    entry = f"{case.shape['way']}_{direction}"
    return bind_kernel(world, case, "sendrecv", entry, room_bytes)


def _traffic(ranks: int, case: CollectiveCase) -> Traffic:
    """Hop by hop. Over registered buffers both ranks of a pair can move half of the message, and a
    flag before the first hop tells that the buffers are free."""
    hops = HOPS[case.shape["way"]]
    flags, moved = hops, case.segment_bytes
    if case.variant == "registered":
        flags, moved = hops + 1, case.segment_bytes // 2
    stages = ((moved, moved),) * hops if ranks > 1 else ()
    return Traffic(flags, stages, 0)


ALGORITHMS = {
    "sendrecv": (
        KernelAlgorithm(
            "direct_push",
            "the sender stores into the receiver's slab",
            partial(_bind, "push"),
            _traffic,
            pushes=True,
            varies=("stores", "chunks", "grid"),
        ),
        KernelAlgorithm(
            "direct_pull",
            "the sender stores into its own slab; the receiver reads it",
            partial(_bind, "pull"),
            _traffic,
            variants=("copied", "registered"),
            varies=("stores", "chunks", "grid"),
        ),
    )
}
