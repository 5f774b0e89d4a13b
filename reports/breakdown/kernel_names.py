"""Which kernels are collectives, by their names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from reports.tables.sentences import some
from wiretax.common.untrusted import printable

TABLE = Path(__file__).with_name("kernel_names.toml")
# Of a name: the function comes before its arguments, whose types may fill megabytes.
MOST_LETTERS = 1000
MOST_SHOWN = 60
CALLED = re.compile(
    "all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|send_?recv", re.IGNORECASE
)
# Of an unknown one. A copy from GPU to GPU (PtoP) may be part of one, or hand a layer's output on.
LOOKS = re.compile(f"{CALLED.pattern}|[nr]ccl|cross_device|lamport|multimem|PtoP", re.IGNORECASE)


class Known(NamedTuple):
    """A collective, such as `all_reduce`, and whose kernel it is, such as `NCCL`. A `fused` kernel
    also computes."""

    collective: str
    by: str
    fused: bool = False


class Pattern(msgspec.Struct, forbid_unknown_fields=True):
    """A row of kernel_names.toml: `collective` may refer to groups of `name`."""

    by: str
    name: str
    collective: str
    fused: bool = False


@dataclass(frozen=True)
class Names:
    """The table's patterns, and those of `--collective`, which come first."""

    extra: Sequence[re.Pattern[str]] = ()

    def known(self, text: str) -> Known | None:
        text = text[:MOST_LETTERS]
        if any(pattern.search(text) for pattern in self.extra):
            called = CALLED.search(text)
            return Known(spelled(called[0]) if called else "collective", "--collective")
        for pattern, each in patterns():
            if found := pattern.search(text):
                return Known(spelled(found.expand(each.collective)), each.by, each.fused)
        return None

    def notes(self, known: Mapping[str, Known | None]) -> list[str]:
        """What a reader must know of the names of all kernels, as sentences."""
        notes = [
            f"{each.collective} ({each.by}) also computes, such as the norm that follows: its "
            "transport contains that"
            for each in dict.fromkeys(known.values())
            if each and each.fused
        ]
        others = [text[:MOST_LETTERS] for text, found in known.items() if not found]
        if looking := [text[:MOST_SHOWN] for text in others if LOOKS.search(text)]:
            notes.append(
                "may be collectives, and are taken as other work: "
                f"{some([*map(printable, looking)])}; --collective REGEX adds those that match"
            )
        for pattern in self.extra:
            if not any(pattern.search(text[:MOST_LETTERS]) for text in known):
                notes.append(f"--collective {printable(pattern.pattern)} matches no kernel")
        return notes


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
