"""The registry: each collective's algorithms by name, in the order of the table: the library first, `auto` last."""

from collections.abc import Mapping, Sequence

from collectives import allgather, alltoall, auto, reduce_scatter, sendrecv
from collectives.allreduce_one_shot import PULL, PUSH
from collectives.allreduce_one_shot_ll import LL
from collectives.allreduce_ring import RING
from collectives.allreduce_two_shot import TWO_SHOT
from collectives.library import LIBRARY
from collectives.operation import Algorithm

OURS = {"all_reduce": ((LL, PUSH, PULL, TWO_SHOT, RING), auto.choose)} | {
    name: (module.ALGORITHMS, auto.choose_direct_pull) for name, module in (
        ("all_gather", allgather), ("reduce_scatter", reduce_scatter), ("alltoall", alltoall), ("sendrecv", sendrecv))}
ALGORITHMS: dict[str, dict[str, Algorithm]] = {
    name: {a.name: a for a in (LIBRARY, *ours, auto.choosing_among(ours, choose))}
    for name, (ours, choose) in OURS.items()}


def named(known: Mapping[str, Algorithm], name: str) -> Algorithm:
    """The algorithm of this name, in the build that words after a plus say: `two_shot+nt+128K`. Raises ValueError for
    words that say none, KeyError for a name that is not known."""
    base, _, words = name.partition("+")
    if words and base in ("library", "auto"):
        raise ValueError(f"{base} is not ours to build")
    return auto.built(known[base], words)


def asked_for(known: Mapping[str, Algorithm], names: Sequence[str] | None) -> list[Algorithm]:
    """Those of these names, or all, in the order of the table."""
    places = list(known)
    return [named(known, name) for name in sorted(names or known, key=lambda name: places.index(name.split("+")[0]))]
