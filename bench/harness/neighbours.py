"""Which other hosts of a run answer. The watchdog asks when its ranks stand still: a cut link ends
no connection, so MPI waits for minutes.

The kernel of a host accepts or refuses a connection even if every process of the host is stopped,
so the question needs no listener of ours."""

import errno
import select
import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack

PORT = 9  # discard: usually closed, and a refusal is an answer
ANSWER_S = 1.0
ANSWERS = 0, errno.ECONNREFUSED

Address = tuple[socket.AddressFamily, tuple[object, ...]]


def addresses_of(hosts: Iterable[str]) -> dict[str, Address]:
    """The addresses of the hosts that answer now. The names of the others cannot be resolved, or a
    firewall drops the question: their silence would say nothing."""
    addresses = dict[str, Address]()
    for host in hosts:
        try:
            family, *_, address = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)[0]
        except OSError:
            continue
        addresses[host] = family, address
    answering = answering_hosts(addresses)
    return {host: address for host, address in addresses.items() if host in answering}


def answering_hosts(addresses: dict[str, Address]) -> set[str]:
    """The hosts that answer within ANSWER_S; all are asked at the same time."""
    answering, pending, poll = set[str](), dict[int, tuple[str, socket.socket]](), select.poll()
    late_s = time.monotonic() + ANSWER_S
    with ExitStack() as stack:
        for host, (family, address) in addresses.items():
            connection = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            connection.setblocking(False)
            error = connection.connect_ex(address)
            if error == errno.EINPROGRESS:
                pending[connection.fileno()] = host, connection
                poll.register(connection, select.POLLOUT)
            elif error in ANSWERS:
                answering.add(host)
        # The last look is after the time: a busy host may not have let this process run meanwhile.
        while pending and (ready := poll.poll(max(0, 1000 * (late_s - time.monotonic())))):
            for number, _ in ready:
                host, connection = pending.pop(number)
                poll.unregister(number)
                if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in ANSWERS:
                    answering.add(host)
    return answering
