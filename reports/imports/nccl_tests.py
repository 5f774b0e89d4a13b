"""Logs of nccl-tests and rccl-tests of every era, of NCCL 1.x's own tests and of mscclpp-test.

A test is a head (a version, `nThread ...`, the devices), a header, rows and a footer, each of which may be missing. A
row is size, count, type, redop, root and one or two halves of time, algbw, busbw and errors: header and words tell
which of them are there, and where a half is blank the columns tell which. NCCL's messages may split a row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from reports.imports.imported import ImportedCase, ImportedSummary
from reports.imports.logged import (
    LIKE_A_FIGURE,
    LONGEST_LINE,
    NO_ROWS,
    LoggedTest,
    cells,
    collective_of,
    count_of,
    half_digit,
    nccl_version,
    number,
    only,
    ranks_started,
    whole,
)

MEAN, CPU_TIME = "mean over iterations", "CPU time, mean over iterations"

# The store's names of the types; `char` is NCCL 1.x's, the `fp8_` ones RCCL's.
TYPES = {"half": "float16", "float": "float32", "double": "float64", "bfloat16": "bfloat16", "char": "int8",
         "int": "int32", "f8e4m3": "float8_e4m3", "f8e5m2": "float8_e5m2", "fp8_e4m3": "float8_e4m3",
         "fp8_e5m2": "float8_e5m2"} | {name: name for name in ("int8", "uint8", "int32", "uint32", "int64", "uint64")}
HALF = r"(?: (?:cpu)?time algbw busbw(?: (?:wrong|error|res))?(?: i_\S+)*)"
HEADER = re.compile(rf"(?:size|bytes) (?:count|n)( type)?(?: redop| op)?( root)?({HALF})({HALF})?( timestamp)?")
PLACES = re.compile(r"(?:(?:out-of|in)-place(?: \(\+ per-iteration\))?\s*)+")
PROGRAM = re.compile(r"(?:^|[\s/'\"`])(all_?reduce|all_?gather|reduce_?scatter|all_?to_?allv?|sendrecv|broadcast|bcast|"
                     r"reduce|scatter|gather|hypercube)(_test_perf|_perf|_test)(?:_mpi)?(?=$|[\s'\"`;|&)])")
STARTING = re.compile(r"Collective test (starting|concluded): (\w+?)(?:_test)?(?:_perf)?(?:_mpi)?$")
PARAMETERS = re.compile(r"(?:nThread \d+ nGpus \d+ )?minBytes \d+ maxBytes \d+ ")
RANK = re.compile(r"Rank +(\d{1,7})(?: +Group +(\d+))?(?: +Pid +\d+)? +on +\S+ +device +\d+ +\[[^\]]*\] *(.*)|"
                  r"Device +(\d{1,7}) +-> +\d+ +\[[^\]]*\] *(.*)")
BOUNDS = re.compile(r"Out of bounds values *: *(\d{1,18} (?:OK|FAILED))")
AVERAGE = re.compile(r"Avg bus bandwidth *: *([\d.e+-]+)( *FAILED)?")
FAILURE = re.compile(r"\bTest (?:NCCL|CUDA|HIP|MPI) failure|\bTest timeout \(\d+s\)|"
                     r"\b(?:NCCL|Cuda|CUDA|HIP|Test) failure \S+\.\w+:\d+")
VERSION = re.compile(r"\b([NR]CCL) version {0,4}:? {0,4}(\d{1,4}\.\d{1,4}\.\d{1,4})")
FIGURES = re.compile(r"(?:(?:\d+(?:\.\d*)?(?:e[+-]?\d+)?\*?|N/A|-?nan|inf)(?: |$))*")
OLD_ALGBW = ("all_gather", "reduce_scatter")
BANNER, STARTED, SIZES, DEVICES, RANKS, TABLE, ROWS, FOOTER = range(8)


@dataclass
class Layout:
    """What a header says of its rows: `places` has whether each half is in place and where its time ends. As it stands,
    what rows have under a header that was lost."""

    known: bool = False
    typed: bool = True
    rooted: bool = True
    names: tuple[str, ...] = ("time", "algbw", "busbw", "wrong")
    places: tuple[tuple[bool, int], ...] = ((False, 64), (True, 95))
    size_end: int = 12
    milliseconds: bool = False


@dataclass
class Row:
    """A row as far as it was read; `halves` has whether each is in place, and its words."""

    line: int
    about: dict[str, Any]
    halves: list[tuple[bool, list[str]]] = field(default_factory=list)


@dataclass
class Draft(LoggedTest):
    """A test while it is read. `stage` is its last part that was seen; `headless` has no head, and `follows` a footer;
    `mixed` are two runs in one output. `names` are the collectives that its lines name, `listed` its ranks with group
    and GPU, `commands` what may have started it, the last one most likely."""

    stage: int = BANNER
    layout: Layout = field(default_factory=Layout)
    rows: list[Row] = field(default_factory=list)
    pending: Row | None = None
    headers: int = 0
    headless: bool = False
    follows: bool = False
    mixed: bool = False
    sized: bool = False
    names: set[str | None] = field(default_factory=set)
    listed: list[tuple[int, str, str]] = field(default_factory=list)
    nranks: set[int] = field(default_factory=set)
    commands: list[str] = field(default_factory=list)


@dataclass
class Reader:
    """The tests so far, and what was said before the test that it is about."""

    tests: list[Draft] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    library: str | None = None
    places: list[bool] = field(default_factory=list)

    def begin(self, stage: int, at: int) -> Draft:
        """The test that this part belongs to: the last one, or, where that has been through it, a new one."""
        test = self.tests[-1] if self.tests else None
        if test is None or test.stage > stage or (test.stage == stage and stage not in (RANKS, TABLE)):
            test = Draft("nccl-tests", at, at, "nccl-tests", MEAN, library=self.library)
            test.commands, self.commands = self.commands, []
            self.tests.append(test)
        test.stage = stage
        return test

    def feed(self, at: int, line: str, message: str) -> None:
        """Reads a line; `message` is the same with what NCCL says in it."""
        test = self.tests[-1] if self.tests else None
        if "CCL version" in message and (said := VERSION.search(message)):
            self.library = f"{said[1]} {said[2]}"
            if test is not None and test.stage < FOOTER:
                test.library = self.library
        if test is not None and "nranks" in message:
            test.nranks.update(map(int, re.findall(r"\bnranks (\d{1,7})\b", message)))
        words = cells(line)
        if not words:
            return
        known = self.row(at, words) or self.head(at, line.strip(" #"), words)
        if known and self.tests:
            self.tests[-1].last_line = at

    def row(self, at: int, words: list[tuple[str, int]]) -> bool:
        """Whether the line is a row, a part of one, or looks like one."""
        test = self.tests[-1] if self.tests else None
        in_table = test is not None and test.stage in (TABLE, ROWS)
        layout = self.tests[-1].layout if in_table else Layout()
        row, readable = read_row(layout, words, at)
        if ((row is None or not row.about) and test is not None and test.pending is not None
                and continued(test, [word for word, _ in words])):
            return True
        if row is None:
            return False
        if not readable or not (row.halves or layout.known):
            if in_table:
                self.tests[-1].unread.append(at)
            return in_table
        if test is None or test.stage == FOOTER:
            test = Draft("nccl-tests", at, at, "nccl-tests", MEAN, headless=True, follows=test is not None)
            self.tests.append(test)
        flush(test)
        test.pending, test.stage = row, ROWS
        if len(row.halves) == len(layout.places):
            flush(test)
        return True

    def head(self, at: int, text: str, words: list[tuple[str, int]]) -> bool:
        """Whether the line is one of those around the rows."""
        test = self.tests[-1] if self.tests else None
        names = " ".join(word for word, _ in words).lower()
        if PARAMETERS.match(text):
            test = self.begin(SIZES, at)
            test.format, test.sized = "nccl-tests" if text[0] == "n" else "mscclpp-test", True
        elif (said := STARTING.match(text)) is not None:
            test = self.begin(STARTED, at) if said[1] == "starting" or test is None else test
            test.names |= {collective_of(said[2])} - {None}
        elif text.startswith("nccl-tests version "):
            test = self.begin(BANNER, at)
            if coded := re.search(r"nccl-library=(\d{5,6})\b", text):
                test.library = self.library = nccl_version(int(coded[1]))
        elif text.startswith("rccl-tests: Version ") and test is not None:
            test.format = "rccl-tests"
        elif text.startswith("Initializing MSCCL++"):
            test = test if test is not None and test.stage in (DEVICES, RANKS) else self.begin(DEVICES, at)
            test.format = "mscclpp-test"
        elif text.startswith("Using devices"):
            self.begin(DEVICES, at)
        elif (rank := RANK.match(text)) is not None:
            test = self.begin(RANKS, at)
            test.listed.append((int(rank[1] or rank[4]), rank[2] or "0", rank[3] or rank[5] or ""))
        elif PLACES.fullmatch(text) is not None:
            self.places = [place == "in" for place in re.findall(r"\b(out-of|in)-place", text)]
        elif (header := HEADER.fullmatch(names)) is not None:
            self.table(self.begin(TABLE, at), header, words)
        elif test is not None and test.stage == TABLE and re.search(r"\((?:us|ms)\)", text):
            test.layout.milliseconds = "(ms)" in text
        elif test is not None and (bounds := BOUNDS.match(text)) is not None:
            test.mixed |= test.out_of_bounds is not None
            test.out_of_bounds, test.stage = bounds[1], FOOTER
        elif test is not None and (average := AVERAGE.match(text)) is not None:
            test.footer_avg_bus_bw, test.stage = number(average[1]), FOOTER
            test.status = "failed" if average[2] else test.status
        elif FAILURE.search(text) is not None:
            test = self.begin(DEVICES, at) if test is None or (self.commands and test.stage == FOOTER) else test
            test.status = "failed"
        else:
            if len({found[1] for found in PROGRAM.finditer(text)}) == 1 and not text.startswith("Linking"):
                self.commands.append(text)
            return False
        return True

    def table(self, test: Draft, header: re.Match[str], words: list[tuple[str, int]]) -> None:
        """What the header says of its rows."""
        test.headers += 1
        times = [end for word, end in words if word.lower() in ("time", "cputime")]
        names = tuple(header[3].split())
        said = self.places if len(self.places) == len(times) else [not header[1], bool(header[1])][: len(times)]
        if len(times) == 1 and len(self.places) != 1:
            said = [False]
        self.places = []
        if names[0] == "cputime":
            test.statistic = CPU_TIME
        if not header[1]:
            test.format = "mscclpp-test"
        test.layout = Layout(True, bool(header[1]), bool(header[2]), ("time", *names[1:]),
                             tuple(zip(said, times, strict=True)), words[0][1], names[-1] == "res")


def read_row(layout: Layout, words: list[tuple[str, int]], at: int) -> tuple[Row | None, bool]:
    """The row and whether all of it could be read, with nothing in `about` where its size could not; None for what is
    none."""
    texts = [word for word, _ in words]
    size, count = whole(texts[0]), whole(texts[1]) if len(texts) > 1 else None
    if size is None or count is None:
        looks = len(texts) >= 2 + len(layout.names) and all(map(LIKE_A_FIGURE.fullmatch, texts[:2]))
        return Row(at, {}) if looks else None, False
    row, first = Row(at, {"size_bytes": size, "count": count}), 2
    if layout.typed:
        name = texts[2].lower() if len(texts) > 2 else ""
        if not (re.fullmatch(r"[a-z]\w{1,15}", name) if layout.known else name in TYPES):
            return row, False
        row.about["datatype"], first = TYPES.get(name, name), 3
        if len(texts) > 3 and re.fullmatch(r"[A-Za-z]\w{1,15}", texts[3]) and texts[3] not in ("nan", "inf"):
            row.about["redop"], first = texts[3].lower(), 4
    if len(texts) > first + 2 and re.fullmatch(r"\d{4}-\d\d-\d\d", texts[-2]):
        texts = texts[:-2]  # a timestamp
    width = len(layout.names)
    if layout.rooted and (len(texts) - first) % width == 1 and re.fullmatch(r"-?\d{1,9}", texts[first]):
        row.about["root"], first = int(texts[first]), first + 1
    figures = [text.rstrip("*") for text in texts[first:]]
    halves = [figures[start : start + width] for start in range(0, len(figures), width)]
    if len(figures) % width or len(halves) > len(layout.places) or not FIGURES.fullmatch(" ".join(texts[first:])):
        return row, False
    places = [place for place, _ in layout.places]
    if len(halves) == 1:
        moved = words[0][1] - layout.size_end
        places = [min(layout.places, key=lambda place: abs(place[1] + moved - words[first][1]))[0]]
    row.halves = list(zip(places, halves, strict=False))
    return row, True


def continued(test: Draft, texts: list[str]) -> bool:
    """Whether the words are what is left of the row that a message split; then they are taken into it."""
    row, width = test.pending, len(test.layout.names)
    assert row is not None
    missing = [place for place, _ in test.layout.places if place not in dict(row.halves)]
    if not FIGURES.fullmatch(" ".join(texts)) or len(texts) not in (width, width * len(missing)):
        return False
    for start, place in zip(range(0, len(texts), width), missing, strict=False):
        row.halves.append((place, texts[start : start + width]))
    if len(row.halves) == len(test.layout.places):
        flush(test)
    return True


def flush(test: Draft) -> None:
    """Ends the row that may have gone on: what has no figures at all counts as unread."""
    row, test.pending = test.pending, None
    if row is not None and row.halves:
        test.rows.append(row)
    elif row is not None:
        test.unread.append(row.line)


def parse_nccl(lines: Sequence[str], raw: Sequence[str]) -> list[LoggedTest]:
    """The tests in the cleaned `lines`; `raw` are the same lines with NCCL's messages."""
    reader = Reader()
    for at, (line, message) in enumerate(zip(lines, raw, strict=True), 1):
        if line or "CCL" in message:
            reader.feed(at, line, message[:LONGEST_LINE])
    return [_finished(test) for test in _unmixed(reader.tests)]


def _unmixed(tests: list[Draft]) -> list[Draft]:
    """Two runs in one output leave the head of one as a test of its own and two headers in a row, or rows after a
    footer: which rows are whose cannot be told, so all are incomplete, and that head counts for nothing."""
    kept: list[Draft] = []
    for place, test in enumerate(tests):
        flush(test)
        torn = place + 1 < len(tests) and tests[place + 1].follows and (test.headless or _repeats(test))
        if torn:
            test.mixed = tests[place + 1].mixed = True
        while kept and (torn or test.headers > 1) and _only_a_head(kept[-1], headers=int(torn)):
            before = kept.pop()
            test.first_line, test.mixed = before.first_line, True
            _take_head(test, before)
        if test.mixed and kept and _only_a_head(kept[-1], headers=1):
            _take_head(test, kept[-1])
        kept.append(test)
    return kept


def _take_head(test: Draft, before: Draft) -> None:
    """What the head of `before` says holds for the test too: where the two differ, neither counts."""
    test.names |= before.names
    test.nranks |= before.nranks
    test.listed, test.commands = before.listed + test.listed, before.commands + test.commands


def _only_a_head(test: Draft, headers: int) -> bool:
    return not test.rows and test.headers <= headers and test.stage <= TABLE and test.status != "failed"


def _repeats(test: Draft) -> bool:
    """Whether sizes do not only grow within a type, an operation and a root, as one run's would."""
    kinds = [[row.about.get(name) for name in ("datatype", "redop", "root")] for row in test.rows]
    sizes = [int(row.about["size_bytes"]) for row in test.rows]
    pairs = zip(pairwise(kinds), pairwise(sizes), strict=True)
    return any(kind == same and 0 < later <= size for (kind, same), (size, later) in pairs)


def _finished(test: Draft) -> LoggedTest:
    commands = test.commands if test.mixed else test.commands[-1:]
    programs = [program for command in commands if (program := PROGRAM.search(command))]
    test.collective = only(test.names or {collective_of(program[1]) for program in programs})
    test.world_size = only({ranks_started(said.string[: said.start(1)], said.string[said.end():]) for said in programs})
    if any(program[2] == "_test_perf" for program in programs):
        test.format = "mscclpp-test"
    if test.listed:
        times, models = Counter(rank for rank, _, _ in test.listed), {(rank, gpu) for rank, _, gpu in test.listed}
        is_one = len({group for _, group, _ in test.listed}) == len(set(times.values())) == 1
        test.world_size = max(times) + 1 if is_one else None
        said_of = Counter(rank for rank, _ in models)
        test.gpus = {rank: gpu for rank, gpu in models if said_of[rank] == 1}
    elif test.nranks:
        test.world_size = only(test.nranks)
    if test.layout.names[-1] == "res" and not test.sized:
        test.format = "NCCL 1.x"
    test.benchmark = test.format if test.collective is None else f"{test.format} {test.collective}"
    if test.format == "mscclpp-test":
        test.library = "MSCCL++"
    for row in test.rows:
        for in_place, figures in row.halves:
            case = _case(test, row, in_place, dict(zip(test.layout.names, figures, strict=True)))
            if case is not None:
                test.add(case)
            elif set(figures) != {"N/A"}:
                test.unread.append(row.line)
    has_footer = test.format not in ("NCCL 1.x", "mscclpp-test")
    if "FAILED" in (test.out_of_bounds or "") or test.status == "failed":
        test.status, test.reason = "failed", "the run itself says so"
    elif test.mixed:
        test.status, test.reason = "incomplete", "two runs wrote into each other's lines"
    elif test.headless:
        test.status, test.reason = "incomplete", "the log begins in the middle of the test"
    elif not test.cases:
        test.status, test.reason = "incomplete", NO_ROWS
    elif test.stage < FOOTER and has_footer:
        test.status, test.reason = "incomplete", "the log ends before the test does"
    return test


def _case(test: Draft, row: Row, in_place: bool, figures: dict[str, str]) -> ImportedCase | None:
    """The half; None where it has no time, or a count of wrong elements that is none."""
    time, alg_bw, bus_bw = number(figures["time"]), number(figures["algbw"]), number(figures["busbw"])
    n_wrong, checked = count_of(figures.get("wrong", "")), figures.get("wrong", "N/A") != "N/A"
    if time is None or (checked and n_wrong is None):
        return None
    scale = 1e3 if test.layout.milliseconds else 1.0
    case = ImportedCase(case=0, collective=test.collective, in_place=in_place, line=row.line, alg_bw_gb_s=alg_bw,
                        bus_bw_gb_s=bus_bw, **row.about)
    case.time_us, case.n_wrong = ImportedSummary(mean=round(time * scale, 9)), n_wrong
    if "i_p99" in figures:
        case.time_us.min, case.time_us.max, case.time_us.p99 = (
            number(figures[name]) for name in ("i_min", "i_max", "i_p99"))
    if "wrong" not in figures:
        case.max_error = number(figures.get("error", figures.get("res", "")))
    if test.collective in OLD_ALGBW and time and alg_bw is not None and alg_bw == bus_bw:
        # In 2019 and 2020 this algbw had the factor (n-1)/n of busbw in it already.
        computed = row.about["size_bytes"] / (time * scale) / 1e3
        rounding = computed * half_digit(figures["time"]) / time + half_digit(figures["algbw"])
        if computed - alg_bw > 1.01 * rounding:
            case.reported_alg_bw_gb_s, case.alg_bw_gb_s = alg_bw, computed
    return case
