"""Parses logs of the OSU micro-benchmarks and of the Intel MPI Benchmarks (IMB): a title, column
names and rows. Sizes are per rank; times are means in microseconds, one way in ping-pong tests, and
include the computation that a non-blocking test overlaps. `-multi` of IMB adds a group's column."""

import re
from dataclasses import dataclass, field
from math import log2, remainder

from reports.imports import logged
from reports.imports.imported import ImportedCase, ImportedSummary
from reports.imports.logged import LIKE_A_FIGURE, LoggedTest, collective_of, number, whole_number

MEBI = 2**20 / 1e6
NO_ROWS = "it has no rows"
MPI_TYPES = {
    "MPI_CHAR": "int8",
    "MPI_BYTE": "uint8",
    "MPI_INT": "int32",
    "MPI_FLOAT": "float32",
    "MPI_DOUBLE": "float64",
}

OSU_TITLE = re.compile(
    r"OSU (?:(?:MPI|[NRX]CCL|UPC|UPC\+\+|UPCXX|OpenSHMEM)(?:-\w+)? )?"
    r"([\w/ -]{1,60}) Test \(?(?:v|Version )([\w.]{1,12})\)?"
)
PROGRAMS = {
    "Latency": "osu_latency",
    "Multiple Bandwidth / Message Rate": "osu_mbw_mr",
    "Multi Latency": "osu_multi_lat",
    "Multi-threaded Latency": "osu_latency_mt",
    "Multi-process Latency": "osu_latency_mp",
    "Bandwidth": "osu_bw",
    "Bi-Directional Bandwidth": "osu_bibw",
    "Hello World": "osu_hello",
}
COLLECTIVE = re.compile(
    r"all(?:reduce|gatherv?|toall[vw]?)|reduce(?:_scatter)?|broadcast|barrier|"
    r"(?:gather|scatter)v?"
)
OSU_COLUMN = re.compile(
    r"(?:Message )?Size|(?<!\w)[A-Z]\w*\.?(?: [A-Z]\w*\.?){0,3} ?\([^()]*\)|"
    r"MB/s|Messages/s|Iterations|Validation"
)
OSU_SENTENCE = re.compile(r"This is a test with (\d{1,8}) processes|nprocs: (\d{1,8}), min:")

IMB_SETTING = re.compile(r"MPI_(Datatype|Datatype for reductions|Op) *: *(MPI_\w+)")
IMB_PROCESSES = re.compile(r"processes = (\d{1,8})|\( \d+ groups of (\d{1,8}) processes")

# The figure in a column: the first pattern that matches the name in lower case, without blanks.
FIGURES = {
    "size": r"(?:message)?size|bytes",
    "n": "iterations|repetitions",
    "group": "group",
    "validation": "validation",
    "defects": "defects",
    "p99": r"p99taillat\(us\)",
    "min": r"minlatency\(us\)|t_min\[usec\]",
    "max": r"maxlatency\(us\)|t_max\[usec\]",
    "mean": r".*\(us\)|t(?:_avg|_ovrl)?\[usec\]",
    "mb_s": r".*mb/s\)?|mbytes/sec",
    "other": ".*",
}


@dataclass
class MpiTest(LoggedTest):
    """`figures` names the figure in each column."""

    figures: list[str] = field(default_factory=list)
    datatype: str | None = None
    redop: str | None = None

    def read_line(self, text: str, line_number: int) -> None:
        """Reads a line after a title."""
        names = " ".join(text.replace("#", " ").split()).lower()
        is_osu_header = text.startswith(("Size", "Message Size", "Avg Latency"))
        if sentence := OSU_SENTENCE.search(text):
            self.world_size, self.last_line = int(sentence[1] or sentence[2]), line_number
            self.end("complete")
        elif processes := IMB_PROCESSES.match(text):
            self.world_size = int(processes[1] or processes[2])
        elif pairs := re.match(r"\[ pairs: (\d{1,8}) \]", text):
            self.world_size = 2 * int(pairs[1])
        elif text.startswith("Datatype: "):
            self.datatype = MPI_TYPES.get(text[10:].strip(" ."))
        elif is_osu_header or re.fullmatch("(?:group )?(?:bytes )?repetitions .+", names):
            columns = OSU_COLUMN.findall(text) if is_osu_header else names.split()
            lower = [column.lower().replace(" ", "") for column in columns]
            self.figures = [
                next(figure for figure, pattern in FIGURES.items() if re.fullmatch(pattern, column))
                for column in lower
            ]
        elif text == "All processes entering MPI_Finalize":
            self.end(*(("complete", None) if self.cases else ("incomplete", NO_ROWS)))
        elif logged.CUT.search(text):
            self.end("incomplete", logged.ENDED_EARLY)
        elif set(text) == {"-"}:
            self.figures = []
        elif self.figures and text:
            words = text.split()
            first = words[:1] if self.format.startswith("IMB") else words[:2]
            if all(word in ("Pass", "Fail") or LIKE_A_FIGURE.fullmatch(word) for word in first):
                self._read_row(words, line_number)

    def _read_row(self, words: list[str], line_number: int) -> None:
        """Adds the row, or its number if a figure cannot be read."""
        pairs = list(zip(self.figures, words, strict=False))
        texts = dict(reversed(pairs))  # the first column of each figure counts
        values = {figure: number(word) for figure, word in texts.items()}
        is_damaged = len(words) != len(self.figures) or any(
            number(word) is None for figure, word in pairs if figure != "validation"
        )
        size, n = (whole_number(texts.get(figure, "")) for figure in ("size", "n"))
        if is_damaged or (size is None and "size" in texts) or (n is None and "n" in texts):
            self.unread.append(line_number)
            return
        group = {"group": texts["group"]} if "group" in texts else None
        case = ImportedCase(
            case=0,
            collective=self.collective,
            line=line_number,
            size_bytes=size,
            shape=group,
            n_wrong=0 if "Pass" in words else None,
        )
        if size is not None:
            case.datatype, case.redop = self.datatype, self.redop
        mean, low, high = (values.get(figure) for figure in ("mean", "min", "max"))
        if mean is not None:
            case.time_us = ImportedSummary(mean=mean, p99=values.get("p99"), n=n or None)
        if low is not None and high is not None:
            case.over_ranks_us = {"min": low, "avg": mean, "max": high}
        if (mb_s := values.get("mb_s")) is not None:
            case.alg_bw_gb_s = mb_s / 1e3
        if self.reason == NO_ROWS:
            self.end("complete")
        if "Fail" in words or values.get("defects"):
            case.status, case.reason = "wrong", "the benchmark's validation failed"
        self.last_line = line_number
        self.add(case)

    def end_test(self) -> None:
        """Sets the status, and the bandwidths of IMB, whose megabyte had 2^20 bytes until 2018: the
        highest bandwidth, one, two or four times size over time, shows which megabyte it is."""
        if any(case.status == "wrong" for case in self.cases):
            self.end("failed", logged.WRONG_RESULTS)
        elif self.format.startswith("OSU") and len(self.cases) > len(
            {(case.datatype, case.size_bytes) for case in self.cases}
        ):
            self.end("incomplete", logged.TWO_RUNS)
        highest, ratio = 0.0, 0.0
        for case in self.cases if self.format.startswith("IMB") else ():
            mean_us = case.time_us.mean if case.time_us else None
            time_us = case.over_ranks_us["max"] if case.over_ranks_us else mean_us
            if time_us and case.size_bytes and (case.alg_bw_gb_s or 0) > highest:
                highest = case.alg_bw_gb_s or 0
                ratio = 1e3 * highest * time_us / case.size_bytes
        if ratio and abs(remainder(log2(ratio * MEBI), 1)) <= abs(remainder(log2(ratio), 1)):
            for case in self.cases:
                case.alg_bw_gb_s = case.alg_bw_gb_s and case.alg_bw_gb_s * MEBI


def parse_mpi(lines: list[str]) -> list[MpiTest]:
    """The OSU and IMB tests in cleaned lines."""
    tests: list[MpiTest] = []
    rank_counts, command_ranks = set[int](), None  # of OSU, for the next test
    version, settings = "IMB", dict[str, str]()  # of IMB, for all of its tests
    for line_number, line in enumerate(lines, 1):
        text = line.strip(" #")
        if "OSU" in text and (osu := OSU_TITLE.fullmatch(" ".join(text.split()))):
            program = _osu_name(osu[1])
            is_pair = program in ("osu_latency", "osu_bw", "osu_bibw")
            n_ranks = 2 if is_pair else logged.only(rank_counts) or command_ranks
            tests.append(
                MpiTest(
                    f"OSU {osu[2]}",
                    line_number,
                    logged.MEAN_OVER_RANKS,
                    program,
                    status="incomplete",
                    reason=NO_ROWS,
                    world_size=n_ranks,
                )
            )
            rank_counts, command_ranks = set(), None
        elif imb := re.fullmatch(r"Benchmarking ((?:Multi-)?\w{1,40})", text):
            if tests and tests[-1].format == version and tests[-1].cases:
                tests[-1].end("complete")
            name = collective_of(imb[1])
            is_reduction = bool(re.search("reduce|accumulate", name or ""))  # ireduce_scatter too
            datatype = settings.get("Datatype for reductions" if is_reduction else "Datatype", "")
            tests.append(
                MpiTest(
                    version,
                    line_number,
                    logged.MEAN_OVER_RANKS,
                    name,
                    status="incomplete",
                    reason="the log ends before the test does",
                    datatype=MPI_TYPES.get(datatype),
                    redop="sum" if is_reduction and settings.get("Op") == "MPI_SUM" else None,
                )
            )
        elif head := re.match(r"Intel ?\(R\) MPI Benchmark(?:s| Suite) V?([\d.]+)", text):
            version = f"IMB {head[1]}"
            settings.pop("Op", None)
        elif setting := IMB_SETTING.fullmatch(text):
            settings[setting[1]] = setting[2]
        elif rank := re.match(r"I am \d+ of (\d{1,8})\b", text):
            rank_counts.add(int(rank[1]))
        elif "osu_" in text:
            command_ranks = logged.ranks_of(text.partition("osu_")[0])
        elif tests:
            tests[-1].read_line(text, line_number)
    for test in tests:
        test.end_test()
    return [
        test
        for test in tests
        if test.cases or test.figures or test.world_size or not test.format.startswith("IMB")
    ]


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
