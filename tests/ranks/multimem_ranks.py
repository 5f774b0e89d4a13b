"""Run by mpirun on the software GPU: the all-reduces over a multicast address, or the reason why they are refused.

`multimem_ranks.py REDOP TYPE...`. Every rank prints the number of wrong results over sizes with tails, shifts, places
and builds; or the reason.
"""

import os
import sys
from itertools import product

import numpy as np

from collectives.algorithm import EXACT
from collectives.allreduce_multimem import COMBINED, ONE_SHOT, TWO_SHOT
from collectives.build import Build
from collectives.collective import COLLECTIVES, DATATYPES, REDOPS, combined
from collectives.operation import Bound, Case, Operation, Unsupported, World
from kernels.devices.device import Memory
from tests.ranks.world import connect, launch

MOST = 5001
# Elements; shifts of the send and the receive buffer in elements, None: in place; the build.
EXAMPLES = (
    (1, (0, 0), Build()),
    (1003, (1, 0), Build(chunk_bytes=1024)),
    (3, (0, 3), Build(blocks=1)),
    (1003, None, Build()),
    (MOST, (0, 0), Build(chunk_bytes=1024)),
    (64, (0, 1), Build()),
)
PUSH = next(algorithm for algorithm in EXACT["all_reduce"] if algorithm.name == "one_shot_push")


def wrong_results(
    world: World, case: Case, bound: Operation, memories: tuple[Memory, Memory], seed: int
) -> int:
    """The wrong elements after one launch and after three in a row, behind another algorithm's, which shares the flags
    and alternates the halves of the slabs."""
    send, receive = memories
    ranks, rank = world.communicator.size, world.communicator.rank
    draws, wrong = [np.random.default_rng([seed, each]) for each in range(ranks)], 0
    other = PUSH.bind(world, case)
    assert isinstance(other, Operation)
    for times in (1, 1 if case.in_place else 3):
        launch(world.device, other.step, times)
        inputs = [draw.integers(-30, 31, case.count).astype(np.float64) for draw in draws]
        source = receive if case.in_place else send
        source.write(case.datatype.encode(inputs[rank]), case.send - source.address)
        world.communicator.barrier()
        launch(world.device, bound.step, times)
        start = case.receive - receive.address
        got: np.ndarray = receive.read()[start : start + case.segment_bytes].view(
            case.datatype.storage
        )
        wrong += int(np.count_nonzero(got != case.datatype.encode(combined(inputs, case.redop))))
    return wrong


def main() -> None:
    redop, *names = sys.argv[1:]
    world, watch = connect(20.0, os.environ.get("FAKE_GPU_VENDOR", "cuda"))
    memories = world.device.private(8 * MOST + 64), world.device.private(8 * MOST + 64)
    send, receive = (memory.address for memory in memories)
    wrong, bound = 0, list[Bound]()
    for name, example in product(names, enumerate(EXAMPLES)):
        seed, (count, shifts, build) = example
        datatype = DATATYPES[name]
        from_, to = (datatype.size_bytes * shift for shift in shifts or (2, 2))
        case = Case(
            COLLECTIVES["all_reduce"],
            count,
            datatype,
            redop,
            (send if shifts else receive) + from_,
            receive + to,
            not shifts,
            build=build,
        )
        for form in (ONE_SHOT, TWO_SHOT):
            bound.append(form.bind(world, case))
            if isinstance(bound[-1], Operation):
                wrong += wrong_results(world, case, bound[-1], memories, seed)
    refusals = [each for each in bound if isinstance(each, Unsupported)]
    if refusals:
        assert len(refusals) == len(bound)
        assert all(each is refusals[0] for each in refusals) or world.mapped.multicast is None, (
            "asked once"
        )
        print(f"refused: {refusals[0].reason}.", flush=True)
    else:
        for name, other in product(DATATYPES, REDOPS):
            case = Case(COLLECTIVES["all_reduce"], 1, DATATYPES[name], other, send, receive)
            assert other in COMBINED.get(name, ()) or isinstance(
                TWO_SHOT.bind(world, case), Unsupported
            )
        print(f"wrong: {wrong}, timed out: {watch.timed_out}", flush=True)
    world.communicator.barrier()


if __name__ == "__main__":
    main()
