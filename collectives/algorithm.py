"""The registry: each collective's algorithms by name, in the order of the table: the library first, `auto` last."""

from collectives import allgather, alltoall, auto, reduce_scatter, sendrecv
from collectives.allreduce_one_shot import PULL, PUSH
from collectives.allreduce_ring import RING
from collectives.allreduce_two_shot import TWO_SHOT
from collectives.library import LIBRARY
from collectives.operation import Algorithm

OURS = {"all_reduce": ((PUSH, PULL, TWO_SHOT, RING), auto.choose)} | {
    name: (module.ALGORITHMS, auto.choose_direct_pull) for name, module in (
        ("all_gather", allgather), ("reduce_scatter", reduce_scatter), ("alltoall", alltoall), ("sendrecv", sendrecv))}
ALGORITHMS: dict[str, dict[str, Algorithm]] = {
    name: {a.name: a for a in (LIBRARY, *ours, auto.choosing_among(ours, choose))}
    for name, (ours, choose) in OURS.items()}
