"""Run by mpirun on the software GPU: every rank says whether it can use a multicast address, or why
not; collective_ranks.py performs the all-reduces over it."""

import os
from itertools import product

from collectives.algorithms.allreduce_multimem import COMBINED, ONE_SHOT, TWO_SHOT
from collectives.collective import COLLECTIVES, DATATYPES, REDOPS
from collectives.operation import Bound, CollectiveCase, Unsupported
from tests.ranks.world import connect


def main() -> None:
    world, _ = connect(20.0, os.environ.get("FAKE_GPU_VENDOR", "cuda"))
    at = (world.device.private(4096).address for _ in range(2))
    send, receive = at

    def bind(name: str, redop: str) -> list[Bound]:
        case = CollectiveCase(COLLECTIVES["all_reduce"], 64, DATATYPES[name], redop, send, receive)
        return [form.bind(world, case) for form in (ONE_SHOT, TWO_SHOT)]

    first, second = bind("float32", "sum")
    if isinstance(first, Unsupported):
        assert isinstance(second, Unsupported)
        asked_once = first.reason is second.reason
        assert asked_once or world.mapped.multicast is None
        print(f"refused: {first.reason}.", flush=True)
    else:
        for name, redop in product(DATATYPES, REDOPS):
            is_offered = redop in COMBINED.get(name, ())
            assert is_offered != isinstance(bind(name, redop)[1], Unsupported), (name, redop)
        print("offered", flush=True)
    world.communicator.barrier()


if __name__ == "__main__":
    main()
