"""Parses logs of nccl-tests, rccl-tests, NCCL 1.x's tests and mscclpp-test of every era, and JSON
reports (`-J`). Every part of a test may be missing, and NCCL's messages may split a row."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from reports.imports import logged, nccl_end
from reports.imports.logged import number, whole_number
from reports.imports.nccl_end import PROGRAM, NcclTest, Stage, end_tests
from reports.store.untrusted import printable

HALF = r"(?: (?:cpu)?time algbw busbw(?: (?:wrong|error|res))?(?: i_\S+)*)"
HEADER = re.compile(
    rf"(?:size|bytes) (?:count|n)( type)?(?: redop| op)?( root)?({HALF})({HALF})?"
    r"( timestamp)?"
)
# A line before the table; the name of its group is the stage that it begins.
HEAD = re.compile(
    r"(?P<BANNER>nccl-tests version )|(?P<STARTED>Collective test starting: )|"
    r"(?P<SIZES>(?:nThread \d+ nGpus \d+ )?minBytes \d+ maxBytes \d+ )|"
    r"(?P<DEVICES>Using devices|Initializing MSCCL\+\+)|"
    r"(?P<RANKS>(?:Device +(?P<device>\d{1,7}) +->|"
    r"Rank +(?P<rank>\d{1,7})(?: +Group +(?P<group>\d+))?(?: +Pid +\d+)? +on +"
    r"(?P<host>\S+) +device)"
    r" +\d+ +\[[^\]]*\] *)"
)
NAME = re.compile(r"Collective test (?:starting|concluded): (\w+?)(?:_test)?(?:_perf)?(?:_mpi)?$")
FAILURE = re.compile(
    r"\bTest (?:NCCL|CUDA|HIP|MPI) failure|\bTest timeout \(\d+s\)|"
    r"\b(?:NCCL|Cuda|CUDA|HIP|Test) failure \S+\.\w+:\d+"
)
VERSION = re.compile(r"\b([NR]CCL) version {0,4}:? {0,4}(\d{1,4}\.\d{1,4}\.\d{1,4})")


def parse_nccl(lines: list[str], raw: list[str]) -> list[NcclTest]:
    """The tests in cleaned lines; `raw` are the same lines with NCCL's messages."""
    reader = Reader()
    for line, (text, message) in enumerate(zip(lines, raw, strict=True), 1):
        if text or "CCL" in message:
            reader.read_line(line, text, message[: logged.LONGEST_LINE])
    return end_tests(reader.tests)


@dataclass
class Reader:
    """The tests so far, and facts that stand before the test to which they belong. `test` is the
    last test; before the first, an empty one that has ended."""

    tests: list[NcclTest] = field(default_factory=list)
    test: NcclTest = field(default_factory=lambda: NcclTest("", 0, stage=Stage.FOOTER))
    commands: list[str] = field(default_factory=list)
    library: str | None = None
    places: list[bool] = field(default_factory=list)

    def begin(self, stage: Stage, line: int) -> None:
        """Goes on to a stage, in a new test if the last test is past this stage."""
        has_several_lines = stage in (Stage.RANKS, Stage.TABLE)
        if self.test.stage > stage or (self.test.stage == stage and not has_several_lines):
            self.test = NcclTest("nccl-tests", line, library=self.library, commands=self.commands)
            self.commands = []
            self.tests.append(self.test)
        self.test.stage = stage

    def read_line(self, line: int, text: str, message: str) -> None:
        """Reads a cleaned line; `message` is the line with NCCL's messages."""
        if "CCL version" in message and (version := VERSION.search(message)):
            self.library = f"{version[1]} {version[2]}"
            if self.test.stage < Stage.FOOTER:
                self.test.library = self.library
        if "nranks" in message:
            self.test.nranks.update(map(int, re.findall(r"\bnranks (\d{1,7})\b", message)))
        words, text = logged.cells(text), text.strip(" #")
        if not words:
            return
        if (
            self.read_row(line, words)
            or self.read_header(line, text, words)
            or self.read_text(line, text)
        ):
            self.test.last_line = line
        elif not text.startswith("Linking"):
            programs = {match[1] for match in PROGRAM.finditer(text)}
            self.commands += [text] if len(programs) == 1 else []

    def read_row(self, line: int, words: list[tuple[str, int]]) -> bool:
        """Whether the line is a row, the rest of one, or looks like one."""
        test, texts = self.test, [word for word, _ in words]
        is_sized = len(texts) > 1 and None not in map(whole_number, texts[:2])
        if not is_sized and test.rows and test.continue_row(texts):
            return True
        if is_sized and test.stage == Stage.FOOTER:
            test = NcclTest("nccl-tests", line, headless=True)
        row = test.pattern.fullmatch(" ".join(texts)) if is_sized else None
        if row is None or not (row["figures"] or test.headers):
            has_figures = len(texts) >= 2 + len(test.columns) and all(
                map(logged.LIKE_A_FIGURE.fullmatch, texts[:2])
            )
            has_size = len(texts) == 1 and whole_number(texts[0]) is not None
            is_in_table = test.stage in (Stage.TABLE, Stage.ROWS)
            is_damaged = is_in_table and (is_sized or has_figures or has_size)
            if is_damaged:
                test.torn = True
                test.unread.append(line)
            crash = " ".join(texts)
            return is_damaged and not (FAILURE.search(crash) or logged.CUT.search(crash))
        if test is not self.test:
            self.tests.append(test)
            self.test = test
        test.add_row(row, words, line)
        test.stage = Stage.ROWS
        return True

    def read_header(self, line: int, text: str, words: list[tuple[str, int]]) -> bool:
        """Whether the line belongs to the header of a table. mscclpp-test has no type."""
        header = HEADER.fullmatch(" ".join(word for word, _ in words).lower())
        if re.fullmatch(r"(?:(?:out-of|in)-place(?: \(\+ per-iteration\))?\s*)+", text):
            self.places = [place == "in" for place in re.findall(r"\b(out-of|in)-place", text)]
            return True
        if self.test.stage == Stage.TABLE and ("(us)" in text or "(ms)" in text):
            self.test.milliseconds = "(ms)" in text
            return True
        if header is None:
            return False
        self.begin(Stage.TABLE, line)
        test, columns, is_typed = self.test, header[3].split(), bool(header[1])
        ends = [end - words[0][1] for word, end in words if word.lower() in ("time", "cputime")]
        places = [not is_typed, is_typed] if len(ends) > 1 else [False]
        if len(self.places) == len(ends):
            places = self.places
        self.places = []
        test.headers += 1
        if columns[0] == "cputime":
            test.statistic = logged.CPU_TIME
        if not is_typed:
            test.format = "mscclpp-test"
        kind = r"[a-z]\w{1,15}" if is_typed else ""
        n_roots = "{1}" if header[2] else "{0}"
        test.pattern = nccl_end.row_pattern(kind, len(columns), len(places), n_roots)
        test.columns, test.milliseconds = ("time", *columns[1:]), columns[-1] == "res"
        test.places = tuple(zip(places, ends, strict=True))
        return True

    def read_text(self, line: int, text: str) -> bool:
        """Whether the line stands before or after a table: its results, or a failure."""
        head, name = HEAD.match(text), NAME.match(text)
        is_mscclpp = text.startswith("Initializing MSCCL++")
        is_repeated = is_mscclpp and self.test.stage in (Stage.DEVICES, Stage.RANKS)
        if head is not None and not is_repeated:
            self.begin(Stage[head.lastgroup or ""], line)
        test = self.test
        if is_mscclpp:
            test.format = "mscclpp-test"
        elif text.startswith("rccl-tests: Version "):
            test.format = "rccl-tests"
        elif name is not None:
            test.names |= {logged.collective_of(name[1])} - {None}
        elif head is not None and test.stage == Stage.SIZES:
            test.format = "nccl-tests" if text[0] == "n" else "mscclpp-test"
        elif head is not None and test.stage == Stage.RANKS:
            rank = int(head["rank"] or head["device"])
            test.format = "NCCL 1.x" if head["device"] else test.format
            test.listed.append((rank, head["group"] or "0", text[head.end() :], head["host"]))
        elif bounds := re.match(r"Out of bounds values *: *(\d{1,18} (?:OK|FAILED))", text):
            test.mixed |= test.out_of_bounds is not None
            test.out_of_bounds, test.stage = bounds[1], Stage.FOOTER
        elif average := re.match(r"Avg bus bandwidth *: *([\d.e+-]+)( *FAILED)?", text):
            test.footer_avg_bus_bw, test.stage = number(average[1]), Stage.FOOTER
            test.status = "failed" if average[2] else test.status
        elif head is None and FAILURE.search(text) is not None:
            if not self.tests or (self.commands and test.stage == Stage.FOOTER):
                self.begin(Stage.DEVICES, line)
            self.test.torn |= whole_number(text.split()[0]) is not None
            self.test.end(
                *(
                    ("incomplete", "the run crashed within a row")
                    if self.test.torn
                    else ("failed", None)
                )
            )
        elif head is None and logged.CUT.search(text) and test.stage in (Stage.TABLE, Stage.ROWS):
            if test.status != "failed":
                test.end("incomplete", logged.ENDED_EARLY)
        elif head is None:
            return False
        elif code := re.search(r"\bnccl-library=(\d{5,6})\b", text):
            test.library = self.library = logged.nccl_version(code[1])
        return bool(self.tests)


def parse_json(text: str) -> list[NcclTest]:
    """The tests in reports, or in an array of them; the last may be cut off. Raises JSONDecodeError
    for other text; AttributeError, KeyError, TypeError or ValueError for other JSON."""
    tests, last_line, end = list[NcclTest](), text.count("\n") + 1, 0
    while begin := re.compile(r"[^\s,\[\]]").search(text, end):
        try:
            report, end = json.JSONDecoder().raw_decode(text, begin.start())
        except ValueError:
            report, end = _whole_part(text[begin.start() :]), len(text)
            if report is None and not tests:
                raise
        if report is not None:
            tests.append(_reported(report, last_line))
        elif text[begin.start()] == "{":
            tests.append(NcclTest("nccl-tests JSON", 1, last_line=last_line))
    return end_tests(tests)


def _whole_part(text: str) -> Any:
    """A report that is cut off, up to the end of its last whole result; None without any."""
    end = len(text)
    for _ in range(4):  # a result has two halves, and its own end follows them
        end = text.rfind("}", 0, end)
        for closing in ("]}", "}"):
            with suppress(ValueError):
                return {"results": []} | json.loads(text[: end + 1] + closing)
    return None


def _reported(report: Any, last_line: int) -> NcclTest:
    base, suffix, _ = (report.get("args") or [""])[0].rpartition("/")[2].partition("_perf")
    test = NcclTest(
        "nccl-tests JSON",
        1,
        last_line=last_line,
        names={logged.collective_of(base.removesuffix("_test")) if suffix else None},
        library=logged.nccl_version(str(report.get("nccl_version"))),
        columns=("time", "algbw", "busbw", "wrong", "n"),
    )
    config = report["config"]
    devices = config.get("devices") or []
    test.gpus = {
        _index(device["rank"]): printable(device.get("device_info") or "") for device in devices
    }
    hosts = {str(device.get("hostname") or "") for device in devices} or {""}
    test.hosts = None if "" in hosts else len(hosts)
    per_process = _index(config.get("nthreads", 1)) * _index(config.get("ngpus", 1))
    if len({device.get("group", 0) for device in devices}) == 1:
        # nccl-tests lists only the first GPU of each process; other writers list every rank.
        for step in (1, per_process):
            if list(test.gpus) == [step * position for position in range(len(test.gpus))]:
                test.nranks = {len(test.gpus) * step}
    for position, row in enumerate(report["results"], 1):
        _add_halves(test, position, row)
    if bounds := report.get("out_of_bounds"):
        verdict = "OK" if bounds.get("okay") in ("true", True) else "FAILED"
        test.out_of_bounds = f"{_index(bounds['count'])} {verdict}"
    average = report.get("average_bus_bandwidth") or {}
    test.footer_avg_bus_bw = number(str(average.get("bandwidth")))
    if average.get("okay") in ("false", False) or report.get("errors"):
        test.status = "failed"
    test.stage = Stage.FOOTER if average else Stage.ROWS
    return test


def _index(value: Any) -> int:
    """A small whole number or its text. Raises ValueError for anything else."""
    if not re.fullmatch(r" *-?\d{1,9}", str(value)):
        raise ValueError(value)
    return int(value)


def _add_halves(test: NcclTest, position: int, row: dict[str, Any]) -> None:
    """Adds a row for each half, or the position if a value is impossible."""
    for in_place, half in ((False, row.get("out_of_place")), (True, row.get("in_place"))):
        if half is None:
            continue
        test.statistic = logged.CPU_TIME if "cpu_time" in half else logged.MEAN
        values = (
            half.get("cpu_time", half.get("time")),
            half.get("alg_bw"),
            half.get("bus_bw"),
            half.get("nwrong"),
            row.get("count"),
        )
        figures = ["N/A" if value is None else str(value) for value in values]
        size, count = (whole_number(text, decimals=True) for text in (str(row["size"]), figures[4]))
        is_counted = count is not None or figures[4] == "N/A"
        if size is None or not is_counted or not all(map(nccl_end.FIGURE.fullmatch, figures)):
            test.unread.append(position)
            continue
        kind, redop, root = row.get("type"), row.get("redop"), row.get("root")
        fields = {
            "size_bytes": size,
            "count": count,
            "datatype": nccl_end.TYPES.get(kind, printable(kind)) if kind else None,
            "redop": printable(redop) if redop else None,
            "root": None if root is None else _index(root),
        }
        figures[4] = str(row.get("actual_iterations"))
        test.rows.append((position, fields, [in_place], figures))
