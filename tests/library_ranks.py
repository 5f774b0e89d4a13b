"""Ranks that bind and run a GPU's library as a run does, check every result against numpy, and print what came."""

import json
import os
import sys
from ctypes import c_void_p

import numpy as np

from collectives import library, library_gpu
from collectives.algorithm import ALGORITHMS
from collectives.collective import DATATYPES, all_reduce_reference
from collectives.communicator import Communicator, Disagreement
from collectives.library_gpu import allocate, describe
from collectives.nccl import Library, open_library
from collectives.operation import Case, DeviceError, Plan, Unsupported, Watch
from collectives.world import open_device, open_world
from kernels.device import Kernel, Step


def values(rank: int, count: int, redop: str) -> np.ndarray:
    """Small integers, or powers of two for products: no type rounds them."""
    drawn = np.random.default_rng(rank).integers(-8, 9, count)
    return 2.0 ** (drawn % 2) if redop == "prod" else drawn.astype(float)


def wrong(world, case: Case, memories: dict, operation, watch: Watch) -> int:
    """Wrong bytes in the result of an operation on fresh data, launched as the device launches it in a run."""
    ranks, datatype = world.communicator, case.datatype
    size = case.count * datatype.size_bytes
    inputs = [values(rank, case.count, case.redop) for rank in range(ranks.size)]
    memories[case.receive].write(np.full(memories[case.receive].size_bytes, 0xA5, np.uint8))
    memories[case.send].write(datatype.encode(inputs[ranks.rank]).view(np.uint8))
    ranks.barrier()
    nothing = Step(Kernel("nothing", lambda blocks, argument: None), None)
    world.device.run(Plan(nothing, nothing, operation.step, nothing, nothing, 0, 1, 0, 0, world.graph), watch)
    right = datatype.encode(all_reduce_reference(inputs, case.redop)).view(np.uint8)
    beyond = np.full(memories[case.receive].size_bytes - size, 0xA5, np.uint8)
    sent = datatype.encode(inputs[ranks.rank]).view(np.uint8)
    bad = int((memories[case.receive].read() != np.concatenate([right, beyond])).sum())
    return bad if case.in_place else bad + int((memories[case.send].read()[:size] != sent).sum())


def main(asked: dict) -> dict:
    """What came of each case that was asked for, and what the head of a run would say."""
    communicator, before = Communicator(), {n: v for n, v in os.environ.items() if n[:4] == "NCCL"}
    device, _ = open_device(communicator, asked["device"], asked.get("share", False))
    watch = device.watch(Watch())
    world = open_world(communicator, device, watch, yields=True, timeout_s=30, graph=asked.get("graph", False))
    size = max(asked["counts"]) * 8 + 64
    found: dict = {"name": library.library_name(world), "results": {}, "chosen": {}}
    own = asked.get("own_memory", True)
    blocks = [(allocate(world, size) if own else None) or device.private(size) for _ in range(2)]
    blocks = blocks[:: -1 if communicator.rank % 2 else 1]  # addresses are in another order elsewhere
    memories = {block.address: block for block in blocks}
    algorithm = ALGORITHMS["library"]
    found["variants"] = algorithm.variants(world)
    for variant in asked.get("variants") or found["variants"]:
        for text in asked["cases"]:
            type_name, redop, place = text.split()
            for count in asked["counts"]:
                datatype, send = DATATYPES[type_name], blocks[place == "in"].address
                case = Case(count * datatype.size_bytes, datatype, redop, send, blocks[1].address, variant)
                operation = algorithm.bind(world, case)
                key = f"{variant} {text} {count}"
                if isinstance(operation, Unsupported):
                    found["results"][key] = operation.reason
                    continue
                found["results"][key] = communicator.all_gather(wrong(world, case, memories, operation, watch))
                found["chosen"][key] = operation.chosen
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
        outcome = {"error": str(error)}
    rank = os.environ.get("PMI_RANK", "0")
    os.write(1, f"{json.dumps({rank: outcome})}\n".encode())  # at once: ranks share a line otherwise
