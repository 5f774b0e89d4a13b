"""Logs of the OSU micro-benchmarks and of the Intel MPI Benchmarks (IMB).

An OSU test is a title, a line of column names and rows, or, where nothing is measured, a sentence. An IMB test is
`# Benchmarking NAME`, the number of processes, column names and rows; `-multi` adds a column with the group. Sizes are
per rank; times are means over iterations in microseconds, one way on ping-pong tests, and those of non-blocking tests
are with the computation that they overlap.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log2

from reports.imports.imported import ImportedCase, ImportedSummary, OverRanks
from reports.imports.logged import LIKE_A_FIGURE, NO_ROWS, LoggedTest, collective_of, count_of, number, ranks_of, whole

TITLE = re.compile(r"OSU (?:(?:MPI|[NRX]CCL|UPC|UPC\+\+|UPCXX|OpenSHMEM)(?:-\w+)? )?([\w/ -]{1,60}) Test "
                   r"\(?(?:v|Version )([\w.]{1,12})\)?")
PROGRAMS = {"Latency": "osu_latency", "Bandwidth": "osu_bw", "Bi-Directional Bandwidth": "osu_bibw",
            "Multiple Bandwidth / Message Rate": "osu_mbw_mr", "Multi Latency": "osu_multi_lat",
            "Multi-threaded Latency": "osu_latency_mt", "Multi-process Latency": "osu_latency_mp",
            "Hello World": "osu_hello"}
COLLECTIVE = re.compile(r"all(?:reduce|gatherv?|toall[vw]?)|reduce(?:_scatter)?|broadcast|barrier|(?:gather|scatter)v?")
TWO_RANKS = ("osu_latency", "osu_bw", "osu_bibw")
COLUMN = re.compile(r"(?:Message )?Size|(?<!\w)[A-Z]\w*\.?(?: [A-Z]\w*\.?){0,3} ?\([^()]*\)|"
                    r"MB/s|Messages/s|Iterations|Validation")
PREAMBLE = re.compile(r"I am \d+ of (\d{1,8})\b")
SENTENCE = re.compile(r"This is a test with (\d{1,8}) processes|nprocs: (\d{1,8}), min:")
CUT = re.compile(r"BAD TERMINATION|exited on signal|MPI_ABORT was invoked|CANCELLED AT|DUE TO TIME LIMIT")
MPI_TYPES = {"MPI_CHAR": "int8", "MPI_BYTE": "uint8", "MPI_INT": "int32", "MPI_FLOAT": "float32",
             "MPI_DOUBLE": "float64"}

IMB_HEAD = re.compile(r"Intel ?\(R\) MPI Benchmark(?:s| Suite) V?([\d.]+)")
BENCHMARK = re.compile(r"Benchmarking ((?:Multi-)?\w{1,40})")
PROCESSES = re.compile(r"processes = (\d{1,8})|\( \d+ groups of (\d{1,8}) processes")
IMB_COLUMNS = re.compile(r"(?:group )?(?:bytes )?repetitions .+")
REDUCTIONS = re.compile("reduce|accumulate")  # whatever is before and after it: `multi-allreduce`, `ireduce_scatter`


def parse_osu(lines: Sequence[str]) -> list[LoggedTest]:
    """The OSU tests in the cleaned `lines`."""
    tests: list[LoggedTest] = []
    columns: list[str] = []
    datatype: str | None = None
    said: set[int] = set()
    command: int | None = None
    for at, line in enumerate(lines, 1):
        text = line.strip(" #")
        test = tests[-1] if tests else None
        if "OSU" in text and (title := TITLE.fullmatch(" ".join(text.split()))) is not None:
            name = _osu_name(title[1])
            test = LoggedTest(f"OSU {title[2]}", at, at, f"OSU {name}", "mean over iterations and ranks", name,
                              status="incomplete", reason=NO_ROWS)
            test.world_size = 2 if name in TWO_RANKS else said.pop() if len(said) == 1 else command
            tests.append(test)
            columns, datatype, said, command = [], None, set(), None
        elif (counted := PREAMBLE.match(text)) is not None:
            said.add(int(counted[1]))
        elif "osu_" in text:
            command = ranks_of(text.partition("osu_")[0])
        elif test is None:
            continue
        elif (sentence := SENTENCE.search(text)) is not None:
            test.world_size, test.last_line = int(sentence[1] or sentence[2]), at
            test.status, test.reason = "complete", None
        elif text.startswith("Datatype: "):
            datatype = MPI_TYPES.get(text[10:].strip(" ."))
        elif (pairs := re.match(r"\[ pairs: (\d{1,8}) \]", text)) is not None:
            test.world_size = 2 * int(pairs[1])
        elif text.startswith(("Size", "Message Size", "Avg Latency")):
            columns = [name.lower().replace(" ", "") for name in COLUMN.findall(text)]
        elif CUT.search(text):
            test.status, test.reason = "incomplete", "the run was ended before its time"
        elif columns:
            _osu_row(test, columns, datatype, text.split(), at)
    return tests


def _osu_name(words: str) -> str:
    """The operation in the store's names, else the program's own name."""
    if words in PROGRAMS:
        return PROGRAMS[words]
    base = re.sub(r"All-to-All(v|w)?(?: Personalized Exchange)?", r"Alltoall\1", words)
    base = base.removesuffix(" Latency") if "Put" not in base and "Get" not in base else base
    name = base.lower().removeprefix("mpi_").replace(" ", "_").replace("-", "_")
    if name.startswith("non_blocking_"):
        return f"osu_i{name.removeprefix('non_blocking_')}"
    return collective_of(name if COLLECTIVE.fullmatch(name) else f"osu_{re.sub('[^a-z_]', '', name)}") or "osu"


def _osu_row(test: LoggedTest, columns: list[str], datatype: str | None, words: list[str], at: int) -> None:
    """Takes the row into the test, or its number, where it looks like one and is none."""
    sized = columns[0] in ("size", "messagesize")
    figures = dict(zip(columns, words, strict=False))
    size, count = whole(words[0]) if words and sized else None, count_of(figures.get("iterations", ""))
    values = {name: number(word) for name, word in figures.items()}
    if not words or not all(word in ("Pass", "Fail") or LIKE_A_FIGURE.fullmatch(word) for word in words[:2]):
        return
    if (len(words) != len(columns) or (sized and size is None) or (count is None and "iterations" in columns)
            or any(value is None for name, value in values.items() if name != "validation")):
        test.unread.append(at)
        return
    low, high = values.get("minlatency(us)"), values.get("maxlatency(us)")
    mean = next((value for name, value in values.items() if name.endswith("(us)")), None)
    bandwidth = next((value for name, value in values.items() if name.endswith(("mb/s", "(mb/s)"))), None)
    case = ImportedCase(case=0, collective=test.collective, size_bytes=size, datatype=datatype, line=at)
    if mean is not None:
        case.time_us = ImportedSummary(mean=mean, p99=values.get("p99taillat(us)"), n=count or None)
    if low is not None and high is not None:
        case.over_ranks_us = OverRanks(min=low, avg=mean, max=high)
    if bandwidth is not None:
        case.alg_bw_gb_s = bandwidth / 1e3  # OSU's MB is 1e6 bytes
    checked = figures.get("validation")
    case.n_wrong = 0 if checked == "Pass" else None
    if checked == "Fail":
        case.status, case.reason = "wrong", "the benchmark's validation failed"
    if test.reason == NO_ROWS:
        test.status, test.reason = "complete", None
    if case.status == "wrong":
        test.status, test.reason = "failed", "the run found wrong results"
    test.last_line = at
    test.add(case)


@dataclass
class ImbTest(LoggedTest):
    """A test of IMB while it is read; `megabytes` are per second, a row each, with their times in microseconds."""

    columns: list[str] = field(default_factory=list)
    shape: dict[str, str] = field(default_factory=dict)
    megabytes: list[tuple[ImportedCase, float, float]] = field(default_factory=list)


def parse_imb(lines: Sequence[str]) -> list[LoggedTest]:
    """The IMB tests in the cleaned `lines`."""
    tests: list[ImbTest] = []
    version, types, redop = "IMB", {"MPI_Datatype": "", "MPI_Datatype for reductions": ""}, None
    for at, line in enumerate(lines, 1):
        text = line.strip(" #")
        test = tests[-1] if tests else None
        if (head := IMB_HEAD.match(text)) is not None:
            version, redop = f"IMB {head[1]}", None
        elif (benchmark := BENCHMARK.fullmatch(text)) is not None:
            if test is not None and test.format == version and test.cases:
                test.status, test.reason = "complete", None
            name = collective_of(benchmark[1])
            tests.append(ImbTest(version, at, at, f"IMB {name}", "mean over iterations and ranks", name,
                                 status="incomplete", reason="the log ends before the test does"))
        elif text.startswith("MPI_") and (said := re.fullmatch(r"(MPI_\w+(?: \w+)*) *: *(MPI_\w+)", text)) is not None:
            types[said[1]] = MPI_TYPES.get(said[2], "")
            redop = "sum" if said[2] == "MPI_SUM" else redop
        elif test is None:
            continue
        elif (processes := PROCESSES.match(text)) is not None:
            test.world_size = int(processes[1] or processes[2])
        elif text.startswith("MODE: "):
            test.shape["mode"] = "aggregate" if text == "MODE: AGGREGATE" else "non-aggregate"
        elif IMB_COLUMNS.fullmatch(names := " ".join(text.replace("#", " ").split()).lower()):
            test.columns = names.split()
        elif text == "All processes entering MPI_Finalize":
            test.status, test.reason = ("complete", None) if test.cases else ("incomplete", NO_ROWS)
        elif set(text) == {"-"}:
            test.columns = []
        elif test.columns and LIKE_A_FIGURE.fullmatch(text.partition(" ")[0]) is not None:
            reduces = REDUCTIONS.search(test.collective or "") is not None
            datatype = types["MPI_Datatype for reductions" if reduces else "MPI_Datatype"] or None
            _imb_row(test, text.split(), at, datatype, redop if reduces else None)
    return [_imb_finished(test) for test in tests if test.cases or test.columns or test.world_size]


def _imb_row(test: ImbTest, words: list[str], at: int, datatype: str | None, redop: str | None) -> None:
    """Takes the row into the test, or its number, where it looks like one and is none."""
    values = [number(word) for word in words]
    counts = {name: count_of(word) for name, word in zip(test.columns, words, strict=False)
              if name in ("bytes", "repetitions")}
    if len(words) != len(test.columns) or None in values or None in counts.values():
        test.unread.append(at)
        return
    figures = {name: value for name, value in zip(test.columns, values, strict=True) if value is not None}
    mean = next((figures[name] for name in ("t_avg[usec]", "t[usec]", "t_ovrl[usec]") if name in figures), None)
    low, high = figures.get("t_min[usec]"), figures.get("t_max[usec]")
    shape = test.shape | ({"group": words[0]} if "group" in figures else {})
    case = ImportedCase(case=0, collective=test.collective, line=at, size_bytes=None, shape=shape or None)
    if "bytes" in figures:
        case.size_bytes, case.datatype, case.redop = counts["bytes"], datatype, redop
    if mean is not None:
        case.time_us = ImportedSummary(mean=mean, n=counts["repetitions"])
    if low is not None and high is not None:
        case.over_ranks_us = OverRanks(min=low, avg=mean, max=high)
    if "mbytes/sec" in figures:
        test.megabytes.append((case, figures["mbytes/sec"], high or mean or 0.0))
    if figures.get("defects"):
        case.status, case.reason = "wrong", "the benchmark found defects"
    test.last_line = at
    test.add(case)


def _imb_finished(test: ImbTest) -> LoggedTest:
    """Its bandwidths in GB/s. The megabyte of IMB was 2^20 bytes and is 10^6 since 2018: the row with the most of them
    tells, for the bandwidth is one, two or four times size over time."""
    mega = 2.0**20
    sized = [(megabytes * time_us / case.size_bytes, megabytes) for case, megabytes, time_us in test.megabytes
             if case.size_bytes and megabytes * time_us > 0]
    if sized:
        most = max(sized, key=lambda row: row[1])[0]
        mega = min(2.0**20, 1e6, key=lambda mega: abs((times := log2(most * mega / 1e6)) - round(times)))
    for case, megabytes, _ in test.megabytes:
        case.alg_bw_gb_s = megabytes * mega / 1e9
    if any(case.status == "wrong" for case in test.cases):
        test.status, test.reason = "failed", "the run found wrong results"
    return test
