"""`auto`: the algorithm that a newcomer should use at a size."""

from dataclasses import replace

from collectives.algorithm import Algorithm, Case, Operation, Traffic, Unsupported, World, algorithms


def choose(size_bytes: int, ranks: int) -> str:
    """Without a table measured on this machine: fewest steps while latency decides, fewest bytes where bandwidth
    does."""
    return "one_shot_pull" if size_bytes * (ranks - 1) <= 128 << 10 else "two_shot"


def _bind(world: World, case: Case) -> Operation | Unsupported:
    name = choose(case.size_bytes, world.communicator.size)
    bound = algorithms()[name].bind(world, case)
    return bound if isinstance(bound, Unsupported) else replace(bound, chosen=name)


def _traffic(ranks: int, size_bytes: int) -> Traffic:
    return algorithms()[choose(size_bytes, ranks)].traffic(ranks, size_bytes)


AUTO = Algorithm("auto", "what is chosen for the size", _bind, _traffic, lambda ranks: 1)
