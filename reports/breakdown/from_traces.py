"""The bill of a step from traces: reads, matches, cuts and judges them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reports.breakdown.alone import alone_of, baseline_of
from reports.breakdown.bill import Bill, CallBill
from reports.breakdown.calls import Kind, last_shares, match
from reports.breakdown.cpu_ops import read_cpu_ops
from reports.breakdown.cut_steps import kind_of, steps_of_ranks
from reports.breakdown.halves import halves_of
from reports.breakdown.idle_beside import idle_beside
from reports.breakdown.kernel_names import Names
from reports.breakdown.kineto import NoDeviceWork, read_kineto
from reports.breakdown.one_run import in_order, remarks
from reports.breakdown.rocprof import is_rocprof, read_rocprof
from reports.breakdown.step_parts import mean_interval, parts_of
from reports.breakdown.timeline import Floats, Integers, Timeline
from reports.breakdown.verdicts import judge
from reports.tables.sentences import counted, number, some
from wiretax.record.lateness_file import Lateness
from wiretax.record.result import ResultError

LEAST_PLACES, MOSTLY = 4, 0.5  # calls of a step of which one may have most of the waiting


def read_traces(paths: Sequence[Path], arguments: argparse.Namespace) -> Bill:
    """Beside the trace of one card, if --one names it. Raises ResultError for files that are no
    traces of one run."""
    names = Names(arguments.collective)
    found, ones = (
        [each for path in own for each in read_trace(path, names)]
        for own in (paths, arguments.one or ())
    )
    if len(ones) > 1:
        raise ResultError(f"beside traces --one takes a trace of one card, not of {len(ones)}")
    timelines = in_order(found)
    matched = match(timelines, steps_of_ranks(timelines))
    parts = parts_of(timelines, matched.steps, matched.kinds)
    idle_beside_us = [*map(idle_beside, timelines)]
    group_sizes = {kind.group_size for kind in matched.kinds}
    baseline = baseline_of(arguments, group_sizes, timelines[0].device)
    ranks = [number if each.rank is None else each.rank for number, each in enumerate(timelines)]
    calls = list[CallBill]()
    for kind in matched.kinds:
        idle = np.array([us[own] for us, own in zip(idle_beside_us, kind.events, strict=True)])
        call = bill_of(kind, idle)
        call.is_graph = is_from_graph(timelines[0], kind.events[0])
        call.alone = alone_of(call, kind.group_size, baseline)
        transport_us, waiting_us, idle_us = map(
            kind.mean_by_step, (kind.transport_us, kind.waiting_us, idle)
        )
        judge(call, transport_us, waiting_us, idle_us, parts, ranks, kind.group_size)
        if call.verdict in ("waiting", "mixed"):
            call.why += where_waited(kind) + clocks_of(call.late_ranks, ranks, timelines)
        calls.append(call)
    known = {text: names.known(text) for each in timelines for text in each.texts}
    notes = [note for each in timelines for note in each.notes] + matched.mismatches
    notes += [*names.notes(known), *dict.fromkeys(baseline.notes)]
    notes += remarks(timelines, matched.kinds)
    tokens = kind_of(matched.steps[0].names[0])[1]
    title = title_of(timelines)
    late_us = lateness_of(timelines[0], matched.kinds)
    bill = Bill(title, parts, calls, ranks, notes, tokens, late_us=late_us)
    if all(matched.steps[0].names):
        bill.steps_by = matched.steps[0].found_by
    # Of several groups the one with most calls splits the step: the tensor's.
    busiest = max(matched.kinds, key=lambda kind: len(kind.step), default=None)
    bill.gpus = busiest.group_size if busiest else timelines[0].ranks or len(timelines)
    for one in ones:
        bill.halves = halves_of(one, timelines, matched.steps, bill.gpus)
        own = match([one], steps_of_ranks([one]))
        bill.one = parts_of([one], own.steps, own.kinds)
        notes += bill.halves.notes
    return bill


def read_trace(path: Path, names: Names) -> list[Timeline]:
    """The work of a rank's GPU, of all GPUs of one process, or of a CPU. Raises ResultError."""
    if is_rocprof(path):
        return read_rocprof(path, names)
    try:
        return [read_kineto(path, names)]
    except NoDeviceWork:
        return [read_cpu_ops(path, names)]


def is_from_graph(timeline: Timeline, events: Integers) -> bool | None:
    """Whether most of these calls were launched together with other work, as a graph is; None where
    the trace does not tell their launches."""
    if timeline.launches_us is None:
        return None
    _, launch, n_launched = np.unique(
        timeline.launches_us, return_inverse=True, return_counts=True, equal_nan=False
    )
    told = events[~np.isnan(timeline.launches_us[events])]
    return bool(np.mean(n_launched[launch[told]] > 1) > 0.5) if len(told) else None


def bill_of(kind: Kind, idle_us: Floats) -> CallBill:
    """Its figures, without a verdict. `idle_us` is beside each call, (ranks, calls)."""
    return CallBill(
        kind.collective,
        kind.by,
        kind.size_bytes,
        len(kind.step),
        mean_interval(kind.mean_by_step(kind.transport_us)),
        kind.group,
        kind.stream,
        kind.is_bound,
        [*map(mean_interval, kind.mean_by_step(kind.waiting_us))],
        last_shares(kind.duration_us),
        [*map(mean_interval, kind.mean_by_step(idle_us))],
    )


def where_waited(kind: Kind) -> str:
    """The call of a step at which most of the waiting is, as behind a host that launches graphs
    late; empty if there is none."""
    n_steps = len(np.unique(kind.step))
    n_calls, rest = divmod(len(kind.step), n_steps)
    waits_us = kind.waiting_us.sum(axis=0)
    if rest or n_calls < LEAST_PLACES or not waits_us.any():
        return ""
    shares = waits_us.reshape(n_steps, n_calls).sum(axis=0) / waits_us.sum()
    place = int(shares.argmax())
    if shares[place] < MOSTLY:
        return ""
    return f"; {100 * shares[place]:.0f} % of it at call {place + 1} of {n_calls} of a step"


def clocks_of(late: Sequence[int], ranks: Sequence[int], timelines: Sequence[Timeline]) -> str:
    """What the traces tell of the late ranks' clocks and power, and of the others'."""
    text = ""
    for counter in timelines[0].clocks if late else ():
        means = [each.clocks.get(counter) for each in timelines]
        told = [
            f"{number(mean)} on rank {rank}"
            for rank, mean in zip(ranks, means, strict=True)
            if mean is not None
        ]
        text += f"; {counter} {some(told)}"
    return text


def lateness_of(first: Timeline, kinds: Sequence[Kind]) -> Lateness | None:
    """How late each rank comes at each call in us, (calls, ranks), in the order of the first rank's
    timeline: the rank that waits longest came first. None without calls of all their ranks."""
    if not kinds or any(kind.is_bound for kind in kinds):
        return None
    order = np.argsort(np.concatenate([first.starts_us[kind.events[0]] for kind in kinds]))
    waiting_us = np.concatenate([kind.waiting_us for kind in kinds], axis=1).T[order]
    return np.asarray(waiting_us.max(axis=1, keepdims=True) - waiting_us)


def title_of(timelines: Sequence[Timeline]) -> str:
    first, n = timelines[0], len(timelines)
    is_alone = n == 1 and (first.ranks or 1) == 1
    ranks = counted(n, "rank") if is_alone or not first.ranks else f"{n} of {first.ranks} ranks"
    return f"{ranks}, {first.device or 'unknown GPU'}"
