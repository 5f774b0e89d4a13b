"""Kernels and engines move registered buffers between the ranks of a host, and a flag goes to and
fro (kernels/link.cu)."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from bench.harness.iteration import Iteration
from bench.links.measurement import DATATYPE, Measurement, RankLink, contended_size, time_pairs
from bench.links.rank_pairs import Hosts, Pairs, alone, both_ways, disjoint, within_hosts
from collectives.collective import Shape
from collectives.copy_engine import pushed
from collectives.operation import Operation
from collectives.probe import SHARED_PING_PONGS
from kernels.devices.device import Step, Transfer

PING_PONGS = 500  # so many that launching and stamping do not show


class Move(Measurement):
    """A kernel moves a buffer from each source to its destination, and a flag follows. All ranks of
    their host launch it, since its flags advance all epochs."""

    entry: ClassVar[str]

    def groups(self, hosts: Hosts) -> list[Pairs]:
        return within_hosts(hosts)

    def movers(self, pairs: Pairs) -> Iterable[int]:
        """The ranks that move the data."""
        return [source for source, _ in pairs]

    def step(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Step:
        """This rank's launch. Raises DeviceError."""
        blocks = link.near.device.blocks_for(size_bytes)
        return link.launch("link", self.entry, moved(link, pairs, size_bytes), blocks)

    def iteration(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Iteration:
        source, _ = pairs[0]
        step = link.idle
        if link.shares_host(source):
            step = self.step(link, pairs, size_bytes)
        iteration = link.checked(pairs, size_bytes, Operation(step))
        time_pairs(iteration, pairs, self.movers(pairs))
        return iteration


class Push(Move):
    """The source stores its buffer into the destination's; the time ends when the destination sees
    the flag that follows."""

    key = "push"
    entry = "link_push"


class Pull(Move):
    """The destination reads the source's buffer into its own."""

    key = "pull"
    reads_peers = True
    entry = "link_pull"

    def movers(self, pairs: Pairs) -> Iterable[int]:
        return [destination for _, destination in pairs]


class EnginePush(Move):
    """A push by the source's copy engine."""

    key = "engine_push"

    def is_possible(self, link: RankLink) -> bool:
        return link.engine is not None

    def step(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Step:
        assert link.engine
        return pushed(link.near, link.engine, moved(link, pairs, size_bytes))


class BothDirections(Push):
    """Two ranks push into each other at once."""

    key = "both_directions"

    def groups(self, hosts: Hosts) -> list[Pairs]:
        return both_ways(within_hosts(hosts))


class DisjointPairs(Push):
    """Several pairs push at once, where they may contend; the slowest counts."""

    key = "disjoint_pairs"

    def groups(self, hosts: Hosts) -> list[Pairs]:
        return disjoint(hosts)

    def sizes(self, requested: Sequence[int]) -> Sequence[int]:
        return [contended_size(requested)]

    def shape(self, pairs: Pairs) -> Shape:
        return {"pairs": [list(pair) for pair in pairs]}


class LocalCopy(Move):
    """A rank copies its send buffer to its receive buffer, without a flag: it alone launches."""

    key = "local_copy"
    entry = "link_local_copy"

    def groups(self, hosts: Hosts) -> list[Pairs]:
        return alone(hosts)

    def iteration(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Iteration:
        source, _ = pairs[0]
        step = link.idle
        if link.world.rank == source:
            step = self.step(link, pairs, size_bytes)
        iteration = link.checked(pairs, size_bytes, Operation(step))
        iteration.ranks = (source,)
        return iteration


class PingPong(Measurement):
    """A flag one way: half of a round trip, of which a launch makes many. All ranks of the host
    launch it."""

    key = "ping_pong"

    def groups(self, hosts: Hosts) -> list[Pairs]:
        return both_ways(within_hosts(hosts))

    def sizes(self, requested: Sequence[int]) -> Sequence[int]:
        return [0]

    def round_trips(self, link: RankLink) -> int:
        """Those of a launch."""
        if link.near.memory == "same_device":
            return SHARED_PING_PONGS
        return PING_PONGS

    def iteration(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Iteration:
        source, _ = pairs[0]
        trips = self.round_trips(link)
        step = link.idle
        if link.shares_host(source):
            step = link.launch("link", "link_ping_pong", link.argument(pairs, size_bytes, trips))
        iteration = link.unchecked(Operation(step), 2 * trips)
        time_pairs(iteration, pairs, [source for source, _ in pairs])
        return iteration


def moved(link: RankLink, pairs: Pairs, size_bytes: int) -> Transfer:
    """This rank's argument where these pairs move so many bytes."""
    return link.argument(pairs, size_bytes, size_bytes // DATATYPE.size_bytes)
