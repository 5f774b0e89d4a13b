"""The nouns of a collective: a Case to perform, an Algorithm that can, the Operation it binds."""

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from collectives.build import WITHOUT_SWAP, Build
from collectives.collective import Array, Collective, Datatype, Shape, Traffic
from collectives.communicator import Communicator, Refusal
from collectives.connect import make_room
from collectives.peer_buffer import PeerBuffer
from kernels.devices.device import PEER_STRUCTURES, Arguments, Device, Memory, Step, Watch

PACK_BYTES = 64  # of the widest CPU
MOST_CHAINED_BYTES = 512 << 10  # the sizes that decoding has: longer ones have a chain on request


@dataclass(frozen=True)
class Unsupported:
    """Why something cannot run. If it `depends_on_size`, a table of all algorithms omits it."""

    reason: str
    depends_on_size: bool = False


NOT_MAPPED = Unsupported("its buffers are not mapped by the other ranks")
NO_SWAP = Unsupported("swap and noswap change nothing here: no rank writes where it has read")


@dataclass(frozen=True)
class Case:
    """One collective to perform: `count` elements in each segment of the buffers at `send` and
    `receive`. `size_bytes` is the size that nccl-tests would print. `mode`, `isolated` or
    `chained`, only matters to `auto`."""

    collective: Collective
    count: int
    datatype: Datatype
    redop: str
    send: int
    receive: int
    in_place: bool = False
    variant: str = "copied"
    shape: Shape = field(default_factory=dict)
    build: Build = field(default_factory=Build)
    size_bytes: int = 0
    mode: str = "isolated"

    @property
    def segment_bytes(self) -> int:
        return self.count * self.datatype.size_bytes


@dataclass(frozen=True)
class Operation:
    """An algorithm bound to a case: `step` performs it natively, `call` from Python.

    `chosen` names the algorithm behind `auto`; `by_link` has one for each tuned state of the link,
    by its round trip in ns. `failure` returns a library's error about earlier calls. Only quantised
    operations have `expected_sum(inputs)`, the exact result from all ranks' decoded blocks, (ranks,
    ..., block), and `signal_to_noise_db(seed)`, the loss by kind of data, on all ranks together."""

    step: Step
    call: Callable[[], None]
    chosen: str | None = None
    failure: Callable[[], str | None] = field(default=lambda: None)
    keep: Any = None  # objects that the step points into
    by_link: Mapping[float, "Operation"] = field(default_factory=dict)
    expected_sum: Callable[[Array], Array] | None = None
    signal_to_noise_db: Callable[[int], dict[str, float]] | None = None


Bound = Operation | Unsupported  # the reason is a value for the table, not a crash


@dataclass(frozen=True)
class TunedChoice:
    """What bench.tune measured as best over one kind of memory, `mapped`, `host_staged` or
    `same_device`; a flag's round trip identifies the state of the link. It is for calls of `mode`,
    `isolated` or `chained`; `any` if the size was measured in one mode only."""

    collective: str
    ranks: int
    size_bytes: int
    variant: str
    link_rtt_ns: float
    algorithm: str
    memory: str = "mapped"
    hosts: int = 1
    mode: str = "any"


@dataclass(frozen=True)
class World:
    """An algorithm's surroundings. With `graph` every operation is launched from a captured graph.
    `choices` is bench.tune's table for this machine. If the ranks are on several hosts, `node` is
    the world of this host's ranks; `parts` keeps worlds of ranks between hosts, and `scratch`
    memory for their results."""

    communicator: Communicator
    device: Device
    peers: PeerBuffer | Unsupported
    library: "Library"
    watch: Watch
    graph: bool = False
    choices: Sequence[TunedChoice] = ()
    node: "World | None" = None
    parts: dict[tuple[int, ...], "World"] = field(default_factory=dict)
    scratch: list[Memory] = field(default_factory=list)

    @property
    def shared(self) -> PeerBuffer | Unsupported:
        """The memory that this host's ranks map."""
        return self.node.peers if self.node else self.peers

    @property
    def clock_shared(self) -> bool:
        """Whether time stamps of all ranks can be compared."""
        return self.shares_clock()

    def shares_clock(self, ranks: Sequence[int] = ()) -> bool:
        """Whether time stamps of these ranks (default: all) can be compared: CPU ranks of one host
        that map each other's memory. Clocks of hosts are never compared."""
        ranks = ranks or range(self.communicator.size)
        is_mapped = not isinstance(self.shared, Unsupported)
        on_one_host = any({*ranks} <= {*node} for node in self.communicator.nodes)
        return self.device.clock_shared and is_mapped and on_one_host

    @property
    def memory(self) -> str:
        """The kind of the peers' memory, as in tables."""
        return "mapped" if isinstance(self.shared, Unsupported) else self.shared.kind

    @property
    def mapped(self) -> PeerBuffer:
        """The peers' memory. Raises Refusal if it is not mapped."""
        if isinstance(self.peers, Unsupported):
            raise Refusal(f"peer memory is not mapped: {self.peers.reason}")
        return self.peers


@dataclass(frozen=True)
class Message:
    """Bytes at an address, for `peer` if it `is_sent`, otherwise from `peer`."""

    is_sent: bool
    peer: int
    address: int
    size_bytes: int


class Library(ABC):
    """A baseline library. All ranks call each method together. `name` is such as `MPICH 5.0.2`,
    or plain `NCCL` if it cannot be loaded."""

    name: str

    @abstractmethod
    def variants(self, world: World) -> tuple[str, ...]:
        """The variants in which the library is measured; the first is its plain use."""

    @abstractmethod
    def bind(self, world: World, case: Case) -> Bound:
        """Binds a case in one of `variants`."""

    @abstractmethod
    def bind_exchange(
        self,
        world: World,
        send: tuple[int, Array],
        receive: tuple[int, Array],
        counts: tuple[int, int] | None = None,
    ) -> Bound:
        """Binds a variable all-to-all of bytes. `send` and `receive` are an address and the bytes
        for or from each rank, multiples of 8, which lie back to back there. `counts`: the address
        of an int32 table, (ranks, row length), whose own row this rank has filled, and the row
        length. MPI gathers the table first, as a program must that learns the sizes. NCCL and RCCL
        do not: such a program would have to wait for its GPU."""

    @abstractmethod
    def among(self, communicator: Communicator) -> "Library":
        """The same library between these ranks, which call it together."""

    @abstractmethod
    def bind_messages(self, world: World, groups: Sequence[Sequence[Message]]) -> Bound:
        """Binds this rank's messages, which may be none: the messages of a group at once, and
        groups in turn. NCCL and RCCL end a group when its data have left; MPI may end before."""

    @abstractmethod
    def barrier(self, world: World) -> Step:
        """A barrier for ranks that cannot map each other's memory. Raises DeviceError."""

    def allocate(self, world: World, size_bytes: int) -> Memory:
        """A buffer for every variant, mapped if possible, and slabs for messages of its size.
        Raises DeviceError and Refusal."""
        peers = world.shared
        if not isinstance(peers, Unsupported):
            make_room(peers, size_bytes)
        # A library would be slow in host_staged memory.
        if isinstance(peers, Unsupported) or peers.kind == "host_staged":
            return world.device.private(size_bytes)
        return peers.register(size_bytes)

    def allocate_own(self, world: World, size_bytes: int) -> Memory | None:
        """A buffer from the library's own allocator for its own cases; None if it has none. Raises
        DeviceError."""
        return None

    def describe(self, world: World) -> dict[str, Any]:
        """Facts for the head of a run, once all cases are bound; `notes` are sentences."""
        return {}


@dataclass(frozen=True)
class Algorithm:
    """Performs a collective. `traffic(ranks, case)` is None if it does more than move bytes. It
    works over slabs if `copied`, over users' buffers if `registered`; if it `pushes`, it stores
    into peers' memory."""

    name: str
    about: str
    bind: Callable[[World, Case], Bound]
    traffic: Callable[[int, Case], Traffic | None] = lambda ranks, case: None
    copied: bool = True
    registered: bool = False
    pushes: bool = False
    library_variants: int = 0  # the number of the library's variants, if the library performs it
    peer: str | None = None  # another project that performs it, such as `vLLM 0.33.0`

    @property
    def is_library(self) -> bool:
        return bool(self.peer) or self.name.endswith("library")

    def variants(self, world: World) -> tuple[str, ...]:
        if self.library_variants:
            return world.library.variants(world)[: self.library_variants]
        if self.peer:
            return ("graph" if world.graph else "plain",)
        return ("copied",) * self.copied + ("registered",) * self.registered

    def built(self, words: str) -> "Algorithm":
        """The algorithm in a build such as "nt+128K". Raises ValueError."""
        if not words:
            return self
        build = Build.parse(words)
        if build.slabs and not self.copied:
            raise ValueError(f"{self.name} uses no slabs")

        def as_built(case: Case) -> Case:
            return replace(case, build=build, variant="copied" if build.slabs else case.variant)

        return replace(
            self,
            name=f"{self.name}+{words}",
            copied=self.copied and not build.slabs,
            registered=self.registered or build.slabs,
            bind=lambda world, case: self.bind(world, as_built(case)),
            traffic=lambda ranks, case: self.traffic(ranks, as_built(case)),
        )


def binder(
    stem: str, entry: str, chunks: Callable[[int], float], rest_bytes: int = 0
) -> Callable[[World, Case], Bound]:
    """Binds an entry of kernels/<stem>.cu; half a slab holds `chunks(ranks)` and `rest_bytes`."""

    def bind(world: World, case: Case) -> Bound:
        if isinstance(world.peers, Unsupported):
            return world.peers
        room_bytes = (world.peers.half_bytes - rest_bytes) / chunks(world.communicator.size)
        return bind_kernel(world, case, stem, entry, room_bytes)

    return bind


def bind_kernel(
    world: World, case: Case, stem: str, entry: str, room_bytes: float, **macros: str
) -> Bound:
    """Binds an entry of `kernels/<stem>.cu`; a chunk may take up to `room_bytes`. All ranks call
    it for a registered variant. Raises DeviceError."""
    if isinstance(world.peers, Unsupported):
        return world.peers
    peers, build, chunk_bytes = world.peers, case.build, chunk_that_fits(world, case, room_bytes)
    if build.stream_receive and (case.receive % PACK_BYTES or case.segment_bytes % PACK_BYTES):
        return Unsupported(
            "stores around the caches take whole packs, which must divide the "
            "receive buffer's address and a segment's size"
        )
    arguments = peers.arguments(case.send, case.receive, case.count, chunk_bytes)
    if case.variant == "registered":
        entry += "_registered"
        if not (
            peers.locate(case.send, arguments.sends)
            and peers.locate(case.receive, arguments.receives)
        ):
            return NOT_MAPPED
    packets_stay = entry == "one_shot_ll" and not world.device.is_cpu
    if build.swap is not None and (packets_stay or WITHOUT_SWAP.fullmatch(entry)):
        return NO_SWAP
    module = world.device.compile(stem, build_macros(world, case) | macros, PEER_STRUCTURES)
    blocks = world.device.blocks_for(min(case.segment_bytes, chunk_bytes))
    step = Step(module.kernel(entry, build.threads), arguments, min(blocks, build.blocks or blocks))
    return Operation(step, world.device.caller(step))


def without_gpus(world: World, lacks: str) -> Unsupported | None:
    """The refusal without mapped peers or on a CPU. The default table of a CPU omits it."""
    if isinstance(world.peers, Unsupported):
        return world.peers
    on_cpus = Unsupported(f"the cpu device has no {lacks}", depends_on_size=True)
    return on_cpus if world.device.is_cpu else None


def build_macros(world: World, case: Case) -> dict[str, str]:
    ranks = world.communicator.size
    macros = {"WORLD": str(ranks), "ELEMENT": case.datatype.element}
    if case.collective.reduces:
        macros["REDOP"] = case.redop.capitalize()
    buffer_bytes = case.segment_bytes * max(case.collective.segments(ranks))
    device = world.device
    far_bytes = device.far_sums_bytes if case.collective.reduces else device.far_copies_bytes
    flags = {
        "STREAM_RECEIVE": case.build.stream_receive,
        "SEVERAL_PAGES": buffer_bytes >= far_bytes,
    }
    return macros | case.build.slab_macros | {name: "1" for name, is_set in flags.items() if is_set}


def first_failure(operations: Sequence[Operation]) -> str | None:
    return next(filter(None, (operation.failure() for operation in operations)), None)


def in_a_row(world: World, operations: Sequence[Operation]) -> Operation:
    """The operations one after another as one operation; a single one is returned unchanged."""
    if len(operations) == 1:
        return operations[0]

    def call() -> None:
        for operation in operations:
            operation.call()

    step = world.device.sequence([operation.step for operation in operations])
    return Operation(step, call, failure=partial(first_failure, operations), keep=operations)


def attached(world: World, arguments: Arguments, structure: Any) -> Memory:
    """Writes a kernel's own structure, with `arguments` as its `ranks`, into device memory, and
    makes `arguments` point to it. The caller keeps the memory. Raises DeviceError."""
    memory = world.device.private(ctypes.sizeof(structure))
    arguments.more, structure.ranks = memory.address, arguments
    memory.write(np.frombuffer(bytes(structure), np.uint8))
    return memory


def plain_arguments(rank: int, send: int, receive: int, count: int, watch: Watch) -> Arguments:
    return Arguments(
        rank=rank, send=send, receive=receive, count=count, watch=ctypes.addressof(watch)
    )


def chunk_that_fits(world: World, case: Case, room_bytes: float) -> int:
    """The bytes of a chunk: whole packs, at least one, within `room_bytes`."""
    most = case.build.chunk_bytes or world.device.most_chunk_bytes
    return max(PACK_BYTES, int(min(most, room_bytes)) // PACK_BYTES * PACK_BYTES)
