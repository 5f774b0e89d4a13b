"""Binds every rank on a CPU to a core; `bench.harness` and `bench.doctor` use it."""

import os
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

from bench.machine import files
from collectives.communicator import Communicator
from wiretax.common.grouped import grouped

SIBLINGS = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


class Place(NamedTuple):
    """Whether the host has more ranks than CPUs, the CPUs that this rank may use, and those where
    a second thread of it may run, if each rank has a core for that."""

    oversubscribed: bool
    cpus: list[int]
    beside: Sequence[int] = ()


def pin(communicator: Communicator) -> Place:
    """Binds each rank to a core, if ranks outnumber cores to these in turn, unless the launcher did
    it; collective."""
    allowed = sorted(os.sched_getaffinity(0))
    # The boot id names the host: MPI can be told to treat one host as several nodes.
    host = files.read("proc/sys/kernel/random/boot_id")
    ranks = enumerate(communicator.all_gather((host, allowed)))
    masks = {rank: mask for rank, (rank_host, mask) in ranks if rank_host == host}
    oversubscribed = len(set[int]().union(*masks.values())) < len(masks)
    beside = list[int]()
    if all(mask == allowed for mask in masks.values()):
        # The first hardware thread of every core, then the second, ...
        by_core = cores(allowed)
        turns = chain(*zip_longest(*by_core))
        in_turn = [cpu for cpu in turns if cpu is not None]
        index = sorted(masks).index(communicator.rank)
        os.sched_setaffinity(0, {in_turn[index % len(in_turn)]})
        if 2 * len(masks) <= len(by_core):
            beside = [in_turn[len(masks) + index]]
    return Place(oversubscribed, sorted(os.sched_getaffinity(0)), beside)


def cores(cpus: Sequence[int]) -> list[list[int]]:
    """The same CPUs, grouped by physical core; a CPU without topology files counts as a core."""
    groups = grouped(cpus, lambda cpu: files.read(SIBLINGS.format(cpu)) or str(cpu))
    return list(groups.values())
