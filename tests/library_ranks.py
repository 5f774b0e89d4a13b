"""Ranks that bind and run a GPU's library as a run does, check every result against numpy, and print what came of each
thing that was asked for."""

import json
import os
import sys
from ctypes import c_void_p
from itertools import product

import numpy as np

from bench.harness.iteration import Buffers
from collectives.algorithm import ALGORITHMS
from collectives.collective import COLLECTIVES, DATATYPES, combined
from collectives.communicator import Communicator, Disagreement
from collectives.library import gpu as library_gpu
from collectives.library import mpi as library
from collectives.library.gpu import describe
from collectives.library.nccl import Library, open_library
from collectives.operation import Case, DeviceError, Plan, Unsupported, Watch
from collectives.world import open_device, open_world
from kernels.devices.device import Kernel, Step


def values(rank: int, redop: str, shape: tuple[int, int]) -> np.ndarray:
    """Small integers, or powers of two for products: no type rounds them."""
    drawn = np.random.default_rng(rank).integers(-8, 9, shape)
    return 2.0 ** (drawn % 2) if redop == "prod" else drawn.astype(float)


def wrong(world, case: Case, memories: list, operation, watch: Watch) -> int:
    """Wrong bytes, in the result of an operation on fresh data and around it, launched as the device launches it in a
    run."""
    what, datatype, rank, ranks = case.collective, case.datatype, world.communicator.rank, world.communicator.size
    sends, receives = what.segments(ranks)
    sent = np.stack([values(r, case.redop, (sends, case.count)) for r in range(ranks)])
    result = what.result(sent, case.shape, lambda every: combined(list(every), case.redop))[rank]
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
    world.device.run(Plan(nothing, nothing, operation.step, nothing, nothing, 0, 1, 0, 0, world.graph), watch)
    if what.receives(case.shape, rank, ranks):
        put(case.receive, result[:receives])
    differ = {memory.address: memory.read() != right[memory.address] for memory in memories}
    if case.in_place and what.sends_all:  # what is left of the other segments is the library's
        at = case.send - memories[1].address
        own = slice(at + rank * case.segment_bytes, at + (rank + 1) * case.segment_bytes)
        kept = differ[memories[1].address]
        kept[at : own.start] = kept[own.stop : at + sends * case.segment_bytes] = False
    return int(sum(found.sum() for found in differ.values()))


def main(everything: list[dict]) -> list[dict]:
    """What came of each thing that was asked for, on the device of the first."""
    communicator, before = Communicator(), {n: v for n, v in os.environ.items() if n[:4] == "NCCL"}
    asked = everything[0]
    device, _ = open_device(communicator, asked["device"], asked.get("share", False))
    watch = device.watch(Watch())
    world = open_world(communicator, device, watch, yields=True, timeout_s=30, graph=asked.get("graph", False))
    return [result_of(asked, world, watch, before) for asked in everything]


def result_of(asked: dict, world, watch: Watch, before: dict[str, str]) -> dict:
    """What came of each case that was asked for, and what the head of a run would say."""
    communicator, device = world.communicator, world.device
    collective = COLLECTIVES[asked.get("collective", "all_reduce")]
    widest = max(DATATYPES[text.split()[0]].size_bytes for text in asked["cases"])
    size = max(asked["counts"]) * widest * (communicator.size if collective.cut else 1) + 64
    found: dict = {"name": library.library_name(world), "results": {}, "chosen": {}}
    own = asked.get("own_memory", True)
    memories = [library.allocate(world, size) if own else device.private(size) for _ in range(2)]
    found["memory"] = memories[0].type
    memories = memories[:: -1 if communicator.rank % 2 else 1]  # addresses are in another order elsewhere
    buffers = Buffers(memories[0], memories[1], 0)
    algorithm = ALGORITHMS[collective.name]["library"]
    found["variants"] = algorithm.variants(world)
    for variant, text, count, shape in product(
        asked.get("variants") or found["variants"], asked["cases"], asked["counts"], collective.shapes
    ):
        type_name, redop, place = text.split()
        what = collective, shape, count, DATATYPES[type_name], redop
        case = buffers.case(*what, place == "in", variant, communicator.rank)
        operation = algorithm.bind(world, case)
        key = " ".join([variant, text, str(count), *shape.values()])
        if isinstance(operation, Unsupported):
            found["results"][key] = operation.reason
            continue
        found["results"][key] = communicator.all_gather(wrong(world, case, memories, operation, watch))
        found["chosen"][key] = operation.chosen
        found["calls"] = operation.step.kernel.name
        for _ in range(asked.get("repeat", 0)):
            operation.call()
        found["failure"] = operation.failure()
    found["head"] = describe(world)
    if isinstance(used := open_library(world), Library):
        windows = used.calls.fake_nccl_windows
        found["windows"] = {label: windows(c_void_p(handle)) for label, handle in used.communicators.items()}
    found["environment"] = {n: v for n, v in os.environ.items() if n[:4] == "NCCL"} == before
    return found


if __name__ == "__main__":
    library_gpu.FIRST_CALL_S = float(os.environ.get("FIRST_CALL_S", library_gpu.FIRST_CALL_S))
    try:
        outcome = main(json.loads(sys.argv[1]))
    except (DeviceError, Disagreement) as error:
        outcome = [{"error": str(error)}]
    rank = os.environ.get("PMI_RANK", "0")
    os.write(1, f"{json.dumps({rank: outcome})}\n".encode())  # at once: ranks share a line otherwise
