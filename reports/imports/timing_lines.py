"""Timing lines, a protocol for any program: one JSON object a line, among other lines if need be.
docs/judge.md describes the fields."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated

import msgspec

from reports.imports.logged import LoggedTest, check
from reports.store.result import NOT_JSON, ResultError
from reports.store.schema import LEAST_US, Count, Positive, Shape

MARK, FORMAT = '"time_us"', "timing-lines"
STATISTIC = "median over blocks, slowest rank"
Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z][\w.-]{0,63}\Z")]
Time = Annotated[float, msgspec.Meta(ge=LEAST_US, lt=1e15)]


class TimingLine(msgspec.Struct):
    """The bytes of all ranks as nccl-tests counts them, and the time of the slowest rank in us;
    several times are several blocks, of `n` iterations each. Work that is no collective has a
    `name` and a `shape`."""

    size_bytes: Count
    time_us: Time | Annotated[list[Time], msgspec.Meta(min_length=1)]
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
# Without `n`, which is a dimension of a matmul too.
KNOWN = {name.replace("_", ""): name for name in TimingLine.__struct_fields__ if name != "n"}


def parse_timing_lines(lines: Sequence[str]) -> tuple[list[LoggedTest], str]:
    """A test for each collective or name, and number of ranks, in the order of their first line;
    and why the first line that cannot be read is none. Raises ResultError for an unknown field that
    looks like one that its line lacks, or like `n_wrong`, and for too many rows."""
    tests: dict[tuple[str, int | None], LoggedTest] = {}
    unread, fault, n_bytes, n_rows = list[int](), "", 0, 0
    seen = {*TimingLine.__struct_fields__}

    for number, text in enumerate(lines, 1):
        if MARK not in text:
            continue
        check("bytes of JSON", n_bytes := n_bytes + len(text))
        text = text[text.find("{") :].strip()
        try:
            fields = msgspec.json.decode(text)
            line = msgspec.convert(fields, TimingLine)
        except NOT_JSON as error:
            unread.append(number)
            fault = fault or f"line {number} is no timing line ({error})"
            continue
        for name in {field[:64] for field in fields} - seen:
            check("names of fields", len(seen))
            seen.add(name)
            word = re.sub(r"[\W_]", "", name.lower())
            near = ["nwrong"] if "wrong" in word else get_close_matches(word, KNOWN, 1, 0.75)
            for known in map(KNOWN.get, near):
                if known == "n_wrong" or known not in fields:
                    raise ResultError(f"line {number} has {name!r}: do you mean `{known}`?")
        key = line.collective or line.name, line.ranks
        test = tests.setdefault(key, LoggedTest(FORMAT, number, STATISTIC, *key))
        case = {name: getattr(line, name) for name in OF_CASE}
        n_wrong = line.n_wrong
        times_us = line.time_us if isinstance(line.time_us, list) else [line.time_us]
        check("rows", n_rows := n_rows + len(times_us))

        for time_us in times_us:
            test.add(number, case, line.n, time_us=time_us, n_wrong=n_wrong)
            n_wrong = None  # of all blocks together

    for test in tests.values():
        test.set_status()
    for test in [*tests.values()][:1]:
        test.unread = unread
        test.notes += filter(None, [fault])

    return [*tests.values()], fault
