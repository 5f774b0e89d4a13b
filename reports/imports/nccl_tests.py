"""Parses logs of nccl-tests and rccl-tests of every era, of NCCL 1.x's tests and of mscclpp-test.

A test is a head (a version, `nThread ...`, the devices), a header, rows and a footer; each of them
may be missing. A row is size, count, type, redop, root and one or two halves of time, algbw, busbw
and errors. The header and the words show which of them are present, the columns which half is
blank. NCCL's messages may split a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from reports.imports import logged
from reports.imports.logged import CPU_TIME, LoggedTest, collective_of
from reports.imports.nccl_end import PROGRAM, end_test, merge_interleaved
from reports.imports.nccl_rows import Draft, Layout, Stage

HALF = r"(?: (?:cpu)?time algbw busbw(?: (?:wrong|error|res))?(?: i_\S+)*)"
HEADER = re.compile(rf"(?:size|bytes) (?:count|n)( type)?(?: redop| op)?( root)?({HALF})({HALF})?"
                    r"( timestamp)?")
PLACES = re.compile(r"(?:(?:out-of|in)-place(?: \(\+ per-iteration\))?\s*)+")
# A line before the table; the name of its group is the stage that it begins.
HEAD = re.compile(
    r"(?P<BANNER>nccl-tests version )|(?P<STARTED>Collective test starting: )|"
    r"(?P<SIZES>(?:nThread \d+ nGpus \d+ )?minBytes \d+ maxBytes \d+ )|"
    r"(?P<DEVICES>Using devices|Initializing MSCCL\+\+)|"
    r"(?P<RANKS>(?:Device +(?P<device>\d{1,7}) +->|"
    r"Rank +(?P<rank>\d{1,7})(?: +Group +(?P<group>\d+))?(?: +Pid +\d+)? +on +\S+ +device)"
    r" +\d+ +\[[^\]]*\] *)")
NAME = re.compile(r"Collective test (?:starting|concluded): (\w+?)(?:_test)?(?:_perf)?(?:_mpi)?$")
LIBRARY = re.compile(r"\bnccl-library=(\d{5,6})\b")
BOUNDS = re.compile(r"Out of bounds values *: *(\d{1,18} (?:OK|FAILED))")
AVERAGE = re.compile(r"Avg bus bandwidth *: *([\d.e+-]+)( *FAILED)?")
FAILURE = re.compile(r"\bTest (?:NCCL|CUDA|HIP|MPI) failure|\bTest timeout \(\d+s\)|"
                     r"\b(?:NCCL|Cuda|CUDA|HIP|Test) failure \S+\.\w+:\d+")
VERSION = re.compile(r"\b([NR]CCL) version {0,4}:? {0,4}(\d{1,4}\.\d{1,4}\.\d{1,4})")


def parse_nccl(lines: Sequence[str], raw: Sequence[str]) -> list[LoggedTest]:
    """The tests in cleaned lines; `raw` are the same lines with NCCL's messages."""
    reader = Reader()
    for line_number, (line, message) in enumerate(zip(lines, raw, strict=True), 1):
        if line or "CCL" in message:
            reader.read_line(line_number, line, message[:logged.LONGEST_LINE])
    tests = merge_interleaved(reader.tests)
    for test in tests:
        end_test(test)
    return list(tests)


@dataclass
class Reader:
    """The tests so far, and facts that stand before the test to which they belong."""

    tests: list[Draft] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    library: str | None = None
    places: list[bool] = field(default_factory=list)

    @property
    def last(self) -> Draft | None:
        return self.tests[-1] if self.tests else None

    def begin(self, stage: Stage, line_number: int) -> Draft:
        """The last test, or a new one if the last test is past this stage."""
        test = self.last
        is_past = test is not None and (
            test.stage > stage or (test.stage == stage and stage not in (Stage.RANKS, Stage.TABLE)))
        if test is None or is_past:
            test = Draft("nccl-tests", line_number, library=self.library)
            test.commands, self.commands = self.commands, []
            self.tests.append(test)
        test.stage = stage
        return test

    def read_line(self, line_number: int, line: str, message: str) -> None:
        """Reads a cleaned line; `message` is the line with NCCL's messages."""
        test = self.last
        version = VERSION.search(message) if "CCL version" in message else None
        if version is not None:
            self.library = f"{version[1]} {version[2]}"
            if test is not None and test.stage < Stage.FOOTER:
                test.library = self.library
        if test is not None and "nranks" in message:
            test.nranks.update(map(int, re.findall(r"\bnranks (\d{1,7})\b", message)))
        words = logged.cells(line)
        if not words:
            return
        text = line.strip(" #")
        is_of_test = (self.read_row(line_number, words) or self.read_head(line_number, text)
                      or self.read_header(line_number, text, words)
                      or self.read_footer(line_number, text))
        if is_of_test and self.tests:
            self.tests[-1].last_line = line_number
        programs = set() if is_of_test else {match[1] for match in PROGRAM.finditer(text)}
        if len(programs) == 1 and not text.startswith("Linking"):
            self.commands.append(text)

    def read_row(self, line_number: int, words: list[tuple[str, int]]) -> bool:
        """Whether the line is a row, a part of one, or looks like one."""
        test = self.last
        in_table = test is not None and test.stage in (Stage.TABLE, Stage.ROWS)
        layout = test.layout if test is not None and in_table else Layout()
        row, texts = layout.read(words, line_number), [word for word, _ in words]
        is_sized = len(texts) > 1 and None not in map(logged.whole_number, texts[:2])
        if test is not None and not is_sized and test.continue_row(" ".join(texts)):
            return True
        if row is None or not (row.halves or layout.has_header):
            is_damaged = in_table and (is_sized or layout.looks_like_row(texts))
            if test is not None and is_damaged:
                test.unread.append(line_number)
            return is_damaged
        if test is None or test.stage == Stage.FOOTER:
            self.tests.append(
                Draft("nccl-tests", line_number, headless=True, follows=test is not None))
        self.tests[-1].rows.append(row)
        self.tests[-1].stage = Stage.ROWS
        return True

    def read_head(self, line_number: int, text: str) -> bool:
        """Whether the line stands before a table."""
        head, name, test = HEAD.match(text), NAME.match(text), self.last
        is_mscclpp, is_rccl = (text.startswith(start) for start in
                               ("Initializing MSCCL++", "rccl-tests: Version "))
        is_repeated = is_mscclpp and test and test.stage in (Stage.DEVICES, Stage.RANKS)
        if head is not None and not is_repeated:
            test = self.begin(Stage[head.lastgroup or ""], line_number)
        if test is None or not (head or name or is_rccl):
            return False
        if is_rccl:
            test.format = "rccl-tests"
        elif is_mscclpp:
            test.format = "mscclpp-test"
        elif name is not None:
            test.names |= {collective_of(name[1])} - {None}
        elif test.stage == Stage.SIZES:
            test.format, test.sized = "nccl-tests" if text[0] == "n" else "mscclpp-test", True
        elif head is not None and test.stage == Stage.RANKS:
            rank = int(head["rank"] or head["device"])
            test.listed.append((rank, head["group"] or "0", text[head.end():]))
        elif code := LIBRARY.search(text):
            test.library = self.library = logged.nccl_version(int(code[1]))
        return True

    def read_header(self, line_number: int, text: str, words: list[tuple[str, int]]) -> bool:
        """Whether the line belongs to the header of a table. mscclpp-test has no type."""
        header = HEADER.fullmatch(" ".join(word for word, _ in words).lower())
        if PLACES.fullmatch(text) is not None:
            self.places = [place == "in" for place in re.findall(r"\b(out-of|in)-place", text)]
            return True
        if header is None:
            is_units = re.search(r"\((?:us|ms)\)", text) is not None
            if self.last is None or self.last.stage != Stage.TABLE or not is_units:
                return False
            self.last.layout.milliseconds = "(ms)" in text
            return True
        test = self.begin(Stage.TABLE, line_number)
        time_ends = [end for word, end in words if word.lower() in ("time", "cputime")]
        names, is_typed = header[3].split(), bool(header[1])
        places = [not is_typed, is_typed] if len(time_ends) > 1 else [False]
        if len(self.places) == len(time_ends):
            places = self.places
        self.places = []
        test.headers += 1
        if names[0] == "cputime":
            test.statistic = CPU_TIME
        if not is_typed:
            test.format = "mscclpp-test"
        test.layout = Layout(
            has_header=True, typed=is_typed, rooted=bool(header[2]), size_end=words[0][1],
            names=("time", *names[1:]), places=tuple(zip(places, time_ends, strict=True)),
            milliseconds=names[-1] == "res")
        return True

    def read_footer(self, line_number: int, text: str) -> bool:
        """Whether the line ends a test: its results, or a failure."""
        test = self.last
        bounds, average = BOUNDS.match(text), AVERAGE.match(text)
        if test is not None and bounds is not None:
            test.mixed |= test.out_of_bounds is not None
            test.out_of_bounds, test.stage = bounds[1], Stage.FOOTER
        elif test is not None and average is not None:
            test.footer_avg_bus_bw, test.stage = logged.number(average[1]), Stage.FOOTER
            test.status = "failed" if average[2] else test.status
        elif FAILURE.search(text) is not None:
            if test is None or (self.commands and test.stage == Stage.FOOTER):
                test = self.begin(Stage.DEVICES, line_number)
            test.status = "failed"
        else:
            return False
        return True
