"""What a rank's own launch takes, with the wait for its end, by the clock of the host."""

from collections.abc import Sequence

from bench.harness.iteration import Iteration, nothing
from bench.links.measurement import Measurement, RankLink
from bench.links.rank_pairs import Hosts, Pairs, alone
from collectives.operation import Operation
from kernels.devices.device import Step


class SubmitWait(Measurement):
    """A rank submits an empty kernel and waits for its end. A CPU has no launch: there it is an
    iteration without a collective."""

    key = "submit_wait"

    def groups(self, hosts: Hosts) -> list[Pairs]:
        return alone(hosts)

    def sizes(self, requested: Sequence[int]) -> Sequence[int]:
        return [0]

    def step(self, link: RankLink) -> Step:
        """What the rank submits. Raises DeviceError."""
        return nothing(link.near)

    def iteration(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Iteration:
        [(rank, _)] = pairs
        step = link.idle
        if link.world.rank == rank:
            step = self.step(link)
        iteration = link.unchecked(Operation(step))
        iteration.from_host = not link.world.device.is_cpu
        iteration.ranks = (rank,)
        return iteration


class SubmitWaitGraph(SubmitWait):
    """The same with a graph of that kernel."""

    key = "submit_wait_graph"

    def is_possible(self, link: RankLink) -> bool:
        return link.has_graphs

    def step(self, link: RankLink) -> Step:
        return link.near.device.replayed(nothing(link.near))
