"""Shared by the parsers: lines without the text around them, numbers, dates, a test of a log."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from wiretax.record.result import ResultError
from wiretax.record.schema import Block, Theirs

# What the time of a row is.
MEAN = "mean over iterations"
MEAN_OVER_RANKS, SLOWEST = f"{MEAN} and ranks", f"{MEAN}, slowest rank"
# Of a log: a row, which is a block, takes 0.1 ms and at most 1.6 KB of a run file; a test has a run
# file of its own, with 110 KB of ranks; JSON takes 35 times as much memory.
MOST = {
    "rows": 50_000,
    "tests": 500,
    "bytes of JSON": 20_000_000,
    "bytes with other letters than ASCII": 80_000_000,
    "names of fields": 1000,
}
CUT_OFF = "the log ends before the test does"
TWO_RUNS = "two runs wrote into each other's lines"
UNITS_US = {"us": 1, "usec": 1, "ms": 1e3, "msec": 1e3, "s": 1e6}
LONGEST_LINE, LEAST_SEPARATORS = 2000, 5
MOST_SEPARATORS = 200  # each cell becomes 20 letters: a line of separators alone would fill memory
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
# What people, launchers and schedulers put before a line, with at most one blank after it.
# Repetitions have limits, otherwise a hostile line takes quadratic time.
# A rank of `srun -l` before a figure or a `#`, or a host of pdsh before two figures or a `#`:
# `Algorithm:   3` has no label.
RANK_OR_HOST = r"(?:\d{1,7}: (?= *[#\d])|[\w.-]{1,200}: (?= *(?:#|\d[\w.+-]{0,40}[ ,;|]+[\d.])))"
LABELS = re.compile(
    r"\s*(?:(?:>|&gt;) ?"
    r"|\[[^\[\]]{1,200}\](?:<std\w{3,4}>)?:? ?"  # mpirun --tag-output, kubectl, torchrun
    rf"|{RANK_OR_HOST}"
    r"|(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?[ \t])"
)
HOST = re.compile(rf" {{0,20}}(?=([\w.-]{{1,200}}): ){RANK_OR_HOST}")  # srun pads ranks
# host:pid:thread [device] NCCL INFO ...: other ranks may write it into the middle of a line.
MESSAGE = re.compile(
    r"(?:\[[^\]]{1,40}\] )?(?<![A-Za-z_])[A-Za-z_][\w.-]{0,80}:\d{1,9}:\d{1,9} \[-?\d{1,4}\] |"
    r"\bNCCL (?:INFO|WARN|version) "
)
NUMBER = re.compile(r"\+?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
# A figure that may be negative, cut off or European.
LIKE_A_FIGURE = re.compile(r"[+-]?(?:\.?\d[\w.,+-]*|nan|inf)")
COLLECTIVES = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "alltoall": "alltoall",
    "reducescatter": "reduce_scatter",
    "bcast": "broadcast",
}


# `2024-03-20 12:25:21` of Slurm, NCCL and its tests; `Wed Mar 20 12:25:21 2024` of IMB and `date`.
DATE = re.compile(
    r"\b(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)\b"
    r"|\b[A-Z][a-z]{2} ([A-Z][a-z]{2} {1,2}\d{1,2} \d\d:\d\d:\d\d)(?: [A-Z]{2,5})?( \d{4})\b"
)


class LoggedRow(NamedTuple):
    """A printed half of a row: its line, the printed fields of its `CaseHeader`, and its block,
    whose `mean_us` is the mean over ranks, if that is beside the time of the slowest one."""

    line: int
    case: dict[str, Any]
    block: Block


@dataclass
class LoggedTest:
    """`format` is a harness and its version, `gpus` has a model by rank, `unread` the lines that
    look like data and could not be read, `refusal` why the first of them is none, `notes` has
    sentences for the run, `documents` by line what a serving bench wrote, `disordered` the lines
    with a percentile below a lower one. A test that `is_per_rank` prints the bytes of one rank,
    where a run has those of all.

    A parser says what it read: the `status` "failed" if the log itself says so, `lack` if it knows
    why the test is incomplete, and, of a format whose tests end with a line of their own, that it
    `has_footer`, and `has_ended` once that line came. When all is read, `set_status` makes of this
    the final `status` and its `reason`."""

    format: str
    first_line: int
    statistic: str = MEAN
    collective: str | None = None
    world_size: int | None = None
    hosts: int | None = None
    status: str = "complete"
    reason: str | None = None
    lack: str = ""
    has_footer: bool = False
    has_ended: bool = False
    gpus: dict[int, str] = field(default_factory=dict)
    library: str | None = None
    rows: list[LoggedRow] = field(default_factory=list)
    is_per_rank: bool = False
    date: datetime | None = None
    unread: list[int] = field(default_factory=list)
    refusal: str = ""
    notes: list[str] = field(default_factory=list)
    documents: dict[int, dict[str, Any]] = field(default_factory=dict)
    disordered: list[int] = field(default_factory=list)

    @contextmanager
    def reading(self, line: int) -> Iterator[None]:
        """Adds the line to `unread`, and the reason of the first one to `refusal`, if the block
        raises ValueError."""
        try:
            yield
        except ValueError as error:
            self.unread.append(line)
            self.refusal = self.refusal or str(error)

    def add(
        self,
        line: int,
        case: dict[str, Any],
        n: int = 1,
        theirs: dict[str, float] | None = None,
        **figures: Any,
    ) -> None:
        """Adds a row with the figures of its block of `n` iterations (1: not printed), and the
        percentiles that it prints, if they are in order. Raises ValueError if its time is too short
        for any clock, or a percentile is no time."""
        if theirs:
            theirs = msgspec.convert(theirs, Theirs)
            in_order_us = [theirs[name] for name in sorted(theirs, key=_share_of)]
            if in_order_us == sorted(in_order_us):
                figures["theirs"] = theirs
            else:
                self.disordered.append(line)
        self.rows.append(LoggedRow(line, case, Block(case=0, block=0, round=0, n=n, **figures)))

    def set_status(self) -> None:
        """Sets the status and its reason. A wrong result outweighs what is lacking, which the
        reason says beside it: an incomplete run is repeated, a wrong one is looked into. Says which
        percentiles are left out."""
        if lines := self.disordered:
            self.notes.append(
                f"line {lines[0]} has a percentile below a lower one, so its percentiles are left "
                f"out ({len(lines)} in all)"
            )
        if self.status == "failed":
            self.reason = "the run itself says so"
            return

        self.lack = self.lack or self._missing()
        if any(row.block.n_wrong for row in self.rows):
            self.status, self.reason = "failed", "the run found wrong results"
            if self.lack:
                self.reason += f", and is incomplete: {self.lack}"
        elif self.lack:
            self.status, self.reason = "incomplete", self.lack

    def _missing(self) -> str:
        if self.has_footer and not self.has_ended:
            return CUT_OFF
        if not self.rows:
            return "it has no rows"
        return "some of its rows could not be read" if self.unread else ""


def _share_of(percentile: str) -> float:
    name = percentile.removesuffix("_us")
    return 100 if name == "max" else float(name[1:])


def check(name: str, number: int) -> None:
    """Raises ResultError for a log with more of these than MOST."""
    if number > MOST[name]:
        raise ResultError(f"it has more than {MOST[name]:,} {name}")


def dates_of(lines: Sequence[str]) -> Iterator[tuple[int, datetime]]:
    """The first date of each line that has one, with the line's number. A version has the date of
    its build, as a kernel's in IMB's head."""
    for number, line in enumerate(lines, 1):
        found = DATE.search(line[:LONGEST_LINE])
        if found and "version" not in line.lower():
            iso, day, year = found.groups()
            with suppress(ValueError):
                date = iso and datetime.fromisoformat(iso)
                yield number, date or datetime.strptime(day + year, "%b %d %H:%M:%S %Y")


def clean_lines(raw: Sequence[str]) -> list[str]:
    """The lines as parsers get them, see `clean_line`. A host and a colon before a heading that
    begins with a letter is a label only if it stands before figures or a `#` too: `srun: error:`
    is none."""
    hosts = {label[1] for line in raw if (label := HOST.match(line))}
    if not hosts:
        return [clean_line(line) for line in raw]

    lines = list[str]()
    for line in raw:
        host, _, rest = line.partition(": ")
        lines.append(clean_line(rest if host.strip() in hosts else line))
    return lines


def clean_line(text: str) -> str:
    """A line without escapes, labels, messages and control characters, in the same columns.

    Of a spreadsheet or a web page the cells stand in columns: `1024,4,5.5,0,a,b`, with
    LEAST_SEPARATORS to MOST_SEPARATORS of `,`, `;` or `|`, reaches a parser as words with blanks
    between them, without quotes, and an empty cell leaves no word. A line with fewer separators,
    such as a row of a CSV that is cut off, or one of a table with few columns, keeps them:
    `1024,4`. A parser of such a table splits these itself, or takes a row of one word for one that
    it cannot read."""
    text = ESCAPES.sub("", text[:LONGEST_LINE]).rstrip("\r").rpartition("\r")[2]
    text = text.expandtabs()[:LONGEST_LINE]
    if not text.isprintable():
        text = "".join(
            " " if char.isspace() else char for char in text if char.isspace() or char.isprintable()
        )

    while label := LABELS.match(text):
        text = text[label.end() :]

    nccl = text.find("NCCL ")
    message = MESSAGE.search(text, max(0, nccl - 200)) if nccl >= 0 else None
    text = text[: message.start()] if message else text
    if mark := separator_of(text):
        text = text.replace(",", ".") if mark == ";" else text  # 3,5 where `;` separates cells
        words = [word.strip(' #"').replace(" (", "(") for word in text.strip(" |").split(mark)]
        text = "".join(f"{word:>20}" for word in words)
    return text


def separator_of(text: str) -> str | None:
    """What separates the cells of a line of a spreadsheet or a web page; None for another line."""
    usual = range(LEAST_SEPARATORS, MOST_SEPARATORS + 1)
    mark = next((mark for mark in ";|," if text.count(mark) in usual), None)
    # Other lines with commas begin with several words; a unit, as in `size (B)`, is none.
    first = text.strip(" #|").partition(mark or " ")[0].partition("(")[0]
    return None if " " in first.strip() else mark


def cells(text: str) -> list[tuple[str, int]]:
    """The words of a line, each with the column of its end."""
    words = re.finditer(r"[^\s#]\S*", text.replace("#", " ", 1))
    return [(word.group(), word.end()) for word in words]


def number(text: str) -> float:
    """A finite figure that is not negative. Raises ValueError for other text."""
    value = float(text) if NUMBER.fullmatch(text) else 1e15
    if value >= 1e15:
        raise ValueError(f"{text[:40]!r} is no figure from 0 to 1e15")
    return value


def whole_number(text: str) -> int:
    """A size or a count, also as `1.04858e+06` or `8.00`. Raises ValueError for other text."""
    value = number(text)
    if not value.is_integer():
        raise ValueError(f"{text[:40]!r} is no whole number")
    return int(value)


def unit_us(heading: str) -> float:
    """The microseconds of the unit in `Avg Latency(ms)` or `t_min[msec]`, 1 without a unit. Raises
    ResultError for an unknown unit."""
    unit = re.search(r"[(\[]([^)\]]*)", heading.lower())
    if unit and unit[1] not in UNITS_US:
        raise ResultError(f"{heading!r} has times in none of {', '.join(UNITS_US)}")
    return UNITS_US[unit[1]] if unit else 1


def collective_of(name: str) -> str | None:
    """The store's name of an operation, otherwise the benchmark's own; None for other text."""
    name = name.lower()
    is_name = re.fullmatch(r"[a-z][a-z0-9_-]{1,40}", name)
    return COLLECTIVES.get(name.replace("_", ""), name) if is_name else None
