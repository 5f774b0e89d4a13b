"""Shared by the parsers: lines without the text around them, numbers, dates, a test of a log."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from reports.store.schema import LEAST_US

# What the time of a row is.
MEAN = "mean over iterations"
MEAN_OVER_RANKS, SLOWEST = f"{MEAN} and ranks", f"{MEAN}, slowest rank"
NO_ROWS, ENDED_EARLY = "it has no rows", "the run was ended before its time"
CUT_OFF = "the log ends before the test does"
NO_HEAD = "its rows follow no heading"
TWO_RUNS, WRONG_RESULTS = "two runs wrote into each other's lines", "the run found wrong results"
UNKNOWN = "unknown"  # a collective or a type that the log does not name
LONGEST_LINE = 2000
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
# What people, launchers and schedulers put before a line, with at most one blank after it.
# Repetitions have limits, otherwise a hostile line takes quadratic time.
LABELS = re.compile(
    r"\s*(?:(?:>|&gt;) ?"
    r"|\[[^\[\]]{1,200}\](?:<std\w{3,4}>)?:? ?"  # mpirun --tag-output, kubectl, torchrun
    r"|[\w.-]{1,200}: (?=[# \d])"  # srun -l, pdsh
    r"|(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?[ \t])"
)
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
    r"\b(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)\b"
    r"|\b[A-Z][a-z]{2} ([A-Z][a-z]{2}) {1,2}(\d{1,2}) (\d\d:\d\d:\d\d) (?:[A-Z]{2,5} )?(\d{4})\b"
)


@dataclass
class Row:
    """A printed half of a row. Each of `times_us` is a block of `n` iterations (1: not printed).
    `mean_us` is a mean over ranks, beside the time of the slowest one."""

    size_bytes: int
    times_us: list[float]
    line: int
    n_wrong: int | None = None
    n: int = 1
    mean_us: float | None = None
    count: int | None = None
    datatype: str = UNKNOWN
    redop: str = ""  # of a reduction: sum
    in_place: bool = False
    algorithm: str = "library"
    chosen: str | None = None
    shape: Any = None


@dataclass
class LoggedTest:
    """`format` is a harness and its version, `gpus` has a model by rank, `unread` the lines that
    look like data and could not be read. A test that `is_per_rank` prints the bytes of one rank,
    where a run has those of all."""

    format: str
    first_line: int
    statistic: str = MEAN
    collective: str | None = None
    world_size: int | None = None
    hosts: int | None = None
    status: str = "complete"
    reason: str | None = None
    gpus: dict[int, str] = field(default_factory=dict)
    library: str | None = None
    rows: list[Row] = field(default_factory=list)
    is_per_rank: bool = False
    date: datetime | None = None
    unread: list[int] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Adds a row, or its line to `unread` if a time is too short for any clock."""
        if any(0 < time_us < LEAST_US for time_us in row.times_us):
            self.unread.append(row.line)
        else:
            self.rows.append(row)

    def set_status(self, lack: str | None) -> None:
        """Sets the status and its reason. `lack`: why the test is incomplete, if nothing is known
        from its lines."""
        if self.status == "failed":
            self.reason = "the run itself says so"
        elif self.reason or lack or not self.rows:
            self.status, self.reason = "incomplete", self.reason or lack or NO_ROWS
        elif any(row.n_wrong for row in self.rows):
            self.status, self.reason = "failed", WRONG_RESULTS


def dates_of(lines: Sequence[str]) -> Iterator[tuple[int, datetime]]:
    """The first date of each line that has one, with the line's number. A version has the date of
    its build, as a kernel's in IMB's head."""
    for number, line in enumerate(lines, 1):
        found = DATE.search(line[:LONGEST_LINE])
        if found and "version" not in line.lower():
            day, time, month, of_month, clock, year = found.groups()
            with suppress(ValueError):
                if day:
                    yield number, datetime.fromisoformat(f"{day}T{time}")
                else:
                    text = f"{year} {month} {of_month} {clock}"
                    yield number, datetime.strptime(text, "%Y %b %d %H:%M:%S")


def clean_line(text: str) -> str:
    """A line without escapes, labels, messages and control characters, in the same columns."""
    text = ESCAPES.sub("", text[:LONGEST_LINE]).rstrip("\r").rpartition("\r")[2].expandtabs()
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " * char.isspace() for char in text)

    start = 0
    while (label := LABELS.match(text, start)) is not None:
        start = label.end()

    text = text[start:]
    nccl = text.find("NCCL ")
    message = MESSAGE.search(text, max(0, nccl - 200)) if nccl >= 0 else None
    return text[: message.start()] if message else text


def cells(text: str) -> list[tuple[str, int]]:
    """The words of a line, each with the column of its end."""
    words = re.finditer(r"[^\s#]\S*", text.replace("#", " ", 1))
    return [(word.group(), word.end()) for word in words]


def number(text: str) -> float | None:
    """A finite figure that is not negative, else None."""
    value = float(text) if NUMBER.fullmatch(text) else 1e15
    return value if value < 1e15 else None


def whole_number(text: str) -> int | None:
    """A size or a count, also as `1.04858e+06` or `8.00`, else None."""
    value = number(text)
    return int(value) if value is not None and value == int(value) else None


def nccl_version(code: int) -> str:
    """`NCCL 2.29.2` for 22902."""
    return f"NCCL {code // 10000}.{code % 10000 // 100}.{code % 100}"


def collective_of(name: str) -> str | None:
    """The store's name of an operation, otherwise the benchmark's own; None for other text."""
    name = name.lower()
    is_name = re.fullmatch(r"[a-z][a-z0-9_-]{1,40}", name)
    return COLLECTIVES.get(name.replace("_", ""), name) if is_name else None
