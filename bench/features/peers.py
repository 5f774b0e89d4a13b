"""Peers: all-reduces of other projects as further cases of a sweep, such as `--peer vllm`."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.harness.feature import Feature, SessionView
from bench.harness.options import AddOption, Parser, comma_separated, name_among
from collectives.operation import Algorithm
from collectives.peers import NAMES


@dataclass
class Peers(Feature):
    """The peers with these names; `titles` have their versions, once `algorithms` has looked."""

    names: list[str]
    titles: tuple[str, ...] = ()

    @staticmethod
    def add_options(add: AddOption) -> None:
        add(
            "--peer",
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

        algorithms = {name: algorithm_of(name, session.world) for name in self.names}
        self.titles = tuple(algorithm.peer or "" for algorithm in algorithms.values())
        return algorithms

    def notes(self) -> list[str]:
        return [f"Peers: {', '.join(self.titles)}."]

    def world_facts(self) -> dict[str, Any]:
        return {"peers": dict(zip(self.names, self.titles, strict=True))}
