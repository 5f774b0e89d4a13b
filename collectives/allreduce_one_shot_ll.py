"""One-shot all-reduce in packets of data and epoch. See kernels/allreduce_one_shot_ll.cu."""

from collectives.collective import Traffic
from collectives.operation import Algorithm, Bound, Case, Unsupported, World, bind_kernel

MOST_BYTES = 32 << 10


def _bind(world: World, case: Case) -> Bound:
    if case.segment_bytes > MOST_BYTES:
        return Unsupported(f"a slab has room for {MOST_BYTES >> 10} KiB in packets",
                           depends_on_size=True)
    return bind_kernel(world, case, "allreduce_one_shot_ll", "one_shot_ll", MOST_BYTES)


def _traffic(ranks: int, case: Case) -> Traffic:
    others = 2 * (ranks - 1) * case.segment_bytes
    return Traffic(1, ((others, 0), (0, others)) if others else (), case.segment_bytes)


LL = Algorithm(
    "one_shot_ll", "one_shot_push in packets that carry their own flag", _bind, _traffic,
    pushes=True)
