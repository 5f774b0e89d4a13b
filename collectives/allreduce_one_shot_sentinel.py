"""One-shot all-reduce whose data are its flags. See kernels/allreduce_one_shot_sentinel.cu."""

from collectives.collective import direct_traffic
from collectives.operation import Algorithm, Bound, Case, Unsupported, World, bind_kernel

MOST_BYTES = 512 << 10  # from all ranks together


def _bind(world: World, case: Case) -> Bound:
    if not case.datatype.is_float:
        return Unsupported(f"every value of {case.datatype.name} is data: none can be the sentinel")
    room_bytes = MOST_BYTES // world.communicator.size
    if case.segment_bytes > room_bytes:
        return Unsupported(f"a slab has room for {room_bytes >> 10} KiB from each rank",
                           depends_on_size=True)
    return bind_kernel(world, case, "allreduce_one_shot_sentinel", "one_shot_sentinel", room_bytes)


SENTINEL = Algorithm(
    "one_shot_sentinel", "one_shot_push whose data are their own flags (Lamport)", _bind,
    direct_traffic, pushes=True)
