"""The bills of whole steps of ours, from a run of bench.decode or bench.prefill."""

import argparse
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

import numpy as np

from reports.breakdown.alone import alone_of, baseline_of
from reports.breakdown.bill import Bill, CallBill
from reports.breakdown.step_parts import StepParts, mean_interval
from reports.breakdown.verdicts import judge
from reports.tables.exposed import label
from reports.tables.sentences import machine, number, to_repeat
from reports.tables.show import read_newest
from wiretax.record.result import ResultError
from wiretax.record.schema import Result
from wiretax.record.traced import TracedSteps

COMMANDS = "decode", "prefill"
SCOPE = "An engine's step has more compute: these lack column-parallel layers and attention."
UNTOLD = (
    "Idle is not measured apart here, it is within compute: an engine that launches each kernel as "
    "it goes idles more."
)


def is_run(paths: Sequence[Path]) -> bool:
    """Whether these are runs or folders of runs, not traces."""
    return any(path.suffix == ".jsonl" or [*path.glob("**/*.jsonl")] for path in paths)


def read_own_steps(paths: Sequence[Path], arguments: argparse.Namespace) -> list[Bill]:
    """The bill of each split by tensor and batch, ours first. Raises ResultError for another run,
    and one without parts."""
    if len(paths) > 1:
        raise ResultError("breakdown reads one run at a time, or the traces of all ranks")
    if arguments.one:
        raise ResultError("--one goes with traces or --two, not with a run of ours")
    result = read_newest(paths[0], attrgetter("traced"))
    path, run = result.path, result.run
    if run.benchmark not in COMMANDS:
        raise ResultError(
            f"{path} is a run of {run.benchmark}: runs of bench.decode and bench.prefill have the "
            "parts of a step (for calls alone: --run)"
        )
    if any(case.status == "wrong" for case in result.cases):
        raise ResultError(f"{path} has wrong results: its times mean nothing")
    if not result.traced:
        why = "it was cut off" if result.end is None else "it is older than they, or ended early"
        words, command = to_repeat(run, "run it again")
        raise ResultError(f"{path} has no parts of a step: {why}; {words} {command}")
    told = [each for each in result.traced if not each.reason]
    if not told:
        reasons = "; ".join(f"{each.form}: {each.reason}" for each in result.traced)
        raise ResultError(f"{path} tells no parts of a step: {reasons}")
    if any(len(each.last_share) != run.world_size for each in told):
        raise ResultError(f"{path}: its parts are not of its {run.world_size} ranks")
    return [bill_of(result, each, arguments) for each in told]


def bill_of(result: Result, traced: TracedSteps, arguments: argparse.Namespace) -> Bill:
    case, n_ranks = result.cases[traced.case], len(traced.last_share)
    compute_us, waiting_us = np.array(traced.compute_us), np.array(traced.waiting_us)
    transport_us = np.array(traced.transport_us)
    us = {
        "compute": compute_us,
        "overlap": np.zeros_like(compute_us),
        "transport": np.broadcast_to(transport_us, compute_us.shape),
        "waiting": waiting_us,
    }
    parts = StepParts(us, np.array(traced.hideable_us))
    call_us, wait_us = transport_us / traced.calls, waiting_us / traced.calls
    call = CallBill(
        "all_reduce",
        case.library or "Wiretax",
        case.size_bytes,
        traced.calls * parts.n_steps,
        mean_interval(call_us),
        waiting_us=[mean_interval(us) for us in wait_us],
        last_share=[*traced.last_share],
    )
    device = next(iter(result.run.gpus), "CPU")
    baseline = baseline_of(arguments, {n_ranks}, device)
    if result.run.gpus or arguments.run or arguments.gpu:
        call.alone = alone_of(call, n_ranks, baseline)
    judge(call, call_us, wait_us, None, parts, range(n_ranks), n_ranks)
    if call.verdict == "inconclusive":
        call.next_step = "trace more steps: give the run more --max-time"
    notes = [f"{machine(result)}."]
    if (chosen := case.chosen) and not traced.form.startswith(chosen):
        inside = f"{chosen}, which was faster, has the call inside its kernel"
        notes.append(f"{inside}: these are the parts of {traced.form}.")
    slowdown = f"Timestamps make a step {number(traced.slowdown)} times as long."
    notes += [slowdown, UNTOLD, SCOPE, *baseline.notes]
    title = f"{label(case)}, {traced.form}"
    return Bill(title, parts, [call], [*range(n_ranks)], notes)
