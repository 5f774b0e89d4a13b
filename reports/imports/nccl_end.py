"""A test of nccl-tests, and its end: interleaved runs, commands, ranks, cases and the status."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import IntEnum
from itertools import pairwise
from typing import Any

from reports.imports import logged
from reports.imports.imported import ImportedCase, ImportedSummary
from reports.imports.logged import LoggedTest, number, only, whole_number

PROGRAM = re.compile(
    r"(?:^|[\s/'\"`])(all_?reduce|all_?gather|reduce_?scatter|all_?to_?allv?|sendrecv|broadcast|"
    r"bcast|reduce|scatter|gather|hypercube)(_test_perf|_perf|_test)(?:_mpi)?(?=$|[\s'\"`;|&)])")
# The start of a command line without a launcher.
NO_LAUNCHER = re.compile(r"(?:^|[$#>%] |Running: ?)\s*(?:\w+=\S* )*[\w./-]*$")
ALGBW_WITH_FACTOR = ("all_gather", "reduce_scatter")
# The store's names of the types; `char` comes from NCCL 1.x, the `fp8_` names from RCCL.
TYPES = {
    "half": "float16", "float": "float32", "double": "float64", "bfloat16": "bfloat16",
    "char": "int8", "int": "int32", "int8": "int8", "uint8": "uint8", "int32": "int32",
    "uint32": "uint32", "int64": "int64", "uint64": "uint64", "f8e4m3": "float8_e4m3",
    "f8e5m2": "float8_e5m2", "fp8_e4m3": "float8_e4m3", "fp8_e5m2": "float8_e5m2"}
FIGURE = re.compile(r"\d+(?:\.\d*)?(?:e[+-]?\d+)?\*?|N/A|-?nan|-?inf")
# The parts of a test in their order.
Stage = IntEnum("Stage", "BANNER STARTED SIZES DEVICES RANKS TABLE ROWS FOOTER")


def row_pattern(kind: str, n_columns: int, n_halves: int, rooted: bool = True) -> re.Pattern[str]:
    """Matches the words of a row: datatype (`kind`, empty without types), redop, root, figures."""
    typed = (rf" (?i:(?P<datatype>{kind}))(?: (?!(?:nan|inf) )(?P<redop>[A-Za-z]\w{{1,15}}))?"
             if kind else "")
    root = r"(?: (?P<root>-?[0-9]{1,9}))?" if rooted else ""
    figures = rf"(?P<figures>(?:(?: (?:{FIGURE.pattern})){{{n_columns}}}){{0,{n_halves}}})"
    return re.compile(rf"\S+ \S+{typed}{root}{figures}(?: \d{{4}}-\d\d-\d\d \S+)?")


ROW = row_pattern("|".join(TYPES), 4, 2)  # without a header


@dataclass
class NcclTest(LoggedTest):
    """A test while its lines are read.

    `stage` is its last part; `headless` means rows at the start of the log or after a footer,
    `mixed` that two runs share the output. `names` are the collectives in its lines, `listed` its
    ranks with group and GPU, `commands` the command lines before it.

    A row has the fields of its case, whether each of its halves is in place, and their figures. The
    header sets `pattern`, the names of a half's `columns`, and `places`: whether each half is in
    place, and the end of its time column. The defaults apply if the header is lost.
    """

    stage: Stage = Stage.BANNER
    headless: bool = False
    mixed: bool = False
    sized: bool = False
    headers: int = 0
    pattern: re.Pattern[str] = ROW
    columns: Sequence[str] = ("time", "algbw", "busbw", "wrong")
    places: Sequence[tuple[bool, int]] = ((False, 52), (True, 83))
    milliseconds: bool = False
    rows: list[tuple[dict[str, Any], list[bool], list[str]]] = field(default_factory=list)
    names: set[str | None] = field(default_factory=set)
    listed: list[tuple[int, str, str]] = field(default_factory=list)
    nranks: set[int] = field(default_factory=set)
    commands: list[str] = field(default_factory=list)

    def add_row(self, row: re.Match[str], words: Sequence[tuple[str, int]], line: int) -> None:
        """Adds a row that matches `pattern`. The column of a single half decides its place."""
        size, count = (whole_number(word) for word, _ in words[:2])
        kind, redop, root = map(row.groupdict().get, ("datatype", "redop", "root"))
        fields = {"line": line, "size_bytes": size, "count": count,
                  "datatype": kind and TYPES.get(kind.lower(), kind.lower()),
                  "redop": redop and redop.lower(), "root": root and int(root)}
        figures, width = row["figures"].split(), len(self.columns)
        places = [place for place, _ in self.places[: len(figures) // width]]
        if len(figures) == width:
            time_word = len(row.string[: row.start("figures")].split())
            time_end = words[time_word][1] - words[0][1]
            places = [min(self.places, key=lambda place: abs(place[1] - time_end))[0]]
        self.rows.append((fields, places, figures))

    def continue_row(self, words: Sequence[str]) -> bool:
        """Adds figures to the last row if they are its rest after an NCCL message."""
        _, places, figures = self.rows[-1]
        missing = [place for place, _ in self.places if place not in places]
        n_halves = len(words) / len(self.columns)
        is_rest = (bool(missing) and n_halves in (1, len(missing))
                   and all(map(FIGURE.fullmatch, words)))
        if is_rest:
            places += missing[: int(n_halves)]
            figures += words
        return is_rest


def end_tests(tests: Sequence[NcclTest]) -> list[NcclTest]:
    """Joins heads with the test that their output is mixed with, then ends every test.

    Two runs in one output leave the head of one as its own test and two headers in a row, or rows
    after a footer. Nothing shows which run has which row, so these tests become incomplete.
    """
    merged: list[NcclTest] = []
    for test, following in zip(tests, [*tests, None][1:], strict=True):
        test.unread += [fields["line"] for fields, _, figures in test.rows if not figures]
        test.rows = [row for row in test.rows if row[2]]
        # In one run, sizes grow within a type, an operation and a root.
        repeats = any(0 < after["size_bytes"] <= before["size_bytes"]
                      and all(before[name] == after[name] for name in ("datatype", "redop", "root"))
                      for (before, *_), (after, *_) in pairwise(test.rows))
        if following is not None and following.headless and (test.headless or repeats):
            test.mixed = following.mixed = True
        while merged and (test.mixed or test.headers > 1):
            before = merged[-1]
            is_head = (not before.rows and before.headers <= 1 and before.stage <= Stage.TABLE
                       and before.status != "failed")
            if not is_head:
                break
            # `_end_test` ignores facts that contradict each other.
            merged.pop()
            test.first_line, test.mixed = before.first_line, True
            test.names |= before.names
            test.nranks |= before.nranks
            test.listed = before.listed + test.listed
            test.commands = before.commands + test.commands
        merged.append(test)
    for test in merged:
        _end_test(test)
    return merged


def _end_test(test: NcclTest) -> None:
    """Fills in the fields of the test from all its lines."""
    commands = test.commands if test.mixed else test.commands[-1:]
    programs = list(filter(None, map(PROGRAM.search, commands)))
    test.collective = only(test.names or {logged.collective_of(match[1]) for match in programs})
    test.world_size = only(set(map(_ranks_started, programs)))
    if test.listed:
        counts = Counter(rank for rank, _, _ in test.listed)
        groups = {group for _, group, _ in test.listed}
        is_one_run = len(groups) == len(set(counts.values())) == 1
        test.world_size = max(counts) + 1 if is_one_run else None
        models = {(rank, gpu) for rank, _, gpu in test.listed}
        models_of = Counter(rank for rank, _ in models)  # a rank with two models has none
        test.gpus = {rank: gpu for rank, gpu in models if models_of[rank] == 1}
    elif test.nranks:
        test.world_size = only(test.nranks)
    if any(match[2] == "_test_perf" for match in programs):
        test.format = "mscclpp-test"
    if test.columns[-1] == "res" and not test.sized:
        test.format = "NCCL 1.x"
    if test.format == "mscclpp-test":
        test.library = "MSCCL++"
    _add_cases(test)
    if "FAILED" in (test.out_of_bounds or "") or test.status == "failed":
        test.end("failed", "the run itself says so")
    elif test.mixed:
        test.end("incomplete", "two runs wrote into each other's lines")
    elif test.headless:
        test.end("incomplete", "the log begins in the middle of the test")
    elif not test.cases:
        test.end("incomplete", logged.NO_ROWS)
    elif test.stage < Stage.FOOTER and test.format not in ("NCCL 1.x", "mscclpp-test"):
        test.end("incomplete", "the log ends before the test does")


def _ranks_started(program: re.Match[str]) -> int | None:
    """The number of ranks, if the command line around the name of the program makes it certain."""
    before, after = program.string[: program.start(1)], f"{program.string[program.end():]} "
    per_process = 1
    for flag in (r"-g|--ngpus", r"-t|--nthreads"):
        counts = re.findall(rf"\s(?:{flag})(?:=|\s*)(\d{{1,7}})(?=\s)", after)
        per_process *= int(counts[-1]) if counts else 1
    processes = 1 if NO_LAUNCHER.search(before) else logged.ranks_of(before)
    return processes and processes * per_process


def _add_cases(test: NcclTest) -> None:
    """Adds a case for each half, or its line if the half has no time or its count of wrong elements
    is unreadable."""
    width = len(test.columns)
    for fields, places, row_figures in test.rows:
        for position, in_place in enumerate(places):
            texts = [text.rstrip("*") for text in row_figures[position * width :][:width]]
            figures = dict(zip(test.columns, texts, strict=True))
            time, alg_bw, bus_bw = (number(text) for text in texts[:3])
            n_wrong = whole_number(figures.get("wrong", ""), decimals=True)
            if time is None or (n_wrong is None and figures.get("wrong", "N/A") != "N/A"):
                test.unread += [] if set(texts) == {"N/A"} else [fields["line"]]
                continue
            time_us = time * (1e3 if test.milliseconds else 1.0)
            summary = ImportedSummary(mean=round(time_us, 9), n=whole_number(figures.get("n", "")))
            summary.min, summary.max, summary.p99 = (
                number(figures.get(name, "")) for name in ("i_min", "i_max", "i_p99"))
            case = ImportedCase(
                case=0, collective=test.collective, in_place=in_place, time_us=summary,
                alg_bw_gb_s=alg_bw, bus_bw_gb_s=bus_bw, n_wrong=n_wrong, **fields,
                max_error=number(figures.get("error", figures.get("res", ""))))
            if test.collective in ALGBW_WITH_FACTOR and time and alg_bw == bus_bw is not None:
                # In 2019 and 2020 this algbw included the factor (n-1)/n of busbw.
                computed = fields["size_bytes"] / time_us / 1e3
                half_digits = [0.5 * 10.0 ** int(Decimal(text).as_tuple().exponent)
                               for text in texts[:2]]
                rounding = computed * half_digits[0] / time + half_digits[1]
                if computed - alg_bw > 1.01 * rounding:
                    case.reported_alg_bw_gb_s, case.alg_bw_gb_s = alg_bw, computed
            test.add(case)
