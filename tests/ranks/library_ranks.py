"""Runs a GPU's library on ranks as a run does, checks every result against numpy, and prints a
report for each request."""

import json
import os
import sys
from ctypes import c_void_p
from itertools import product

import numpy as np

from bench.harness.iteration import Buffers, Iteration
from collectives.algorithm import ALGORITHMS
from collectives.collective import COLLECTIVES, DATATYPES, combined
from collectives.communicator import Communicator, Disagreement
from collectives.library import gpu as library_gpu
from collectives.library.nccl import Nccl
from collectives.operation import Case, Unsupported
from collectives.peer_buffer import WaitPolicy
from collectives.world import open_device, open_world
from kernels.devices.device import Counts, DeviceError, Kernel, Step, Watch


def values(rank: int, redop: str, shape: tuple[int, int]) -> np.ndarray:
    """Small integers, or powers of two for products; every type represents them exactly."""
    drawn = np.random.default_rng(rank).integers(-8, 9, shape)
    return 2.0 ** (drawn % 2) if redop == "prod" else drawn.astype(float)


def wrong(world, case: Case, memories: list, operation, watch: Watch) -> int:
    """The number of wrong bytes in and around the result of an operation on fresh data, launched as
    in a run."""
    collective, datatype, rank, ranks = (
        case.collective,
        case.datatype,
        world.communicator.rank,
        world.communicator.size,
    )
    sends, receives = collective.segments(ranks)
    sent = np.stack([values(r, case.redop, (sends, case.count)) for r in range(ranks)])
    result = collective.result(sent, case.shape, lambda every: combined(list(every), case.redop))[
        rank
    ]
    right = {memory.address: np.full(memory.size_bytes, 0xA5, np.uint8) for memory in memories}

    def put(address: int, decoded: np.ndarray) -> None:
        (base,) = (m.address for m in memories if m.address <= address < m.address + m.size_bytes)
        stored = datatype.encode(decoded.ravel()).view(np.uint8)
        right[base][address - base : address - base + stored.size] = stored

    put(case.send, sent[rank])
    for memory in memories:
        memory.write(right[memory.address])
    world.communicator.barrier()
    nothing = Step(Kernel("nothing", lambda blocks, argument: None), None)
    actions = Iteration(-1, "", nothing, operation, nothing, nothing).actions(nothing)
    world.device.run(actions, nothing, Counts(0, 1), watch, world.graph)
    if collective.receives(case.shape, rank, ranks):
        put(case.receive, result[:receives])
    differ = {memory.address: memory.read() != right[memory.address] for memory in memories}
    if case.in_place and collective.sends_all:  # the library may overwrite the other segments
        at = case.send - memories[1].address
        own = slice(at + rank * case.segment_bytes, at + (rank + 1) * case.segment_bytes)
        differences = differ[memories[1].address]
        differences[at : own.start] = differences[own.stop : at + sends * case.segment_bytes] = (
            False
        )
    return int(sum(bytes_.sum() for bytes_ in differ.values()))


def main(requests: list[dict]) -> list[dict]:
    """A report for each request, on the device of the first request."""
    communicator, before = Communicator(), {n: v for n, v in os.environ.items() if n[:4] == "NCCL"}
    request = requests[0]
    device, _ = open_device(communicator, request["device"], request.get("share", False))
    watch = device.watch(Watch())
    world = open_world(
        communicator, device, WaitPolicy(watch, yields=True), graph=request.get("graph", False)
    )
    return [result_of(request, world, watch, before) for request in requests]


def result_of(request: dict, world, watch: Watch, before: dict[str, str]) -> dict:
    """The result of each requested case, and the facts for the head of a run."""
    communicator, device = world.communicator, world.device
    collective = COLLECTIVES[request.get("collective", "all_reduce")]
    widest = max(DATATYPES[text.split()[0]].size_bytes for text in request["cases"])
    size = max(request["counts"]) * widest * (communicator.size if collective.cut else 1) + 64
    report: dict = {"name": world.library.name, "results": {}, "chosen": {}}
    own = request.get("own_memory", True)
    library = world.library
    memories = [
        (library.allocate_own(world, size) or library.allocate(world, size))
        if own
        else device.private(size)
        for _ in range(2)
    ]
    report["memory"] = memories[0].type
    memories = memories[
        :: -1 if communicator.rank % 2 else 1
    ]  # odd ranks have the addresses in reverse order
    buffers = Buffers(memories[0], memories[1], 0)
    algorithm = ALGORITHMS[collective.name]["library"]
    report["variants"] = algorithm.variants(world)
    for variant, text, count, shape in product(
        request.get("variants") or report["variants"],
        request["cases"],
        request["counts"],
        collective.shapes,
    ):
        type_name, redop, place = text.split()
        datatype, in_place = DATATYPES[type_name], place == "in"
        send, receive = buffers.addresses(
            collective, count * datatype.size_bytes, communicator.rank, in_place
        )
        case = Case(collective, count, datatype, redop, send, receive, in_place, variant, shape)
        operation = algorithm.bind(world, case)
        key = " ".join([variant, text, str(count), *shape.values()])
        if isinstance(operation, Unsupported):
            report["results"][key] = operation.reason
            continue
        report["results"][key] = communicator.all_gather(
            wrong(world, case, memories, operation, watch)
        )
        report["chosen"][key] = operation.chosen
        report["calls"] = operation.step.kernel.name
        for _ in range(request.get("repeat", 0)):
            operation.call()
        report["failure"] = operation.failure()
    report["head"] = world.library.describe(world)
    if isinstance(used := world.library.nccl, Nccl):
        windows = used.calls.fake_nccl_windows
        report["windows"] = {
            label: windows(c_void_p(handle)) for label, handle in used.communicators.items()
        }
    report["environment"] = {n: v for n, v in os.environ.items() if n[:4] == "NCCL"} == before
    return report


if __name__ == "__main__":
    library_gpu.FIRST_CALL_S = float(os.environ.get("FIRST_CALL_S", library_gpu.FIRST_CALL_S))
    try:
        outcome = main(json.loads(sys.argv[1]))
    except (DeviceError, Disagreement) as error:
        outcome = [{"error": str(error)}]
    rank = os.environ.get("PMI_RANK", "0")
    # One write: otherwise the output of two ranks shares a line.
    os.write(1, f"{json.dumps({rank: outcome})}\n".encode())
