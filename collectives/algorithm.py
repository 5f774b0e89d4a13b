"""The registry: each collective's algorithms by name, in the order of the table."""

from collections.abc import Mapping, Sequence

from collectives import allgather, alltoall, auto, quantized, reduce_scatter, sendrecv
from collectives.allreduce_one_shot import PULL, PUSH
from collectives.allreduce_one_shot_ll import LL
from collectives.allreduce_ring import RING
from collectives.allreduce_two_shot import TWO_SHOT
from collectives.library import LIBRARY
from collectives.operation import Algorithm

# `auto` chooses among these, and a default run measures them.
EXACT: dict[str, tuple[Algorithm, ...]] = {
    "all_reduce": (LL, PUSH, PULL, TWO_SHOT, RING),
    "all_gather": allgather.ALGORITHMS,
    "reduce_scatter": reduce_scatter.ALGORITHMS,
    "alltoall": alltoall.ALGORITHMS,
    "sendrecv": sendrecv.ALGORITHMS,
}
# Measured only where the command line names them.
ON_REQUEST: dict[str, tuple[Algorithm, ...]] = {
    "all_reduce": quantized.ALGORITHMS,
}


def _registered(collective: str) -> dict[str, Algorithm]:
    choose = auto.choose if collective == "all_reduce" else auto.choose_direct_pull
    automatic = auto.choosing_among(EXACT[collective], choose)
    listed = (LIBRARY, *EXACT[collective], *ON_REQUEST.get(collective, ()), automatic)
    return {algorithm.name: algorithm for algorithm in listed}


ALGORITHMS: dict[str, dict[str, Algorithm]] = {name: _registered(name) for name in EXACT}


def default_names(collective: str) -> list[str]:
    """The algorithms that a run measures unless its command line names others."""
    skipped = {algorithm.name for algorithm in ON_REQUEST.get(collective, ())}
    return [name for name in ALGORITHMS[collective] if name not in skipped]


def named(algorithms: Mapping[str, Algorithm], name: str) -> Algorithm:
    """The algorithm with this name, in the build that the words after a plus spell, as in
    `two_shot+nt+128K`. Raises ValueError for a wrong word, KeyError for an unknown name."""
    base, _, words = name.partition("+")
    if words and base in ("library", "auto", "then_library", "compute"):
        raise ValueError(f"{base} is not ours to build")
    return algorithms[base].built(words)


def selected(algorithms: Mapping[str, Algorithm], names: Sequence[str]) -> list[Algorithm]:
    """The algorithms with these names, in the order of the registry."""
    order = list(algorithms)
    by_order = sorted(names, key=lambda name: order.index(name.split("+")[0]))
    return [named(algorithms, name) for name in by_order]
