"""A run's own figures in the form of published ones, and the sentence under the table of a GPU run
that names what is published."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from statistics import median
from typing import Any

import msgspec

from reports.references.published import (
    Kind,
    PublishedCall,
    Transport,
    calls,
    cards_named,
    select,
    votes,
)
from reports.tables.sentences import counted, environment_of, number, shares_places, size_text
from wiretax.common.grouped import grouped
from wiretax.record.case import bus_factor, is_device_kernel
from wiretax.record.schema import Case, Result, Run

THIS_RUN = "this run"
LARGE_BYTES = 1 << 20  # from here on a figure is a bandwidth
COMPARED_BYTES = 32 << 20  # a chunk of prefill: 2,048 tokens of 8192 x 2 bytes
# In a sentence, how the bytes went.
WAYS: Mapping[str, str] = {
    "p2p": "through peer access",
    "host memory": "through host memory",
    "nvls": "by NVLink SHARP",
    "network": "through the network",
    "unknown": "transport not printed",
}
# How NCCL's log begins the names of its transports; within one host NET stages in host memory too.
STAGED, DIRECT = ("SHM", "direct shared", "NET"), ("P2P",)


def own_calls(result: Result) -> list[PublishedCall]:
    """The fastest plain call of each size, kind, mode and transport, smaller sizes first; [] unless
    each rank has a GPU of its own, all of one model."""
    every = [call for _, call in plain_calls(result)]
    alike = grouped(every, attrgetter("size_bytes", "kind", "mode", "transport"))
    return [min(alike[key], key=attrgetter("us")) for key in sorted(alike)]


def plain_calls(result: Result) -> list[tuple[Case, PublishedCall]]:
    """Each plain call with its case, in the order of the run; [] as `own_calls`."""
    ranks = result.run.ranks
    models = {rank.get("gpu") for rank in ranks}
    if len(models) != 1 or None in models or shares_places(ranks):
        return []

    [model] = models
    card, fabric = min(cards_named(model), default=model), fabric_of(result.run)
    every = []
    for case in result.cases:
        is_plain = case.size_bytes and bus_factor(case.collective, len(ranks)) and not case.shape
        if case.status != "ok" or not case.time_us or not is_plain:
            continue
        kind: Kind = "lossy" if "quantized" in case.algorithm else "tuned"
        if case.algorithm.endswith("library") and not is_device_kernel(case):
            kind = "library"
        is_graph = case.mode == "chained" and result.run.method.get("graph")
        call = PublishedCall(
            machine=THIS_RUN,
            gpu=card,
            gpus=len(ranks),
            hosts=result.run.hosts,
            fabric=fabric,
            transport=transport_of(result.run, case, kind),
            mode="graph" if is_graph else "eager",
            kind=kind,
            library=case.library or case.algorithm,
            collective=case.collective,
            size_bytes=case.size_bytes,
            time_us=case.time_us.median,
            grade="table",
            source=THIS_RUN,
        )
        every.append((case, call))
    return every


def fabric_of(run: Run) -> str:
    """`PCIe 4 x8`, the slowest of the slots; `unknown` of other links or without one."""
    links = environment_of(run).get("gpu.links", "")
    if re.search("NVLink|xGMI", links):
        return "unknown"
    slots = re.findall(r"PCIe ([1-6])(?: x(\d+))?", links)
    if not slots:
        return "unknown"
    # A generation doubles the rate of a lane.
    generation, lanes = min(slots, key=lambda slot: int(slot[1] or 16) << int(slot[0]))
    return f"PCIe {generation} x{lanes}" if lanes else f"PCIe {generation}"


def spans_sockets(run: Run) -> int | None:
    """How many sockets the GPUs of a run are on, as far as their paths tell: 2, 1 or None."""
    links = environment_of(run).get("gpu.links", "")
    if "across sockets" in links:
        return 2
    is_one = re.search("same switch|same root complex|of one socket", links)
    return 1 if is_one and "unknown" not in links else None


class LibraryHead(msgspec.Struct):
    """Of the head of a run: by communicator and pair of ranks the transports that its log names;
    the variables that Wiretax set for it, and those that a file of its own sets."""

    transports: dict[str, dict[str, list[str]]] = {}
    set_by_wiretax: dict[str, str] = {}
    set_by_file: dict[str, str] = {}


def transport_of(run: Run, case: Case, kind: Kind) -> Transport:
    """What carried a case: of our kernels by the memory they used, of a library by its log."""
    if run.hosts is None:
        return "unknown"
    if run.hosts > 1:
        return "network"
    if kind != "library":
        memory: dict[str, Transport] = {"mapped": "p2p", "host_staged": "host memory"}
        # An imported log does not say which memory was used.
        return "unknown" if run.imported_from else memory.get(case.memory, "unknown")
    if (case.chosen or "").startswith("NVLS"):
        return "nvls"
    ways = library_ways(run)
    if any(way.startswith(STAGED) for way in ways):
        return "host memory"
    return "p2p" if ways and all(way.startswith(DIRECT) for way in ways) else "unknown"


def library_ways(run: Run) -> set[str]:
    """The transports of a run's library, such as `P2P/IPC` and `SHM/direct`."""
    pairs = [names for each in library_of(run).transports.values() for names in each.values()]
    return {name for names in pairs for name in names}


def library_of(run: Run) -> LibraryHead:
    """What a run says of its library; nothing if that has another form."""
    with suppress(msgspec.ValidationError):
        return msgspec.convert(run.world.get("library"), LibraryHead)
    return LibraryHead()


def fabric_at(row: PublishedCall, size_bytes: int) -> str:
    """The fabric as far as it matters at a size: eight lanes are half the bandwidth of sixteen, and
    about the same latency."""
    return row.fabric if size_bytes >= LARGE_BYTES else row.generation


def is_alike(fabric: str, other: str) -> bool:
    """Whether two fabrics may be one: what one source leaves out, such as lanes, may be alike."""
    return f"{fabric} ".startswith(f"{other} ") or f"{other} ".startswith(f"{fabric} ")


def by_way(rows: Sequence[PublishedCall]) -> dict[str, list[PublishedCall]]:
    """The rows by transport and fabric, as `way_of` names both: others are not compared."""
    return grouped(rows, way_of)


def way_of(row: PublishedCall) -> str:
    """`through peer access over PCIe 4 x8`; of a short message without the lanes."""
    fabric = fabric_at(row, row.size_bytes or 0)
    over = "" if fabric in ("unknown", "none", "network") else f"over {fabric}"
    is_slot = row.transport != "unknown" or not over or fabric.startswith("PCIe")
    # An NVLink or xGMI needs no word on its transport.
    texts = (WAYS[row.transport] if is_slot else "", over)
    if row.transport == "unknown":
        return ", ".join(filter(None, reversed(texts)))
    return " ".join(filter(None, texts))


def amounts(rows: Sequence[PublishedCall]) -> str:
    """`16.7 to 21.5 us`, or from 1 MiB on the busbw, `10.6 to 12.8 GB/s`."""
    is_large = (rows[0].size_bytes or 0) >= LARGE_BYTES
    values = sorted(row.gb_s if is_large else row.us for row in rows)
    ends = dict.fromkeys(map(number, (values[0], values[-1])))
    return f"{' to '.join(ends)} {'GB/s' if is_large else 'us'}"


def summary(rows: Sequence[PublishedCall]) -> str:
    """`10.6 to 12.8 GB/s, median 11.7 (2 machines, 11 rows)`; the median is over machines."""
    is_large = (rows[0].size_bytes or 0) >= LARGE_BYTES
    voters = votes(rows, attrgetter("gb_s" if is_large else "us"))
    middle = f", median {number(median(voters.values()))}" if len(voters) > 1 else ""
    return f"{amounts(rows)}{middle} ({counts(rows)})"


def counts(rows: Sequence[Any]) -> str:
    """`2 machines, 11 rows`."""
    machines = counted(len({row.machine for row in rows}), "machine")
    return f"{machines}, {counted(len(rows), 'row')}"


def published_line(result: Result) -> list[str]:
    """What a library is published to reach on as many of these cards, at the size near 32 MiB that
    both have, each transport and fabric for itself; [] without such a figure."""
    own = own_calls(result)
    own.sort(key=lambda call: abs((call.size_bytes or 0) - COMPARED_BYTES))
    for call in select(own, kind={"library"}) or own:
        size = call.size_bytes or 0
        rows = select(
            calls(),
            gpu=cards_named(call.gpu),
            gpus={call.gpus},
            hosts={call.hosts},
            kind={"library"},
            collective={call.collective},
            size_bytes={size},
            mode={call.mode, "unknown"},
            is_history={False},
        )
        if call.transport != "unknown":
            rows = select(rows, transport={call.transport}) or select(rows, transport={"unknown"})
        if call.fabric != "unknown":
            rows = [row for row in rows if is_alike(row.fabric, call.fabric)] or rows
        if rows:
            texts = [f"{summary(alike)} {way}".rstrip() for way, alike in by_way(rows).items()]
            return [
                f"Published for {call.gpus}x {rows[0].gpu}: {rows[0].library.upper()} "
                f"{size_text(size)} {'; '.join(texts)}. Yours: {amounts([call])}."
            ]
    return []
