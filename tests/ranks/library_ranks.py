"""Runs a GPU's library on ranks as a run does, checks every result against numpy, and prints a
report for each request."""

import json
import os
import sys
from itertools import product

from bench.harness.iteration import Iteration
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.communicator import Communicator, Refusal
from collectives.library import gpu_library as library_gpu
from collectives.library.nccl import Nccl
from collectives.operation import Unsupported
from collectives.peer_buffer import WaitPolicy
from collectives.registry import ALGORITHMS
from collectives.world import open_device, open_world
from kernels.devices.device import Counts, DeviceError, Step, Watch
from tests.collectives.collective_examples import MARGIN_BYTES, Buffers, Example, inputs

NOTHING = Step("nothing", lambda blocks, argument: None, None)


def main(requests: list[dict]) -> list[dict]:
    """A report for each request, on the device of the first request."""
    communicator, request = Communicator(), requests[0]
    device, _ = open_device(communicator, request["device"], request.get("share", False))
    watch = device.watch(Watch())
    world = open_world(
        communicator, device, WaitPolicy(watch, yields=True), graph=request.get("graph", False)
    )
    return [result_of(request, world, watch) for request in requests]


def result_of(request: dict, world, watch: Watch) -> dict:
    """The result of each requested case, and the facts for the head of a run."""
    communicator, device, library = world.communicator, world.device, world.library
    collective = COLLECTIVES[request.get("collective", "all_reduce")]
    size = 8 * max(request["counts"]) * max(collective.segments(communicator.size)) + MARGIN_BYTES
    report: dict = {"results": {}, "chosen": {}}
    memories = [library.allocate_own(size) or world.allocate(size) for _ in range(2)]
    report["memory"] = memories[0].type
    # Odd ranks have the addresses in reverse order.
    send, receive = memories[:: -1 if communicator.rank % 2 else 1]
    buffers = Buffers(communicator.rank, communicator.size, send, receive)
    algorithm = ALGORITHMS[collective.name]["library"]
    report["variants"] = algorithm.variants_in(world)
    for variant, text, count, shape in product(
        request.get("variants") or report["variants"],
        request["cases"],
        request["counts"],
        collective.shapes,
    ):
        type_name, redop, place = text.split()
        example = Example(
            collective,
            shape,
            "library",
            variant,
            DATATYPES[type_name],
            redop,
            count,
            place == "in",
            shift=0,
            data_seed=count,
            special=False,
            launches=1,
        )
        every = inputs(example, communicator.size)
        operation = algorithm.bind(world, buffers.case(example, every))
        key = " ".join([variant, text, str(count), *shape.values()])
        if isinstance(operation, Unsupported):
            report["results"][key] = operation.reason
            continue
        buffers.case(example, every)  # tuning has used the buffers
        communicator.barrier()
        actions = Iteration("", NOTHING, operation, NOTHING, NOTHING).actions(NOTHING)
        device.run(actions, NOTHING, Counts(0, 1), watch, world.graph)
        report["results"][key] = communicator.all_gather(buffers.problem(example, every))
        report["chosen"][key] = operation.choice
        for _ in range(request.get("repeat", 0)):
            device.caller(operation.step)()
        report["failure"] = operation.failure()
    report["head"] = library.describe(world)
    if isinstance(used := library.opened, Nccl):
        report["log_bytes"] = os.fstat(used.log.fileno()).st_size if used.log else None
        windows = used.calls.fake_nccl_windows
        report["windows"] = {label: windows(handle) for label, handle in used.communicators.items()}
    return report


if __name__ == "__main__":
    library_gpu.FIRST_CALL_S = float(os.environ.get("FIRST_CALL_S", library_gpu.FIRST_CALL_S))
    library_gpu.TUNING_CALLS = int(os.environ.get("TUNING_CALLS", library_gpu.TUNING_CALLS))
    try:
        outcome = main(json.loads(sys.argv[1]))
    except (DeviceError, Refusal) as error:
        outcome = [{"error": str(error)}]
    rank = os.environ.get("PMI_RANK", "0")
    # One write: otherwise the output of two ranks shares a line.
    os.write(1, f"{json.dumps({rank: outcome})}\n".encode())
