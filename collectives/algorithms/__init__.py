"""The algorithms of each collective. Every module of this folder lists its own in `ALGORITHMS`, by
collective: a new algorithm is a new module here and its kernel, and none imports another."""

import importlib
import pkgutil
from functools import cache

from collectives.collective import COLLECTIVES
from collectives.operation import Algorithm


@cache
def listed() -> dict[str, dict[str, Algorithm]]:
    """What the modules list, by collective and name: those between hosts last, lossy ones before
    them."""
    found: dict[str, list[Algorithm]] = {name: [] for name in COLLECTIVES}
    for module in pkgutil.iter_modules(__path__):
        of_module = importlib.import_module(f"{__name__}.{module.name}").ALGORITHMS
        for collective, its in of_module.items():
            found[collective] += its
    for its in found.values():
        its.sort(key=lambda algorithm: (algorithm.spans_hosts, algorithm.is_lossy))
    return {name: {each.base: each for each in its} for name, its in found.items()}
