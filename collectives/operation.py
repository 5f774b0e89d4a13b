"""What an algorithm is: a name, what it moves, and how to bind it to buffers.

Binding gives an Operation, or Unsupported with the reason: a value for the table, not a crash.
"""

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from collectives.collective import Datatype
from collectives.communicator import Communicator
from collectives.peer_buffer import PeerBuffer
from kernels.device import PHASES, Arguments, Device, DeviceError, Gate, Memory, Pattern, Plan, Step, Watch

__all__ = [
    "PHASES",
    "Algorithm",
    "Case",
    "Device",
    "DeviceError",
    "Gate",
    "Memory",
    "Operation",
    "Pattern",
    "Plan",
    "Step",
    "Traffic",
    "Unsupported",
    "Watch",
    "World",
    "bind_kernel",
    "chunk_that_fits",
    "plain_arguments",
]


@dataclass(frozen=True)
class Unsupported:
    """Why something cannot run here; one sentence for the table."""

    reason: str


@dataclass(frozen=True)
class Case:
    """One all-reduce to perform: what, on which buffers (addresses; the same twice when in place), and in which of its
    algorithm's variants."""

    size_bytes: int
    datatype: Datatype
    redop: str
    send: int
    receive: int
    variant: str = "copied"

    @property
    def count(self) -> int:
        return self.size_bytes // self.datatype.size_bytes

    @property
    def in_place(self) -> bool:
        return self.send == self.receive


@dataclass(frozen=True)
class World:
    """What an algorithm may use: the ranks, the device, the peers' memory or why there is none, and how kernels are
    built beyond world, type and operation (`STREAM_SLAB`, and the negative controls of platform.h). `graph`: operations
    are launched from captured graphs, every one of them."""

    communicator: Communicator
    device: Device
    peers: PeerBuffer | Unsupported
    macros: Mapping[str, str] = field(default_factory=dict)
    graph: bool = False


@dataclass(frozen=True)
class Operation:
    """An algorithm bound to a case: `step` performs it once, natively; `call` does, from Python.

    `chosen` names the algorithm behind `auto`; `failure` gives a library's complaint about the last calls, if it had
    one.
    """

    step: Step
    call: Callable[[], None]
    chosen: str | None = None
    failure: Callable[[], str | None] = field(default=lambda: None)


@dataclass(frozen=True)
class Traffic:
    """What one all-reduce of S bytes costs a rank at least: flags in a row; in each stage, which is one pass, the bytes
    copied into peer memory and the bytes read from it; and bytes copied from the send to the receive buffer."""

    hops: int
    stages: tuple[tuple[int, int], ...]
    memory_bytes: int


@dataclass(frozen=True)
class Algorithm:
    """`bind(world, case)` gives an Operation or Unsupported; `traffic(ranks, size_bytes)` what it moves;
    `variants(world)` the forms in which it is measured; `pushes` that it stores into its peers' memory."""

    name: str
    about: str
    bind: Callable[[World, Case], "Operation | Unsupported"]
    traffic: Callable[[int, int], Traffic]
    variants: Callable[[World], tuple[str, ...]] = field(default=lambda world: ("copied",))
    pushes: bool = False


def bind_kernel(world: World, case: Case, stem: str, entry: str, chunk_bytes: int) -> Operation | Unsupported:
    """Compiles `kernels/<stem>.cu` for this case and binds its `entry`."""
    if isinstance(world.peers, Unsupported):
        return world.peers
    module = world.device.compile(
        stem,
        {
            "WORLD": str(world.communicator.size),
            "ELEMENT": case.datatype.element,
            "REDOP": case.redop.capitalize(),
            **world.macros,
        },
    )
    arguments = world.peers.arguments(case.send, case.receive, case.count, chunk_bytes)
    step = Step(module.kernel(entry), arguments, world.device.blocks_for(min(case.size_bytes, chunk_bytes)))
    return Operation(step, world.device.caller(step))


def plain_arguments(rank: int, send: int, receive: int, count: int, watch: Watch) -> Arguments:
    """A kernel's argument for a step that touches no peer."""
    return Arguments(rank=rank, send=send, receive=receive, count=count, watch=ctypes.addressof(watch))


def chunk_that_fits(world: World, room_bytes: float) -> int:
    """The bytes of a chunk, in whole 64-byte packs and at least one, for which an algorithm has so much room."""
    return max(64, int(min(world.device.most_chunk_bytes, room_bytes)) // 64 * 64)
