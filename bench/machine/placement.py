"""Which core a rank runs on."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from collectives.communicator import Communicator


class Place(NamedTuple):
    """Whether ranks outnumber cores; the cores that this rank may use; and one that no rank has, for what is to go on
    beside it, None where there is not one for each rank."""

    crowded: bool
    cpus: list[int]
    beside: int | None


def pin(communicator: Communicator) -> Place:
    """Gives each rank of a host a core of its own where there are enough and the launcher has not done so."""
    allowed = sorted(os.sched_getaffinity(0))
    # By the kernel's own id, because MPI can be told to see several nodes in one host.
    host = Path("/proc/sys/kernel/random/boot_id").read_text()
    masks = {rank: mask for rank, (where, mask) in enumerate(communicator.all_gather((host, allowed))) if where == host}
    if len(set().union(*masks.values())) < len(masks):
        return Place(True, allowed, None)
    place = sorted(masks).index(communicator.rank)
    if all(mask == allowed for mask in masks.values()):
        os.sched_setaffinity(0, {one_a_core(allowed)[place]})
    cpus = sorted(os.sched_getaffinity(0))
    taken = {cpu for (where, theirs) in communicator.all_gather((host, cpus)) if where == host for cpu in theirs}
    free = [core[0] for core in cores(sorted(set().union(*masks.values()))) if not taken & set(core)]
    return Place(False, cpus, free[place] if len(free) >= len(masks) else None)


def one_a_core(cpus: Sequence[int]) -> list[int]:
    """The same CPUs, those first that share no physical core with one before."""
    return [cpu for turn in range(len(cpus)) for core in cores(cpus) for cpu in core[turn : turn + 1]]


def cores(cpus: Sequence[int]) -> list[list[int]]:
    """The same CPUs by physical core."""
    found: dict[str, list[int]] = {}
    for cpu in cpus:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        found.setdefault(siblings.read_text() if siblings.exists() else str(cpu), []).append(cpu)
    return list(found.values())
