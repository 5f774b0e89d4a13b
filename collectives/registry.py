"""Every algorithm by collective and name. The table of a run that names none has this order."""

from dataclasses import replace

from collectives import algorithms, choice
from collectives.collective import COLLECTIVES, Traffic
from collectives.operation import Algorithm, CollectiveCase, LibraryAlgorithm, World
from collectives.traffic import HOPS


def _library_traffic(ranks: int, case: CollectiveCase) -> Traffic:
    """A lower bound for every algorithm: each rank must receive the data that it lacks."""
    each_way, own = case.collective.least_bytes(case.segment_bytes, ranks)
    hops = HOPS.get(case.shape.get("way", ""), 1)
    return Traffic(hops, ((each_way, each_way),) * hops, own)


LIBRARY = LibraryAlgorithm(
    "library",
    "NCCL or RCCL on GPUs; on the CPU the MPI that started this",
    lambda world, case: world.library.bind(world, case),
    _library_traffic,
    variants=("plain", "graph", "registered", "tuned"),
)
BY_COPY_ENGINES = "all_gather", "alltoall"  # what NCCL can move without a block


def _by_collective() -> dict[str, dict[str, Algorithm]]:
    """The algorithms of `algorithms`, between the library and `auto`."""
    every = {}
    for collective, its in algorithms.listed().items():
        ours = tuple(its.values())
        library = LIBRARY
        if collective in BY_COPY_ENGINES:
            library = replace(LIBRARY, variants=(*LIBRARY.variants, "zero_cta"))
        listed = [library, *ours, choice.auto(ours)]
        if COLLECTIVES[collective].reduces:
            listed.append(choice.auto_stable(ours))
        every[collective] = {each.name: each for each in listed}
    return every


ALGORITHMS = _by_collective()


def exact(collective: str, hosts: int) -> list[Algorithm]:
    """All of ours for ranks on one host, or on several, but lossy ones; and `auto`."""
    return [
        algorithm
        for algorithm in ALGORITHMS[collective].values()
        if algorithm.base == choice.AUTO
        or (
            not algorithm.is_baseline
            and not algorithm.is_lossy
            and algorithm.spans_hosts == (hosts > 1)
        )
    ]


def by_default(collective: str, world: World) -> list[Algorithm]:
    """The algorithms of a run that names none."""
    ours = exact(collective, world.communicator.hosts)
    library = ALGORITHMS[collective][LIBRARY.name]
    return [library, *(algorithm for algorithm in ours if algorithm.by_default(world))]
