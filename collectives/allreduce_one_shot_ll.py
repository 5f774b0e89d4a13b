"""One-shot all-reduce in packets of data and epoch; see kernels/allreduce_one_shot_ll.cu."""

from collectives.operation import Algorithm, Case, Operation, Traffic, Unsupported, World, bind_kernel

MOST_BYTES = 32 << 10


def _bind(world: World, case: Case) -> Operation | Unsupported:
    if case.segment_bytes > MOST_BYTES:
        return Unsupported(f"there is room for packets of {MOST_BYTES >> 10} KiB", of_size=True)
    return bind_kernel(world, case, "allreduce_one_shot_ll", "one_shot_ll", MOST_BYTES)


def _traffic(ranks: int, case: Case) -> Traffic:
    others = 2 * (ranks - 1) * case.segment_bytes
    return Traffic(1, ((others, 0), (0, others)) if others else (), case.segment_bytes)


LL = Algorithm("one_shot_ll", "as one_shot_push, in packets that carry their own flag", _bind, _traffic, pushes=True)
