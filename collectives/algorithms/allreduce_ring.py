"""Ring all-reduce: every rank passes segments to its right. See kernels/allreduce_ring.cu. It sums
in rotated order and rounds once a hop, so at most n-1 times; one- and two-shot forms round once.

Wins nowhere that was measured. With two ranks it is a two-shot, and takes as long: the row that
names it in collectives/tables/gpu.toml, for 16 MiB in one H100's memory, is a tie (50.7 us,
two_shot 51.0, two_shot_push 50.4). With more it moves the bytes of two-shot in n-1 times as many
steps: with four ranks on two cores it took 1.5 times as long as the fastest form (median), in
chains 2.0. It is for GPUs that reach only their neighbours at full speed, on which nobody has
measured it."""

from collectives.binding import binder
from collectives.collective import Traffic
from collectives.operation import CollectiveCase, KernelAlgorithm


def _traffic(ranks: int, case: CollectiveCase) -> Traffic:
    segment = case.segment_bytes // ranks
    forwarded = [(segment, segment)] * (2 * ranks - 3)
    stages = ((segment, 0), *forwarded, (0, segment)) if ranks > 1 else ()
    return Traffic(2 * (ranks - 1), stages, case.segment_bytes)


RING = KernelAlgorithm(
    "ring",
    "segments go round twice: the first lap sums them, the second gathers the sums",
    # 2(n-1) inboxes of two segments each, in whole packs: less than four chunks and a page.
    binder("allreduce_ring", "ring", lambda ranks: 4, 4096),
    _traffic,
    pushes=True,
    to_neighbours=True,
    formulas=("wire",),
    varies=("chunks", "grid"),
    is_modelled=False,
)
ALGORITHMS = {"all_reduce": (RING,)}
