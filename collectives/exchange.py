"""The forms of collectives that hand segments over directly, as kernels/include/exchange.h does:
entries `<entry>_push`, `_pull` and `_pull_registered` of a kernel file."""

from collections.abc import Callable
from functools import partial
from typing import Any

from collectives.binding import binder
from collectives.operation import KernelAlgorithm
from collectives.traffic import direct_traffic


def exchange_forms(
    stem: str,
    entry: str,
    push: str,
    pull: str,
    shares_slot: bool = False,
    base: str = "direct",
    varies: tuple[str, ...] = ("stores", "chunks", "grid"),
    **facts: Any,
) -> tuple[KernelAlgorithm, ...]:
    """Both forms, `<base>_push` and `<base>_pull`, described by `push` and `pull`, with these facts
    of an Algorithm. `shares_slot`: all readers of a pull read the same slot."""
    form: Callable[..., KernelAlgorithm] = partial(KernelAlgorithm, varies=varies, **facts)
    return (
        form(
            f"{base}_push",
            push,
            binder(stem, f"{entry}_push", lambda ranks: 2 * ranks),
            direct_traffic,
            pushes=True,
        ),
        form(
            f"{base}_pull",
            pull,
            binder(stem, f"{entry}_pull", lambda ranks: 2 if shares_slot else 2 * ranks),
            partial(direct_traffic, copies=1) if shares_slot else direct_traffic,
            variants=("copied", "registered"),
        ),
    )
