"""The nouns of a collective: a case to perform, an Algorithm that can, the Operation it binds."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import msgspec

from collectives.build import Build, BuildName, cpu_builds, gpu_builds
from collectives.collective import Array, Collective, Datatype, Shape, Traffic
from collectives.communicator import Communicator, Refusal
from collectives.peer_buffer import PeerBuffer
from kernels.devices.device import PACK_BYTES, Device, Memory, Step, Watch

Number = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
MOST_CHAINED_BYTES = 512 << 10  # the sizes that decoding has: longer ones have a chain on request


@dataclass(frozen=True)
class Unsupported:
    """Why something cannot run. If it `depends_on_size`, a table of all algorithms omits it."""

    reason: str
    depends_on_size: bool = False


NOT_MAPPED = Unsupported("its buffers are not mapped by the other ranks")
NOT_IN_VARIANT = {
    "copied": Unsupported("its sums go straight into registered buffers"),
    "registered": Unsupported("it works over slabs alone"),
}
MARGIN_BYTES = 4096  # a page, so that buffers between margins keep their alignment
ONE_HOST = Unsupported("its ranks are on one host", depends_on_size=True)


@dataclass(frozen=True)
class CollectiveCase:
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
    """An algorithm bound to a case: `step` performs it.

    `chosen` is the algorithm behind `auto`; `choice` what `auto` or a library chose, in words.
    `failure` returns a library's error about earlier calls. `ignores_nan`: max and min are NaN only
    where all ranks have one; others leave that open. `own_case`: the case in a contender's own
    buffers, where inputs are made and results read. `margins` are addresses in this rank's slab of
    MARGIN_BYTES each, where nobody may write. Only quantised operations have
    `expected_sum(inputs)`, the exact result from all ranks' decoded blocks, (ranks, ..., block),
    and `snr_db`, the loss by kind of data."""

    step: Step
    chosen: "Algorithm | None" = None
    choice: str | None = None
    failure: Callable[[], str | None] = lambda: None
    ignores_nan: bool = False
    own_case: CollectiveCase | None = None
    margins: tuple[int, ...] = ()
    expected_sum: Callable[[Array], Array] | None = None
    snr_db: dict[str, float] | None = None


Bound = Operation | Unsupported  # the reason is a value for the table, not a crash


class ChoiceRow(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A line of a table for `auto`: at sizes from `size_bytes[0]` to `size_bytes[1]` the runs with
    these ids measured `algorithm`, such as `two_shot+nt+128K`, as best, over `memory` if ranks have
    several kinds. `where` has the facts under which that holds, each a value or the least and the
    most (`table.Facts`). `candidate` has the name of a build that another launch found to be
    faster, and its gain."""

    collective: str
    algorithm: str
    size_bytes: tuple[int, int]
    where: dict[str, Any]
    runs: Sequence[str] = ()
    memory: str | None = None
    candidate: tuple[str, Number] | None = None


@dataclass(frozen=True)
class World:
    """An algorithm's surroundings. With `graph` every operation is launched from a captured graph.
    `library` is the one to compare with. `rows` is bench.tune's table for this machine.
    `round_trip_ns` is that of a flag between two CPU ranks, as measured before the first case; 0
    without such ranks, and on GPUs. `other_memory` are worlds of the same ranks over other kinds of
    memory. If the ranks are on several hosts, `node` is the world of this host's ranks, and `rail`
    that of one rank of each host, this rank among them, if each host has as many."""

    communicator: Communicator
    device: Device
    peers: PeerBuffer | Unsupported
    library: "Library"
    watch: Watch
    graph: bool = False
    rows: Sequence[ChoiceRow] = ()
    round_trip_ns: float = 0.0
    other_memory: Sequence["World"] = ()
    node: "World | None" = None
    rail: "World | None" = None

    @property
    def rank(self) -> int:
        """This rank's number among `ranks`."""
        return self.communicator.rank

    @property
    def ranks(self) -> int:
        return self.communicator.size

    @property
    def plain_variant(self) -> str:
        """How the plain use of a library or a contender is launched."""
        return "graph" if self.graph else "plain"

    @property
    def oversubscribed(self) -> bool:
        """Whether ranks outnumber cores, so that they take turns."""
        return not isinstance(self.shared, Unsupported) and self.shared.waits.yields

    @property
    def shared(self) -> PeerBuffer | Unsupported:
        """The memory that this host's ranks map."""
        return self.node.peers if self.node else self.peers

    def shares_clock(self, ranks: Sequence[int] = ()) -> bool:
        """Whether time stamps of these ranks (default: all) can be compared: CPU ranks of one host
        that map each other's memory. Clocks of hosts are never compared."""
        ranks = ranks or range(self.communicator.size)
        is_mapped = not isinstance(self.shared, Unsupported)
        on_one_host = any({*ranks} <= {*node} for node in self.communicator.nodes)
        return self.device.is_cpu and is_mapped and on_one_host

    def among(self, ranks: Sequence[int]) -> "World":
        """The world of some ranks, which call it together, over the memory of `peers` alone."""
        communicator = self.communicator.among(ranks)
        return replace(
            self,
            communicator=communicator,
            library=self.library.among(communicator),
            other_memory=(),
            node=None,
            rail=None,
        )

    @property
    def memory(self) -> str:
        """The kind of the peers' memory, as in tables."""
        return "mapped" if isinstance(self.shared, Unsupported) else self.shared.kind

    def allocate(self, size_bytes: int) -> Memory:
        """A buffer for every variant, mapped if possible. Raises DeviceError and Refusal."""
        peers = self.shared
        # A library would be slow in host_staged memory.
        if isinstance(peers, Unsupported) or peers.kind == "host_staged":
            return self.device.private(size_bytes)
        return peers.register(size_bytes)

    @property
    def mapped(self) -> PeerBuffer:
        """The peers' memory. Raises Refusal if it is not mapped."""
        if isinstance(self.peers, Unsupported):
            raise Refusal(f"peer memory is not mapped: {self.peers.reason}")
        return self.peers


# An address, and the bytes for or from each rank, multiples of 8, which lie back to back there.
Parts = tuple[int, Array]


@dataclass(frozen=True)
class Message:
    """Bytes at an address, for `peer` if it `is_sent`, otherwise from `peer`."""

    is_sent: bool
    peer: int
    address: int
    size_bytes: int


class Library(ABC):
    """A baseline library. All ranks call each method together. `name` is such as `MPICH 5.0.2`,
    or plain `NCCL` if it cannot be loaded. `measured` are the variants to measure beside the plain
    use; None: all."""

    name: str
    measured: Sequence[str] | None = None

    @abstractmethod
    def variants(self, world: World) -> tuple[str, ...]:
        """The variants in which the library is measured; the first is its plain use."""

    @abstractmethod
    def bind(self, world: World, case: CollectiveCase) -> Bound:
        """Binds a case in one of `variants`."""

    @abstractmethod
    def bind_exchange(self, world: World, send: Parts, receive: Parts) -> Bound:
        """Binds a variable all-to-all."""

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

    def allocate_own(self, size_bytes: int) -> Memory | None:
        """A buffer from the library's own allocator for its own cases; None if it has none. Raises
        DeviceError."""
        return None

    def describe(self, world: World) -> dict[str, Any]:
        """Facts for the head of a run, once all cases are bound; `notes` are sentences."""
        return {}


@dataclass(frozen=True)
class Limits:
    """The segments that an algorithm takes, and the sizes in bytes at which `auto` prefers it.

    | limit | meaning |
    |---|---|
    | `least_bytes` | it refuses shorter segments |
    | `most(ranks)` | it refuses longer segments |
    | `whole_elements` | it refuses segments that are no multiple of so many elements |
    | `wins_below(world)` | another one is faster from this size on: `auto` takes that |
    | `leads_up_to(ranks)` | between GPUs that map each other's memory: `auto` takes it up to here |
    """

    least_bytes: int = 0
    most: Callable[[int], float] = lambda ranks: math.inf
    whole_elements: int = 1
    wins_below: Callable[[World], float] = lambda world: math.inf
    leads_up_to: Callable[[int], float] = lambda ranks: 0

    def leads(self, world: World, size_bytes: int) -> bool:
        is_wire = world.memory == "mapped" and not world.device.is_cpu
        return is_wire and size_bytes <= self.leads_up_to(world.ranks)

    def refusal(self, case: CollectiveCase, ranks: int) -> Unsupported | None:
        reason = None
        if case.segment_bytes > (most_bytes := self.most(ranks)):
            reason = f"a slab has room for {int(most_bytes) >> 10} KiB from each rank"
        elif case.segment_bytes < self.least_bytes:
            reason = f"it pays from {self.least_bytes >> 20} MiB on"
        elif case.count % self.whole_elements:
            reason = f"it takes whole blocks of {self.whole_elements} elements"
        return Unsupported(reason, depends_on_size=True) if reason else None


@dataclass(frozen=True)
class Algorithm:
    """A way to perform a collective, and all that is known about it. The commands, bench.tune, the
    soak, `auto` and the layers read it here; no other file of the program names an algorithm.

    `perform(world, case)` binds a case that is `feasible`. `refuses(world, case)` says why the
    algorithm does not suit a case, alike on all ranks, before anything is compiled. `moves(ranks,
    case)` is its Traffic. None means unknown: the case has no bound, and the model of `auto` takes
    its cost for 0, so that one which `is_modelled` would come before all that say what they move.

    | fact | meaning |
    |---|---|
    | `variants` | those that it has; without any, `graph` where graphs are used, else `plain` |
    | `by_default` | whether a run that names no algorithm measures it, and bench.tune tries it |
    | `is_lossy` | only a run that names it measures it; `auto` never takes it |
    | `is_modelled` | `auto` may take it where no table has a row, whatever `by_default` says |
    | `in_rounds` | a pipeline of chunks, as in two_shot.h: between GPUs `auto` chooses their size |
    | `spans_hosts` | for ranks on several hosts |
    | `sums_in_rank_order` | adds an element's inputs in the order of the ranks, and rounds once |
    | `pushes` | on a GPU it reads no peer's memory: peers store all that it needs into its own |
    | `flags_in_data` | its data show that they arrived: no flag has to follow them |
    | `to_neighbours` | each rank sends to one other rank, and all ranks in a circle |
    | `formulas` | which of docs/advise.md hold: "parts" (checked on a GPU), "wire" |
    | `contender` | who else performs it, as `vLLM 0.33.0`; and which `contender_collectives` |
    | `varies` | what bench.tune varies: `stores` (non-temporal), `chunks`, `grid`, `slabs` |

    bench.tune skips a lossy algorithm, and one of which `by_default` says no in its world: there
    `varies` has no effect, though a build that a run names, as `NAME+128K`, works.
    """

    base: str
    about: str
    perform: Callable[[World, CollectiveCase], Bound]
    moves: Callable[[int, CollectiveCase], Traffic | None] = lambda ranks, case: None
    refuses: Callable[[World, CollectiveCase], Unsupported | None] = lambda world, case: None
    variants: tuple[str, ...] = ("copied",)
    limits: Limits = Limits()
    by_default: Callable[[World], bool] = lambda world: True
    is_lossy: bool = False
    is_modelled: bool = True
    in_rounds: bool = False
    spans_hosts: bool = False
    sums_in_rank_order: bool = False
    pushes: bool = False
    flags_in_data: bool = False
    to_neighbours: bool = False
    formulas: tuple[str, ...] = ()
    varies: tuple[str, ...] = ()
    contender: str | None = None
    contender_collectives: tuple[str, ...] = ()
    build: Build = field(default_factory=Build)

    needs_peers: ClassVar[bool] = False  # mapped memory of its peers
    is_library: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """With the words of its build: `two_shot+nt+128K`."""
        return str(BuildName(self.base, self.build.words))

    @property
    def is_baseline(self) -> bool:
        """Whether others perform it: a library, or a contender."""
        return self.is_library or self.contender is not None

    def performer(self, world: World) -> str | None:
        """The library or the contender that performs it, with its version; None for ours."""
        return world.library.name if self.is_library else self.contender

    def variants_in(self, world: World) -> tuple[str, ...]:
        return ("registered",) if self.build.slabs else self.variants or (world.plain_variant,)

    def built(self, build: Build) -> "Algorithm":
        """The algorithm in this build. Raises ValueError for one that it cannot have."""
        if build != Build() and not self.needs_peers:
            raise ValueError(f"{self.base} is not ours to build")
        if build.slabs and "copied" not in self.variants:
            raise ValueError(f"{self.base} uses no slabs")
        return replace(self, build=build)

    def bind(self, world: World, case: CollectiveCase) -> Bound:
        """All ranks call it. Raises DeviceError."""
        return self.feasible(world, case) or self.perform(world, self.built_case(case))

    def traffic(self, ranks: int, case: CollectiveCase) -> Traffic | None:
        return self.moves(ranks, self.built_case(case))

    def feasible(self, world: World, case: CollectiveCase) -> Unsupported | None:
        """Why it does not suit this case; None if it does. Alike on all ranks; compiles nothing."""
        if self.spans_hosts and not world.node:
            return ONE_HOST
        return self.refuses(world, case)

    def built_case(self, case: CollectiveCase) -> CollectiveCase:
        """The case in this algorithm's build."""
        if self.build == Build():
            return case
        variant = "copied" if self.build.slabs else case.variant
        return replace(case, build=self.build, variant=variant)

    def candidates(self, world: World, size_bytes: int) -> "list[Algorithm]":
        """The builds that bench.tune tries at a size over this world's memory."""
        if size_bytes > self.limits.most(world.ranks) or size_bytes >= self.limits.wins_below(
            world
        ):
            return []
        if self.is_lossy or not self.by_default(world):
            return []
        if world.device.is_cpu:
            builds = cpu_builds(self.varies, size_bytes)
        else:
            builds = gpu_builds(self.varies, size_bytes, world.memory)
        return [replace(self, build=build) for build in builds]


@dataclass(frozen=True)
class LibraryAlgorithm(Algorithm):
    """What the baseline library performs, in those of its `variants` that it has here."""

    is_library: ClassVar[bool] = True

    def variants_in(self, world: World) -> tuple[str, ...]:
        return tuple(each for each in world.library.variants(world) if each in self.variants)


@dataclass(frozen=True)
class KernelAlgorithm(Algorithm):
    """A kernel over the mapped memory of its peers. Variant `copied` works over slabs, `registered`
    over users' buffers."""

    needs_peers: ClassVar[bool] = True

    def feasible(self, world: World, case: CollectiveCase) -> Unsupported | None:
        case = self.built_case(case)
        if isinstance(world.peers, Unsupported):
            return world.peers
        if case.variant not in self.variants:
            return NOT_IN_VARIANT[case.variant]
        if refusal := self.refuses(world, case) or self.limits.refusal(case, world.ranks):
            return refusal
        if case.build.stream_receive and (case.receive | case.segment_bytes) % PACK_BYTES:
            return Unsupported(
                "non-temporal stores take whole packs, which must divide the receive "
                "buffer's address and a segment's size"
            )
        shown = world.peers.shown
        if shown.no_reads and not self.pushes:
            return Unsupported(shown.no_reads)
        if shown.no_registered and case.variant == "registered":
            return Unsupported(shown.no_registered)
        return None
