"""What the benchmarks of whole steps have in common: what a step begins with, the fastest of several forms, and how a
step is checked and measured."""

import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psutil

from bench.harness.iteration import Subject, nothing, on_device
from bench.harness.timing import Bench
from bench.harness.verify import WrongResult
from collectives.collective import Array
from collectives.layers.fused import in_a_row
from collectives.layers.steps import Net
from collectives.operation import WRONG_BYTES, Operation, Pattern, Step, Unsupported, plain_arguments
from reports.result import Planned

ROOM = 0.6  # of the memory that is free
TRIES = 5  # of each form, before one is chosen
# Of a result, in roots of its mean square: each of 160 sums is rounded to the wire's type, and the residual after it.
TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.4}

Image = Sequence[tuple[int, Array]]  # what a step begins with: values, and the address where they lie


def room_bytes(bench: Bench) -> float:
    """What a rank's weights may take of this host's memory, or of its GPU's; all ranks take rank 0's word."""
    facts, ranks = bench.world.device.facts, bench.world.communicator.size
    free = facts["memory_bytes"] if "memory_bytes" in facts else psutil.virtual_memory().available / ranks
    return float(bench.world.communicator.broadcast(ROOM * free))


def idle(bench: Bench) -> Operation:
    """Nothing, for a rank that has no part in a step."""
    step = nothing(bench.world, bench.flight.watch)
    return Operation(step, bench.world.device.caller(step))


def plan(bench: Bench, net: Net, collective: str, algorithm: str, shape: Mapping[str, Any], size_bytes: int,
         bound: Operation | Unsupported, **words: Any) -> Planned:
    """The case of a split."""
    assert not isinstance(bench.world.peers, Unsupported)
    reason = bound.reason if isinstance(bound, Unsupported) else None
    return Planned(collective=collective, shape=dict(shape), size_bytes=size_bytes,
                   count=size_bytes // net.datatype.size_bytes, datatype=net.datatype.name, redop="sum",
                   algorithm=algorithm, memory=bench.world.peers.kind, status="unsupported" if reason else "ok",
                   reason=reason, **words)


def prepared(bench: Bench, net: Net, image: Image) -> Operation:
    """Writes what a step begins with."""
    world, device = bench.world, bench.world.device
    writes = []
    for address, values in image:
        stored = net.datatype.encode(values)
        held = on_device(world, stored)
        net.keep.append(held)
        pattern = Pattern(address, held.address, 1, stored.nbytes, stored.nbytes, 1, net.datatype.size_bytes, 0,
                          ctypes.addressof(bench.flight.watch))
        step = Step(device.compile("iteration", {}).kernel("write_pattern"), pattern, device.blocks_for(stored.nbytes))
        writes.append(Operation(step, device.caller(step)))
    return in_a_row(world, writes) if writes else idle(bench)


def fastest(bench: Bench, net: Net, image: Image, candidates: Mapping[str, Operation | Unsupported]) -> str:
    """Which of these takes least on the slowest rank, in a few tries apart from what is reported. All ranks call it,
    and take rank 0's word."""
    communicator, write = bench.world.communicator, prepared(bench, net, image)
    took_s: dict[str, float] = {}
    for name, bound in candidates.items():
        if isinstance(bound, Unsupported):
            continue
        times_s = []
        for _ in range(TRIES):
            write.call()
            communicator.barrier()
            begun_s = time.perf_counter()
            bound.call()
            times_s.append(max(communicator.all_gather(time.perf_counter() - begun_s)))
        took_s[name] = float(np.median(times_s))
    return str(communicator.broadcast(min(took_s, key=lambda name: took_s[name])))


def subject(bench: Bench, net: Net, number: int, text: str, operation: Operation, image: Image, result: int | None,
            right: Array, scale: float = 1.0, from_python: bool = False, once: Operation | None = None) -> Subject:
    """Writes what a step begins with; then the step; then its result is read. That is checked once against float64, of
    `once` where that is another operation, and bit by bit against the first one from then on. `scale` makes a whole
    step of what is timed. All ranks call it. Raises WrongResult where the first one is wrong."""
    world, watch, datatype, device = bench.world, bench.flight.watch, net.datatype, bench.world.device
    prepare, none, wrong = prepared(bench, net, image), nothing(world, watch), device.private(WRONG_BYTES)
    size = right.size * datatype.size_bytes
    prepare.call()
    world.communicator.barrier()
    (once or operation).call()
    world.communicator.barrier()
    said, check, consume = None, none, none
    if result is not None:
        first = device.private(size)
        kernels = device.compile("link_probe", {"WORLD": "1", "ELEMENT": datatype.element})
        copy = plain_arguments(0, result, first.address, right.size, watch)
        device.caller(Step(kernels.kernel("copy_local"), copy))()
        got = datatype.decode(first.read().view(datatype.storage)[: right.size].reshape(right.shape))
        worst = float(np.max(np.abs(got - right)) / np.sqrt(np.mean(right**2)))
        if not worst <= TOLERANCE[datatype.name]:
            said = f"{text} is off by {worst:.2g} of its result's root mean square: no step to be timed"
        pattern = Pattern(result, first.address, 1, size, size, 1, datatype.size_bytes, wrong.address,
                          ctypes.addressof(watch))
        if once is None:
            check = Step(device.compile("iteration", {}).kernel("count_wrong"), pattern, device.blocks_for(size))
        consume = Step(kernels.kernel("read_own"), plain_arguments(0, result, result, right.size, watch))
        net.keep.append(first)
    if complaint := world.communicator.first_word(said):
        raise WrongResult(complaint)
    checked = any(world.communicator.all_gather(result is not None and once is None))
    return Subject(number, text, prepare.step, operation, consume, check, wrong=wrong if checked else None,
                   scale=scale, from_python=from_python, keep=[net, prepare])
