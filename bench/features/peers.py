"""Peers: all-reduces of other projects as further cases of a sweep, such as `--peer vllm`."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from bench.harness.feature import Feature, SessionView
from bench.harness.options import CASES, AddOption, Parser, comma_separated, name_among
from collectives.operation import Algorithm
from collectives.peers import NAMES


@dataclass(frozen=True)
class Peers(Feature):
    """The peers with these names. A case's library is the peer with its version."""

    names: list[str]

    @staticmethod
    def add_options(add: AddOption) -> None:
        add(
            "--peer",
            changes=CASES,
            type=partial(comma_separated, partial(name_among, "peer", NAMES)),
            metavar="A,B",
            help=f"also time these, on GPUs: {', '.join(NAMES)} (none)",
        )

    @classmethod
    def parse(cls, parser: Parser, namespace: argparse.Namespace) -> "Peers | None":
        return cls(namespace.peer) if namespace.peer else None

    def algorithms(self, session: SessionView) -> Mapping[str, Algorithm]:
        # Not at the top: it loads what belongs to GPUs.
        from collectives.peers.peer import algorithm_of

        return {name: algorithm_of(name, session.world) for name in self.names}
