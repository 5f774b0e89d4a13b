"""A kernel in the device API of `kernels/include`, in a file outside of the tree, for `--kernel`.

Its first line declares it: `// wiretax: all_reduce entry=mine chunks=2*ranks registered`. `entry`
is its RANK_KERNEL (default: the file's name), `chunks` how many chunks half a slab must hold (2);
with `registered` there is an entry `mine_registered` for buffers that all ranks map."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from collectives.binding import binder
from collectives.collective import COLLECTIVES
from collectives.communicator import Mistake
from collectives.operation import (
    Algorithm,
    CollectiveCase,
    KernelAlgorithm,
    Performer,
    Unsupported,
    World,
)
from collectives.peers.file import read_source
from collectives.registry import LIBRARY
from kernels.devices.compile_cache import SOURCES, source_with_headers

FORM = "// wiretax: COLLECTIVE [entry=NAME] [chunks=N or N*ranks] [registered]"


@dataclass(frozen=True)
class KernelFile:
    """A file and what its first line declares: half a slab holds `chunks`, of each rank if
    `per_rank`."""

    path: Path
    digest: str
    collective: str
    entry: str
    chunks: int = 2
    per_rank: bool = False
    registered: bool = False

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def identity(self) -> str:
        return f"{self.name} {self.digest}"

    def reason_against(self, world: World, case: CollectiveCase) -> Unsupported | None:
        is_other = case.collective.name != self.collective
        return Unsupported(f"{self.name} is {self.collective}") if is_other else None

    def algorithm(self) -> Algorithm:
        return KernelAlgorithm(
            self.name,
            self.identity,
            binder(
                str(self.path.with_suffix("")),
                self.entry,
                lambda ranks: self.chunks * (ranks if self.per_rank else 1),
            ),
            LIBRARY.moves,
            self.reason_against,
            variants=("copied", "registered") if self.registered else ("copied",),
            peer=Performer(self.identity, (self.collective,)),
        )


def read_kernel(name: str) -> KernelFile:
    """The kernel of this path, not yet compiled. Raises Mistake."""
    path, option = Path(name), f"--kernel {name}"
    first, _, _ = read_source(option, path).partition(b"\n")
    words = re.fullmatch(
        r"// wiretax: (?P<collective>\w+)(?: entry=(?P<entry>[A-Za-z_]\w*))?"
        r"(?: chunks=(?P<chunks>[1-9]\d?)(?P<ranks>\*ranks)?)?(?P<registered> registered)?",
        first.decode(errors="replace").strip(),
    )
    if not words:
        raise Mistake(f"{option}: its first line does not declare it: {FORM}")
    if words["collective"] not in COLLECTIVES:
        known = ", ".join(COLLECTIVES)
        raise Mistake(f"{option}: unknown {words['collective']!r}: choose from {known}")
    path = path.resolve()
    digest = hashlib.sha256()
    for each in source_with_headers(path):
        if SOURCES not in each.resolve().parents:  # a header of its own
            digest.update(each.read_bytes())
    return KernelFile(
        path,
        digest.hexdigest()[:7],
        words["collective"],
        words["entry"] or path.stem,
        int(words["chunks"] or 2),
        bool(words["ranks"]),
        bool(words["registered"]),
    )
