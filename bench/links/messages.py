"""Messages of the library between hosts, which share no clock: both ranks first exchange an
element, which tells that the other has arrived."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from bench.harness.iteration import Iteration
from bench.links.measurement import DATATYPE, Measurement, RankLink, time_pairs
from bench.links.rank_pairs import Hosts, Pairs, between_hosts, both_ways
from collectives.operation import Message, Operation, Unsupported
from wiretax.record.schema import CaseHeader

Groups = list[list[Message]]  # of messages that are under way at once
ROUND_TRIPS = 10  # of an iteration


@dataclass(frozen=True)
class Mail:
    """A rank's messages with the other rank of its pair: its buffers, and an element each way."""

    send: Message
    receive: Message
    send_element: Message
    receive_element: Message


class LibraryMessages(Measurement):
    """Messages of the library, for which all ranks bind theirs together."""

    is_by_library = True

    @abstractmethod
    def exchange(self, mail: Mail, is_source: bool) -> Groups:
        """The messages of one of the two ranks, in turn."""

    @abstractmethod
    def timed(
        self, link: RankLink, pairs: Pairs, size_bytes: int, operation: Operation
    ) -> Iteration:
        """The iteration of the bound messages. Raises DeviceError."""

    def iteration(self, link: RankLink, pairs: Pairs, size_bytes: int) -> Iteration | Unsupported:
        world, pair = link.world, pairs[0]
        elements = world.device.private(2 * DATATYPE.size_bytes)
        arrival, messages = Groups(), Groups()
        if world.rank in pair:
            mail = mail_of(link, pair, size_bytes, elements.address)
            arrival = [[mail.send_element, mail.receive_element]]
            messages = self.exchange(mail, world.rank == pair[0])
        arrive = world.library.bind_messages(world, arrival)
        operation = world.library.bind_messages(world, messages)
        if isinstance(arrive, Unsupported):
            return arrive
        if isinstance(operation, Unsupported):
            return operation
        iteration = self.timed(link, pairs, size_bytes, operation)
        iteration.late = arrive.step
        iteration.keep += [elements, arrive]
        return iteration

    def header(self, link: RankLink, pairs: Pairs, size_bytes: int) -> CaseHeader:
        header = super().header(link, pairs, size_bytes)
        header.library, header.memory = link.world.library.name, "private"
        return header


class SendLibrary(LibraryMessages):
    """A message one way. The source's clock runs until the destination has answered with an
    element."""

    key = "send_library"

    def groups(self, hosts: Hosts) -> list[Pairs]:
        return between_hosts(hosts)

    def exchange(self, mail: Mail, is_source: bool) -> Groups:
        return answered(mail, is_source)

    def timed(
        self, link: RankLink, pairs: Pairs, size_bytes: int, operation: Operation
    ) -> Iteration:
        iteration = link.checked(pairs, size_bytes, operation)
        [(source, _)] = pairs
        iteration.ranks = (source,)
        return iteration


class BothDirectionsLibrary(LibraryMessages):
    """Both ranks send and receive at once; the slower one counts."""

    key = "both_directions_library"

    def groups(self, hosts: Hosts) -> list[Pairs]:
        return both_ways(between_hosts(hosts))

    def exchange(self, mail: Mail, is_source: bool) -> Groups:
        return [[mail.send, mail.receive]]

    def timed(
        self, link: RankLink, pairs: Pairs, size_bytes: int, operation: Operation
    ) -> Iteration:
        iteration = link.checked(pairs, size_bytes, operation)
        time_pairs(iteration, pairs, [source for source, _ in pairs])
        return iteration


class PingPongLibrary(LibraryMessages):
    """An element one way: half of a round trip, by the source's clock."""

    key = "ping_pong_library"

    def groups(self, hosts: Hosts) -> list[Pairs]:
        return both_ways(between_hosts(hosts))

    def sizes(self, requested: Sequence[int]) -> Sequence[int]:
        return [DATATYPE.size_bytes]

    def exchange(self, mail: Mail, is_source: bool) -> Groups:
        return answered(mail, is_source) * ROUND_TRIPS

    def timed(
        self, link: RankLink, pairs: Pairs, size_bytes: int, operation: Operation
    ) -> Iteration:
        iteration = link.unchecked(operation, 2 * ROUND_TRIPS)
        iteration.ranks = (pairs[0][0],)
        return iteration


def mail_of(link: RankLink, pair: tuple[int, int], size_bytes: int, address: int) -> Mail:
    """This rank's messages; two elements have room at `address`."""
    source, destination = pair
    other = destination if link.world.rank == source else source
    element_bytes = DATATYPE.size_bytes
    return Mail(
        send=Message(True, other, link.buffers.send.address, size_bytes),
        receive=Message(False, other, link.buffers.receive.address, size_bytes),
        send_element=Message(True, other, address, element_bytes),
        receive_element=Message(False, other, address + element_bytes, element_bytes),
    )


def answered(mail: Mail, is_source: bool) -> Groups:
    """A message from the source, and then an element back."""
    if is_source:
        return [[mail.send], [mail.receive_element]]
    return [[mail.receive], [mail.send_element]]
