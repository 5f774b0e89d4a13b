"""Which other hosts of a run answer. The watchdog asks when its ranks stand still: a cut link ends
no connection, so MPI waits for minutes.

The kernel of a host accepts or refuses a connection even if every process of the host is stopped,
so the question needs no listener of ours."""

import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

PORT = 9  # discard: usually closed, and a refusal is an answer
ANSWER_S = 1.0


def addresses_of(hosts: Iterable[str]) -> dict[str, str]:
    """The addresses of the hosts that answer now. The names of the others cannot be resolved, or a
    firewall drops the question: their silence would say nothing."""
    addresses = dict[str, str]()
    for host in hosts:
        with suppress(OSError):
            *_, address = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)[0]
            addresses[host] = str(address[0])
    answering = answering_hosts(addresses)
    return {host: address for host, address in addresses.items() if host in answering}


def answering_hosts(addresses: dict[str, str]) -> set[str]:
    """The hosts that answer within ANSWER_S; all are asked at the same time."""
    if not addresses:
        return set()
    with ThreadPoolExecutor(len(addresses)) as threads:
        answers = threads.map(_answers, addresses.values())
        return {host for host, does in zip(addresses, answers, strict=True) if does}


def _answers(address: str) -> bool:
    try:
        socket.create_connection((address, PORT), ANSWER_S).close()
    except OSError as error:
        return isinstance(error, ConnectionRefusedError)
    return True
