"""The archive of a survey as rows of the tables of published figures.

A row is a call of NCCL or RCCL as it is, or of `auto`, over at least LEAST_LAUNCHES launches of one
machine: their median, and its 95 % interval. Its words are those with which `expect` asks
about a run."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from pathlib import Path

from msgspec.structs import replace

from reports.advice.reduce_times import LEAST_LAUNCHES, span_over_launches
from reports.advice.specs import link_between, sheet_of
from reports.references.published import SOCKETS, PublishedCall
from reports.tables.beside_published import library_of, plain_calls, spans_sockets
from reports.tables.sentences import counted, environment_of, fact
from wiretax.common.grouped import grouped
from wiretax.record.archive import Contents, digest, read_contents, unpacked
from wiretax.record.case import bus_factor
from wiretax.record.observations import MIN_BLOCKS, MOST_STEAL, entry_of, in_one_state
from wiretax.record.result import ResultError, read, time_of
from wiretax.record.schema import Result, Run

PLAIN = "plain", "graph"  # variants of a library as it is: launched one by one, or from a graph
LIBRARY = re.compile(r"(NCCL|RCCL) [\d.]+")
CPU_NOISE = r"\((?:R|TM)\)|\b(?:AMD|Intel|CPU|Processor|\d+-Core)\b|@.*"
CPU_NAME = re.compile("[A-Za-z][A-Za-z0-9 +-]{1,40}")
DIGITS = 4  # of a figure in a row: more than the intervals leave
# What one row answers, of a launch.
ANSWERED = attrgetter("row.size_bytes", "row.mode", "row.kind", "row.transport")


class DamagedArchive(ResultError):
    """What is wrong with the files of an archive that could be unpacked, in one sentence."""


@dataclass
class SentArchive:
    """An archive that was read: its SHA-256, `survey.json`, and its runs by their names in it."""

    sha256: str
    contents: Contents
    runs: dict[str, Result]

    def of(self, benchmark: str) -> list[Result]:
        return [result for result in self.runs.values() if result.run.benchmark == benchmark]

    @property
    def all_reduces(self) -> list[Result]:
        return self.of("allreduce")


@dataclass
class Launch:
    """A call of one launch: the row that it alone would be, and what is alike in the launches of a
    row. A single call can be replayed from a graph, too. `was_slowed`: a GPU was throttled, or the
    hypervisor withheld the CPUs."""

    run: Run
    row: PublishedCall
    is_replayed: bool
    method: str
    was_slowed: bool


def read_sent(path: Path) -> SentArchive:
    """Raises ResultError for a file that is no archive, and DamagedArchive."""
    files = unpacked(path)
    try:
        contents = read_contents(files)
        runs = {name: read(path / name) for name in sorted(files) if name.endswith(".jsonl")}
    except ResultError as error:
        raise DamagedArchive(str(error).replace(f"{path}/", "")) from error
    for name, result in runs.items():
        result.path = Path(name)
    return SentArchive(digest(path), contents, runs)


def rows_of(sent: SentArchive) -> tuple[list[PublishedCall], list[str]]:
    """The rows of the archive's launches in one state of the link, and sentences on what gives
    none."""
    entries, notes = in_one_state([entry_of(result) for result in sent.all_reduces])
    # As bench/machine/gpu_state.py says it.
    notes += [remark for remark in sent.contents.remarks if "is in use" in remark]
    every = [each for entry in entries for each in launches_of(sent.runs[str(entry.path)])]
    has_peers = any(each.row.transport == "p2p" for each in every)
    rows, few = list[PublishedCall](), 0
    for _, own in sorted(grouped(every, ANSWERED).items(), key=itemgetter(0)):
        ways = grouped(own, attrgetter("is_replayed", "method")).values()
        found = [
            (launches[0].is_replayed, row.us, row)
            for launches in ways
            if len(launches) >= LEAST_LAUNCHES
            for row in [_row(sent, launches, has_peers)]
        ]
        few += not found
        # A single call that no graph replayed comes first, then the fastest.
        rows += [row for _, _, row in sorted(found, key=itemgetter(0, 1))[:1]]
    if few:
        notes.append(f"{counted(few, 'call')} of fewer than {LEAST_LAUNCHES} launches: left out.")
    return rows, notes


def launches_of(result: Result) -> Iterator[Launch]:
    """The calls of a launch of which rows are made."""
    run, end, is_replayed = result.run, result.end, bool(result.run.method.get("graph"))
    was_slowed = bool(end and (end.was_throttled or (end.steal_share or 0.0) > MOST_STEAL))
    settings = library_of(run).set_by_wiretax.items()
    for case, row in plain_calls(result):
        library, _, version = row.library.partition(" ")
        variant = " ".join(f"{name}={value}" for name, value in settings)
        is_plain = case.variant in PLAIN and LIBRARY.fullmatch(row.library)
        if case.algorithm == "auto":
            library, version, variant = "wiretax", run.version, case.chosen or "auto"
        elif case.algorithm != "library" or not is_plain:
            continue
        is_chain = case.mode == "chained"
        n_blocks = (case.time_us and case.time_us.n_blocks) or 0
        if (
            row.collective == "all_reduce"
            and case.redop == "sum"
            and n_blocks >= MIN_BLOCKS
            and is_chain == (row.mode == "graph")
        ):
            row = replace(
                row,
                library=library.lower(),
                version=version,
                variant=variant,
                datatype=case.datatype,
                fabric=fabric_of(run, row),
            )
            place = case.datatype, case.variant, case.memory, case.in_place
            other = {name: value for name, value in run.method.items() if name != "graph"}
            method = f"{row.library} {version} {place} {other}"
            yield Launch(run, row, is_replayed, method, was_slowed)


def fabric_of(run: Run, row: PublishedCall) -> str:
    """The fabric of a row: of NVLink and xGMI, which the words of a run leave open, the data
    sheet's, if each pair of cards is joined by it."""
    links = environment_of(run).get("gpu.links", "")
    kinds = {*re.findall("NVLink|xGMI", links)}
    sheet = sheet_of(row.gpu)
    if row.fabric != "unknown" or not kinds or not sheet:
        return row.fabric
    fabric = link_between(sheet, row.gpus).fabric
    is_whole = "PCIe," not in links and {fabric.partition(" ")[0]} == kinds
    return fabric if is_whole else "mixed"


def _row(sent: SentArchive, launches: Sequence[Launch], has_peers: bool) -> PublishedCall:
    run, row = launches[0].run, launches[0].row
    span, began = span_over_launches([each.row.us for each in launches]), time_of(run.run_id)
    time_us, low_us, high_us = (
        float(f"{us:.{DIGITS}g}") for us in (span.value, span.low, span.high)
    )
    bus_bytes = (row.size_bytes or 0) * bus_factor(row.collective, row.gpus)
    facts = [f"{name} {run.ranks[0].get(name)}" for name in ("driver", "runtime", "module")]
    if slowed := sum(each.was_slowed for each in launches):
        facts.append(f"{slowed} throttled or without their CPUs")
    facts = [counted(len(launches), "launch"), f"Wiretax {run.version}", *facts]
    return replace(
        row,
        machine=machine_words(run, row, has_peers),
        variant=" or ".join(dict.fromkeys(each.row.variant for each in launches)),
        time_us=time_us,
        time_low_us=low_us,
        time_high_us=high_us,
        busbw_gb_s=float(f"{bus_bytes / time_us / 1e3:.{DIGITS}g}"),
        statistic="median",
        archive=sent.sha256,
        date=f"{began:%Y-%m-%d}" if began else "",
        source=f"archive {sent.sha256[:12]}",
        note=", ".join(facts),
    )


def machine_words(run: Run, row: PublishedCall, has_peers: bool) -> str:
    """`2x R9700, PCIe 5 x16, peers, one socket (EPYC 9354), 1a2b3c4d5e6f`: two archives of one
    machine have the same words, and so one vote. So have two machines of equal hardware, whose
    digest is one: an archive has no serial number."""
    sockets = [words for words, number in SOCKETS.items() if number == spans_sockets(run)]
    fabric = [row.fabric] if row.fabric != "unknown" else []
    parts = [f"{row.gpus}x {row.gpu}", *fabric, "peers" if has_peers else "no peers", *sockets]
    cpu = " ".join(re.sub(CPU_NOISE, "", fact(run, "cpu.model") or "").split())
    words = ", ".join(parts)
    return f"{words}{f' ({cpu})' if CPU_NAME.fullmatch(cpu) else ''}, {run.machine_id}"
