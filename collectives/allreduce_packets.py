"""One-shot all-reduces in packets that show by themselves that they have arrived. See
kernels/include/packets.h."""

from collectives.collective import Traffic
from collectives.operation import Algorithm, Bound, Case, Unsupported, World, bind_kernel
from collectives.traffic import direct_traffic

MOST_LL_BYTES = 32 << 10
MOST_SENTINEL_BYTES = 512 << 10  # from all ranks together


def _bind_ll(world: World, case: Case) -> Bound:
    if case.segment_bytes > MOST_LL_BYTES:
        return Unsupported(
            f"a slab has room for {MOST_LL_BYTES >> 10} KiB in packets", depends_on_size=True
        )
    return _bind(world, case, "one_shot_ll", MOST_LL_BYTES)


def _ll_traffic(ranks: int, case: Case) -> Traffic:
    others = 2 * (ranks - 1) * case.segment_bytes
    return Traffic(1, ((others, 0), (0, others)) if others else (), case.segment_bytes)


def _bind_sentinel(world: World, case: Case) -> Bound:
    if not case.datatype.is_float:
        return Unsupported(f"every value of {case.datatype.name} is data: none can be the sentinel")
    room_bytes = MOST_SENTINEL_BYTES // world.communicator.size
    if case.segment_bytes > room_bytes:
        return Unsupported(
            f"a slab has room for {room_bytes >> 10} KiB from each rank", depends_on_size=True
        )
    return _bind(world, case, "one_shot_sentinel", room_bytes)


def _bind(world: World, case: Case, entry: str, most_bytes: int) -> Bound:
    """The kernel checks when it is compiled that a writer's room holds `most_bytes`."""
    return bind_kernel(
        world, case, f"allreduce_{entry}", entry, most_bytes, WT_MOST_BYTES=str(most_bytes)
    )


LL = Algorithm(
    "one_shot_ll",
    "one_shot_push in packets that carry their own flag",
    _bind_ll,
    _ll_traffic,
    pushes=True,
)
SENTINEL = Algorithm(
    "one_shot_sentinel",
    "one_shot_push whose data are their own flags (Lamport)",
    _bind_sentinel,
    direct_traffic,
    pushes=True,
)
