"""Which other hosts of a run answer. The watchdog asks when its ranks stand still: a cut link ends
no connection, so MPI waits for minutes.

The kernel of a host accepts or refuses a connection even if every process of the host is stopped,
so the question needs no listener of ours."""

import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

PORT = 9  # discard: usually closed, and a refusal is an answer
ANSWER_S = 1.0
ASKED = 2  # times before a host counts as lost: one lost packet is no cut link


class Neighbours:
    """The other hosts that answered when the run began. Of a host whose name cannot be resolved, or
    whose firewall drops the question, silence would say nothing."""

    def __init__(self) -> None:
        self.addresses = dict[str, str]()  # by host
        self.were_silent, self.asked_s = list[str](), 0.0

    def find(self, hosts: Iterable[str]) -> None:
        """Fills in the addresses, within seconds."""
        addresses = dict[str, str]()
        for host in hosts:
            with suppress(OSError):
                *_, address = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)[0]
                addresses[host] = str(address[0])
        silent = silent_hosts(addresses)
        self.addresses = {host: addresses[host] for host in addresses if host not in silent}

    def silent(self) -> list[str]:
        """The hosts that do not answer now, within ANSWER_S."""
        return silent_hosts(self.addresses)

    def lost(self) -> list[str]:
        """The hosts that are silent for the second time in a row. It asks once a second at most."""
        if not self.addresses or time.monotonic() < self.asked_s + ANSWER_S:
            return []
        self.asked_s = time.monotonic()
        before, self.were_silent = self.were_silent, self.silent()
        return [host for host in self.were_silent if host in before]


def silent_hosts(addresses: dict[str, str]) -> list[str]:
    """Those that do not answer, in order; all are asked at the same time."""
    with ThreadPoolExecutor(len(addresses) or 1) as threads:
        answers = threads.map(answers_at, addresses.values())
        return sorted(host for host, does in zip(addresses, answers, strict=True) if not does)


def answers_at(address: str) -> bool:
    try:
        socket.create_connection((address, PORT), ANSWER_S).close()
    except OSError as error:
        return isinstance(error, ConnectionRefusedError)
    return True
