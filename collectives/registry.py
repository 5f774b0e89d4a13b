"""Every algorithm by collective and name. A run's table lists them in this order."""

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import replace

from collectives import algorithms, choice
from collectives.algorithms import sendrecv
from collectives.collective import COLLECTIVES, Traffic
from collectives.operation import Algorithm, Case, World


def _library_traffic(ranks: int, case: Case) -> Traffic:
    """A lower bound for every algorithm: each rank must receive the data that it lacks."""
    each_way, own = case.collective.least_bytes(case.segment_bytes, ranks)
    hops = sendrecv.HOPS.get(case.shape.get("way", ""), 1)
    return Traffic(hops, ((each_way, each_way),) * hops, own)


LIBRARY = Algorithm(
    "library",
    "NCCL or RCCL on GPUs; on the CPU the MPI that started this",
    lambda world, case: world.library.bind(world, case),
    _library_traffic,
    needs_peers=False,
    library_variants=3,
)


def _by_collective() -> dict[str, dict[str, Algorithm]]:
    """The algorithms that the modules of `algorithms` list, between the library and `auto`."""
    listed: dict[str, list[Algorithm]] = {name: [] for name in COLLECTIVES}
    for module in pkgutil.iter_modules(algorithms.__path__):
        found = importlib.import_module(f"{algorithms.__name__}.{module.name}").ALGORITHMS
        for collective, its in found.items():
            listed[collective] += its
    every = {}
    for collective, its in listed.items():
        its.sort(key=lambda algorithm: (algorithm.spans_hosts, algorithm.is_lossy))
        moves = collective in ("all_gather", "alltoall")  # which a library's copy engines can do
        library = replace(LIBRARY, library_variants=4) if moves else LIBRARY
        autos = [choice.auto(its)]
        if COLLECTIVES[collective].reduces:
            autos.append(choice.auto(its, stable=True))
        every[collective] = {algorithm.name: algorithm for algorithm in (library, *its, *autos)}
    return every


ALGORITHMS = _by_collective()


def exact(collective: str, hosts: int) -> list[Algorithm]:
    """All of ours for ranks on one host, or on several, but lossy ones; and `auto`."""
    return [
        algorithm
        for algorithm in ALGORITHMS[collective].values()
        if algorithm.base == choice.AUTO
        or (
            not algorithm.is_library
            and not algorithm.is_lossy
            and algorithm.spans_hosts == (hosts > 1)
        )
    ]


def by_default(collective: str, world: World) -> list[Algorithm]:
    """The algorithms of a run that names none."""
    ours = exact(collective, world.communicator.hosts)
    library = ALGORITHMS[collective][LIBRARY.base]
    return [library, *(algorithm for algorithm in ours if algorithm.by_default(world))]


def in_order(chosen: Sequence[Algorithm], among: Sequence[Algorithm]) -> list[Algorithm]:
    """The chosen algorithms in the order of the others, builds of one in their own order."""
    order = [algorithm.base for algorithm in among]
    return sorted(chosen, key=lambda algorithm: order.index(algorithm.base))
