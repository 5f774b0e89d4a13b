"""What published all-reduces of the owners whose rows may set constants say of each way between
cards: see `ways`."""

from collections.abc import Callable, Sequence
from statistics import median

from reports.advice.likely import Way, way_of
from reports.advice.reduce_times import SMALL
from reports.advice.specs import LINKS, CardLink, Gpu, link_between, sheet_of
from reports.references.pairs import may_fit, owner_of
from reports.references.published import PublishedCall, calls, select
from reports.tables.beside_published import COMPARED_BYTES
from wiretax.common.grouped import grouped

LEAST_OWNERS = 2  # of a way
MOST_CARDS = 4  # whose latencies count: what more ranks take is a parameter of its own


def ways() -> dict[str, Way]:
    """By way the median over machines of a library's latency up to 32 KiB, eager or not, and of the
    share of the data sheet that large all-reduces reach. PCIe of which a source does not say
    otherwise has peer access. A way that one owner filled has the figures of all PCIe."""
    rows = select(calls(), collective={"all_reduce"}, kind={"library"})
    rows = [row for row in rows if may_fit(owner_of(row.machine, row.source))]
    rows = [row for row in rows if "+" not in row.fabric and row.size_bytes]
    one_host = [row for row in rows if (row.hosts or 1) == 1 or row.fabric == "network"]
    by_way = grouped(
        [
            row
            for row in one_host
            if row.fabric.split(" ")[0] in ("PCIe", "NVLink", "xGMI", "network")
        ],
        lambda row: way_of(row.fabric, row.transport != "host memory"),
    )
    pcie = [*by_way["peers"], *by_way["host"]]
    small = {way: [row for row in own if is_small(row)] for way, own in by_way.items()}
    large = {way: [row for row in own if share(row)] for way, own in by_way.items()}
    wider = [row for row in pcie if is_small(row)], [row for row in pcie if share(row)]
    return {
        way: Way(
            typical(small[way], wider[0], lambda row: row.us),
            typical(large[way], wider[1], lambda row: share(row) or 0),
        )
        for way in sorted(by_way)
    }


def is_small(row: PublishedCall) -> bool:
    return (row.size_bytes or 0) <= SMALL and row.gpus <= MOST_CARDS


def link_called(fabric: str, gpu: Gpu | None, gpus: int) -> CardLink | None:
    """The link of a fabric's name, with 16 lanes if the source names none: that between these cards
    if it is such a one. None if no data sheet here has it."""
    names = fabric, f"{fabric} x16"
    own = [link_between(gpu, gpus)] if gpu else []
    return next((link for link in (*own, *LINKS.values()) if link.fabric in names), None)


def share(row: PublishedCall) -> float | None:
    """Of the data sheet, of a large all-reduce."""
    link = link_called(row.fabric, sheet_of(row.gpu), row.gpus)
    if not link or (row.size_bytes or 0) < COMPARED_BYTES / 2:
        return None
    return min(1.0, row.gb_s / link.total_gb_s(row.gpus))


def typical(
    rows: Sequence[PublishedCall],
    wider: Sequence[PublishedCall],
    value_of: Callable[[PublishedCall], float],
) -> float:
    owners = {owner_of(row.machine, row.source) for row in rows}
    counted = rows if len(owners) >= LEAST_OWNERS else wider
    machines = grouped(counted, lambda row: row.machine).values()
    return median(median(map(value_of, own)) for own in machines)
