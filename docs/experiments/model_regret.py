"""How well `auto` chooses between GPUs: prints how much longer its choices take than the best build
of a cell, by the model alone and by the suite's tables, as rows of a table in auto.md.

`python -m docs.experiments.model_regret RUN ...` in the project's folder takes all-reduces of two
ranks that share a card, and this card's runs of bench.link, which measured the wire."""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any, NamedTuple

from collectives.choice import ranked, shipped_rows
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import CollectiveCase
from collectives.peer_buffer import ProbeResult, WireSpeed
from collectives.registry import ALGORITHMS
from docs.experiments.suite_tables import Cell, cells_of
from wiretax.record.result import read
from wiretax.record.schema import Result

LINK_BYTES = 16 << 20  # of the transfers that count
RATES = "stores", "loads", "stores_and_loads", "local_copy"
TIMES = "ping_pong", "fenced_stores", "unfenced_stores"
SHARERS = 2  # of the card, whose wire serves both at once; bench.link times one at a time
MULTIPROCESSORS, THREADS, PACK_BYTES = 66, 512, 16  # of each sharer, as kernels/devices/gpu.py
OURS = [each for each in ALGORITHMS["all_reduce"].values() if each.needs_peers]


class Group(NamedTuple):
    """The cells of one kind of memory, variant and mode."""

    memory: str
    variant: str
    mode: str


class Choice(NamedTuple):
    """Of a cell: what a way to choose takes, and its time over that of the best build."""

    size_bytes: int
    name: str
    ratio: float


def wires_of(results: Sequence[Result]) -> dict[tuple[str, str], WireSpeed]:
    """What `wire_speed` would say, by machine and memory: medians over launches and ranks."""
    measured: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for result in results:
        for case in result.cases:
            moves = case.algorithm in RATES and case.size_bytes == LINK_BYTES
            if case.time_us and (moves or case.algorithm in TIMES):
                key = result.run.machine_id, case.memory, case.algorithm
                measured[key].append(case.time_us.median)
    wires = {}
    for machine, memory in sorted({key[:2] for key in measured}):
        us = {name: median(measured[machine, memory, name]) for name in (*RATES[:3], *TIMES)}
        us["local_copy"] = median(measured[machine, "same_device", "local_copy"])
        store, read_, both, own = (LINK_BYTES / 1e3 / us[name] / SHARERS for name in RATES)
        drain_us = us["fenced_stores"] - us["unfenced_stores"]
        wires[machine, memory] = WireSpeed(
            2e3 * us["ping_pong"], store, read_, (own,), both, drain_us
        )
    return wires


def world_over(memory: str, wire: WireSpeed) -> Any:
    """Two ranks that share a card, as far as a choice depends on them."""
    peers = SimpleNamespace(shown=ProbeResult(), wire=wire)
    device = SimpleNamespace(
        is_cpu=False,
        name="cuda",
        most_chunk_bytes=8 << 20,
        blocks_for=lambda size_bytes: min(
            MULTIPROCESSORS, -(-size_bytes // (PACK_BYTES * THREADS))
        ),
    )
    facts = {"ranks": 2, "node": None, "rows": (), "other_memory": (), "memory": memory}
    communicator = SimpleNamespace(hosts=1)
    return SimpleNamespace(
        device=device, communicator=communicator, peers=peers, mapped=peers, **facts
    )


def choices_of(cell: Cell, wire: WireSpeed) -> tuple[Choice, Choice]:
    """The first choice of those that the cell has, by the model alone and with the tables."""
    facts = cell.facts
    world = world_over(facts["memory"], wire)
    count = cell.size_bytes // DATATYPES["float32"].size_bytes
    case = CollectiveCase(
        COLLECTIVES[cell.collective],
        count,
        DATATYPES["float32"],
        "sum",
        send=0,
        receive=0,
        variant=facts["variant"],
        mode=facts["mode"],
    )
    chosen = []
    for rows in ([], shipped_rows()):
        names = (each.name for _, each in ranked(world, case, OURS, rows))
        name = next(name for name in names if name in cell.ratios)
        chosen.append(Choice(cell.size_bytes, name, cell.ratios[name]))
    by_model, by_tables = chosen
    return by_model, by_tables


def choices(results: Sequence[Result]) -> dict[Group, list[tuple[Choice, Choice]]]:
    """Of all cells with a measured wire."""
    pairs = [each for each in results if each.run.world_size == 2 and each.run.gpus]
    wires = wires_of([each for each in pairs if each.run.benchmark == "link"])
    reduced = [each for each in pairs if each.run.benchmark == "allreduce"]
    machines = {each.run.run_id: each.run.machine_id for each in reduced}
    found: dict[Group, list[tuple[Choice, Choice]]] = defaultdict(list)
    for cell in sorted(cells_of(reduced), key=lambda cell: cell.size_bytes):
        wire = wires.get((machines[cell.runs[0]], cell.facts["memory"]))
        if wire:
            group = Group(*(cell.facts[name] for name in Group._fields))
            found[group].append(choices_of(cell, wire))
    return found


def rows_of(found: Mapping[Group, Sequence[tuple[Choice, Choice]]]) -> list[str]:
    """The rows of the table: cells, and the mean and largest regret in percent."""
    rows = []
    for group in sorted(found):
        columns = [
            [100 * (choice.ratio - 1) for choice in ways]
            for ways in zip(*found[group], strict=True)
        ]
        regrets = " | ".join(f"{fmean(each):.1f}, {max(each):.0f}" for each in columns)
        rows.append(f"| {', '.join(group)} | {len(found[group])} | {regrets} |")
    return rows


if __name__ == "__main__":
    print("\n".join(rows_of(choices([read(Path(name)) for name in sys.argv[1:]]))))
