"""Timing lines, a protocol for any program: one JSON object a line, among other lines if need be.
docs/judge.md describes the fields."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from reports.imports.logged import LoggedTest
from reports.store.result import ResultError
from reports.store.schema import LEAST_US, Count, Positive, Shape

MARK, FORMAT = '"time_us"', "timing-lines"
STATISTIC, MOST_BLOCKS = "median over blocks, slowest rank", 10_000
Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z][\w.-]{0,63}\Z")]
Time = Annotated[float, msgspec.Meta(ge=LEAST_US, lt=1e15)]


class TimingLine(msgspec.Struct):
    """The bytes of all ranks as nccl-tests counts them, and the time of the slowest rank in us;
    several times are several blocks, of `n` iterations each. Work that is no collective has a
    `name` and a `shape`."""

    size_bytes: Count
    time_us: Time | Annotated[list[Time], msgspec.Meta(min_length=1, max_length=MOST_BLOCKS)]
    collective: Name | None = None
    name: Name = "work"
    ranks: Positive | None = None
    n: Positive = 1
    n_wrong: Count | None = None
    in_place: bool = False
    datatype: Name = "unknown"
    redop: Name = ""
    algorithm: Name = "program"
    shape: dict[Name, Name | int | float] | None = None

    def __post_init__(self) -> None:
        """Raises ValidationError for a name of ours in the shape with a value of another type."""
        msgspec.convert(self.shape, Shape | None)


OF_CASE = "size_bytes", "in_place", "datatype", "redop", "algorithm", "shape"


def parse_timing_lines(lines: Sequence[str]) -> list[LoggedTest]:
    """A test for each collective or name, and number of ranks, in the order of their first line.
    Raises ResultError if no timing line can be read."""
    tests: dict[tuple[str, int | None], LoggedTest] = {}
    unread, fault = list[int](), ""

    for number, text in enumerate(lines, 1):
        if MARK not in text:
            continue
        try:
            line = msgspec.json.decode(text[text.find("{") :].strip(), type=TimingLine)
        except (msgspec.DecodeError, RecursionError) as error:
            unread.append(number)
            fault = fault or f"line {number} is no timing line ({error})"
            continue
        key = line.collective or line.name, line.ranks
        test = tests.setdefault(key, LoggedTest(FORMAT, number, STATISTIC, *key))
        case = {name: getattr(line, name) for name in OF_CASE}
        n_wrong = line.n_wrong

        for time_us in line.time_us if isinstance(line.time_us, list) else [line.time_us]:
            test.add(number, case, line.n, time_us=time_us, n_wrong=n_wrong)
            n_wrong = None  # of all blocks together

    if fault and not tests:
        raise ResultError(fault)
    for test in [*tests.values()][:1]:
        test.unread = unread

    return [*tests.values()]
