"""Two-shot all-reduce: reduce-scatter, then all-gather. See kernels/allreduce_two_shot.cu.

Wins for longer messages than one-shot does (copied, collectives/tables/), as each rank sums 1/ranks
of the data, and sends each byte twice at most: between two cores of a CPU from 16 KiB to 1 MiB on,
the longer their round trip the later; among four ranks on two cores from 64 KiB on (push, then
pull); between two ranks on one GPU from 8 MiB on, in single calls, and through host memory from 4
MiB on (push). None of these is of two GPUs."""

from dataclasses import replace
from functools import partial

from collectives.binding import binder
from collectives.collective import Traffic
from collectives.operation import CollectiveCase, KernelAlgorithm
from collectives.traffic import two_shot_traffic

MOST_HELD_BYTES = 512 << 10  # of a buffer, in a core's cache when others store into it

TWO_SHOT = KernelAlgorithm(
    "two_shot",
    "each rank sums one segment of all inputs, then reads the other segments' sums",
    # Two chunks and two segments of sums, each rounded up to whole packs.
    binder("allreduce_two_shot", "two_shot", lambda ranks: 2 + 2 / ranks, 4096),
    two_shot_traffic,
    variants=("copied", "registered"),
    sums_in_rank_order=True,
    formulas=("parts",),
    varies=("stores", "chunks", "grid", "slabs"),
    in_rounds=True,
)


PUSH = replace(
    TWO_SHOT,
    base="two_shot_push",
    about="two_shot by stores: inputs into the owners' slabs, sums into all slabs",
    # Two chunks of input and two of sums, each rounded up to whole packs.
    perform=binder("allreduce_two_shot", "two_shot_push", lambda ranks: 4, 4096),
    moves=partial(two_shot_traffic, pushes=True),
    pushes=True,
    formulas=("parts", "wire"),
    # Between two cores a push gains little over a pull.
    by_default=lambda world: not (world.device.is_cpu and world.ranks == 2),
)


def _direct_traffic(ranks: int, case: CollectiveCase) -> Traffic:
    own = case.segment_bytes // ranks
    others = case.segment_bytes - own
    stored = 0 if case.in_place else others  # in place into lines that have just been read
    stages = [(0, others)] if ranks > 1 else []
    if stored:
        stages.append((stored, 0))
    return Traffic(2, tuple(stages), case.segment_bytes, own, min(stored, MOST_HELD_BYTES))


DIRECT = KernelAlgorithm(
    "two_shot_direct",
    "each rank sums one segment of all send buffers into all receive buffers",
    binder("allreduce_two_shot", "two_shot_direct", lambda ranks: 4),
    _direct_traffic,
    variants=("registered",),
    sums_in_rank_order=True,
    varies=("stores",),
)
ALGORITHMS = {"all_reduce": (TWO_SHOT, PUSH, DIRECT)}
