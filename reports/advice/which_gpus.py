"""Which GPUs of a machine to split over, by the JSON of `bench.doctor --json`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from reports.advice.group_times import assumed_groups
from reports.advice.serving import Deployment
from reports.advice.specs import LINKS, SLOTS, CardLink, Gpu, convert
from reports.tables.sentences import counted, number
from wiretax.common.program import BENCH
from wiretax.common.untrusted import printable
from wiretax.record.result import NOT_JSON, ResultError, content_of

MOST_BYTES = 20_000_000
SLOT_WITHIN = 0.03  # the doctor rounds the GB/s of a lane


class Group(msgspec.Struct, frozen=True):
    """GPUs with the path between those two that are joined worst, the driver's status of peer
    access there, and the GB/s of its slowest PCIe link."""

    gpus: tuple[int, ...]
    bus_ids: tuple[str, ...]
    path: str
    status: str
    link_gb_s: float | None = None

    @property
    def name(self) -> str:
        """`GPU 2 and 3`"""
        *most, last = map(str, self.gpus)
        return f"GPU {', '.join(most)} and {last}" if most else f"GPU {last}"

    @property
    def refuses_peers(self) -> bool:
        return self.status not in ("OK", "unknown")

    @property
    def text(self) -> str:
        """How it is joined."""
        speed = f", {number(self.link_gb_s)} GB/s one way" if self.link_gb_s else ""
        refused = ", no peer access" if self.refuses_peers else ""
        return f"{printable(self.path[:80])}{speed}{refused}"


class Machine(msgspec.Struct, frozen=True):
    """A doctor's answer: its GPUs, and the groups by the number of GPUs: the best one and, if that
    is another, the first one."""

    gpus: tuple[Any, ...]
    groups: dict[str, tuple[Group, ...]] = {}


def machine_of(path: Path) -> Machine:
    """Raises ResultError for a file that is not a doctor's."""
    try:
        raw = msgspec.json.decode(content_of(path, most_bytes=MOST_BYTES))
    except NOT_JSON as error:
        raise ResultError(f"{path} is not JSON ({error})") from error
    if not isinstance(raw, dict) or raw.get("command") != "doctor":
        raise ResultError(f"{path} is not what {BENCH}doctor --json prints")
    machine = convert(raw, Machine, str(path))
    for size, groups in machine.groups.items():
        if any(str(len(group.gpus)) != size for group in groups):
            raise ResultError(f"{path}: a group of {printable(size[:20])} names another number")
    return machine


def peer_access_of(path: Path | None, gpus: int) -> str | None:
    """`off` if the driver refuses peer access between the best GPUs of a machine; else None."""
    groups = machine_of(path).groups.get(str(gpus)) if path else None
    return "off" if groups and groups[0].refuses_peers else None


def link_of(path: Path | None, gpus: int, gpu: Gpu) -> CardLink | None:
    """The slots' link if the best GPUs of a machine are joined by PCIe alone, and the data sheet
    has another link between such cards or a faster slot; None if nothing is known or to be
    changed."""
    if path is None or gpus == 1:
        return None
    groups = machine_of(path).groups.get(str(gpus))
    if not groups or not groups[0].path.startswith("PCIe"):
        return None
    slot = slot_of(groups[0], gpu)
    return slot if gpu.peer or slot != LINKS[gpu.slot] else None


def slot_of(group: Group, gpu: Gpu) -> CardLink:
    """The slowest slot of a group: the card's own, or one with fewer GB/s, which has the fabric of
    published figures if the card's generation has slots of so many."""
    own, gb_s = LINKS[gpu.slot], group.link_gb_s or 0
    if not 0 < gb_s < own.gb_s * (1 - SLOT_WITHIN):
        return own
    generation = own.name.partition("x")[0]
    alike = [
        slot
        for slot in SLOTS.values()
        if slot.name.startswith(generation) and abs(slot.gb_s / gb_s - 1) < SLOT_WITHIN
    ]
    return CardLink(
        name="the slowest slot",
        fabric=alike[0].fabric if alike else "PCIe",
        gb_s=gb_s,
        source=f"{BENCH}doctor",
    )


def text_of(path: Path, load: Deployment) -> list[str]:
    """Which GPUs to take, what those reach that programs take by themselves, and whether one GPU
    would do. Raises ResultError for a machine with fewer GPUs."""
    machine, n = machine_of(path), load.gpus // load.nodes
    if load.gpus == 1:
        return []
    if len(machine.gpus) < n:
        raise ResultError(f"{path} names {counted(len(machine.gpus), 'GPU')}, not {n}")
    groups = machine.groups.get(str(n))
    if not groups:
        return []

    best, *first = groups
    ids = " ".join(printable(each[:20]) for each in best.bus_ids)
    sentence = f"Which GPUs: {best.name} ({ids}), joined by {best.text}"
    for other in first:
        sentence += f"; not {other.name}, which programs take by themselves: {other.text}"
        if other.path.startswith("PCIe") and not best.path.startswith("PCIe"):
            slot = assumed_groups(n, load.gpu, link=slot_of(other, load.gpu))
            there = replace(load, times=slot.all_reduces(n, 1), groups=slot)
            token_ms = there.figures["token_us"].value / 1e3
            sentence += f", where TP {n} takes at least {number(token_ms)} ms a token"
    alone = replace(load, tensor=1)
    if not alone.obstacle:
        token_ms = alone.figures["token_us"].value / 1e3
        sentence += f". Or TP 1: one GPU alone fits, at least {number(token_ms)} ms a token"
    return [f"{sentence}."]
