"""The archive of a survey as rows of the tables of published figures.

A row is a call of the library as it is, or of our fastest kernel, over at least LEAST_LAUNCHES
launches of one machine: their geometric mean, and its 95 % interval. Its words are those with which
`expect` asks about a run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from msgspec.structs import replace

from reports.advice.reduce_times import LEAST_LAUNCHES, span_over_launches
from reports.references.published import SOCKETS, PublishedCall
from reports.tables.beside_published import library_of, plain_calls, spans_sockets
from reports.tables.sentences import counted, fact
from wiretax.common.grouped import grouped
from wiretax.record.archive import Contents, digest, read_contents, unpacked
from wiretax.record.case import bus_factor
from wiretax.record.observations import MIN_BLOCKS, entry_of, in_one_state
from wiretax.record.result import ResultError, read, time_of
from wiretax.record.schema import Case, Result, Run

PLAIN = "plain", "graph"  # variants of a library as it is: launched one by one, or from a graph
DIGITS = 4  # of a figure in a row: more than the intervals leave
CPU_NOISE = r"\((?:R|TM)\)|\b(?:AMD|Intel|CPU|Processor|\d+-Core)\b|@.*"
CPU_NAME = re.compile("[A-Za-z][A-Za-z0-9 +-]{1,40}")


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


@dataclass
class Call:
    """A call of one launch: the run's case, and the row that it would be."""

    run: Run
    case: Case
    row: PublishedCall

    @property
    def cell(self) -> tuple[object, ...]:
        """What one row answers."""
        return self.row.size_bytes, self.row.mode, self.row.kind, self.row.transport

    @property
    def is_replayed(self) -> bool:
        return bool(self.run.method.get("graph"))

    @property
    def way(self) -> tuple[object, ...]:
        """What is alike in the launches of a row."""
        case = self.case
        method = sorted((k, str(v)) for k, v in self.run.method.items() if k != "graph")
        place = case.datatype, case.variant, case.memory, case.in_place
        return (self.is_replayed, self.row.library, *place, str(method))


def read_sent(path: Path) -> SentArchive:
    """Raises ResultError for a file that is no archive, and DamagedArchive."""
    with unpacked(path) as folder:
        try:
            contents, runs = read_contents(folder), dict[str, Result]()
            for name in sorted(contents.files):
                if name.endswith(".jsonl"):
                    runs[name] = read(folder / name)
                    runs[name].path = Path(name)
        except ResultError as error:
            raise DamagedArchive(str(error).replace(f"{folder}/", "")) from error
    return SentArchive(digest(path), contents, runs)


def rows_of(sent: SentArchive) -> tuple[list[PublishedCall], list[str]]:
    """The rows of the archive's launches in one state of the link, and sentences on what gives
    none."""
    entries, notes = in_one_state([entry_of(result) for result in sent.of("allreduce")])
    results = [sent.runs[str(entry.path)] for entry in entries]
    calls = [call for result in results for call in _calls(result)]
    cells = grouped(calls, attrgetter("cell"))
    has_peers = any(call.row.transport == "p2p" for call in calls)
    rows, few = list[PublishedCall](), 0
    for cell in sorted(cells):
        ways = grouped(cells[cell], lambda call: call.way).values()
        enough = [own for own in ways if len(own) >= LEAST_LAUNCHES]
        few += not enough
        # A single call that no graph replayed comes first, then the fastest.
        found = [(own[0].is_replayed, _row(sent, own, has_peers)) for own in enough]
        rows += [row for _, row in sorted(found, key=lambda pair: (pair[0], pair[1].us))[:1]]
    if few:
        notes.append(f"{counted(few, 'call')} of fewer than {LEAST_LAUNCHES} launches: left out.")
    return rows, notes


def _calls(result: Result) -> list[Call]:
    """The calls of a launch of which rows are made: of the library as it is, and of `auto`."""
    return [
        Call(result.run, case, row)
        for case, row in plain_calls(result)
        if row.collective == "all_reduce"
        and case.redop == "sum"
        and (case.algorithm == "auto" or (case.algorithm == "library" and case.variant in PLAIN))
        and (row.mode == "graph") == (case.mode == "chained")
        and case.time_us
        and (case.time_us.n_blocks or 0) >= MIN_BLOCKS
    ]


def _row(sent: SentArchive, launches: Sequence[Call], has_peers: bool) -> PublishedCall:
    run, row = launches[0].run, launches[0].row
    span = span_over_launches([call.row.us for call in launches])
    library, _, version = row.library.partition(" ")
    settings = [f"{name}={value}" for name, value in library_of(run).set_by_wiretax.items()]
    if row.kind != "library":
        library, version = "wiretax", run.version
        settings = [call.case.chosen or call.case.algorithm for call in launches]
    time_us, size = _rounded(span.value), row.size_bytes or 0
    parts = [counted(len(launches), "launch"), f"Wiretax {run.version}"]
    parts += [
        f"{name} {value}"
        for name in ("driver", "runtime", "module")
        if (value := run.ranks[0].get(name))
    ]
    began = time_of(run.run_id)
    return replace(
        row,
        machine=machine_words(run, row, has_peers),
        library=library.lower(),
        version=version,
        variant=" or ".join(dict.fromkeys(settings)),
        datatype=launches[0].case.datatype,
        time_us=time_us,
        busbw_gb_s=_rounded(size * bus_factor(row.collective, row.gpus) / time_us / 1e3),
        statistic="median",
        time_low_us=_rounded(span.low),
        time_high_us=_rounded(span.high),
        archive=sent.sha256,
        date=f"{began:%Y-%m-%d}" if began else "",
        source=f"archive {sent.sha256[:12]}",
        note=", ".join(parts),
    )


def machine_words(run: Run, row: PublishedCall, has_peers: bool) -> str:
    """`2x R9700, PCIe 5 x16, peers, one socket (EPYC 9354), 1a2b3c4d`: two archives of one machine
    have the same words, and so one vote."""
    sockets = {number: words for words, number in SOCKETS.items()}
    parts = [f"{row.gpus}x {row.gpu}"]
    parts += [row.fabric] if row.fabric != "unknown" else []
    parts += ["peers" if has_peers else "no peers"]
    parts += [words for number, words in sockets.items() if number == spans_sockets(run)]
    cpu = " ".join(re.sub(CPU_NOISE, "", fact(run, "cpu.model") or "").split())
    return f"{', '.join(parts)}{f' ({cpu})' if CPU_NAME.fullmatch(cpu) else ''}, {run.machine_id}"


def _rounded(figure: float) -> float:
    return float(f"{figure:.{DIGITS}g}")
