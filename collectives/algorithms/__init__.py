"""The algorithms of each collective. Every module of this folder lists its own in `ALGORITHMS`, by
collective: a new algorithm is a new module here and its kernel, and none imports another."""

import importlib
import pkgutil
from functools import cache

from collectives.collective import COLLECTIVES
from collectives.operation import Algorithm, Unsupported


@cache
def listed() -> dict[str, dict[str, Algorithm]]:
    """What the modules list, by collective and name: those between hosts last, lossy ones before
    them."""
    modules = [
        importlib.import_module(f"{__name__}.{module.name}").ALGORITHMS
        for module in pkgutil.iter_modules(__path__)
    ]
    found = {}
    for collective in COLLECTIVES:
        its = [each for module in modules for each in module.get(collective, ())]
        its.sort(key=lambda algorithm: (algorithm.spans_hosts, algorithm.is_lossy))
        found[collective] = {each.base: each for each in its}
    return found


def general(collective: str, pushes: bool, variant: str) -> Algorithm | Unsupported:
    """The first algorithm over peers' memory that suits every case, as `auto` takes it without a
    table, in this variant; one that pushes, or one that does not."""
    for algorithm in listed()[collective].values():
        suits = algorithm.needs_peers and algorithm.is_modelled and variant in algorithm.variants
        if suits and algorithm.pushes == pushes:
            return algorithm
    way = "stores into" if pushes else "reads"
    return Unsupported(f"no {collective} that {way} peers' memory is here ({variant})")
