"""How a kernel is built and cut: the words behind a name, as in `two_shot+nt+128K`."""

import re
from dataclasses import dataclass
from typing import Any

# The words of a build, by their last letter: the field, and the unit of its number.
FLAGS = {
    "nt": ("stream_slab", 1),
    "ntr": ("stream_receive", 1),
    "swap": ("swap", 1),
    "noswap": ("swap", 0),
    "slabs": ("slabs", 1),
}
LIMITS = {
    "K": ("chunk_bytes", 1 << 10),
    "M": ("chunk_bytes", 1 << 20),
    "b": ("blocks", 1),
    "t": ("threads", 1),
}

# The kernels in which WT_SWAP changes nothing; on GPUs one_shot_ll, too.
WITHOUT_SWAP = re.compile(
    r"one_shot_(sentinel|multimem)|two_shot_(multimem|direct_registered)|"
    r"(one_shot|all_gather|reduce_scatter|all_to_all|ping_pong|one_way)\w+_registered"
)


@dataclass(frozen=True)
class Build:
    """How a kernel is built, as in `two_shot+nt+ntr+128K` or `one_shot_pull+16b+256t`: `nt` and
    `ntr` store around the caches, into the slab and into the receive buffer; with `swap` ranks
    write where they last read, with `noswap` they do not. `slabs` treats registered buffers as
    unregistered. The others are upper limits; None leaves the choice to the device."""

    stream_slab: bool = False
    stream_receive: bool = False
    swap: int | None = None
    slabs: bool = False
    chunk_bytes: int | None = None
    blocks: int | None = None
    threads: int | None = None

    @property
    def slab_macros(self) -> dict[str, str]:
        """What a kernel is compiled with for its use of slabs."""
        macros = {"WT_STREAM_SLAB": "1"} if self.stream_slab else {}
        return macros if self.swap is None else macros | {"WT_SWAP": str(self.swap)}

    @classmethod
    def parse(cls, words: str) -> "Build":
        """The build of words joined by "+"; "" is the default. Raises ValueError."""
        fields: dict[str, Any] = {}
        for word in words.split("+") if words else ():
            if word in FLAGS:
                name, value = FLAGS[word]
            elif re.fullmatch(r"[1-9]\d{0,4}[KMbt]", word):
                name, unit = LIMITS[word[-1]]
                value = int(word[:-1]) * unit
            else:
                raise ValueError(
                    f"{word!r} is not one of nt, ntr, swap, noswap, slabs, 128K, 16b and 256t"
                )
            if name in fields:
                raise ValueError(f"{word!r} sets {name} a second time")
            fields[name] = value
        return cls(**fields)
