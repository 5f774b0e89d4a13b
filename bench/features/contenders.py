"""Contenders: anybody's collectives as further cases of a sweep: `--contender vllm,mine.py`, whose
functions Python calls, and `--kernel mine.cu`, a kernel in our device API."""

import argparse
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bench.harness.feature import Feature
from bench.harness.parser import CASES, Option, listed, name_among
from collectives.contenders import shipped_names
from collectives.operation import Algorithm

if TYPE_CHECKING:
    from bench.harness.session import Session


def contender_name(text: str) -> str:
    """The path of a file, or the name of a shipped one."""
    if text.endswith(".py"):
        return text
    return name_among("contender", [*shipped_names(), "FILE.py"], text)


def kernel_name(text: str) -> str:
    if not text.endswith(".cu"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a file such as mine.cu")
    return text


def names_option(flag: str, parse: Callable[[str], str], what: str) -> Option:
    """An empty `what` hides a former name from --help."""
    return Option(
        CASES,
        [flag],
        action="extend",
        **listed(parse),
        help=f"also measure these: your {what} (none)" if what else argparse.SUPPRESS,
    )


class Contenders(Feature):
    """The contenders with these names, its value. A case's library is the contender with its
    version."""

    name = "contenders"
    options = (
        names_option(
            "--contender", contender_name, "FILE.py, or one of examples/contenders, such as vllm"
        ),
        names_option("--peer", contender_name, ""),  # the former name of --contender
        names_option("--kernel", kernel_name, "FILE.cu, which its first line declares"),
    )

    def algorithms(self, session: "Session") -> Iterable[Algorithm]:
        # Not at the top: --help needs no more modules.
        from collectives.contenders.algorithm import open_contenders

        during = session.flight.during
        return open_contenders(session.world, self.value, session.notes, during).values()
