"""A kernel in the device API of `kernels/include`, in a file outside of the tree, for `--kernel`.

Its first line declares it: `// wiretax: all_reduce entry=mine chunks=2*ranks registered in_place`.
`entry` is its RANK_KERNEL (default: the file's name), `chunks` how many chunks half a slab must
hold (2); with `registered` there is an entry `mine_registered` for buffers that all ranks map; with
`in_place` each entry also works where send and receive buffer are the same; with `pushes` none
reads a peer's memory, so that it runs where such reads are not routed.

Of `gemv_allreduce` the entry is a GEMV_KERNEL, and a chunk is as long as the result."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from collectives.binding import beyond_slab, binder, launch_gemv
from collectives.collective import COLLECTIVES
from collectives.communicator import Mistake
from collectives.contenders.file import read_source
from collectives.operation import (
    MARGIN_BYTES,
    Bound,
    CollectiveCase,
    KernelAlgorithm,
    Unsupported,
    World,
)
from collectives.registry import LIBRARY
from kernels.devices.compile_cache import source_with_headers
from kernels.devices.device import DeviceError, OutOfMemory
from kernels.devices.layout import SOURCES
from wiretax.common.untrusted import printable

LAYER = "gemv_allreduce"
FORM = "// wiretax: COLLECTIVE [entry=NAME] [chunks=N or N*ranks] [registered] [in_place] [pushes]"


def read_kernel(name: str) -> KernelAlgorithm:
    """The kernel of this path, not yet compiled; `about` has its digest. Raises Mistake."""
    path, option = Path(name), f"--kernel {name}"
    first, _, _ = read_source(option, path).partition(b"\n")
    declared = first.decode(errors="replace").strip()
    words = re.fullmatch(
        r"// wiretax: (?P<collective>\w+)(?: entry=(?P<entry>[A-Za-z_]\w*))?"
        r"(?: chunks=(?P<chunks>[1-9]\d?)(?P<ranks>\*ranks)?)?"
        r"(?P<registered> registered)?(?P<in_place> in_place)?(?P<pushes> pushes)?",
        declared,
    )
    if not words:
        found = printable(declared[:80])
        raise Mistake(f"{option}: its first line does not declare it: {FORM}; it is: {found}")
    collective, chunks = words["collective"], int(words["chunks"] or 2)
    known = *COLLECTIVES, LAYER
    if collective not in known:
        raise Mistake(f"{option}: unknown {collective!r}: choose from {', '.join(known)}")
    if collective == LAYER and (words["registered"] or words["in_place"]):
        raise Mistake(f"{option}: {LAYER} has one form: neither registered nor in_place")
    path = path.resolve()
    digest = hashlib.sha256()
    for each in source_with_headers(path):
        if SOURCES not in each.resolve().parents:  # a header of its own
            digest.update(each.read_bytes())
    identity = f"{path.stem} {digest.hexdigest()[:7]}"

    def refuses(world: World, case: CollectiveCase) -> Unsupported | None:
        if case.collective.name != collective:
            return Unsupported(f"{path.stem} is {collective}")
        if case.in_place and not words["in_place"]:
            return Unsupported(f"{path.stem} has no in-place form: its first line lacks in_place")
        return None

    stem, entry = str(path.with_suffix("")), words["entry"] or path.stem

    def slots(ranks: int) -> int:
        return chunks * (ranks if words["ranks"] else 1)

    def bind_layer(world: World, case: Any) -> Bound:
        if refused := beyond_slab(world, slots(world.ranks), case.segment_bytes):
            return refused
        return launch_gemv(world, case, stem, entry)

    def bind_collective(world: World, case: CollectiveCase) -> Bound:
        bound = binder(stem, entry, slots, MARGIN_BYTES)(world, case)
        if isinstance(bound, Unsupported):
            return bound
        first = world.mapped.slabs[world.mapped.communicator.rank].address
        first += slots(world.ranks) * bound.step.argument.chunk_bytes
        return replace(bound, margins=(first, first + world.mapped.half_bytes))

    bind_entry = bind_layer if collective == LAYER else bind_collective

    def bind(world: World, case: CollectiveCase) -> Bound:
        try:
            return bind_entry(world, case)
        except DeviceError as error:  # the device has compiled kernels of ours before
            error.is_mistake = not isinstance(error, OutOfMemory)
            raise

    return KernelAlgorithm(
        path.stem,
        identity,
        bind,
        LIBRARY.moves,
        refuses,
        variants=("copied", "registered") if words["registered"] else ("copied",),
        pushes=bool(words["pushes"]),
        contender=identity,
        contender_collectives=(collective,),
    )
