"""What speaks against the machine and the cards of an archive."""

import re
from collections.abc import Iterator
from typing import Any

from reports.advice.archive_rows import SentArchive
from reports.advice.specs import sheet_of
from reports.tables.sentences import number

SYNTHETIC = "synthetic"  # the machine of archives that tests make
GPU_NAME = re.compile(r"[A-Za-z0-9 ()+/-]{1,64}")
MACHINE_ID = re.compile("[0-9a-f]{12}")
BUS_ID = re.compile(r"([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2})\.[0-7]")  # as CUDA and HIP write it
VENDORS = {"nccl": "cuda", "rccl": "hip", "oneccl": ""}  # by the library of a data sheet


def of_machine(sent: SentArchive) -> Iterator[str]:
    """Whether all runs are of one machine, which has known cards."""
    runs = [result.run for result in sent.runs.values()]
    facts = "gpu", "pci_bus_id", "arch", "device", "memory_bytes"
    cards = [[[*map(rank.get, facts)] for rank in run.ranks] for run in runs]
    software = {result.run.software_id for result in sent.all_reduces}
    if len({*map(str, cards)}) > 1 or len({run.machine_id for run in runs}) > 1:
        yield "its runs are of several machines or sets of cards"
    if len(software) > 1:
        yield "its all-reduces ran with several versions of software"
    for machine_id in {run.machine_id for run in runs}:
        if machine_id == SYNTHETIC:
            yield "it is synthetic: a test made it, and no machine measured it"
        elif not MACHINE_ID.fullmatch(machine_id):
            yield "the id of its machine is not what Wiretax writes, 12 hexadecimal digits"
    ranks = [rank for run in runs for rank in run.ranks]
    if any(run.hosts != 1 for run in runs) or len({rank.get("host") for rank in ranks}) > 1:
        yield "it is of several hosts, and its rows would be of cards in one"
    vendor, models = sent.contents.vendor, {gpu for run in runs for gpu in run.gpus}
    if vendor and {rank.get("device") for rank in ranks} != {vendor}:
        yield "not all of its ranks ran on GPUs of the vendor that survey.json names"
    if len(models) > 1:
        yield "its cards are of several models, and the tables have calls of equal ones"
    for model in models:
        sheet = sheet_of(model)
        if not GPU_NAME.fullmatch(model):
            yield "the name of its GPU has characters that no driver's name has"
        elif not sheet:
            yield f"{model!r} is no card of reports/advice/specs.toml: add its data sheet first"
        elif vendor and VENDORS[sheet.library] != vendor:
            yield f"{model!r} is no card of the vendor that survey.json names"
    for model, gib in {(rank.get("gpu"), _memory_gib(rank)) for rank in ranks}:
        if model and gib and sheet_of(model) and not any(map(sheet_of, _sized(model, gib))):
            yield (
                f"its {model!r} has {number(gib)} GiB, and no data sheet in specs.toml is of such "
                "a card: add it first"
            )


def bus_id(rank: Any) -> re.Match[str] | None:
    """Its GPU's address, whose first group leaves out the function: of a card that is partitioned
    each part has its own."""
    return BUS_ID.fullmatch(rank.get("pci_bus_id") or "")


def _memory_gib(rank: Any) -> float:
    """The memory of its GPU; 0 where that is unknown, or the host's too."""
    memory_bytes = 0 if rank.get("integrated") else rank.get("memory_bytes")
    return (memory_bytes if isinstance(memory_bytes, int) else 0) / 2**30


def _sized(model: str, gib: float) -> list[str]:
    """A GPU's name with its memory in whole GiB, of which a card of two dies has twice as much."""
    return [f"{model} {round(dies * gib)}GB" for dies in (1, 2)]
