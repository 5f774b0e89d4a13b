"""A run's own figures in the form of published ones, and the sentence under the table of a GPU run
that names what is published."""

import re
from collections.abc import Sequence
from operator import attrgetter

from reports.references.published import Kind, PublishedCall, calls, cards_named, select
from reports.tables.sentences import environment_of, number, shares_places, size_text
from wiretax.common.grouped import grouped
from wiretax.record.case import bus_factor, is_device_kernel
from wiretax.record.schema import Result

THIS_RUN = "this run"
LARGE_BYTES = 1 << 20  # from here on a figure is a bandwidth
COMPARED_BYTES = 32 << 20  # a chunk of prefill: 2,048 tokens of 8192 x 2 bytes


def own_calls(result: Result) -> list[PublishedCall]:
    """The fastest plain call of each size, kind and mode, smaller sizes first; [] unless each rank
    has a GPU of its own, all of one model."""
    ranks = result.run.ranks
    models = {rank.get("gpu") for rank in ranks}
    if len(models) != 1 or None in models or shares_places(ranks):
        return []

    [model] = models
    card = min(cards_named(model), default=model)
    links = environment_of(result.run).get("gpu.links", "")
    slot = re.search(r"PCIe [1-6]( x\d+)?", links)
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
            fabric=slot[0] if slot and not re.search("NVLink|xGMI", links) else "unknown",
            mode="graph" if is_graph else "eager",
            kind=kind,
            library=case.library or case.algorithm,
            collective=case.collective,
            size_bytes=case.size_bytes,
            time_us=case.time_us.median,
            grade="table",
            source=THIS_RUN,
        )
        every.append(call)

    alike = grouped(every, attrgetter("size_bytes", "kind", "mode"))
    return [min(alike[key], key=attrgetter("us")) for key in sorted(alike)]


def amounts(rows: Sequence[PublishedCall]) -> str:
    """`16.7 to 21.5 us`, or from 1 MiB on the busbw, `10.6 to 12.8 GB/s`."""
    is_large = (rows[0].size_bytes or 0) >= LARGE_BYTES
    values = sorted(row.gb_s if is_large else row.us for row in rows)
    ends = dict.fromkeys(map(number, (values[0], values[-1])))
    return f"{' to '.join(ends)} {'GB/s' if is_large else 'us'}"


def published_line(result: Result) -> list[str]:
    """What a library is published to reach on as many of these cards, at the size near 32 MiB that
    both have; [] without such a figure."""
    own = own_calls(result)
    own.sort(key=lambda call: abs((call.size_bytes or 0) - COMPARED_BYTES))
    for call in select(own, kind={"library"}) or own:
        alike = select(
            calls(),
            gpu=cards_named(call.gpu),
            gpus={call.gpus},
            hosts={call.hosts},
            kind={"library"},
            collective={call.collective},
            size_bytes={call.size_bytes},
            mode={call.mode, "unknown"},
        )
        if alike:
            alike = select(alike, generation={call.generation}) or alike
            fabrics = ", ".join(sorted({row.fabric for row in alike}))
            size = size_text(call.size_bytes or 0)
            return [
                f"Published for {call.gpus}x {alike[0].gpu} ({fabrics}): "
                f"{alike[0].library.upper()} {size} {amounts(alike)}; yours {amounts([call])}."
            ]
    return []
