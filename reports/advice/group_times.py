"""The messages of a group of GPUs that is smaller than all of them, or lies on several nodes:
all-reduces of a tensor split, hand-offs of a pipeline, all-to-alls of split experts."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from statistics import median

from reports.advice.reduce_times import (
    BENCHMARKS,
    SMALL,
    ReduceTimes,
    assumed_times,
    measured_times,
    read_launches,
    spans_of,
    wire_factor,
)
from reports.advice.spans import Span
from reports.advice.specs import CardLink, Gpu, link_between
from reports.advice.wire import Wire
from reports.references.published import calls, select, votes
from reports.tables.beside_published import COMPARED_BYTES
from reports.tables.sentences import counted
from wiretax.common.grouped import grouped
from wiretax.record.manifest import files_of
from wiretax.record.result import ResultError, read

Times = Callable[[float], Span]


@dataclass
class GroupTimes:
    """The times of messages by their bytes: of the all-reduces of so many GPUs on so many nodes, of
    the hand-offs between two GPUs of so many nodes, and of the all-to-alls like the all-reduces.
    `measured` and `measured_exchanges` name the groups whose own times were measured."""

    all_reduces: Callable[[int, int], ReduceTimes]
    hand_offs: Callable[[int], ReduceTimes]
    exchanges: Callable[[int, int], Times]
    measured: Collection[tuple[int, int]] = ()
    measured_exchanges: Collection[tuple[int, int]] = ()


def network_times(gpus: int, gpu: Gpu, link: CardLink, nodes: int) -> ReduceTimes:
    """All-reduces of so many GPUs on so many nodes by what others published: of several GPUs of a
    node over its NVLink or xGMI and a network; else over a network alone, and those within a node
    before it. Raises ResultError if nobody published any."""
    if gpus > nodes and (link.fabric.startswith("PCIe") or link.most_gpus == 2):
        within = assumed_times(gpus // nodes, gpu, link)
        return in_turn(gpus, within, network_times(nodes, gpu, link, nodes))

    fabric = f"{link.fabric} + network" if gpus > nodes else "network"
    rows = select(calls(), collective={"all_reduce"}, library={gpu.library}, fabric={fabric})
    rows = [row for row in rows if (row.hosts or 0) > 1]
    rows = select(rows, valid_until={""}) or rows  # old figures only where there are no others
    name = gpu.library_name
    spans, texts = list[Span](), list[str]()
    for least, most, unit in ((1, SMALL, "us"), (COMPARED_BYTES / 2, COMPARED_BYTES * 2, "GB/s")):
        near = [row for row in rows if least <= (row.size_bytes or 0) <= most]
        if not near:
            raise ResultError(f"nobody published all-reduces of {name} over {fabric}: name a --run")

        value_of = attrgetter("us" if unit == "us" else "gb_s")
        values = [*map(value_of, near)]
        typical = median(votes(near, value_of).values())
        spans.append(Span(typical, min(values), max(values)))
        texts.append(f"{spans[-1].text(f' {unit}')} by {counted(len(near), 'figure')}")

    source = (
        f"ASSUMED between nodes, not measured: a latency of {texts[0]}, and from there on "
        f"{texts[1]}, published of {name}, eager, over {fabric} (docs/references.md)"
    )
    return ReduceTimes(gpus, source, {SMALL: spans[0]}, spans[1], hosts=nodes)


def in_turn(gpus: int, within: ReduceTimes, across: ReduceTimes) -> ReduceTimes:
    """All-reduces within nodes and then between them."""
    assert within.gb_s
    assert across.gb_s
    us_of_a_kb = wire_factor(within.gpus) / within.gb_s + wire_factor(across.gpus) / across.gb_s
    return ReduceTimes(
        gpus,
        f"{across.source}; and before it within a node, {within.source}",
        {SMALL: within.spans[SMALL] + across.spans[SMALL]},
        wire_factor(gpus) / us_of_a_kb,
        hosts=across.hosts,
    )


def exchange_share() -> tuple[Span, int]:
    """How much of an all-reduce an all-to-all of the same bytes takes, where others published both
    of one machine and library at one size: the median over machines, the least and the most, and
    the number of figures. A two-shot all-reduce begins with such an exchange."""
    rows = [row for row in calls() if row.size_bytes]
    reduces = grouped(
        select(rows, collective={"all_reduce"}),
        lambda row: (row.machine, row.library, row.size_bytes),
    )
    shares = dict[str, list[float]]()
    for row in select(rows, collective={"alltoall"}):
        of_machine = reduces.get((row.machine, row.library, row.size_bytes), [])
        if of_machine:
            share = row.us / median(each.us for each in of_machine)
            shares.setdefault(row.machine, []).append(share)
    values = [share for own in shares.values() for share in own]
    return Span(median(map(median, shares.values())), min(values), max(values)), len(values)


def assumed_groups(gpus: int, gpu: Gpu, nodes: int = 1, link: CardLink | None = None) -> GroupTimes:
    """Times by what others published. A `link` that is named joins the GPUs of a node in place of
    their own."""
    a_node = gpus // nodes

    @cache
    def all_reduces(group: int, on_nodes: int) -> ReduceTimes:
        if on_nodes > 1:
            return network_times(group, gpu, link or link_between(gpu, a_node), on_nodes)
        return assumed_times(group, gpu, link or link_between(gpu, group))

    @cache
    def hand_offs(on_nodes: int) -> ReduceTimes:
        """Over the link that joins all GPUs of a node, and not the bridge of two."""
        if on_nodes > 1:
            return all_reduces(2, 2)
        return assumed_times(2, gpu, link or link_between(gpu, a_node))

    return GroupTimes(all_reduces, hand_offs, as_exchanges(all_reduces))


def as_exchanges(all_reduces: Callable[[int, int], ReduceTimes]) -> Callable[[int, int], Times]:
    """All-to-alls by their share of all-reduces."""

    def exchanges(group: int, on_nodes: int) -> Times:
        share, _ = exchange_share()
        return lambda size_bytes: share * all_reduces(group, on_nodes)(size_bytes)

    return exchanges


def runs_by_ranks(
    names: Iterable[str | Path], collective: str, gpus: int, nodes: int
) -> dict[tuple[int, int], list[Path]]:
    """The files of the runs of a collective by their ranks and nodes. A log that does not say its
    ranks has all GPUs, and one that does not say its hosts has as many as its ranks need. Raises
    ResultError for a run on too few or too many hosts."""
    found = dict[tuple[int, int], list[Path]]()
    for result in (read(file) for name in names for file in files_of(name)):
        run = result.run
        if run.benchmark != BENCHMARKS[collective]:
            continue
        ranks = run.world_size or gpus
        needed = max(1, ranks * nodes // gpus)
        hosts = (run.hosts or needed) if nodes > 1 else 1
        if ranks == gpus and hosts != needed:
            raise ResultError(f"{result.path} ran on {counted(hosts, 'host')}, not on {nodes}")
        found.setdefault((ranks, hosts), []).append(result.path)
    return found


def lacks_runs(names: Sequence[str | Path], gpus: int, nodes: int, others: Collection[int]) -> bool:
    """Whether the runs are of other numbers of GPUs, which also are asked about, and not of this
    one."""
    ranks = {ranks for ranks, _ in runs_by_ranks(names, "all_reduce", gpus, nodes)}
    return gpus not in ranks and bool(ranks & {*others})


def measured_groups(
    names: Sequence[str | Path], gpus: int, gpu: Gpu, nodes: int, link: CardLink
) -> tuple[ReduceTimes, GroupTimes]:
    """The all-reduces of all GPUs by the runs of so many ranks, and those of groups: by runs of as
    many ranks on as many nodes, or, as an upper bound, by the next larger ones on as many nodes, or
    else by what others published. All-to-alls are by runs of bench.alltoall, if there are any.
    Raises ResultError for runs that are wrong, or none of so many ranks."""
    found = runs_by_ranks(names, "all_reduce", gpus, nodes)
    measured = dict[tuple[int, int], ReduceTimes]()
    for ranks, hosts in {(gpus, nodes): [], **found}:
        launches = read_launches(found.get((ranks, hosts), names), ranks)
        if launches.wrong:
            raise ResultError(f"{', '.join(launches.wrong)} failed or has wrong results")
        measured[ranks, hosts] = measured_times(launches, ranks, gpu, link)

    exchanges = dict[tuple[int, int], ReduceTimes]()
    for (ranks, hosts), files in runs_by_ranks(names, "alltoall", gpus, nodes).items():
        launches = read_launches(files, ranks, collective="alltoall")
        if launches.wrong:
            raise ResultError(f"{', '.join(launches.wrong)} failed or has wrong results")
        if launches.times.empty:
            raise ResultError(f"{files[0]} lacks an all-to-all of auto or a library by its size")
        exchanges[ranks, hosts] = ReduceTimes(ranks, "measured", spans_of(launches, "cost_us"))

    published = assumed_groups(gpus, gpu, nodes, link)

    def all_reduces(group: int, on_nodes: int) -> ReduceTimes:
        return at_most(measured, group, on_nodes) or published.all_reduces(group, on_nodes)

    def hand_offs(on_nodes: int) -> ReduceTimes:
        return at_most(measured, 2, on_nodes) or published.hand_offs(on_nodes)

    assumed_exchanges = as_exchanges(all_reduces)

    def all_to_alls(group: int, on_nodes: int) -> Times:
        return exchanges.get((group, on_nodes)) or assumed_exchanges(group, on_nodes)

    groups = GroupTimes(all_reduces, hand_offs, all_to_alls, set(measured), set(exchanges))
    return measured[gpus, nodes], groups


def at_most(
    measured: Mapping[tuple[int, int], ReduceTimes], gpus: int, nodes: int
) -> ReduceTimes | None:
    """The measured times of the fewest GPUs on these nodes that are no fewer; None without."""
    enough = [(ranks, hosts) for ranks, hosts in measured if ranks >= gpus and hosts == nodes]
    return measured[min(enough)] if enough else None


def wire_groups(wire: Wire, gpus: int, token_bytes: int) -> GroupTimes:
    """The times of groups of GPUs over a wire, of which no more share a link
    than a group has."""

    @cache
    def times(group: int, on_nodes: int = 1) -> ReduceTimes:
        shared = wire.cards if group == gpus else min(wire.cards, group)
        return wire._replace(cards=shared).times(group, token_bytes)

    return GroupTimes(times, lambda on_nodes: times(2), as_exchanges(times))
