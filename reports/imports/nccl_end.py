"""Ends the tests of nccl-tests: interleaved runs, commands, ranks, cases and the status."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Any

from reports.imports import logged
from reports.imports.imported import ImportedCase, ImportedSummary
from reports.imports.logged import NO_ROWS, collective_of, number, only
from reports.imports.nccl_rows import Draft, Stage

PROGRAM = re.compile(
    r"(?:^|[\s/'\"`])(all_?reduce|all_?gather|reduce_?scatter|all_?to_?allv?|sendrecv|broadcast|"
    r"bcast|reduce|scatter|gather|hypercube)(_test_perf|_perf|_test)(?:_mpi)?(?=$|[\s'\"`;|&)])")
ALGBW_WITH_FACTOR = ("all_gather", "reduce_scatter")


def merge_interleaved(tests: list[Draft]) -> list[Draft]:
    """Joins heads with the test that their output is mixed with.

    Two runs in one output leave the head of one as its own test and two headers in a row, or rows
    after a footer. Nothing shows which run has which row, so these tests become incomplete.
    """
    merged: list[Draft] = []
    for position, test in enumerate(tests):
        test.unread += [row.fields["line"] for row in test.rows if not row.halves]
        test.rows = [row for row in test.rows if row.halves]
        after = tests[position + 1] if position + 1 < len(tests) else None
        is_torn = after is not None and after.follows and (test.headless or _repeats(test))
        if after is not None and is_torn:
            test.mixed = after.mixed = True
        while merged and (test.mixed or test.headers > 1) and _is_head(merged[-1]):
            # `end_test` ignores facts that contradict each other.
            before = merged.pop()
            test.first_line, test.mixed = before.first_line, True
            test.names |= before.names
            test.nranks |= before.nranks
            test.listed = before.listed + test.listed
            test.commands = before.commands + test.commands
        merged.append(test)
    return merged


def _is_head(test: Draft) -> bool:
    return (not test.rows and test.headers <= 1 and test.stage <= Stage.TABLE
            and test.status != "failed")


def _repeats(test: Draft) -> bool:
    """Whether a size does not grow within a type, an operation and a root, unlike in one run."""
    kinds = [[row.fields.get(name) for name in ("datatype", "redop", "root")] for row in test.rows]
    sizes = [int(row.fields["size_bytes"]) for row in test.rows]
    pairs = zip(pairwise(kinds), pairwise(sizes), strict=True)
    return any(kind == next_kind and 0 < next_size <= size
               for (kind, next_kind), (size, next_size) in pairs)


def end_test(test: Draft) -> None:
    """Fills in the fields of the test from all its lines."""
    commands = test.commands if test.mixed else test.commands[-1:]
    programs = list(filter(None, map(PROGRAM.search, commands)))
    test.collective = only(test.names or {collective_of(match[1]) for match in programs})
    test.world_size = only({
        logged.ranks_started(match.string[: match.start(1)], match.string[match.end():])
        for match in programs})
    if test.listed:
        _set_ranks(test)
    elif test.nranks:
        test.world_size = only(test.nranks)
    if any(match[2] == "_test_perf" for match in programs):
        test.format = "mscclpp-test"
    if test.layout.names[-1] == "res" and not test.sized:
        test.format = "NCCL 1.x"
    if test.format == "mscclpp-test":
        test.library = "MSCCL++"
    for row in test.rows:
        for in_place, figures in row.halves.items():
            by_name = dict(zip(test.layout.names, figures, strict=True))
            case = make_case(test, in_place, by_name, row.fields)
            if case is not None:
                test.add(case)
            elif set(figures) != {"N/A"}:
                test.unread.append(row.fields["line"])
    set_status(test)


def _set_ranks(test: Draft) -> None:
    """The ranks and GPUs of the device list; a rank with two models has none."""
    counts = Counter(rank for rank, _, _ in test.listed)
    models = {(rank, gpu) for rank, _, gpu in test.listed}
    groups = {group for _, group, _ in test.listed}
    is_one_run = len(groups) == len(set(counts.values())) == 1
    test.world_size = max(counts) + 1 if is_one_run else None
    models_of = Counter(rank for rank, _ in models)
    test.gpus = {rank: gpu for rank, gpu in models if models_of[rank] == 1}


def set_status(test: Draft) -> None:
    """Fills in how the test ended."""
    has_footer = test.format not in ("NCCL 1.x", "mscclpp-test")
    if "FAILED" in (test.out_of_bounds or "") or test.status == "failed":
        test.end("failed", "the run itself says so")
    elif test.mixed:
        test.end("incomplete", "two runs wrote into each other's lines")
    elif test.headless:
        test.end("incomplete", "the log begins in the middle of the test")
    elif not test.cases:
        test.end("incomplete", NO_ROWS)
    elif test.stage < Stage.FOOTER and has_footer:
        test.end("incomplete", "the log ends before the test does")


def make_case(test: Draft, in_place: bool, figures: dict[str, str],
              fields: dict[str, Any]) -> ImportedCase | None:
    """The case of a half; None without a time, or if the count of wrong elements is unreadable."""
    time, alg_bw, bus_bw = (number(figures[name]) for name in ("time", "algbw", "busbw"))
    n_wrong = logged.count_of(figures.get("wrong", ""))
    if time is None or (figures.get("wrong", "N/A") != "N/A" and n_wrong is None):
        return None
    time_us = time * (1e3 if test.layout.milliseconds else 1.0)
    summary = ImportedSummary(mean=round(time_us, 9))
    if "i_p99" in figures:
        summary.min, summary.max, summary.p99 = (
            number(figures[name]) for name in ("i_min", "i_max", "i_p99"))
    case = ImportedCase(case=0, collective=test.collective, in_place=in_place, time_us=summary,
                        alg_bw_gb_s=alg_bw, bus_bw_gb_s=bus_bw, n_wrong=n_wrong, **fields)
    if "wrong" not in figures:
        case.max_error = number(figures.get("error", figures.get("res", "")))
    if test.collective in ALGBW_WITH_FACTOR and time and alg_bw is not None and alg_bw == bus_bw:
        # In 2019 and 2020 this algbw included the factor (n-1)/n of busbw.
        computed = fields["size_bytes"] / time_us / 1e3
        rounding = (computed * logged.half_digit(figures["time"]) / time
                    + logged.half_digit(figures["algbw"]))
        if computed - alg_bw > 1.01 * rounding:
            case.reported_alg_bw_gb_s, case.alg_bw_gb_s = alg_bw, computed
    return case
