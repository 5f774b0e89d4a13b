"""Ring all-reduce: every rank passes segments to its right. See kernels/allreduce_ring.cu. It sums
in rotated order and rounds once a hop, so at most n-1 times; one- and two-shot forms round once."""

from collectives.operation import Algorithm, Bound, Case, Traffic, World, bind_kernel
from collectives.peer_buffer import HALF_BYTES


def _bind(world: World, case: Case) -> Bound:
    # A half holds 2(n-1) inboxes of two segments each, rounded up to whole packs: less than four
    # chunks and a page.
    return bind_kernel(world, case, "allreduce_ring", "ring", (HALF_BYTES - 4096) / 4)


def _traffic(ranks: int, case: Case) -> Traffic:
    segment = case.segment_bytes // ranks
    forwarded = [(segment, segment)] * (2 * ranks - 3)
    stages = ((segment, 0), *forwarded, (0, segment)) if ranks > 1 else ()
    return Traffic(2 * (ranks - 1), stages, case.segment_bytes)


RING = Algorithm(
    "ring", "segments go round twice: the first lap sums them, the second gathers the sums", _bind,
    _traffic, pushes=True)
