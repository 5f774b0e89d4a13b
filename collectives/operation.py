"""What an algorithm is: a name, what it moves, and how to bind it to buffers.

Binding gives an Operation, or Unsupported with the reason: a value for the table, not a crash.
"""

import ctypes
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from collectives.collective import Array, Collective, Datatype, Shape
from collectives.communicator import Communicator
from collectives.peer_buffer import PeerBuffer
from kernels.devices.device import (
    PHASES,
    WRONG_BYTES,
    Arguments,
    Beside,
    Device,
    DeviceError,
    Gate,
    Item,
    Memory,
    Pattern,
    Plan,
    Step,
    Transfer,
    Watch,
    Wrong,
)

__all__ = ["PHASES", "WRONG_BYTES", "Algorithm", "Arguments", "Beside", "Build", "Case", "Device", "DeviceError",
           "Gate", "Item", "Memory", "Operation", "Pattern", "Plan", "Step", "Traffic", "Transfer", "Unsupported",
           "Watch", "World", "Wrong", "attached", "bind_kernel", "chunk_that_fits", "first_failure", "plain_arguments"]


PACK_BYTES = 64  # of the widest machine
UNITS = {"K": 1 << 10, "M": 1 << 20}


@dataclass(frozen=True)
class Unsupported:
    """Why something cannot run here; one sentence for the table. `of_size`: other sizes can, so that a table of all
    algorithms does without it."""

    reason: str
    of_size: bool = False


@dataclass(frozen=True)
class Build:
    """How a kernel is built and cut, besides which it is. In an algorithm's name each word stands for one of these:
    `two_shot+nt+ntr+128K`, `one_shot_pull+16b+256t`.

    `stream_slab` (nt) and `stream_receive` (ntr): stores there go around the caches. `chunk_bytes` (128K): so much of
    the message at a time at most. `blocks` (16b) and `threads` (256t) of a GPU at most. None: as the device has it.
    """

    stream_slab: bool = False
    stream_receive: bool = False
    chunk_bytes: int | None = None
    blocks: int | None = None
    threads: int | None = None

    @classmethod
    def of(cls, words: str) -> "Build":
        """From the words, with a plus between two; none: as the device has it. Raises ValueError for another."""
        build = cls()
        for word in words.split("+") if words else ():
            found = re.fullmatch(r"nt|ntr|([1-9]\d{0,4})([KMbt])", word)
            if not found:
                raise ValueError(f"{word!r} is none of nt, ntr, 128K, 16b and 256t")
            if word == "nt":
                build = replace(build, stream_slab=True)
            elif word == "ntr":
                build = replace(build, stream_receive=True)
            elif found[2] == "b":
                build = replace(build, blocks=int(found[1]))
            elif found[2] == "t":
                build = replace(build, threads=int(found[1]))
            else:
                build = replace(build, chunk_bytes=int(found[1]) * UNITS[found[2]])
        return build


@dataclass(frozen=True)
class Case:
    """One collective to perform: which and in which shape, `count` elements in each of its segments, on which buffers
    (addresses), in which of its algorithm's variants, and built how."""

    collective: Collective
    count: int
    datatype: Datatype
    redop: str
    send: int
    receive: int
    in_place: bool = False
    variant: str = "copied"
    shape: Shape = field(default_factory=dict)
    build: Build = Build()

    @property
    def segment_bytes(self) -> int:
        return self.count * self.datatype.size_bytes


@dataclass(frozen=True)
class Pick:
    """The best found for messages of a size on so many ranks, in a variant and in a state of the link."""

    collective: str
    ranks: int
    size_bytes: int
    variant: str
    link_rtt_ns: float
    algorithm: str


@dataclass(frozen=True)
class World:
    """What an algorithm may use: the ranks, the device, the peers' memory or why there is none, and how kernels are
    built beyond world, type, operation and build (the negative controls of platform.h). `graph`: operations are
    launched from captured graphs, every one of them. `picks`: what was found best on this machine. `lossy`: of
    these `auto` may take a lossy algorithm."""

    communicator: Communicator
    device: Device
    peers: PeerBuffer | Unsupported
    macros: Mapping[str, str] = field(default_factory=dict)
    graph: bool = False
    picks: Sequence["Pick"] = ()
    lossy: bool = False

    @property
    def clock_shared(self) -> bool:
        """Whether the ranks' time stamps can be compared: they run on the CPUs of one host."""
        return self.device.clock_shared and not isinstance(self.peers, Unsupported)


@dataclass(frozen=True)
class Operation:
    """An algorithm bound to a case: `step` performs it once, natively; `call` does, from Python.

    `chosen` names the algorithm behind `auto`, which has one for each state of the link that it was tuned in, `by_link`
    (round trip in ns); `failure` gives a library's complaint about the last calls, if it had one. Of a lossy algorithm
    `summed(inputs)` is what it makes of all ranks' blocks, decoded, (ranks, ..., block).
    """

    step: Step
    call: Callable[[], None]
    chosen: str | None = None
    failure: Callable[[], str | None] = field(default=lambda: None)
    keep: Any = None  # what the step points into
    by_link: Mapping[float, "Operation"] = field(default_factory=dict)
    summed: Callable[[Array], Array] | None = None


@dataclass(frozen=True)
class Traffic:
    """What a collective costs a rank at least: flags in a row; in each stage, which is one pass, the bytes
    copied into peer memory and the bytes read from it; and bytes copied from the send to the receive buffer."""

    hops: int
    stages: tuple[tuple[int, int], ...]
    memory_bytes: int


def direct_traffic(ranks: int, case: Case, stored: int | None = None) -> Traffic:
    """Of one step in which a rank gets a segment from each other one: it stores so many itself (one for each, unless
    said), or none over registered buffers, where a second flag says that these are free again."""
    segment, others = case.segment_bytes, ranks - 1
    if case.variant == "registered":
        return Traffic(2, ((0, others * segment),), segment)
    copied = min(others if stored is None else stored, others) * segment
    return Traffic(1, ((copied, 0), (0, others * segment)), segment)


def ring_traffic(ranks: int, case: Case) -> Traffic:
    """Of segments that go once around a ring."""
    segment, hops = case.segment_bytes, ranks - 1
    passed_on = [(segment, segment)] * (hops - 1)
    return Traffic(hops, ((segment, 0), *passed_on, (0, segment)) if hops else (), segment)


def only_copied(world: World) -> tuple[str, ...]:
    """The variants of an algorithm that goes through slabs."""
    return ("copied",)


def copied_or_registered(world: World) -> tuple[str, ...]:
    """The variants of an algorithm that also has a form over the users' own buffers."""
    return "copied", "registered"


@dataclass(frozen=True)
class Algorithm:
    """`bind(world, case)` gives an Operation or Unsupported; `traffic(ranks, case)` what it moves, None where more is
    done than to move it; `variants(world)` the forms in which it is measured; `pushes` that it stores into its peers'
    memory; `lossy` that it loses more than one rounding of a sum."""

    name: str
    about: str
    bind: Callable[[World, Case], "Operation | Unsupported"]
    traffic: Callable[[int, Case], Traffic | None]
    variants: Callable[[World], tuple[str, ...]] = only_copied
    pushes: bool = False
    lossy: bool = False


def bind_kernel(world: World, case: Case, stem: str, entry: str, room_bytes: float) -> Operation | Unsupported:
    """Compiles `kernels/<stem>.cu` for this case and binds its `entry`, which has room for a chunk of so many bytes."""
    if isinstance(world.peers, Unsupported):
        return world.peers
    build, chunk_bytes = case.build, chunk_that_fits(world, case, room_bytes)
    macros = {"WORLD": str(world.communicator.size), "ELEMENT": case.datatype.element}
    if case.collective.reduces:
        macros["REDOP"] = case.redop.capitalize()
    if build.stream_slab:
        macros["STREAM_SLAB"] = "1"
    if build.stream_receive:
        macros["STREAM_RECEIVE"] = "1"
        if case.receive % PACK_BYTES or case.segment_bytes % PACK_BYTES:
            return Unsupported("around the caches go whole packs, which have to divide the receive buffer's address "
                               "and a segment's size")
    if case.segment_bytes * max(case.collective.segments(world.communicator.size)) >= world.device.far_bytes:
        macros["SEVERAL_PAGES"] = "1"
    arguments = world.peers.arguments(case.send, case.receive, case.count, chunk_bytes)
    if case.variant == "registered":
        entry += "_registered"
        for places, address in ((arguments.sends, case.send), (arguments.receives, case.receive)):
            if (found := world.peers.everyones(world.communicator, address)) is None:
                return Unsupported("its buffers are not mapped by the other ranks")
            places[: len(found)] = found
    module = world.device.compile(stem, macros | dict(world.macros))
    blocks = world.device.blocks_for(min(case.segment_bytes, chunk_bytes))
    step = Step(module.kernel(entry, build.threads), arguments, min(blocks, build.blocks or blocks))
    return Operation(step, world.device.caller(step))


def first_failure(operations: Sequence[Operation]) -> str | None:
    """The complaint of the first of these whose library has one."""
    return next(filter(None, (operation.failure() for operation in operations)), None)


def attached(world: World, arguments: Arguments, structure: Any) -> Memory:
    """Puts a structure of a kernel's own, with `arguments` as its `ranks`, into the device's memory, which has to be
    kept, and makes `arguments` point to it. Raises DeviceError."""
    memory = world.device.private(ctypes.sizeof(structure))
    arguments.more, structure.ranks = memory.address, arguments
    memory.write(np.frombuffer(bytes(structure), np.uint8))
    return memory


def plain_arguments(rank: int, send: int, receive: int, count: int, watch: Watch) -> Arguments:
    """A kernel's argument for a step that touches no peer."""
    return Arguments(rank=rank, send=send, receive=receive, count=count, watch=ctypes.addressof(watch))


def chunk_that_fits(world: World, case: Case, room_bytes: float) -> int:
    """The bytes of a chunk, in whole packs and at least one, for which an algorithm has so much room."""
    most = case.build.chunk_bytes or world.device.most_chunk_bytes
    return max(PACK_BYTES, int(min(most, room_bytes)) // PACK_BYTES * PACK_BYTES)
