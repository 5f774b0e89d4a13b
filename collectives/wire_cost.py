"""What an algorithm costs between GPUs by the model of `auto`: its flags, each behind a fence; what
crosses the wire; and what passes through a GPU's own memory.

A message is a pipeline of rounds: round r has stage s of chunk r - s. A round takes as long as the
slower of the wire and the own memory, which work at once. On the wire, what stores and reads have
in common moves at the rate of both at once, and the rest at its own. Launches cost all alike.
docs/experiments/auto.md holds the model against the all-reduces of an H100 and an H200."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass

from collectives.build import GPU_CHUNK_BYTES, Build
from collectives.collective import Traffic
from collectives.operation import Algorithm, CollectiveCase, World
from collectives.peer_buffer import WireSpeed
from kernels.devices.device import Device


@dataclass(frozen=True)
class Moved:
    """Bytes that a rank stores over the wire, reads over it, and loads from its own memory or
    stores there."""

    stored: float
    read: float
    near: float

    def us(self, wire: WireSpeed) -> float:
        """All ranks move as much at once, at the slowest one's rates."""
        common = min(self.stored, self.read) if wire.both_gb_s else 0.0
        wire_us = (
            _us(common, wire.both_gb_s)
            + _us(self.stored - common, wire.store_gb_s)
            + _us(self.read - common, wire.read_gb_s)
        )
        # A copy loads a byte for each that it stores.
        near_us = _us(self.near / 2, min(wire.own_gb_s)) if wire.own_gb_s else 0.0
        return max(wire_us, near_us)


def _us(moved_bytes: float, gb_s: float | None) -> float:
    """0 bytes need no rate; without a rate, bytes never arrive."""
    if not moved_bytes:
        return 0.0
    return moved_bytes / gb_s / 1e3 if gb_s else float("inf")


def cost_us(world: World, algorithm: Algorithm, case: CollectiveCase, wire: WireSpeed) -> float:
    """What the model expects of a case over this world's memory. 0 without a known traffic: then
    the order of the list counts."""
    traffic = algorithm.traffic(world.ranks, case)
    if traffic is None:
        return 0.0
    chunks = 1
    if algorithm.in_rounds:
        most_bytes = algorithm.build.chunk_bytes or world.device.most_chunk_bytes
        chunks = max(1, -(-case.segment_bytes // most_bytes))
    moved = moved_by(traffic, algorithm.pushes, world.memory, algorithm.built_case(case).variant)
    moved_us = sum(each.us(wire) for each in rounds_of(moved, chunks))
    flag_us = wire.round_trip_ns / 2e3 + (0.0 if algorithm.flags_in_data else wire.drain_us)
    return (traffic.hops + chunks - 1) * flag_us + moved_us


def moved_by(traffic: Traffic, pushes: bool, memory: str, variant: str) -> list[Moved]:
    """What each stage moves where. In `mapped` memory a push is read at home, and a pull leaves its
    input at home. Host memory is behind the wire for all, and where ranks share a GPU its memory is
    the wire. Each stage writes as much of the result as it reads of all that is read; the own input
    has just been read, and lies in a cache."""
    all_read = sum(read for _, read in traffic.stages)
    stages = []
    for stored, read in traffic.stages:
        written = traffic.memory_bytes * read / all_read if all_read else 0.0
        if memory == "same_device":
            stages.append(Moved(stored, read, 0.0))
        elif memory == "mapped" and pushes:
            stages.append(Moved(stored, 0.0, read + written))
        elif memory == "mapped" and variant == "copied":
            stages.append(Moved(0.0, read, 2 * stored + written))
        else:
            stages.append(Moved(stored, read, written))
    return stages


def rounds_of(stages: list[Moved], chunks: int) -> Iterator[Moved]:
    """What the rounds of a message in equal chunks move."""
    for number in range(chunks + len(stages) - 1):
        active = stages[max(0, number - chunks + 1) : number + 1]
        sums = (sum(parts) / chunks for parts in zip(*map(astuple, active), strict=True))
        yield Moved(*sums)


def chunked_builds(device: Device, size_bytes: int) -> Iterator[Build]:
    """Builds for an algorithm `in_rounds`, those that bench.tune tries: short chunks cost flags,
    and of long ones the first and the last have nothing beside them. A chunk has work for the whole
    grid: the rates are a whole grid's."""
    for chunk_bytes in GPU_CHUNK_BYTES:
        fills_grid = device.blocks_for(chunk_bytes) == device.blocks_for(device.most_chunk_bytes)
        if fills_grid and chunk_bytes < size_bytes:
            yield Build(chunk_bytes=chunk_bytes)
