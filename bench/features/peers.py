"""Peers: anybody's collectives as further cases of a sweep: `--peer vllm,mine.py`, whose functions
Python calls, and `--kernel mine.cu`, a kernel in our device API."""

import argparse
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bench.harness.feature import Feature
from bench.harness.parser import CASES, Option, listed, name_among
from collectives.operation import Algorithm
from collectives.peers import shipped_names

if TYPE_CHECKING:
    from bench.harness.session import Session


def peer_name(text: str) -> str:
    """The path of a file, or the name of a shipped one."""
    return text if text.endswith(".py") else name_among("peer", [*shipped_names(), "FILE.py"], text)


def kernel_name(text: str) -> str:
    if not text.endswith(".cu"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a file such as mine.cu")
    return text


def names_option(flag: str, parse: Callable[[str], str], what: str) -> Option:
    return Option(
        CASES,
        [flag],
        action="extend",
        **listed(parse),
        help=f"also measure these: your {what} (none)",
    )


class Peers(Feature):
    """The peers with these names, its value. A case's library is the peer with its version."""

    name = "peers"
    options = (
        names_option("--peer", peer_name, "FILE.py, or one of examples/peers, such as vllm"),
        names_option("--kernel", kernel_name, "FILE.cu, which its first line declares"),
    )

    def algorithms(self, session: "Session") -> Iterable[Algorithm]:
        # Not at the top: --help needs no more modules.
        from collectives.peers.algorithm import open_peers

        during = session.flight.during
        return open_peers(session.world, self.value, session.notes, during).values()
