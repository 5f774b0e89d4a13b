"""What the measurements of the link share: their interface, and what a rank launches with."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

from bench.harness.iteration import Buffers, Iteration, case_iteration, nothing
from bench.harness.session import Session
from bench.links.rank_pairs import Hosts, Pairs
from collectives.collective import DATATYPES, Array, Collective, Shape
from collectives.operation import CollectiveCase, Operation, Unsupported, World
from kernels.devices.device import CopyEngine, Step, Transfer
from wiretax.record.schema import CaseHeader

DATATYPE = DATATYPES["float32"]
CONTENDED_BYTES = 16 << 20  # contention is measured at this size, or the largest below
SLOW_EVERY = 4  # rounds between blocks of larger sizes, which take a second
LINE_BYTES = 256  # no line of a cache is longer


def _from_sources(sent: Array, shape: Shape, _: object) -> Array:
    sources = {destination: source for source, destination in shape["pairs"]}
    return sent[[sources.get(rank, rank) for rank in range(len(sent))]]


LINK = Collective(
    "link",
    _from_sources,
    cut=False,
    no_place="nothing moves in place",
    sends=lambda shape, rank: rank in dict(shape["pairs"]),
    receives=lambda shape, rank, _: rank in dict(shape["pairs"]).values(),
)


@dataclass(frozen=True)
class RankLink:
    """What a rank launches with. `near` is the world of its host's ranks; `buffers` are its own,
    registered. `transfer`, the argument of a launch without its count and its two ranks, has the
    buffers of all ranks as mapped here, and their whole lines. `engine` is None unless each rank
    has one."""

    session: Session
    near: World
    buffers: Buffers
    transfer: Transfer
    engine: CopyEngine | None

    @property
    def world(self) -> World:
        return self.session.world

    @property
    def idle(self) -> Step:
        """The launch of a rank without a part."""
        return nothing(self.world)

    @property
    def has_graphs(self) -> bool:
        return not self.near.device.reason_against_graphs()

    def shares_host(self, rank: int) -> bool:
        return rank in self.near.communicator.ranks

    def argument(self, pairs: Pairs, size_bytes: int, count: int = 0) -> Transfer:
        """This rank's part of a launch between these pairs: the kernels number the ranks of their
        host. `count` is what the kernel counts: elements, or repetitions."""
        transfer = Transfer.from_buffer_copy(self.transfer)
        transfer.ranks.count = count
        if size_bytes:
            transfer.bytes = max(0, size_bytes - LINE_BYTES)  # a flag has the last line
        ranks, own = self.near.communicator.ranks, self.world.rank
        for source, destination in pairs:
            if own == source:
                transfer.to = ranks.index(destination)
            if own == destination:
                transfer.from_ = ranks.index(source)
        return transfer

    def launch(self, file: str, entry: str, argument: Transfer, blocks: int = 1) -> Step:
        """A launch of a kernel on this rank. Raises DeviceError."""
        return self.near.device.step(file, entry, argument, blocks, WT_WORLD=self.near.ranks)

    def checked(self, pairs: Pairs, size_bytes: int, operation: Operation) -> Iteration:
        """The source rewrites the data, and the destination reads and checks them: the lines that a
        push stores into, or a pull reads, lie where a real exchange leaves them. Raises
        DeviceError."""
        count = size_bytes // DATATYPE.size_bytes
        case = CollectiveCase(LINK, count, DATATYPE, "none", 0, 0, shape={"pairs": pairs})
        case = self.buffers.place(self.world, case)
        iteration = case_iteration(self.world, self.buffers, case, operation)
        if case.segment_bytes > CONTENDED_BYTES:
            iteration.every = SLOW_EVERY
        iteration.keep.append(self)
        return iteration

    def unchecked(self, operation: Operation, repeats: int = 1) -> Iteration:
        """The operation alone, which does `repeats` times what is measured."""
        idle = self.idle
        return Iteration("", idle, operation, idle, idle, scale=1 / repeats, keep=[self])


class Measurement(ABC):
    """A measurement of the link: pairs of ranks move bytes at once. The docstring of its class
    says what it times."""

    key: ClassVar[str]  # the algorithm of its cases
    is_by_library: ClassVar[bool] = False  # messages of the library move the bytes, between hosts
    reads_peers: ClassVar[bool] = False  # its kernel reads other ranks' memory

    @abstractmethod
    def groups(self, hosts: Hosts) -> list[Pairs]:
        """The pairs of each case."""

    def sizes(self, requested: Sequence[int]) -> Sequence[int]:
        """The sizes of its cases in bytes; the user requested these."""
        return requested

    def is_possible(self, link: RankLink) -> bool:
        """Whether this rank has what it needs."""
        return True

    @abstractmethod
    def iteration(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Iteration | Unsupported:
        """What is timed, without its text. All ranks call it. Raises DeviceError, MemoryError."""

    def shape(self, pairs: Pairs) -> Shape:
        """The place of the pairs in the key of their case."""
        source, destination = pairs[0]
        return {"src": source, "dst": destination}

    def text(self, pairs: Pairs, size_bytes: int) -> str:
        """Its case in a sentence, such as `push 0-1 16384 B`."""
        ranks = "-".join(map(str, self.shape(pairs).values()))
        return f"{self.key} {ranks} {size_bytes} B"

    def header(self, link: RankLink, pairs: Pairs, size_bytes: int) -> CaseHeader:
        return CaseHeader(
            collective=LINK.name,
            shape=dict(self.shape(pairs)),
            size_bytes=size_bytes,
            count=size_bytes // DATATYPE.size_bytes,
            datatype=DATATYPE.name,
            redop="none",
            algorithm=self.key,
            memory=link.near.mapped.kind,
        )


def contended_size(requested: Sequence[int]) -> int:
    """The size at which many ranks contend: the largest up to CONTENDED_BYTES, or the first."""
    return max(size for size in requested if size <= max(CONTENDED_BYTES, requested[0]))


def time_pairs(iteration: Iteration, pairs: Pairs, movers: Iterable[int]) -> None:
    """Times from the arrival of these ranks, which move the data, until the last rank of the pairs
    leaves."""
    iteration.ranks = tuple(sorted({*chain(*pairs)}))
    iteration.movers = tuple(movers)
