"""Parses logs of nccl-tests, rccl-tests, NCCL 1.x's tests and mscclpp-test, and the JSON reports of
nccl-tests (`-J`) as the lines that it prints of the same run. Every part of a test
may be missing, NCCL's messages may split a row, and the heading of a table names its columns."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate
from typing import Any, NamedTuple

from reports.imports.logged import (
    LIKE_A_FIGURE,
    NUMBER,
    TWO_RUNS,
    LoggedTest,
    cells,
    check,
    clean_line,
    collective_of,
    dates_of,
    number,
    unit_us,
    whole_number,
)
from wiretax.record.case import DEVICE_KERNEL, UNKNOWN

PROGRAM = re.compile(
    r"(?:^|[\s/'\"`])(all_?reduce|all_?gather|reduce_?scatter|all_?to_?allv?|sendrecv|broadcast|"
    r"bcast|reduce|scatter|gather|hypercube)(?:_test_perf|_perf|_test)(?:_mpi)?(?=$|[\s'\"`;|&)])"
)
# The parts of a test in their order.
Part = IntEnum("Part", "BANNER STARTED SIZES RANKS TABLE ROWS FOOTER")
# A line before the table; the name of its group is the part that it belongs to.
HEAD = re.compile(
    r"(?P<BANNER>(?P<harness>[nr]ccl-tests) version .*\b[nr]ccl-library=(?P<library>\d{5,6})\b)|"
    r"(?P<STARTED>Collective test starting: (?P<name>\w+?)(?:_test)?(?:_perf)?(?:_mpi)?$)|"
    r"(?P<SIZES>nThread \d+ nGpus \d+ minBytes )|"
    r"(?P<RANKS>(?:Device +(?P<device>\d{1,7}) +->|"
    r"Rank +(?P<rank>\d{1,7})(?: +Group +(?P<group>\d+))?(?: +Pid +\d+)? +on +"
    r"(?P<host>\S+) +device) +\d+ +\[[^\]]*\] *)"
)
# What a test begins with, also in a spreadsheet and where only the heading is left.
TITLE = re.compile(rf"{HEAD.pattern}|(?:size|bytes)(?:\(\S*)? +(?:count|n)(?:\(| )", re.IGNORECASE)
FAILURE = re.compile(
    r"\bTest (?:NCCL|CUDA|HIP|MPI) failure|\bTest timeout \(\d+s\)|"
    r"\b(?:NCCL|Cuda|CUDA|HIP|Test) failure \S+\.\w+:\d+"
)
FOOTER = re.compile(
    r"(?:Out of bounds values|Avg bus bandwidth) *: *[\d.e+-]+(?P<failed> *FAILED)?"
)
# The store's names of the types, if they differ; `char` comes from NCCL 1.x, `fp8_` from RCCL.
TYPES = {
    "half": "float16",
    "float": "float32",
    "double": "float64",
    "char": "int8",
    "int": "int32",
    "f8e4m3": "float8_e4m3",
    "f8e5m2": "float8_e5m2",
    "fp8_e4m3": "float8_e4m3",
    "fp8_e5m2": "float8_e5m2",
}
EARLY = "NCCL 1.x"  # prints milliseconds, and no footer
# What a row or a line of a heading begins with, see LIKE_A_FIGURE and `read_heading`.
ROW_OR_HEADING = (*"+-.0123456789ni", "out-of-place", "in-place", "(b)", "size", "bytes")
# Columns under other names.
COLUMNS = {"bytes": "size", "n": "count", "op": "redop"}
FIGURE = re.compile(r"\d+(?:\.\d*)?(?:e[+-]?\d+)?|N/A|-?nan|-?inf")
WORD = re.compile(r"[A-Za-z]\w{1,15}")
NAME = re.compile(r"[\w/*-]{2,20}")
VALUES = {  # others: FIGURE
    "type": WORD,
    "redop": WORD,
    "root": re.compile(r"-?\d{1,9}"),
    "algo": NAME,
    "proto": NAME,
}
PERCENTILES = "i_p50", "i_p95", "i_p99", "i_max"  # of -I; its table lacks the first two
CHOSEN = "algo", "proto", "nchannels"  # what RCCL planned for both halves: -A of rccl-tests
# The tests' own kernels over NCCL's device API, by the number of the option -D (NVIDIA/nccl-tests,
# src/all_reduce.cu and src/alltoall.cu at a0b82b2). The table does not name them: the arguments do.
DEVICE_OPTION = re.compile(r"\s(?:-D\s?|--device_impl\w*[=\s])(\d{1,3})(?![\w.-])")
# Of the option -S: the last cell of a row, with a blank in it.
TIMESTAMP = re.compile(r" +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$")
CPU_TIME = "its times are those of the CPU (-C 1), not of the collective: measure without -C"
DEVICE_KERNELS = {
    "all_reduce": ("LSA", "LSA vectorized", "multimem", "multimem vectorized"),
    "alltoall": ("LSA", "LSA optimized", "GIN", "LSA and GIN"),
}


class Column(NamedTuple):
    """`in_place` is of the half of a row with this column, None beside the times; `end` is where
    the name ends, from the end of the first name."""

    name: str
    in_place: bool | None
    end: int


def is_failure(text: str) -> bool:
    """Whether a line says that the run failed. The words come first: most lines have neither."""
    return ("failure" in text or "timeout" in text) and FAILURE.search(text) is not None


def device_kernel_of(command: str) -> int:
    """The number of the device kernel that a command line of a test asks for; 0 for the library's
    own collective, or another program."""
    program = PROGRAM.search(command)
    arguments = re.split(r"[;|&]", command[program.end() :])[0] if program else ""
    found = DEVICE_OPTION.findall(arguments)
    return int(found[-1]) if found else 0  # as getopt has it: the last one counts


def read_heading(
    words: list[tuple[str, int]], places: Sequence[bool] = (False, True)
) -> tuple[Column, ...]:
    """The columns that a line names; empty if it is not the heading of a table. `places`: whether
    each half is in place."""
    names = [word.lower().partition("(")[0] for word, _ in words]
    names = [COLUMNS.get(name, name) for name in names]

    if names[:2] != ["size", "count"] or not {"time", "algbw", "busbw"} <= set(names):
        return ()

    halves = accumulate(name == "time" for name in names)
    sides = dict(enumerate(places, 1))
    return tuple(
        Column(name, None if name in CHOSEN else sides.get(half), end - words[0][1])
        for name, half, (_, end) in zip(names, halves, words, strict=True)
    )


# The columns of a log that begins within its table.
USUAL_HEADING = (
    "        size         count      type   redop    root     time   algbw   busbw  wrong"
    "     time   algbw   busbw  wrong"
)
USUAL = read_heading(cells(USUAL_HEADING))
# The table that a JSON report becomes.
REPORT_HEADING = " ".join(
    ["size count type redop root", *2 * ["time algbw busbw wrong", *PERCENTILES]]
)


@dataclass
class NcclTest(LoggedTest):
    """A test while its lines are read. `part` is its last part. `texts` are the numbers and texts
    of rows. `groups` has the hosts of each group of ranks. Times are in units of `unit_us`.
    `device_kernel` is the number of the tests' own kernel that ran, 0 if the library did."""

    part: Part = Part.BANNER
    device_kernel: int = 0
    columns: Sequence[Column] = USUAL
    unit_us: float = 1
    texts: list[tuple[int, str]] = field(default_factory=list)
    groups: dict[str | None, set[str | None]] = field(default_factory=lambda: defaultdict(set))

    def read_row(self, line: int, text: str) -> None:
        """Adds the halves of a row, or the line to `unread` if one cannot be read."""
        with self.reading(line):
            halves = self._split(text)
            case = _case_of(halves.pop(None, {}))

            for in_place, half in halves.items():
                wrong = half.get("wrong", "N/A")
                if {*half.values()} != {"N/A"}:
                    with self.reading(line):
                        time_us = round(number(half["time"]) * self.unit_us, 9)
                        if not _agrees(half, case["size_bytes"] / 1e3, time_us):
                            raise ValueError(
                                f"its algbw, {half['algbw']} GB/s, is not its size by its time"
                            )
                        self.add(
                            line,
                            case | {"in_place": in_place},
                            theirs={
                                f"{name.removeprefix('i_')}_us": number(half[name]) * self.unit_us
                                for name in PERCENTILES
                                if half.get(name, "N/A") != "N/A"
                            },
                            time_us=time_us,
                            n_wrong=None if wrong == "N/A" else whole_number(wrong),
                        )

    def _split(self, text: str) -> dict[bool | None, dict[str, str]]:
        """The words by the names of their columns: of each half that is not blank, and under None
        those beside. If some columns are blank, the ends of the words show which. Raises
        ValueError for another line."""
        words = cells(text)
        columns = self.columns

        if len(words) != len(columns):
            ends = [end - words[0][1] for _, end in words]
            columns = [min(self.columns, key=lambda each: abs(each.end - end)) for end in ends]

        halves: dict[bool | None, dict[str, str]] = defaultdict(dict)
        for column, (word, _) in zip(columns, words, strict=True):
            half = halves[column.in_place]
            is_again = column.name in half and column.in_place is not None  # a damaged heading
            if is_again or not VALUES.get(column.name, FIGURE).fullmatch(word):
                raise ValueError(f"{word[:40]!r} is no {column.name}")
            half[column.name] = word

        lacking = {column.in_place for column in {*self.columns} - {*columns}} - {None}
        if lacking & halves.keys() or len({*columns}) < len(words) or halves.keys() == {None}:
            raise ValueError(f"its {len(words)} cells are not those of the heading")

        return halves

    def finish(self) -> None:
        """Sets the ranks, if the output is of one run, adds the rows, and says whether it ended."""
        if len(self.groups) == 1 and not self.lack:
            [hosts] = self.groups.values()
            self.world_size, self.hosts = max(self.gpus) + 1, len(hosts)

        for line, text in self.texts:
            self.read_row(line, text)

        self.name_device_kernel(self.device_kernel)
        self.has_footer = self.format not in (EARLY, "mscclpp-test")
        self.has_ended = self.part == Part.FOOTER

    def name_device_kernel(self, number: int) -> None:
        """Names the tests' own kernel with this number in the rows and beside the library, whose
        own collective did not run; 0: it did."""
        if not number:
            return
        names = DEVICE_KERNELS.get(self.collective or "", ())
        name = names[number - 1] if number <= len(names) else f"kernel {number}"
        self.device_kernel = number
        self.library = f"{self.format} {name}, {self.library or 'NCCL'}"
        for row in self.rows:
            row.case["chosen"] = f"{DEVICE_KERNEL} {number} (-D)"


def _agrees(half: dict[str, str], size_kb: float, time_us: float) -> bool:
    """Whether the algbw of half a row is its size by its time, to 10 %, if it has one: otherwise
    its time has another unit. An early version's, which is its busbw too, leaves out a rank's own
    part, at most a half."""
    algbw = NUMBER.fullmatch(half.get("algbw", ""))
    if not algbw:
        return True
    moved_kb, room_kb = float(algbw[0]) * time_us, time_us / 160  # its last digit is 0.01 GB/s
    least = 0.45 if half.get("busbw") == algbw[0] else 0.9
    return least * size_kb - room_kb <= moved_kb <= 1.1 * size_kb + room_kb


def _case_of(words: dict[str, str]) -> dict[str, Any]:
    """The fields of a case in the columns beside the times. Raises ValueError without a size."""
    datatype = words.get("type", "").lower()
    algorithm, protocol, channels = (words.get(name, "N/A") for name in CHOSEN)
    return {
        "size_bytes": whole_number(words.get("size", "")),
        "count": whole_number(words.get("count", "")),
        "datatype": TYPES.get(datatype, datatype) or UNKNOWN,
        "redop": words.get("redop", "").lower(),
        "chosen": None
        if "N/A" in (algorithm, protocol)
        else f"{algorithm} {protocol}, at most {channels} channels",
    }


def parse_nccl(lines: list[str]) -> list[NcclTest]:
    """The tests in cleaned lines."""
    reader = Reader()
    for line, text in enumerate(lines, 1):
        text_only = text.strip(" #")
        start = text_only[:12].lower()
        # A log of a million lines has mostly others: their words are not needed.
        if not start.startswith(ROW_OR_HEADING):
            if start:
                reader.read_text(line, text_only)
            continue
        text = TIMESTAMP.sub("", text)
        words = cells(text)
        if words and not (reader.read_row(line, text, words) or reader.read_heading(line, words)):
            reader.read_text(line, text_only)

    for test in reader.tests:
        test.finish()

    return reader.tests


@dataclass
class Reader:
    """The tests so far, and facts that stand before the test to which they belong. `test` is the
    last test; before the first, an empty one that has ended."""

    tests: list[NcclTest] = field(default_factory=list)
    test: NcclTest = field(default_factory=lambda: NcclTest("", 0, part=Part.FOOTER))
    program: str | None = None
    device_kernel: int = 0
    places: Sequence[bool] = (False, True)

    def begin(self, part: Part, line: int) -> None:
        """Goes on to a part, in a new test if the last test is past this part."""
        test = self.test
        if test.part > part:
            test = NcclTest("nccl-tests", line, collective=self.program)
            test.device_kernel = self.device_kernel
            self.test, self.program, self.device_kernel = test, None, 0
            self.tests.append(test)
            check("tests", len(self.tests))  # before they fill the memory

        if test.part == part == Part.TABLE:
            test.lack = TWO_RUNS

        test.part = part

    def read_row(self, line: int, text: str, words: list[tuple[str, int]]) -> bool:
        """Whether the line is a row, the rest of one, or looks like one."""
        test = self.test
        if not all(LIKE_A_FIGURE.fullmatch(word) for word, _ in words[:2]) or is_failure(text):
            return False
        is_figure = [LIKE_A_FIGURE.fullmatch(word) is not None for word, _ in words]

        if test.part == Part.ROWS and all(is_figure):
            row_line, row = test.texts[-1]
            if len(cells(row + text)) <= len(test.columns):
                test.texts[-1] = row_line, row + text
                return True

        if test.part == Part.FOOTER:
            # Rows after the footer belong to another run, which wrote at the same time.
            probe = NcclTest("", line)
            probe.read_row(line, text)
            if not probe.rows:
                return False
            test.lack = TWO_RUNS
            self.begin(Part.BANNER, line)
            self.test.lack = "its rows follow no heading"
        elif test.part < Part.TABLE:
            return False

        self.test.texts.append((line, text))
        self.places = (False, True)  # those of another program's next table are its own
        self.test.part = Part.ROWS
        return True

    def read_heading(self, line: int, words: list[tuple[str, int]]) -> bool:
        """Whether the line belongs to the heading of a table."""
        texts = [word.lower() for word, _ in words]
        if set(texts) <= {"out-of-place", "in-place"}:
            self.places = [text == "in-place" for text in dict.fromkeys(texts)]
            return True
        if self.test.part == Part.TABLE and texts[0] == "(b)" and len(texts) > 2:
            self.test.unit_us = unit_us(texts[2])
            return True

        if {"cputime", "algbw"} <= {*texts}:
            self.begin(Part.RANKS, line)  # so that no row of it is read
            self.test.lack = CPU_TIME
            return True

        columns = read_heading([word for word in words if word[0] != "timestamp"], self.places)
        if not columns:
            return False

        self.begin(Part.TABLE, line)
        test = self.test
        test.columns = columns
        test.unit_us = unit_us(next(text for text in texts if text.startswith("time")))
        if "res" in texts:
            test.format, test.unit_us = EARLY, 1e3
        elif "type" not in texts:
            test.format, test.library = "mscclpp-test", "MSCCL++"

        return True

    def read_text(self, line: int, text: str) -> None:
        """Reads a line before or after a table, or one that says that the run failed."""
        if is_failure(text):
            if not self.tests or (self.program and self.test.part == Part.FOOTER):
                self.begin(Part.BANNER, line)
            self.test.status = "failed"
        elif head := HEAD.match(text):
            self.begin(Part[head.lastgroup or ""], line)
            test = self.test
            if head["library"]:
                test.format, code = head["harness"], int(head["library"])
                version = f"{code // 10000}.{code // 100 % 100}.{code % 100}"  # 2.29.2 for 22902
                test.library = f"{test.format[:4].upper()} {version}"
            if head["name"]:
                test.collective = collective_of(head["name"])
            if test.part == Part.RANKS:
                test.gpus[int(head["rank"] or head["device"])] = text[head.end() :]
                test.groups[head["group"]].add(head["host"])
        elif text.startswith("rccl-tests: Version "):
            self.test.format = "rccl-tests"
        elif footer := FOOTER.match(text):
            self.test.part = Part.FOOTER
            self.test.status = "failed" if footer["failed"] else self.test.status
        elif ("_perf" in text or "_test" in text) and (program := PROGRAM.search(text)):
            self.program = collective_of(program[1])
            self.device_kernel = device_kernel_of(text)


def parse_reports(documents: Sequence[Any]) -> list[NcclTest]:
    """The test in each JSON report; [] for other JSON."""
    if not all("config" in document and "results" in document for document in documents):
        return []
    return [*map(test_of_report, documents)]


def test_of_report(report: Any) -> NcclTest:
    """The test in a JSON report. Raises AttributeError, KeyError, OverflowError, TypeError or
    ValueError for other JSON."""
    config, results = report["config"], report["results"]
    n_threads, n_gpus = (int(config.get(name, 1)) for name in ("nthreads", "ngpus"))
    head = [
        str(report.get("start_time")),
        f"nccl-tests version of -J nccl-library={report.get('nccl_version')}",
        f"Collective test starting: {(report.get('args') or [''])[0].rpartition('/')[2]}",
    ]
    # nccl-tests lists only the first GPU of each process; other writers list every rank.
    devices = {int(device["rank"]): device for device in config.get("devices") or []}
    n_listed = 1 if 1 in devices else n_threads * n_gpus
    for first, device in devices.items():
        head += [
            f"Rank {rank} Group {device.get('group', 0)} on {device.get('hostname')} device 0 [] "
            f"{device.get('device_info')}"
            for rank in (first, first + n_listed - 1)
        ]
    head.append(REPORT_HEADING)
    bounds, average = (
        report.get(name) or {} for name in ("out_of_bounds", "average_bus_bandwidth")
    )
    is_bad = {bounds.get("okay"), average.get("okay")} & {"false", False} or report.get("errors")
    is_of_cpu = any("cpu_time" in (row.get("in_place") or ()) for row in results)
    lines = head if is_of_cpu else [*head, *map(_row_of, results)]
    if is_bad:
        lines.append("Avg bus bandwidth : 0 FAILED")
    elif average:
        lines.append("Avg bus bandwidth : 0")

    (test,) = parse_nccl(list(map(clean_line, lines)))
    test.name_device_kernel(device_kernel_of(" ".join(map(str, report.get("args") or []))))
    for numbers in (test.unread, test.disordered):
        numbers[:] = [line - len(head) for line in numbers]
    test.lack = CPU_TIME if is_of_cpu else test.lack
    test.date = next((date for _, date in dates_of(head[:1])), None)
    if any("p50_us" in (row.get("out_of_place_per_iter") or ()) for row in results):
        test.statistic = "median over iterations"
    return test


def _row_of(row: dict[str, Any]) -> str:
    words = [row[name] for name in ("size", "count", "type", "redop", "root")]
    for place in ("out_of_place", "in_place"):
        half, per_iteration = row.get(place) or {}, row.get(f"{place}_per_iter") or {}  # of -I
        if "p50_us" in per_iteration:
            half = half | {"time": per_iteration["p50_us"], "alg_bw": None}  # it is of the mean
        words += map(half.get, ("time", "alg_bw", "bus_bw", "nwrong"))
        words += [per_iteration.get(f"{name.removeprefix('i_')}_us") for name in PERCENTILES]
    return " ".join("N/A" if word is None else str(word) for word in words)
