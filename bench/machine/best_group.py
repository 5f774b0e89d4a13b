"""Which GPUs of a machine a split should use: those whose worst pair is joined best."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import comb

from bench.machine.gpu_state import Facts
from bench.machine.pci import ONE_ROOT_COMPLEX, ROOTLESS_PATHS, SAME_SWITCH, gb_s

UNKNOWN_SOCKETS, ONE_SOCKET, TWO_SOCKETS = ROOTLESS_PATHS
PCIE_PATHS = SAME_SWITCH, ONE_ROOT_COMPLEX, ONE_SOCKET, UNKNOWN_SOCKETS, TWO_SOCKETS
MOST_GROUPS = 20_000  # compared: half of 16 GPUs have 12,870
Key = tuple[float, ...]


def limit_gb_s(facts: Facts, pair: Facts) -> float:
    """The bandwidth of the slowest link between a pair, 0 if unknown."""
    reader, owner = (facts["gpus"][pair[end]]["links"] or {} for end in ("reader", "owner"))
    if not (pair["path"].startswith("PCIe") and reader and owner):
        return 0.0
    between = reader.keys() ^ owner.keys()  # without links above both
    return min((gb_s((reader | owner)[device]) for device in between), default=0.0)


def distance(facts: Facts, pair: Facts) -> Key:
    """The smaller, the better a pair is joined: peers before others, NVLink and xGMI before PCIe,
    more links before fewer, more GB/s before less, and a switch before a root complex."""
    path, status = pair["path"], {"OK": 0, "unknown": 1}.get(pair["status"], 2)
    links = re.match(r"NVLink x([0-9]+)", path)
    if links or path == "xGMI":
        return status, 0, -int(links[1] if links else 1), 0, 0
    place = PCIE_PATHS.index(path) if path in PCIE_PATHS else len(PCIE_PATHS)
    return status, 1 if path.startswith("PCIe") else 2, 0, -limit_gb_s(facts, pair), place


def worst_pairs(facts: Facts, size: int) -> Iterator[tuple[Sequence[int], Facts]]:
    """Each group of so many GPUs with its worst pair, the best group first; none if there are too
    many to compare."""
    numbers = range(len(facts["gpus"]))
    pairs: Mapping[tuple[int, int], Facts] = {
        (pair["reader"], pair["owner"]): pair for pair in facts["pairs"]
    }
    if comb(len(numbers), size) > MOST_GROUPS or any(
        pair["path"] == "the same GPU" for pair in pairs.values()
    ):
        return
    keys = {ends: distance(facts, pair) for ends, pair in pairs.items()}
    groups = []
    for group in combinations(numbers, size):
        worst = max((ends for ends in pairs if {*ends} <= {*group}), key=keys.__getitem__)
        groups.append((keys[worst], group, pairs[worst]))
    for _, group, worst_pair in sorted(groups, key=lambda each: each[:2]):
        yield group, worst_pair


def group_facts(facts: Facts, size: int) -> list[Facts]:
    """The best group of so many GPUs, and the first ones, which programs take by themselves; one
    entry if these are the same, [] if nothing tells groups apart."""
    groups = [*worst_pairs(facts, size)]
    if not groups:
        return []
    first = next(each for each in groups if [*each[0]] == [*range(size)])
    chosen = [groups[0]] if groups[0] == first else [groups[0], first]
    return [
        {
            "gpus": [*group],
            "bus_ids": [facts["gpus"][number]["bus_id"] for number in group],
            "path": pair["path"],
            "status": pair["status"],
            "link_gb_s": limit_gb_s(facts, pair) or None,
        }
        for group, pair in chosen
    ]
