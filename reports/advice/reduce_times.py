"""All-reduce times by message size: from launches or from published figures.

Up to 512 KiB the time is the mean of a chain of dependent calls, which a decode step pays; above
it, a single call and the reading of its result."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from reports.advice.spans import Span
from reports.advice.specs import GPUS, LINKS, CardLink, Gpu, link_between, sheet_of
from reports.references.published import PublishedCall, calls, select
from reports.tables.beside_published import COMPARED_BYTES, LARGE_BYTES, amounts
from reports.tables.sentences import (
    counted,
    left_out_lines,
    number,
    shares_places,
    size_text,
    some,
    start_time,
)
from reports.trends.alpha_beta import LATENCY_BOUND_BYTES
from reports.verdicts.sides import copies_among, faults_of_runs
from wiretax.common.grouped import grouped
from wiretax.common.program import BENCH, REPORTS
from wiretax.record.case import BUS_FACTORS, CASE_KEY, UNKNOWN
from wiretax.record.folder import WRONG, in_order
from wiretax.record.manifest import files_of
from wiretax.record.observations import MIN_BLOCKS, Entry, alike_of, entry_of, in_one_state, table
from wiretax.record.result import ResultError, read
from wiretax.record.schema import Result

LEAST_LAUNCHES, CONFIDENCE = 5, 0.95  # of an interval
SMALL = 32 << 10  # bytes; published times up to here are latencies
LEAST_MACHINES = 3  # of which a published figure is typical
BENCHMARKS = {"all_reduce": "allreduce", "alltoall": "alltoall"}  # by their collectives
NETWORK = "network"  # the fabric between hosts with one GPU each
STAGED = "host memory"  # the transport without peer access
RENAMED = "a run once more, with another run_id"
DOWN = 0.5  # share of a link's bandwidth below which the link counts as down
HALF_TYPES = "float16", "bfloat16"  # the types of activations, chosen before other types
# Of n GPUs the bytes that each sends per message byte, 2 (n-1) / n: the minimum of any all-reduce
# (Patarasuk and Yuan, JPDC 69:2, 2009).
wire_factor = BUS_FACTORS["all_reduce"]


@dataclass
class AllReduceLaunches:
    """All-reduces of one machine: its runs that count; the names of runs with wrong results; why
    its runs cannot vouch for it (`faults`); sentences on runs that do not count. `times` has a row
    for each launch and size: `run` (its place in `runs`), `size_bytes`, `cost_us` with reading the
    result, `time_us` of the collective alone, and the fields of its key. `calls` has the same rows
    of single calls, also of runs in another state of the link: `run` is a place in `stored`."""

    runs: Sequence[Entry]
    wrong: list[str]
    faults: list[str]
    notes: list[str]
    times: pd.DataFrame
    confidence: float  # of their intervals
    stored: Sequence[Result]
    calls: pd.DataFrame

    @property
    def have_intervals(self) -> bool:
        return len(self.runs) >= LEAST_LAUNCHES


def read_launches(
    names: Iterable[str | Path],
    gpus: int,
    confidence: float = CONFIDENCE,
    collective: str = "all_reduce",
) -> AllReduceLaunches:
    """The all-reduces, or all-to-alls, of the runs, folders and globs with these names. Raises
    ResultError for a name without a run, and for those over another number of ranks, on several
    machines, or of a log that does not name its collective."""
    names = [*names]
    results = [read(file) for name in names for file in files_of(name)]
    benchmark = BENCHMARKS[collective]
    # A survey's archive has a link's run too, which may be cut short without harm to these.
    own = [result for result in results if result.run.benchmark == benchmark]
    unnamed = [result.path for result in results if result.run.benchmark == UNKNOWN]
    if unnamed and not own:
        raise ResultError(
            f"{unnamed[0]} does not say which collective it measured: import its log again with "
            f"--collective {collective}"
        )
    faults = faults_of_runs(own, " ".join(map(str, names)))
    entries = in_order(map(entry_of, results))
    wrong = [entry.run.run_id for entry in entries if entry.left_out == WRONG]
    notes = left_out_lines((entry.path, entry.left_out) for entry in entries)
    runs = [run for run in entries if not run.left_out and run.run.benchmark == benchmark]
    kinds = dict[Any, str]()
    for run in runs:
        ranks = run.run.world_size
        if ranks not in (0, gpus):
            raise ResultError(f"{run.path} is a run of {ranks} ranks, not of {gpus}")
        kinds[alike_of(run)] = f"{run.path}, {start_time(run.run)},"

    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        raise ResultError(
            f"{first} and {second} are of several machines, benchmarks or methods; to say that "
            f"logs without a GPU's name are of one: {REPORTS} import --machine NAME"
        )

    counting = {run.path for run in runs}
    files = {each.path: each for each in results}  # a file that is named twice is no copy
    for _, *once_more in copies_among([each for path, each in files.items() if path in counting]):
        paths = {copy.path for copy in once_more}
        runs = [run for run in runs if run.path not in paths]
        notes += left_out_lines((path, RENAMED) for path in sorted(paths))

    stored, calls = [files[run.path] for run in runs], one_way(runs, collective, "isolated")
    runs, others = in_one_state(runs)
    times, notes = one_way(runs, collective), [*notes, *others]
    return AllReduceLaunches(runs, wrong, faults, notes, times, confidence, stored, calls)


def one_way(
    runs: Sequence[Entry],
    collective: str,
    mode: str | None = None,
    names: Sequence[str] = ("auto", "library"),
) -> pd.DataFrame:
    """A row for each launch and each size that all launches have, measured in one way: if possible
    in a 16-bit type, by an algorithm among `names` (`auto` before the library), out of place, in
    the mode that fits the size, or in this one, and in registered buffers, as engines do. Times do
    not choose: the fastest of several would look too fast. Of another harness any algorithm will
    do."""
    rows, planned = table(runs)
    rows = rows.join(pd.DataFrame([*planned], columns=CASE_KEY), on="key")
    if any(run.run.imported_from for run in runs):
        names = [*rows.algorithm]
    is_sum = (rows.collective == collective) & rows.redop.isin(["sum", "none"])
    is_plain = is_sum & rows["shape"].isna() & rows.algorithm.isin(names)
    rows = rows[is_plain & (rows.size_bytes > 0)]
    if mode:
        rows = rows[rows["mode"] == mode]
    rows["other_type"] = ~rows.datatype.isin(HALF_TYPES)
    rows["other_mode"] = (rows["mode"] == "chained") != (rows.size_bytes <= LATENCY_BOUND_BYTES)
    rows["copied"] = rows.variant != "registered"
    rows = rows[rows.groupby("key")["run"].transform("nunique") == len(runs)]
    order = ["other_type", "algorithm", "in_place", "other_mode", "copied", "key"]
    best = rows.sort_values(order).drop_duplicates("size_bytes")
    return rows[rows.key.isin(best.key)]


@dataclass
class ReduceTimes:
    """All-reduce times over `gpus` ranks; call it with a message size in bytes for microseconds.
    `spans` has the times by size, `gb_s` the busbw of what is larger if none of them tells it.
    `source` describes the origin in one line, `notes` say why it may not apply. Ranks on several
    `hosts` (None: unknown) use a network."""

    gpus: int
    source: str
    spans: dict[int, Span] = field(default_factory=dict)
    gb_s: Span | None = None
    notes: list[str] = field(default_factory=list)
    hosts: int | None = 1

    @property
    def is_assumed(self) -> bool:
        return not self.source.startswith("measured")

    @property
    def are_of_these_cards(self) -> bool:
        """Whether they were measured, or are predicted from a wire: published of others are not."""
        return self.source.startswith(("measured", "PREDICTED"))

    def __call__(self, size_bytes: float) -> Span:
        return self.look_up(size_bytes)[0]

    def look_up(self, size_bytes: float) -> tuple[Span, str]:
        """The time, and a suffix that names its origin if it was not measured at this size. Times
        are linear between sizes, in logarithms, and constant below the smallest. Beyond the largest
        they grow with the bytes, by `gb_s` or as the largest does."""
        sizes = sorted(self.spans)
        if size_bytes in sizes:
            return self.spans[int(size_bytes)], ""

        if size_bytes < sizes[0]:
            return self.spans[sizes[0]], f", as up to {size_text(sizes[0])}"

        largest, largest_us = sizes[-1], self.spans[sizes[-1]]
        if size_bytes < largest:
            times_us = [msgspec.structs.astuple(self.spans[size]) for size in sizes]
            logs_us = [
                np.interp(np.log(size_bytes), np.log(sizes), ends) for ends in np.log(times_us).T
            ]
            return Span(*np.exp(logs_us).tolist()), " between measured sizes"

        origin = f", ASSUMED to grow with the bytes from {size_text(largest)} on"
        if self.gb_s is None:
            return largest_us * size_bytes / largest, origin

        more_bytes = wire_factor(self.gpus) * (size_bytes - largest)
        return largest_us + more_bytes / self.gb_s / 1e3, origin


def all_reduces(
    least_bytes: float, most_bytes: float, **values: Collection[str]
) -> list[PublishedCall]:
    """All-reduces of these sizes that others measured within one machine, or over a network with
    one GPU a host."""
    rows = select(calls(), collective={"all_reduce"}, **values)
    return [
        row
        for row in rows
        if least_bytes <= (row.size_bytes or 0) <= most_bytes
        and row.hosts == (row.gpus if row.fabric == NETWORK else 1)
    ]


def typical(
    gpus: int, gpu: Gpu, link: CardLink, least_bytes: float, most_bytes: float, unit: str
) -> tuple[Span, str]:
    """The us or the GB/s that others measured over a fabric by the GPU's library, and `53 figures
    over PCIe`: the median over machines, then the least and the most, of small calls also by tuned
    kernels, and only as engines make them, not eager, unless all are. The fabric is the link's, or
    the nearest over which enough machines had the library. Raises ResultError if none had."""
    is_small, name = least_bytes < SMALL, gpu.library_name
    rows = all_reduces(least_bytes, most_bytes)
    of_library = select(rows, library={gpu.library})
    staged = select(of_library, transport={STAGED})
    over_slots = link.fabric.startswith("PCIe")
    if over_slots and gpu.peer_access and gpu.peer_access_asked:
        rows = [row for row in rows if row.transport != STAGED]
        of_library = [row for row in of_library if row.transport != STAGED]
    counting = [
        row
        for row in rows
        if (row.library == gpu.library or (is_small and row.kind == "tuned"))
        and not (is_small and row.mode == "eager")
    ]
    if over_slots and not gpu.peer_access and (is_small or (gpu.peer_access_asked and staged)):
        counting = of_library = staged  # the driver joins slots by host memory alone
    eager = of_library if is_small else []
    found, machines, fabric = _nearest(counting, gpu.library, link.fabric)
    are_eager = not machines
    if are_eager:
        found, machines, fabric = _nearest(eager, gpu.library, link.fabric)
    if not machines:
        sizes = f"from {size_text(int(least_bytes))} to {size_text(int(most_bytes))}"
        raise ResultError(f"nobody published {name} {sizes} over {fabric}, which {link.name} is")

    def value_of(row: PublishedCall) -> float:
        """By links as good as the row's, of which a mesh has one for each peer."""
        links = link.total_gb_s(gpus) / link.total_gb_s(row.gpus)
        return row.us if unit == "us" else row.gb_s * links

    medians = [median(map(value_of, own)) for own in machines.values()]
    values = [*map(value_of, found)]
    span = Span(median(medians), min(values), max(values))
    sent = [row.sender for row in found if row.archive]
    whose = f" ({len(sent)} sent by {some([*dict.fromkeys(sent)])})" if sent else ""
    return span, f"{len(found)} {'eager ' * are_eager}figures over {fabric}{whose}"


def _nearest(
    rows: Sequence[PublishedCall], library: str, fabric: str
) -> tuple[list[PublishedCall], dict[str, list[PublishedCall]], str]:
    """The rows over this fabric, those of the library by machine, and the fabric: without its
    lanes, then without its generation, if too few machines had the library over it."""
    while True:
        found = [row for row in rows if f"{row.fabric} ".startswith(f"{fabric} ")]
        machines = grouped(select(found, library={library}), lambda row: row.machine)
        if len(machines) >= LEAST_MACHINES or " " not in fabric:
            return found, machines, fabric
        fabric = fabric.rpartition(" ")[0]


def assumed_us(gpus: int, gpu: Gpu, link: CardLink, size_bytes: int = SMALL) -> tuple[Span, str]:
    """The us of an all-reduce as others published it, and its origin: up to SMALL one latency of
    all these sizes, and above it the times of half to twice the size, at least what its bytes take
    on the link. Raises ResultError if nobody published one."""
    if size_bytes <= SMALL:
        return typical(gpus, gpu, link, 1, SMALL, "us")
    span, figures = typical(gpus, gpu, link, size_bytes / 2, size_bytes * 2, "us")
    return span.at_least(_wire_us(gpus, link, size_bytes)), figures


def assumed_gb_s(
    gpus: int, gpu: Gpu, link: CardLink, size_bytes: int = COMPARED_BYTES
) -> tuple[Span, str]:
    """The busbw of half to twice this size, which no link exceeds, and its origin. Raises
    ResultError if nobody published one."""
    span, figures = typical(gpus, gpu, link, size_bytes / 2, size_bytes * 2, "GB/s")
    return span.at_most(link.total_gb_s(gpus)), figures


def assumed_times(gpus: int, gpu: Gpu, link: CardLink) -> ReduceTimes:
    """Times by what others published over a link's fabric. Raises ResultError if they published
    nothing."""
    name = gpu.library_name
    latency_us, figures = assumed_us(gpus, gpu, link)
    gb_s, of_gb_s = assumed_gb_s(gpus, gpu, link)
    source = (
        f"ASSUMED, not measured: a latency of {latency_us.text(' us')} by {figures}, and "
        f"from there on {gb_s.text(' GB/s')} by {of_gb_s}, published of {name} (docs/references.md)"
    )
    sheet = (
        "Brackets: least to most, of the latency also of tuned kernels. "
        f"{link.name} has at most {number(link.gb_s)} GB/s one way ({link.source})."
    )
    times = ReduceTimes(gpus, source, _at_least_the_wire(latency_us, gpus, link), gb_s, [sheet])
    if link.name == gpu.peer and link.most_gpus == 2:
        times.notes.append(
            f"Two cards without the bridge have their slots: name the link, {gpu.slot} (advise "
            "--link, or link in a spec)."
        )
    if link.fabric.startswith("PCIe"):
        staged = all_reduces(1, SMALL, library={gpu.library}, transport={STAGED})
        who = "Cards"
        if not gpu.peer_access:
            why = "as you say" if gpu.peer_access_asked else "its driver ASSUMED not to be patched"
            who = f"{gpu.name} ({why}) and cards"
        elif gpu.peer_access_asked:
            times.notes.append(
                f"{gpu.name} has peer access, as you say: figures through host memory are left out."
            )
        times.notes.append(
            f"{who} without peer access take {amounts(staged)} through host memory ({len(staged)} "
            f"figures of {name})."
        )
        narrow = assumed_gb_s(gpus, gpu, LINKS["pcie5x8"])
        if link.name == "pcie5x16" and narrow != (gb_s, of_gb_s):
            times.notes.append(
                "Many boards give two cards eight lanes each: for these name their link, pcie5x8 "
                "(advise --link, or link in a spec)."
            )
    return times


def undistinguished(gpus: int, gpu: Gpu, link: CardLink, own: CardLink) -> str:
    """A sentence if what is published does not tell a link from the cards' own; empty if it does.
    Raises ResultError if nobody published anything over one of them."""
    if link == own or assumed_times(gpus, gpu, link).source != assumed_times(gpus, gpu, own).source:
        return ""
    return (
        f"link {link.name} changes nothing: what is published of {gpu.library_name} does not "
        f"distinguish it from {own.name}; only runs can."
    )


def _at_least_the_wire(latency_us: Span, gpus: int, link: CardLink) -> dict[int, Span]:
    """The latency up to SMALL; where a link is so narrow that the bytes alone take as long, by
    size, what they take at its rate at least."""
    if gpus == 1 or _wire_us(gpus, link, SMALL) <= latency_us.low:
        return {SMALL: latency_us}
    sizes = [SMALL >> halvings for halvings in range(6)]
    return {size: latency_us.at_least(_wire_us(gpus, link, size)) for size in sizes}


def _wire_us(gpus: int, link: CardLink, size_bytes: int) -> float:
    """What the bytes of an all-reduce take on a link by its data sheet."""
    return wire_factor(gpus) * size_bytes / link.total_gb_s(gpus) / 1e3


def spans_of(launches: AllReduceLaunches, column: str) -> dict[int, Span]:
    """The medians over launches at each size of `cost_us`, or for a bandwidth of `time_us`,
    with intervals from five launches on."""
    confidence = launches.confidence if launches.have_intervals else None
    by_size = {
        int(size): own for size, own in launches.times.groupby(launches.times.size_bytes)[column]
    }
    return {size: span_over_launches(own, confidence) for size, own in by_size.items()}


def span_over_launches(times_us: ArrayLike, confidence: float | None = CONFIDENCE) -> Span:
    """The median of a time over launches, as all tables show it: one disturbed launch does not move
    it, as it does a mean. Its ends are those of Student's interval of the logarithms, of which the
    median has pi/2 times the variance of the mean; without a confidence both are the median."""
    logs_us, reach = np.log(np.asarray(times_us, dtype=float)), 0.0
    if confidence:
        quantile = stdtrit(len(logs_us) - 1, (1 + confidence) / 2)
        reach = quantile * logs_us.std(ddof=1) * np.sqrt(np.pi / 2 / len(logs_us))
    ends = np.exp(np.median(logs_us) + np.array([0.0, -reach, reach]))
    return Span(*ends.tolist())


def measured_times(launches: AllReduceLaunches, gpus: int, gpu: Gpu, link: CardLink) -> ReduceTimes:
    """The times of these launches, and the reasons why they may not apply to this GPU's link."""
    rows, n = launches.times, len(launches.runs)
    if rows.empty:
        needed = f"an all-reduce of auto or a library with {MIN_BLOCKS} blocks in a launch"
        raise ResultError(
            "; ".join([f"the runs lack {needed}: give more --max-time", *launches.notes])
        )

    names = rows.library.fillna(rows.algorithm) + ", " + rows.datatype
    run = launches.runs[0].run
    place = ", ".join(dict.fromkeys(run.gpus)) or "ranks without a GPU's name"
    count = counted(n, "launch")
    if not launches.have_intervals:
        count += ", no interval"
    harness, hosts = run.method.get("harness"), run.hosts
    origin = f"measured by {harness}: " if harness else "measured: "
    source = f"{origin}{' and '.join(names.unique())}, {place}; {count}"
    spans = spans_of(launches, "cost_us")
    notes, gb_s = [*launches.notes], None

    single = rows[(rows["mode"] != "chained") & (rows.size_bytes <= LATENCY_BOUND_BYTES)]
    if harness:
        notes.append(
            f"{harness} measures no chain of dependent calls: its single calls are used instead."
        )
    elif len(single):
        sizes = " and ".join(map(size_text, sorted(single.size_bytes.unique())[:2]))
        notes.append(
            f"No chain of dependent calls was measured at {sizes}: single calls are used instead."
        )

    if problem := other_hardware(launches, gpu):
        notes.append(problem)

    # The link counts within one host, and its bandwidth above 1 MiB.
    size = max(spans)
    if hosts != 1:
        where = f"on {hosts} hosts" if hosts else "perhaps on several hosts"
        notes.append(f"The ranks are {where}: the times include their network, not {link.name}.")
    elif size < LARGE_BYTES:
        gb_s, figures = assumed_gb_s(gpus, gpu, link)
        notes.append(
            f"Nothing above {size_text(size)} was measured: larger all-reduces are ASSUMED to have "
            f"{gb_s.text(' GB/s')} by {figures}, as published."
        )
    elif run.gpus and not problem:
        expected = link_between(gpu, gpus) if gpu.peer else link
        bus_gb_s = wire_factor(gpus) * size / spans_of(launches, "time_us")[size].value / 1e3
        if bus_gb_s < DOWN * expected.gb_s:
            why = "as through host memory or over fewer lanes"
            if expected.name == gpu.peer:
                why = "the link is DOWN or not used"
            notes.append(
                f"{expected.name} has {number(expected.gb_s)} GB/s one way, and {size_text(size)} "
                f"reached {number(bus_gb_s)}: {why}; see {BENCH}doctor."
            )

    return ReduceTimes(gpus, source, spans, gb_s, notes, hosts)


def other_hardware(launches: AllReduceLaunches, gpu: Gpu) -> str | None:
    """A sentence if the ranks ran on something else than this GPU, or do not say on what; None
    otherwise."""
    runs = [entry.run for entry in launches.runs]
    if any(rank.get("device") == "cpu" for run in runs for rank in run.ranks):
        return "The times come from ranks on CPU cores: this is arithmetic, not a GPU's figures."

    if any(shares_places(run.ranks) for run in runs):
        return "The ranks share a card: no link between cards was measured; see predict."

    # A card by its figures has no name to compare.
    names = [name for run in runs for name in run.gpus if gpu.name in GPUS]
    if others := [name for name in names if not _is_named(gpu, name)]:
        return f"The times come from {others[0]}, not from {gpu.name}."

    if any(len(run.gpus) < run.world_size or not run.gpus for run in runs):
        return (
            f"The runs do not name each rank's GPU: nothing shows that this was {gpu.name}. Logs "
            f"of nccl-tests and runs of {BENCH}allreduce name it."
        )
    return None


def _is_named(gpu: Gpu, name: str) -> bool:
    """Whether a driver's name is that of this GPU, whatever its peer access."""
    sheet = sheet_of(name)
    return sheet is not None and sheet.name == gpu.name
