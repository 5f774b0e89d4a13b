"""What the head of a run says of NCCL or RCCL: its file, transports, channels and settings."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from collectives.library import nccl
from collectives.library.nccl import Nccl
from collectives.operation import World

if TYPE_CHECKING:
    from collectives.library.gpu_library import NcclLibrary

# Of NCCL and RCCL before 2.30.7, whose transport between GPUs that are no peers then copies by copy
# engines in the protocol Simple (useMemcpySend in NCCL's src/transport/shm.cc). Read once.
SHM_COPIES, SHM_COPIES_UNTIL = "NCCL_SHM_USE_CUDA_MEMCPY", 23007


def spelled(variables: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(variables.items()))


def describe(baseline: "NcclLibrary", world: World) -> dict[str, Any]:
    library = baseline.opened
    if not library:
        note = f"The GPUs' own library is not measured: {baseline.missing}."
        return {"library": None, "notes": [note]}
    logs = baseline.ranks.all_gather(library.logs)
    transports = {
        label: nccl.transports("".join(log[label] for log in logs)) for label in library.logs
    }
    notes = [*library.refused.values(), *library.ignored.values()]
    if baseline.runs_kernel_for_zero_cta:
        notes.append(
            f"{library.name} ran a kernel under its zero-CTA policy: its copy engines want "
            "CUDA 12.5, symmetric windows and one NVLink domain."
        )
    if baseline.memories:
        notes.append(
            f"{library.name} works on buffers from ncclMemAlloc, and our algorithms "
            "on buffers that all ranks map."
        )
    used = sorted(
        (transport, pair)
        for pairs in transports.values()
        for pair, names in pairs.items()
        for transport in names
    )
    staged = [
        f"{transport}, ranks {pair}"
        for transport, pair in used
        if transport.startswith(("SHM", "direct shared", "NET"))
    ]
    if staged and baseline.ranks.hosts == 1:
        remedy = (
            " Where our kernels reach the peers, unset NCCL_P2P_DISABLE or export "
            "NCCL_P2P_LEVEL=SYS."
        )
        notes.append(
            f"{library.name} went through host memory ({staged[0]}): it is not a "
            f"peer-to-peer baseline.{'' if world.memory == 'host_staged' else remedy}"
        )
    if world.memory == "host_staged" and baseline.device.sharers > 1:
        notes.append(
            f"Ranks share a GPU, so {library.name} moves data within its memory, and our "
            "algorithms through the host: their ratio would compare two kinds of memory, and "
            "is not shown."
        )
    if used:
        notes.append(f"{library.name} uses {', '.join(dict(used))}.")
    if library.own:
        notes.append(
            f"Wiretax set {spelled(library.own)}: by itself {library.name} may choose LL, "
            "which may never end on gfx12 before 2.30.7 (ROCm/rocm-systems pull request 7183). "
            "With NCCL_PROTO in the environment it sets nothing."
        )
    notes += notes_on_shm(library, {transport for transport, _ in used})
    notes.append(f"{library.name} is {library.file}.")
    return {
        "library": library.name,
        "file": library.file,
        "transports": {label: pairs for label, pairs in transports.items() if pairs},
        "channels": {label: nccl.channels(log) for label, log in library.logs.items()},
        "set_by_wiretax": library.own,
        "set_by_file": {
            name: value
            for name, value in nccl.variables("".join(library.logs.values())).items()
            if name not in os.environ and not any(name in label for label in library.logs)
        },
        "notes": notes,
    }


def notes_on_shm(library: Nccl, transports: set[str]) -> list[str]:
    """What the other way through the host's memory would be, which needs another process."""
    is_set = os.environ.get(SHM_COPIES) == "1"
    if not any(each.startswith("SHM/direct") for each in transports):
        return []
    if is_set:
        return [f"{library.name} has no copy engines at work, although {SHM_COPIES}=1 is set."]
    gain = (
        "6 times as fast at 20 MB and half as fast at 10 KiB between two RTX 5070 Ti "
        "(sgl-project/sglang pull request 39605)"
    )
    moves = f"Kernels of {library.name} move the data through the host."
    if library.version >= SHM_COPIES_UNTIL:
        return [
            f"{moves} Until 2.30.4 {SHM_COPIES}=1 has copy engines do it, {gain}: docs/"
            "libraries.md says how to compare with an older one."
        ]
    gpu = "rocm" if library.name.startswith("RCCL") else "cuda13"
    return [
        f"{moves} With {SHM_COPIES}=1, which it reads once in a process, copy engines do, {gain}: "
        f"`make libraries GPU={gpu}` measures both."
    ]
