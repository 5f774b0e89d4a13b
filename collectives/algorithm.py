"""The registry: each collective's algorithms by name, in the order of the table: the library first, `auto` last."""

from collections.abc import Mapping, Sequence

from collectives import allgather, alltoall, auto, reduce_scatter, sendrecv
from collectives.allreduce_one_shot import PULL, PUSH
from collectives.allreduce_one_shot_ll import LL
from collectives.allreduce_ring import RING
from collectives.allreduce_two_shot import TWO_SHOT
from collectives.allreduce_two_shot_quantized import QUANTIZED
from collectives.library.mpi import LIBRARY
from collectives.operation import Algorithm, Pick

OURS = {"all_reduce": ((LL, PUSH, PULL, TWO_SHOT, *QUANTIZED, RING), auto.choose)} | {
    name: (module.ALGORITHMS, auto.choose_direct_pull) for name, module in (
        ("all_gather", allgather), ("reduce_scatter", reduce_scatter), ("alltoall", alltoall), ("sendrecv", sendrecv))}
ALGORITHMS: dict[str, dict[str, Algorithm]] = {
    name: {a.name: a for a in (LIBRARY, *ours, auto.choosing_among(ours, choose))}
    for name, (ours, choose) in OURS.items()}


def named(known: Mapping[str, Algorithm], name: str) -> Algorithm:
    """The algorithm of this name, in the build that words after a plus say: `two_shot+nt+128K`. Raises ValueError for
    words that say none, KeyError for a name that is not known."""
    base, _, words = name.partition("+")
    if words and base in ("library", "auto", "then_library", "compute"):
        raise ValueError(f"{base} is not ours to build")
    return auto.built(known[base], words)


def is_lossy(pick: Pick) -> bool:
    """Whether what was found best loses more than one rounding of a sum."""
    return ALGORITHMS[pick.collective][pick.algorithm.partition("+")[0]].lossy


def asked_for(known: Mapping[str, Algorithm], names: Sequence[str] | None, lossy: bool = False) -> list[Algorithm]:
    """Those of these names, or all, lossy ones only where these are wanted too, in the order of the table."""
    places = list(known)
    names = names or [name for name in known if lossy or not known[name].lossy]
    return [named(known, name) for name in sorted(names, key=lambda name: places.index(name.split("+")[0]))]
