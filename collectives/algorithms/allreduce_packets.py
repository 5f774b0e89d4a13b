"""One-shot all-reduces in packets that show by themselves that they have arrived. See
kernels/include/packets.h.

No flag follows the data. `one_shot_ll` wins in chains of 16 KiB between two ranks in one H200's
memory (2.7 us a call without the link, one-shot push 3.5) and ties over host memory, where it loses
at 32 KiB. It stores twice the bytes, to each peer: `auto` takes it while a rank stores no more of
them than between two ranks at 16 KiB.
`one_shot_sentinel` wins nowhere that was measured since its resets have a fence. Nobody has
measured two GPUs. On a CPU they take 2 to 7 times as long as the others: there they serve tests."""

from functools import partial

from collectives.binding import bind_kernel
from collectives.collective import Traffic
from collectives.operation import Bound, CollectiveCase, KernelAlgorithm, Limits, Unsupported, World
from collectives.traffic import direct_traffic

LL = Limits(most=lambda ranks: 32 << 10, leads_up_to=lambda ranks: (16 << 10) / max(1, ranks - 1))
SENTINEL = Limits(most=lambda ranks: (512 << 10) / ranks)


def _bind(base: str, limits: Limits, world: World, case: CollectiveCase) -> Bound:
    room_bytes = int(limits.most(world.ranks))
    # The kernel checks when it is compiled that a writer's room holds as much.
    return bind_kernel(world, case, f"allreduce_{base}", base, room_bytes, WT_MOST_BYTES=room_bytes)


def _ll_traffic(ranks: int, case: CollectiveCase) -> Traffic:
    others = 2 * (ranks - 1) * case.segment_bytes
    return Traffic(1, ((others, 0), (0, others)) if others else (), case.segment_bytes)


def _refuses_memory(world: World, case: CollectiveCase) -> Unsupported | None:
    reason = world.mapped.shown.no_packets
    return Unsupported(reason) if reason else None


def _refuses_integers(world: World, case: CollectiveCase) -> Unsupported | None:
    if case.datatype.is_float:
        return _refuses_memory(world, case)
    return Unsupported(f"every value of {case.datatype.name} is data: none can be the sentinel")


in_packets = partial(
    KernelAlgorithm,
    pushes=True,
    flags_in_data=True,
    by_default=lambda world: not world.device.is_cpu,
    is_modelled=False,
    sums_in_rank_order=True,
)
ALGORITHMS = {
    "all_reduce": (
        in_packets(
            "one_shot_ll",
            "one_shot_push in packets that carry their own flag",
            partial(_bind, "one_shot_ll", LL),
            _ll_traffic,
            _refuses_memory,
            limits=LL,
            formulas=("parts",),
        ),
        in_packets(
            "one_shot_sentinel",
            "one_shot_push whose data are their own flags (Lamport)",
            partial(_bind, "one_shot_sentinel", SENTINEL),
            direct_traffic,
            _refuses_integers,
            limits=SENTINEL,
        ),
    )
}
