"""Parses logs of the OSU micro-benchmarks and of the Intel MPI Benchmarks (IMB).

An OSU test has a title, column names and rows, or one sentence if it measures nothing. An IMB test
has `# Benchmarking NAME`, the number of processes, column names and rows; `-multi` adds a column
with the group. Sizes are per rank; times are means over iterations in microseconds, one way in
ping-pong tests; times of non-blocking tests include the computation that they overlap.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log2

from reports.imports import logged
from reports.imports.imported import ImportedCase, ImportedSummary, OverRanks
from reports.imports.logged import NO_ROWS, LoggedTest, collective_of, count_of, number

MEAN_OVER_RANKS = "mean over iterations and ranks"
MPI_TYPES = {"MPI_CHAR": "int8", "MPI_BYTE": "uint8", "MPI_INT": "int32", "MPI_FLOAT": "float32",
             "MPI_DOUBLE": "float64"}

TITLE = re.compile(r"OSU (?:(?:MPI|[NRX]CCL|UPC|UPC\+\+|UPCXX|OpenSHMEM)(?:-\w+)? )?"
                   r"([\w/ -]{1,60}) Test \(?(?:v|Version )([\w.]{1,12})\)?")
PROGRAMS = {
    "Latency": "osu_latency", "Bandwidth": "osu_bw", "Bi-Directional Bandwidth": "osu_bibw",
    "Multiple Bandwidth / Message Rate": "osu_mbw_mr", "Multi Latency": "osu_multi_lat",
    "Multi-threaded Latency": "osu_latency_mt", "Multi-process Latency": "osu_latency_mp",
    "Hello World": "osu_hello"}
COLLECTIVE = re.compile(r"all(?:reduce|gatherv?|toall[vw]?)|reduce(?:_scatter)?|broadcast|barrier|"
                        r"(?:gather|scatter)v?")
TWO_RANKS = ("osu_latency", "osu_bw", "osu_bibw")
COLUMN = re.compile(r"(?:Message )?Size|(?<!\w)[A-Z]\w*\.?(?: [A-Z]\w*\.?){0,3} ?\([^()]*\)|"
                    r"MB/s|Messages/s|Iterations|Validation")
PREAMBLE = re.compile(r"I am \d+ of (\d{1,8})\b")
SENTENCE = re.compile(r"This is a test with (\d{1,8}) processes|nprocs: (\d{1,8}), min:")
CUT = re.compile(r"BAD TERMINATION|exited on signal|MPI_ABORT was invoked|CANCELLED AT|"
                 r"DUE TO TIME LIMIT")

IMB_HEAD = re.compile(r"Intel ?\(R\) MPI Benchmark(?:s| Suite) V?([\d.]+)")
BENCHMARK = re.compile(r"Benchmarking ((?:Multi-)?\w{1,40})")
PROCESSES = re.compile(r"processes = (\d{1,8})|\( \d+ groups of (\d{1,8}) processes")
IMB_COLUMNS = re.compile(r"(?:group )?(?:bytes )?repetitions .+")
REDUCTIONS = re.compile("reduce|accumulate")  # also in `multi-allreduce`, `ireduce_scatter`


@dataclass
class OsuTest(LoggedTest):
    columns: list[str] = field(default_factory=list)
    datatype: str | None = None


def parse_osu(lines: Sequence[str]) -> list[OsuTest]:
    """The OSU tests in cleaned lines."""
    tests: list[OsuTest] = []
    sizes: set[int] = set()  # numbers of ranks before the title
    command: int | None = None
    for line_number, line in enumerate(lines, 1):
        text = line.strip(" #")
        title = TITLE.fullmatch(" ".join(text.split())) if "OSU" in text else None
        preamble = PREAMBLE.match(text)
        if title is not None:
            name = _osu_name(title[1])
            tests.append(OsuTest(f"OSU {title[2]}", line_number, line_number, f"OSU {name}",
                                 MEAN_OVER_RANKS, name, status="incomplete", reason=NO_ROWS))
            tests[-1].world_size = 2 if name in TWO_RANKS else logged.only(sizes) or command
            sizes, command = set(), None
        elif preamble is not None:
            sizes.add(int(preamble[1]))
        elif "osu_" in text:
            command = logged.ranks_of(text.partition("osu_")[0])
        elif tests:
            _osu_line(tests[-1], text, line_number)
    return tests


def _osu_name(words: str) -> str:
    """The store's name of the operation, otherwise the name of the program."""
    if words in PROGRAMS:
        return PROGRAMS[words]
    base = re.sub(r"All-to-All(v|w)?(?: Personalized Exchange)?", r"Alltoall\1", words)
    base = base.removesuffix(" Latency") if "Put" not in base and "Get" not in base else base
    name = base.lower().removeprefix("mpi_").replace(" ", "_").replace("-", "_")
    if name.startswith("non_blocking_"):
        return f"osu_i{name.removeprefix('non_blocking_')}"
    if not COLLECTIVE.fullmatch(name):
        name = f"osu_{re.sub('[^a-z_]', '', name)}"
    return collective_of(name) or "osu"


def _osu_line(test: OsuTest, text: str, line_number: int) -> None:
    """Reads a line after a title."""
    sentence = SENTENCE.search(text)
    pairs = re.match(r"\[ pairs: (\d{1,8}) \]", text)
    if sentence is not None:
        test.world_size, test.last_line = int(sentence[1] or sentence[2]), line_number
        test.end("complete")
    elif text.startswith("Datatype: "):
        test.datatype = MPI_TYPES.get(text[10:].strip(" ."))
    elif pairs is not None:
        test.world_size = 2 * int(pairs[1])
    elif text.startswith(("Size", "Message Size", "Avg Latency")):
        test.columns = [name.lower().replace(" ", "") for name in COLUMN.findall(text)]
    elif CUT.search(text):
        test.end("incomplete", "the run was ended before its time")
    elif test.columns:
        words = text.split()
        looks_like_row = all(word in ("Pass", "Fail") or logged.LIKE_A_FIGURE.fullmatch(word)
                             for word in words[:2])
        if words and looks_like_row:
            _osu_row(test, words, line_number)


def _osu_row(test: OsuTest, words: list[str], line_number: int) -> None:
    """Adds the row, or its number if a figure cannot be read."""
    texts = dict(zip(test.columns, words, strict=False))
    validation = texts.pop("validation", None)
    values = {name: number(word) for name, word in texts.items()}
    is_sized = test.columns[0] in ("size", "messagesize")
    size = logged.whole_number(words[0]) if is_sized else None
    iterations = count_of(texts.get("iterations", ""))
    if (len(words) != len(test.columns) or (is_sized and size is None) or None in values.values()
            or (iterations is None and "iterations" in test.columns)):
        test.unread.append(line_number)
        return
    case = ImportedCase(case=0, collective=test.collective, size_bytes=size,
                        datatype=test.datatype, line=line_number)
    mean = next((value for name, value in values.items() if name.endswith("(us)")), None)
    if mean is not None:
        case.time_us = ImportedSummary(mean=mean, p99=values.get("p99taillat(us)"),
                                       n=iterations or None)
    low, high = values.get("minlatency(us)"), values.get("maxlatency(us)")
    if low is not None and high is not None:
        case.over_ranks_us = OverRanks(min=low, avg=mean, max=high)
    mb_s = next((value for name, value in values.items() if name.endswith(("mb/s", "(mb/s)"))),
                None)
    if mb_s is not None:
        case.alg_bw_gb_s = mb_s / 1e3  # OSU's MB has 1e6 bytes
    if test.reason == NO_ROWS:
        test.end("complete")
    if validation == "Pass":
        case.n_wrong = 0
    elif validation == "Fail":
        case.status, case.reason = "wrong", "the benchmark's validation failed"
        test.end("failed", logged.WRONG_RESULTS)
    test.last_line = line_number
    test.add(case)


@dataclass
class ImbTest(LoggedTest):
    """`bandwidths` has a case, its MB/s and its microseconds for each row that has a bandwidth."""

    columns: list[str] = field(default_factory=list)
    shape: dict[str, str] = field(default_factory=dict)
    bandwidths: list[tuple[ImportedCase, float, float]] = field(default_factory=list)


@dataclass
class ImbHead:
    """The facts of a head of IMB that hold for all its tests."""

    version: str = "IMB"
    datatype: str | None = None
    reduced_datatype: str | None = None
    redop: str | None = None

    def read(self, text: str) -> bool:
        """Whether the line is one of the head."""
        version = IMB_HEAD.match(text)
        if version is not None:
            self.version, self.redop = f"IMB {version[1]}", None
            return True
        setting = (re.fullmatch(r"(MPI_\w+(?: \w+)*) *: *(MPI_\w+)", text)
                   if text.startswith("MPI_") else None)
        if setting is None:
            return False
        if setting[1] == "MPI_Datatype":
            self.datatype = MPI_TYPES.get(setting[2])
        elif setting[1] == "MPI_Datatype for reductions":
            self.reduced_datatype = MPI_TYPES.get(setting[2])
        if setting[2] == "MPI_SUM":
            self.redop = "sum"
        return True


def parse_imb(lines: Sequence[str]) -> list[ImbTest]:
    """The IMB tests in cleaned lines."""
    tests: list[ImbTest] = []
    head = ImbHead()
    for line_number, line in enumerate(lines, 1):
        text = line.strip(" #")
        benchmark = BENCHMARK.fullmatch(text)
        if benchmark is not None:
            if tests and tests[-1].format == head.version and tests[-1].cases:
                tests[-1].end("complete")
            name = collective_of(benchmark[1])
            tests.append(ImbTest(head.version, line_number, line_number, f"IMB {name}",
                                 MEAN_OVER_RANKS, name, status="incomplete",
                                 reason="the log ends before the test does"))
        elif not head.read(text) and tests:
            _imb_line(tests[-1], head, text, line_number)
    for test in tests:
        _imb_end(test)
    return [test for test in tests if test.cases or test.columns or test.world_size]


def _imb_line(test: ImbTest, head: ImbHead, text: str, line_number: int) -> None:
    """Reads a line after `Benchmarking`."""
    processes = PROCESSES.match(text)
    names = " ".join(text.replace("#", " ").split()).lower()
    if processes is not None:
        test.world_size = int(processes[1] or processes[2])
    elif text.startswith("MODE: "):
        test.shape["mode"] = "aggregate" if text == "MODE: AGGREGATE" else "non-aggregate"
    elif IMB_COLUMNS.fullmatch(names):
        test.columns = names.split()
    elif text == "All processes entering MPI_Finalize":
        test.end(*(("complete", None) if test.cases else ("incomplete", NO_ROWS)))
    elif set(text) == {"-"}:
        test.columns = []
    elif test.columns and logged.LIKE_A_FIGURE.fullmatch(text.partition(" ")[0]) is not None:
        _imb_row(test, head, text.split(), line_number)


def _imb_row(test: ImbTest, head: ImbHead, words: list[str], line_number: int) -> None:
    """Adds the row, or its number if a figure cannot be read."""
    values = [number(word) for word in words]
    counts = {name: count_of(word) for name, word in zip(test.columns, words, strict=False)
              if name in ("bytes", "repetitions")}
    if len(words) != len(test.columns) or None in values or None in counts.values():
        test.unread.append(line_number)
        return
    figures = {name: value for name, value in zip(test.columns, values, strict=True)
               if value is not None}
    shape = test.shape | ({"group": words[0]} if "group" in figures else {})
    case = ImportedCase(case=0, collective=test.collective, line=line_number, size_bytes=None,
                        shape=shape or None)
    if "bytes" in figures:
        case.size_bytes, case.datatype = counts["bytes"], head.datatype
        if REDUCTIONS.search(test.collective or ""):
            case.datatype, case.redop = head.reduced_datatype, head.redop
    means = [figures[name] for name in ("t_avg[usec]", "t[usec]", "t_ovrl[usec]")
             if name in figures]
    mean = means[0] if means else None
    if mean is not None:
        case.time_us = ImportedSummary(mean=mean, n=counts["repetitions"])
    low, high = figures.get("t_min[usec]"), figures.get("t_max[usec]")
    if low is not None and high is not None:
        case.over_ranks_us = OverRanks(min=low, avg=mean, max=high)
    if "mbytes/sec" in figures:
        test.bandwidths.append((case, figures["mbytes/sec"], high or mean or 0.0))
    if figures.get("defects"):
        case.status, case.reason = "wrong", "the benchmark found defects"
    test.last_line = line_number
    test.add(case)


def _imb_end(test: ImbTest) -> None:
    """Sets bandwidths in GB/s. IMB's megabyte had 2^20 bytes and has 10^6 since 2018. The bandwidth
    is one, two or four times size over time, so the row with the highest one shows which."""
    mega = 2.0**20
    ratios = [(mb_s, mb_s * time_us / case.size_bytes) for case, mb_s, time_us in test.bandwidths
              if case.size_bytes and mb_s * time_us > 0]
    if ratios:
        _, ratio = max(ratios, key=lambda pair: pair[0])

        def distance(mega: float) -> float:
            octaves = log2(ratio * mega / 1e6)
            return abs(octaves - round(octaves))

        mega = min(2.0**20, 1e6, key=distance)
    for case, mb_s, _ in test.bandwidths:
        case.alg_bw_gb_s = mb_s * mega / 1e9
    if any(case.status == "wrong" for case in test.cases):
        test.end("failed", logged.WRONG_RESULTS)
