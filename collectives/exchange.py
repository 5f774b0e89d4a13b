"""The forms of collectives that hand segments over directly, as kernels/include/exchange.h does:
entries `<entry>_push`, `_pull` and `_pull_registered` of a kernel file."""

from functools import partial

from collectives.binding import binder
from collectives.operation import KernelAlgorithm
from collectives.traffic import direct_traffic


def exchange_forms(
    stem: str, entry: str, push: str, pull: str, shares_slot: bool = False, sums: bool = False
) -> tuple[KernelAlgorithm, ...]:
    """Both forms, described by `push` and `pull`. `shares_slot`: all readers of a pull read the
    same slot. `sums`: they add in rank order."""
    form = partial(KernelAlgorithm, sums_in_rank_order=sums, varies=("stores", "chunks", "grid"))
    return (
        form(
            "direct_push",
            push,
            binder(stem, f"{entry}_push", lambda ranks: 2 * ranks),
            direct_traffic,
            pushes=True,
        ),
        form(
            "direct_pull",
            pull,
            binder(stem, f"{entry}_pull", lambda ranks: 2 if shares_slot else 2 * ranks),
            partial(direct_traffic, copies=1) if shares_slot else direct_traffic,
            variants=("copied", "registered"),
        ),
    )
