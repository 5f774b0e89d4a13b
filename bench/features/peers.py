"""Peers: anybody's collectives as further cases of a sweep: `--peer vllm,mine.py`, whose functions
Python calls, and `--kernel mine.cu`, a kernel in our device API."""

import argparse
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from bench.harness.feature import Feature
from bench.harness.options import AddOption, comma_separated, name_among
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


class Peers(Feature):
    """The peers with these names, its value. A case's library is the peer with its version."""

    option = "peers"

    @staticmethod
    def add_options(add: AddOption) -> None:
        for flag, name, text in (
            ("--peer", peer_name, "FILE.py, or one of examples/peers, such as vllm"),
            ("--kernel", kernel_name, "FILE.cu, which its first line declares"),
        ):
            add(
                flag,
                action="extend",
                type=partial(comma_separated, name),
                dest="peers",
                metavar="A,B",
                help=f"also measure these: your {text} (none)",
            )

    def algorithms(self, session: "Session") -> Iterable[Algorithm]:
        # Not at the top: --help needs no more modules.
        from collectives.peers.algorithm import open_peers

        during = session.flight.during
        return open_peers(session.world, self.value, session.notes, during).values()
