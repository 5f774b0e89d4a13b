"""The bill of a step from traces: reads, matches, cuts and judges them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reports.breakdown.alone import alone_of
from reports.breakdown.bill import Bill, CallBill
from reports.breakdown.calls import Kind, match
from reports.breakdown.cut_steps import kind_of, steps_of_ranks
from reports.breakdown.kernel_names import Names
from reports.breakdown.kineto import read_kineto
from reports.breakdown.one_run import in_order, remarks
from reports.breakdown.rocprof import is_rocprof, read_rocprof
from reports.breakdown.step_parts import hidden_at_most_us, mean_interval, parts_of
from reports.breakdown.timeline import Timeline
from reports.breakdown.verdicts import judge


def read_traces(paths: Sequence[Path], arguments: argparse.Namespace) -> Bill:
    """Raises ResultError for files that are no traces of one run."""
    names = Names(arguments.collective)
    timelines = in_order([each for path in paths for each in read_trace(path, names)])
    matched = match(timelines, steps_of_ranks(timelines))
    parts = parts_of(timelines, matched.steps, matched.kinds)
    n_calls = sum(kind.duration_us.shape[1] for kind in matched.kinds)
    gpus = timelines[0].ranks or len(timelines)
    calls = [bill_of(kind) for kind in matched.kinds]
    for call in calls:
        call.alone = alone_of(call, gpus, arguments)
        call.verdict = judge(call, parts, n_calls)
    ranks = [number if each.rank is None else each.rank for number, each in enumerate(timelines)]
    known = {
        text: found
        for each in timelines
        for text, found in zip(each.texts, each.known, strict=True)
    }
    notes = [note for each in timelines for note in each.notes] + matched.mismatches
    notes += names.notes(known)
    notes += remarks(timelines, matched.kinds)
    tokens = kind_of(matched.steps[0].names[0])[1]
    hidden_us = hidden_at_most_us(timelines, matched.steps, matched.kinds)
    return Bill(title_of(timelines), parts, calls, ranks, notes, tokens, hidden_us)


def read_trace(path: Path, names: Names) -> list[Timeline]:
    """The work of a rank's GPU, or of all GPUs of one process. Raises ResultError."""
    return read_rocprof(path, names) if is_rocprof(path) else [read_kineto(path, names)]


def bill_of(kind: Kind) -> CallBill:
    """Its figures, without a verdict."""
    ranks, n_calls = kind.duration_us.shape
    last = kind.duration_us.argmin(axis=0)
    return CallBill(
        kind.collective,
        kind.by,
        kind.size_bytes,
        kind.group,
        kind.stream,
        n_calls,
        mean_interval(kind.mean_by_step(kind.transport_us)),
        kind.is_bound,
        [mean_interval(kind.mean_by_step(each)) for each in kind.waiting_us],
        [float((last == rank).mean()) for rank in range(ranks)],
    )


def title_of(timelines: Sequence[Timeline]) -> str:
    first = timelines[0]
    return f"{len(timelines)} of {first.ranks or 'unknown'} ranks, {first.device or 'unknown GPU'}"
