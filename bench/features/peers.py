"""Peers: anybody's collectives as further cases of a sweep, such as `--peer vllm,mine.py`."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from bench.harness.feature import Feature, SessionView
from bench.harness.options import CASES, AddOption, Parser, comma_separated, name_among
from collectives.operation import Algorithm
from collectives.peers import shipped_names


def peer_name(text: str) -> str:
    """The path of a file, or the name of a shipped one."""
    return text if text.endswith(".py") else name_among("peer", [*shipped_names(), "FILE.py"], text)


@dataclass(frozen=True)
class Peers(Feature):
    """The peers with these names. A case's library is the peer with its version."""

    names: list[str]

    @staticmethod
    def add_options(add: AddOption) -> None:
        add(
            "--peer",
            changes=CASES,
            type=partial(comma_separated, peer_name),
            metavar="A,B",
            help="also time these: your FILE.py, or one of examples/peers, such as vllm (none)",
        )

    @classmethod
    def parse(cls, parser: Parser, namespace: argparse.Namespace) -> "Peers | None":
        return cls(namespace.peer) if namespace.peer else None

    def algorithms(self, session: SessionView) -> Mapping[str, Algorithm]:
        # Not at the top: --help needs no more modules.
        from collectives.peers.algorithm import algorithm_of, notes_on, open_files

        files = open_files(session.world, self.names)
        session.notes += notes_on(files, session.world)
        return {file.name: algorithm_of(file, session.world) for file in files}
