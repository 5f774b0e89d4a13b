"""The forms of collectives that hand segments over directly or along a ring, as
kernels/include/exchange.h does: entries `<entry>_push`, `_pull`, `_pull_registered` and `_ring` of
a kernel file."""

from functools import partial

from collectives.binding import binder
from collectives.operation import KernelAlgorithm
from collectives.traffic import direct_traffic, ring_traffic

VARIES = ("stores", "chunks", "grid")


def exchange_forms(
    stem: str, entry: str, abouts: dict[str, str], shares_slot: bool = False, sums: bool = False
) -> tuple[KernelAlgorithm, ...]:
    """The forms of `abouts`, which describes each. `shares_slot`: all readers of a pull read the
    same slot. `sums`: the direct forms add in rank order; the ring rounds at each hop."""
    facts = {
        "direct_push": partial(
            KernelAlgorithm,
            perform=binder(stem, f"{entry}_push", lambda ranks: 2 * ranks),
            moves=direct_traffic,
            pushes=True,
            sums_in_rank_order=sums,
        ),
        "direct_pull": partial(
            KernelAlgorithm,
            perform=binder(stem, f"{entry}_pull", lambda ranks: 2 if shares_slot else 2 * ranks),
            moves=partial(direct_traffic, copies=1) if shares_slot else direct_traffic,
            variants=("copied", "registered"),
            sums_in_rank_order=sums,
        ),
        "ring": partial(
            KernelAlgorithm,
            perform=binder(stem, f"{entry}_ring", lambda ranks: 2 * max(1, ranks - 1)),
            moves=ring_traffic,
            pushes=True,
            is_modelled=False,
        ),
    }
    return tuple(facts[name](name, about, varies=VARIES) for name, about in abouts.items())
