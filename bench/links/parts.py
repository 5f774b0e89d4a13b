"""Parts of a wire: kernels that the source alone launches, over the buffers of another rank
(kernels/link_parts.cu). Nobody checks the data: other measurements write the buffers anew."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from bench.harness.iteration import Iteration
from bench.links.measurement import DATATYPE, Measurement, RankLink, contended_size
from bench.links.rank_pairs import Hosts, Pairs, within_hosts
from collectives.operation import Operation
from kernels.devices.device import Step

FILE = "link_parts"
REPEATS = 200  # of a short access in a launch, whose own time then does not show
MESSAGE_BYTES = 16 << 10  # in front of a fence: of a model's decode


class Part(Measurement):
    """A part of a wire, which a launch performs `repeats` times."""

    repeats: ClassVar[int] = 1

    def groups(self, hosts: Hosts) -> list[Pairs]:
        return within_hosts(hosts)

    @abstractmethod
    def step(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Step:
        """The source's launch. Raises DeviceError."""

    def iteration(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Iteration:
        source, _ = pairs[0]
        step = link.idle
        if link.world.rank == source:
            step = self.step(link, pairs, size_bytes)
        iteration = link.unchecked(Operation(step), self.repeats)
        iteration.ranks = (source,)
        return iteration


class Stream(Part):
    """Many blocks move a whole buffer, once."""

    entry: ClassVar[str]

    def sizes(self, requested: Sequence[int]) -> Sequence[int]:
        return [contended_size(requested)]

    def step(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Step:
        argument = link.argument(pairs, size_bytes, size_bytes // DATATYPE.size_bytes)
        return link.launch(FILE, self.entry, argument, link.near.device.blocks_for(size_bytes))


class Stores(Stream):
    """The wire up: stores into the other rank's buffer, until they have arrived."""

    key = "stores"
    entry = "link_stores"


class Loads(Stream):
    """The wire down: loads from the other rank's buffer."""

    key = "loads"
    reads_peers = True
    entry = "link_loads"


class StoresAndLoads(Stream):
    """The wire both ways: a copy within the other rank's buffers."""

    key = "stores_and_loads"
    reads_peers = True
    entry = "link_stores_and_loads"


class Repeated(Part):
    """One block performs a short access again and again."""

    repeats = REPEATS
    entry: ClassVar[str]

    def step(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Step:
        return link.launch(FILE, self.entry, link.argument(pairs, size_bytes, self.repeats))


class UnfencedStores(Repeated):
    """A block stores a message, and a flag behind it."""

    key = "unfenced_stores"
    entry = "link_unfenced_stores"

    def sizes(self, requested: Sequence[int]) -> Sequence[int]:
        return [min(MESSAGE_BYTES, contended_size(requested))]


class FencedStores(UnfencedStores):
    """The same with a fence before the flag: the stores have drained."""

    key = "fenced_stores"
    entry = "link_fenced_stores"


class DependentLoads(Repeated):
    """A read's round trip: where the next load is depends on the last."""

    key = "dependent_loads"
    reads_peers = True
    entry = "link_dependent_loads"

    def sizes(self, requested: Sequence[int]) -> Sequence[int]:
        return [0]


class GraphKernel(Part):
    """A kernel in a graph: one of loads, without a load."""

    key = "graph_kernel"
    repeats = REPEATS

    def is_possible(self, link: RankLink) -> bool:
        return link.has_graphs

    def sizes(self, requested: Sequence[int]) -> Sequence[int]:
        return [0]

    def step(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Step:
        kernel = link.launch(FILE, DependentLoads.entry, link.argument(pairs, size_bytes))
        return link.near.device.replayed(*[kernel] * self.repeats)
