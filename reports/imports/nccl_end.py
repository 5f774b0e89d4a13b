"""A test of nccl-tests, and its end: interleaved runs, commands, ranks, cases and the status."""

import re
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from enum import IntEnum
from itertools import pairwise
from typing import Any

from reports.imports import logged
from reports.imports.imported import ImportedCase, ImportedSummary
from reports.imports.logged import LoggedTest, collective_of, number, only, ranks_of, whole_number

PROGRAM = re.compile(
    r"(?:^|[\s/'\"`])(all_?reduce|all_?gather|reduce_?scatter|all_?to_?allv?|sendrecv|broadcast|"
    r"bcast|reduce|scatter|gather|hypercube)(?:_test_perf|_perf|_test)(?:_mpi)?(?=$|[\s'\"`;|&)])"
)
# The start of a command line without a launcher.
NO_LAUNCHER = re.compile(r"(?:^|[$#>%] |Running: ?)\s*(?:\w+=\S* )*[\w./-]*$")
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
FIGURE = re.compile(r"\d+(?:\.\d*)?(?:e[+-]?\d+)?\*?|N/A|-?nan|-?inf")
OLD_ERROR = re.compile(r"\de-\d\d|0e\+00")  # the maximum error of older programs, not a count
# The parts of a test in their order.
Stage = IntEnum("Stage", "BANNER STARTED SIZES DEVICES RANKS TABLE ROWS FOOTER")


def row_pattern(kind: str, n_columns: int, n_halves: int, n_roots: str) -> re.Pattern[str]:
    """Matches the words of a row: datatype (`kind`, empty without types), redop, root, figures.
    `n_roots` is `?` for an optional root, `{1}` or `{0}`: a cut row must not take it for a time."""
    typed = (
        rf" (?i:(?P<datatype>{kind}))(?: (?!(?:nan|inf) )(?P<redop>[A-Za-z]\w{{1,15}}))?"
        if kind
        else ""
    )
    root = rf"(?: (?P<root>-?[0-9]{{1,9}})){n_roots}"
    figures = rf"(?P<figures>(?:(?: (?:{FIGURE.pattern})){{{n_columns}}}){{0,{n_halves}}})"
    return re.compile(rf"\S+ \S+{typed}{root}{figures}(?: \d{{4}}-\d\d-\d\d \S+)?")


ROW = row_pattern("|".join([*TYPES, "bfloat16", "u?int(?:8|32|64)"]), 4, 2, "?")  # without a header


@dataclass
class NcclTest(LoggedTest):
    """A test while its lines are read. `stage` is its last part; `headless` means rows at the start
    of the log or after a footer, `mixed` two runs in one output, `torn` a last row without its end.
    `listed` has ranks with group, GPU and host; `rows` have their line, the fields of their case,
    whether each half is in place, and their figures. The header, or a default, sets `pattern`, a
    half's `columns` and `places`: whether each half is in place, and the end of its time column."""

    stage: Stage = Stage.BANNER
    headless: bool = False
    mixed: bool = False
    torn: bool = False
    headers: int = 0
    pattern: re.Pattern[str] = ROW
    columns: tuple[str, ...] = ("time", "algbw", "busbw", "wrong")
    places: tuple[tuple[bool, int], ...] = ((False, 52), (True, 83))
    milliseconds: bool = False
    rows: list[tuple[int, dict[str, Any], list[bool], list[str]]] = field(default_factory=list)
    names: set[str | None] = field(default_factory=set)
    listed: list[tuple[int, str, str, str | None]] = field(default_factory=list)
    nranks: set[int] = field(default_factory=set)
    commands: list[str] = field(default_factory=list)

    def add_row(self, row: re.Match[str], words: list[tuple[str, int]], line: int) -> None:
        """Adds a row that matches `pattern`. The column of a single half decides its place."""
        kind, redop, root = map(row.groupdict().get, ("datatype", "redop", "root"))
        fields = {
            "line": line,
            "size_bytes": whole_number(words[0][0]),
            "count": whole_number(words[1][0]),
            "datatype": kind and TYPES.get(kind.lower(), kind.lower()),
            "redop": redop and redop.lower(),
            "root": root and int(root),
        }
        figures, width = row["figures"].split(), len(self.columns)
        places = [place for place, _ in self.places[: len(figures) // width]]
        if len(figures) == width:
            time_word = len(row.string[: row.start("figures")].split())
            time_end = words[time_word][1] - words[0][1]
            places = [min(self.places, key=lambda place: abs(place[1] - time_end))[0]]
        self.rows.append((line, fields, places, figures))
        self.torn = len(figures) < max(1, len(self.rows[0][3]))

    def continue_row(self, words: list[str]) -> bool:
        """Adds figures to the last row if they are its rest after an NCCL message."""
        _, _, places, figures = self.rows[-1]
        missing = [place for place, _ in self.places if place not in places]
        n_halves = len(words) / len(self.columns)
        is_rest = n_halves in range(1, len(missing) + 1) and all(map(FIGURE.fullmatch, words))
        if is_rest:
            self.torn = False
            places += missing[: int(n_halves)]
            figures += words
        return is_rest

    def add_cases(self) -> None:
        """Fills in collective, ranks, GPUs, format and library from all lines, then adds the halves
        with a time and a readable count of wrong elements as cases."""
        commands = self.commands if self.mixed else self.commands[-1:]
        programs = list(filter(None, map(PROGRAM.search, commands)))
        self.collective = only(self.names or {collective_of(match[1]) for match in programs})
        self.world_size = only(set(map(_ranks_started, programs)))
        if self.listed:
            counts = Counter(rank for rank, *_ in self.listed)
            groups = {group for _, group, *_ in self.listed}
            hosts = {host for *_, host in self.listed}
            is_one_run = len(groups) == len(set(counts.values())) == 1
            self.world_size = max(counts) + 1 if is_one_run else None
            self.hosts = len(hosts) if is_one_run and None not in hosts else None
            models = {(rank, gpu) for rank, _, gpu, _ in self.listed}
            models_of = Counter(rank for rank, _ in models)  # a rank with two models has none
            self.gpus = {rank: gpu for rank, gpu in models if models_of[rank] == 1}
        elif self.nranks:
            self.world_size = only(self.nranks)
        if self.format == "mscclpp-test":
            self.library = "MSCCL++"
        width = len(self.columns)
        if (
            not self.headers
            and width == 4
            and any(OLD_ERROR.fullmatch(figure) for row in self.rows for figure in row[3][3::4])
        ):
            self.columns = (*self.columns[:3], "error")
            self.milliseconds = self.format == "NCCL 1.x"
        for line, fields, places, row_figures in self.rows:
            for position, in_place in enumerate(places):
                texts = [text.rstrip("*") for text in row_figures[position * width :][:width]]
                case = self._case(in_place, dict(zip(self.columns, texts, strict=True)), fields)
                if case is not None:
                    self.add(case)
                elif set(texts) != {"N/A"}:
                    self.unread.append(line)

    def _case(
        self, in_place: bool, figures: dict[str, str], fields: dict[str, Any]
    ) -> ImportedCase | None:
        time, alg_bw, bus_bw = (number(figures[name]) for name in ("time", "algbw", "busbw"))
        n_wrong = whole_number(figures.get("wrong", ""), decimals=True)
        if time is None or (n_wrong is None and figures.get("wrong", "N/A") != "N/A"):
            return None
        time_us = time * (1e3 if self.milliseconds else 1.0)
        summary = ImportedSummary(mean=round(time_us, 9), n=whole_number(figures.get("n", "")))
        summary.min, summary.max, summary.p99 = (
            number(figures.get(name, "")) for name in ("i_min", "i_max", "i_p99")
        )
        case = ImportedCase(
            case=0,
            collective=self.collective,
            in_place=in_place,
            time_us=summary,
            n_wrong=n_wrong,
            alg_bw_gb_s=alg_bw,
            bus_bw_gb_s=bus_bw,
            **fields,
            max_error=number(figures.get("error", figures.get("res", ""))),
        )
        is_gather = self.collective in ("all_gather", "reduce_scatter")
        if is_gather and time and alg_bw is not None and alg_bw == bus_bw:
            # In 2019 and 2020 this algbw included the factor (n-1)/n of busbw.
            computed = fields["size_bytes"] / time_us / 1e3
            half_digits = [
                0.5 * 10.0 ** int(Decimal(figures[name]).as_tuple().exponent)
                for name in ("time", "algbw")
            ]
            rounding = computed * half_digits[0] / time + half_digits[1]
            if computed - alg_bw > 1.01 * rounding:
                case.reported_alg_bw_gb_s, case.alg_bw_gb_s = alg_bw, computed
        return case

    def set_status(self) -> None:
        has_end = self.stage == Stage.FOOTER or self.format in ("NCCL 1.x", "mscclpp-test")
        if "FAILED" in (self.out_of_bounds or "") or self.status == "failed":
            self.end("failed", "the run itself says so")
        elif self.mixed:
            self.end("incomplete", logged.TWO_RUNS)
        elif self.headless:
            self.end("incomplete", "the log begins in the middle of the test")
        elif not self.cases:
            self.end("incomplete", "it has no rows")
        elif self.status == "complete" and not has_end:
            self.end("incomplete", "the log ends before the test does")
        elif self.status == "complete" and any(case.status == "wrong" for case in self.cases):
            self.end("failed", logged.WRONG_RESULTS)


def _ranks_started(program: re.Match[str]) -> int | None:
    """The number of ranks, if the command line around the name of the program makes it certain."""
    before, after = program.string[: program.start(1)], f"{program.string[program.end() :]} "
    per_process = 1
    for flag in (r"-g|--ngpus", r"-t|--nthreads"):
        counts = re.findall(rf"\s(?:{flag})(?:=|\s*)(\d{{1,7}})(?=\s)", after)
        per_process *= int(counts[-1]) if counts else 1
    processes = 1 if NO_LAUNCHER.search(before) else ranks_of(before)
    return processes and processes * per_process


def end_tests(tests: list[NcclTest]) -> list[NcclTest]:
    """Joins heads with the test that their output is mixed with, then ends every test. Two runs in
    one output leave the head of one as its own test and two headers in a row, or rows after a
    footer. Nothing shows which run has which row, so these tests become incomplete."""
    merged: list[NcclTest] = []
    for test, following in zip(tests, [*tests, None][1:], strict=True):
        test.unread += [line for line, _, _, figures in test.rows if not figures]
        test.rows = [row for row in test.rows if row[3]]
        # In one run, sizes grow within a type, an operation and a root.
        repeats = any(
            0 < after["size_bytes"] <= before["size_bytes"]
            and all(before[name] == after[name] for name in ("datatype", "redop", "root"))
            for (_, before, *_), (_, after, *_) in pairwise(test.rows)
        )
        within_rows = bool(merged) and merged[-1].stage == Stage.ROWS  # of a run without its footer
        if following and following.headless and (test.headless or repeats or within_rows):
            test.mixed = following.mixed = True
        while merged and (test.mixed or test.headers > 1):
            head = merged[-1]
            if head.rows or head.headers > 1 or head.stage > Stage.TABLE or head.status == "failed":
                break
            # `add_cases` ignores facts that contradict each other.
            merged.pop()
            test.first_line, test.mixed = head.first_line, True
            test.names |= head.names
            test.nranks |= head.nranks
            test.listed = head.listed + test.listed
            test.commands = head.commands + test.commands
        merged.append(test)
    for test in merged:
        test.add_cases()
        test.set_status()
    return merged
