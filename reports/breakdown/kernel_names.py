"""Which kernels are collectives, by their names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

TABLE = Path(__file__).with_name("kernel_names.toml")


class Known(NamedTuple):
    """A collective, such as `all_reduce`, and whose kernel it is, such as `NCCL`."""

    collective: str
    by: str


class Pattern(msgspec.Struct, forbid_unknown_fields=True):
    """A row of kernel_names.toml: `collective` may refer to groups of `name`."""

    by: str
    name: str
    collective: str


@dataclass(frozen=True)
class Names:
    """The table's patterns, and those of `--collective`, which come first."""

    extra: Sequence[re.Pattern[str]] = ()

    def known(self, text: str) -> Known | None:
        if any(pattern.search(text) for pattern in self.extra):
            return Known("collective", "--collective")
        for pattern, each in patterns():
            if found := pattern.search(text):
                return Known(spelled(found.expand(each.collective)), each.by)
        return None


@cache
def patterns() -> list[tuple[re.Pattern[str], Pattern]]:
    rows = msgspec.toml.decode(TABLE.read_bytes(), type=dict[str, list[Pattern]])["kernel"]
    return [(re.compile(row.name), row) for row in rows]


def spelled(name: str) -> str:
    """`AllReduce` and `allreduce` as `all_reduce`."""
    words = {
        "allreduce": "all_reduce",
        "allgather": "all_gather",
        "reducescatter": "reduce_scatter",
        "sendrecv": "send_recv",
        "alltoall": "all_to_all",
    }
    plain = name.lower().replace("_", "")
    return words.get(plain, plain)
