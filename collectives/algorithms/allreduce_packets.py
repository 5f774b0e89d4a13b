"""One-shot all-reduces in packets that show by themselves that they have arrived. See
kernels/include/packets.h. They win on GPUs for the shortest messages: no flag follows the data."""

from functools import partial

from collectives.binding import bind_kernel
from collectives.collective import Traffic
from collectives.operation import Algorithm, Case, Unsupported, World
from collectives.traffic import direct_traffic

MOST_LL_BYTES = 32 << 10
MOST_SENTINEL_BYTES = 512 << 10  # from all ranks together


def _ll_traffic(ranks: int, case: Case) -> Traffic:
    others = 2 * (ranks - 1) * case.segment_bytes
    return Traffic(1, ((others, 0), (0, others)) if others else (), case.segment_bytes)


def _refuses_integers(world: World, case: Case) -> Unsupported | None:
    if case.datatype.is_float:
        return None
    return Unsupported(f"every value of {case.datatype.name} is data: none can be the sentinel")


ALGORITHMS = {
    "all_reduce": (
        Algorithm(
            "one_shot_ll",
            "one_shot_push in packets that carry their own flag",
            partial(
                bind_kernel,
                stem="allreduce_one_shot_ll",
                entry="one_shot_ll",
                room_bytes=MOST_LL_BYTES,
            ),
            _ll_traffic,
            pushes=True,
            swaps=(),
            most_bytes=lambda ranks: MOST_LL_BYTES,
        ),
        Algorithm(
            "one_shot_sentinel",
            "one_shot_push whose data are their own flags (Lamport)",
            partial(
                bind_kernel,
                stem="allreduce_one_shot_sentinel",
                entry="one_shot_sentinel",
                room_bytes=MOST_SENTINEL_BYTES,
            ),
            direct_traffic,
            _refuses_integers,
            pushes=True,
            swaps=(),
            most_bytes=lambda ranks: MOST_SENTINEL_BYTES // ranks,
            wins_below=128 << 10,
        ),
    )
}
