"""Which core a rank runs on."""

import os
from collections.abc import Sequence
from pathlib import Path

from collectives.communicator import Communicator


def pin(communicator: Communicator) -> tuple[bool, list[int]]:
    """Gives each rank of a host a core of its own where there are enough and the launcher has not done so.

    Returns whether ranks outnumber cores, and the cores that this rank may use.
    """
    allowed = sorted(os.sched_getaffinity(0))
    # By the kernel's own id, because MPI can be told to see several nodes in one host.
    host = Path("/proc/sys/kernel/random/boot_id").read_text()
    masks = {rank: mask for rank, (where, mask) in enumerate(communicator.all_gather((host, allowed))) if where == host}
    if len(set().union(*masks.values())) < len(masks):
        return True, allowed
    if all(mask == allowed for mask in masks.values()):
        os.sched_setaffinity(0, {one_a_core(allowed)[sorted(masks).index(communicator.rank)]})
    return False, sorted(os.sched_getaffinity(0))


def one_a_core(cpus: Sequence[int]) -> list[int]:
    """The same CPUs, those first that share no physical core with one before."""
    cores: dict[str, list[int]] = {}
    for cpu in cpus:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.exists() else str(cpu), []).append(cpu)
    return [cpu for turn in range(len(cpus)) for core in cores.values() for cpu in core[turn : turn + 1]]
