"""Run by mpirun on the software GPU: the all-reduces over a multicast address, or the reason why they are refused.

Every rank prints the number of wrong results of all types, sizes with tails, shifts and places; or the reason.
"""

import os
from itertools import cycle

import numpy as np

from collectives.algorithm import EXACT
from collectives.allreduce_multimem import COMBINED, ONE_SHOT, TWO_SHOT
from collectives.collective import COLLECTIVES, DATATYPES, combined
from collectives.operation import Build, Case, Operation, Unsupported
from tests.ranks.world import connect, launch

COUNTS = (1, 3, 64, 1003, 5001)
PUSH = next(algorithm for algorithm in EXACT["all_reduce"] if algorithm.name == "one_shot_push")


def main() -> None:
    world, watch = connect(20.0, os.environ.get("FAKE_GPU_VENDOR", "cuda"))
    communicator, device, wrong = world.communicator, world.device, 0
    send, receive = (device.private(8 * 5001 + 64) for _ in range(2))
    for number, (name, datatype) in enumerate(DATATYPES.items()):
        for redop in ("sum", "min", "max", "prod", "avg"):
            builds = cycle((Build(), Build(chunk_bytes=1024), Build(blocks=1)))
            places = cycle(((0, 0, False), (1, 0, False), (0, 3, False), (2, 2, True)))
            for count, build, (from_, to, in_place) in zip(COUNTS, builds, places, strict=False):
                size = datatype.size_bytes
                source = receive if in_place else send
                case = Case(COLLECTIVES["all_reduce"], count, datatype, redop, source.address + from_ * size,
                            receive.address + to * size, in_place, build=build)
                bounds = [form.bind(world, case) for form in (ONE_SHOT, TWO_SHOT)]
                if redop not in COMBINED.get(name, ()):
                    assert all("in 16 bytes" in bound.reason for bound in bounds if isinstance(bound, Unsupported))
                    continue
                other = PUSH.bind(world, case)  # shares the flags, and alternates the halves
                for bound in bounds:
                    if isinstance(bound, Unsupported):
                        print(f"refused: {bound.reason}.", flush=True)
                        assert world.mapped.multicast is bound, "asked once"
                        return communicator.barrier()
                    assert isinstance(other, Operation)
                    draws = [np.random.default_rng([number, count, rank]) for rank in range(communicator.size)]
                    for times in (1, 1 if in_place else 3):
                        inputs = [draw.integers(-30, 31, count).astype(np.float64) for draw in draws]
                        if not in_place:
                            launch(device, other.step, times)
                        source.write(datatype.encode(inputs[communicator.rank]), from_ * size)
                        communicator.barrier()
                        launch(device, bound.step, times)
                        got = receive.read()[to * size : (to + count) * size].view(datatype.storage)
                        wrong += int(np.count_nonzero(got != datatype.encode(combined(inputs, redop))))
    print(f"wrong: {wrong}, timed out: {watch.timed_out}", flush=True)
    communicator.barrier()


if __name__ == "__main__":
    main()
