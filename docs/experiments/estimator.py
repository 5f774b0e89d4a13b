"""How close is the slowest rank's interval to a collective's time?

    PYTHONPATH=. mpirun -n 2 python docs/experiments/estimator.py --ranks-share-gpus

GPUs share no clock, so a time is the longest interval between two events of a rank. Ranks on one
card share its clock. Here a kernel beside each event stores that clock: event, kernel, collective,
kernel, event. The true time is from the last arrival to the last exit, by the kernels. The table
has quantiles of two differences to it: of the longest interval between events, which also holds
both kernels, and of the longest interval between a rank's kernels. Further options are
bench.allreduce's; NCCL takes part with NCCL_MULTI_RANK_GPU_ENABLE=1. Below the table are the
library with the channels of each of its communicators, and the variables that are set."""

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.console import FINE, WRONG, print_out, say
from bench.harness.iteration import ARRIVED, LEFT, Iteration, stamp
from bench.harness.options import SweepOptions
from bench.harness.session import Session, start
from bench.harness.suite import prepare
from bench.machine.environment import VARIABLES, scrub_value
from bench.sweep import sweep_options, sweep_parser
from collectives.communicator import Refusal
from kernels.devices.device import Action, Counts, Gate, Memory, Step

DEFAULTS = ["-b", "16K", "-e", "1M", "-f", "4", "--mode", "isolated", "--algorithm", "auto,library"]
KERNELS = str(Path(__file__).with_suffix(""))  # estimator.cu, beside this file
WARMUP, TIMED = 20, 300
SLOTS = WARMUP + TIMED
QUANTILES = 0.05, 0.25, 0.5, 0.75, 0.95
Times = np.ndarray  # of int64 in ns, [rank, iteration]


def framed(actions: Sequence[Action], first: Step, last: Step) -> list[Action]:
    """The actions of an isolated iteration with a step behind its first event, and one in front of
    its second."""
    among = {stamp(ARRIVED): [stamp(ARRIVED), Action(first)], stamp(LEFT): [Action(last)]}
    among[stamp(LEFT)].append(stamp(LEFT))
    return [each for action in actions for each in among.get(action, [action])]


def measured(session: Session, iteration: Iteration, slots: Memory) -> tuple[Times, Times, Times]:
    """This rank's intervals between events, arrivals and exits."""
    device, watch = session.world.device, session.flight.watch
    first, last = (
        device.step(KERNELS, "note_sample", Gate(address, SLOTS, watch=ctypes.addressof(watch)))
        for address in (slots.address, slots.address + 8 * SLOTS)
    )
    actions = framed(iteration.actions(session.meet), first, last)
    session.flight.note("timed loop", text=iteration.text)
    events = device.run(actions, iteration.check, Counts(WARMUP, TIMED), watch, session.world.graph)
    noted = slots.read().view(np.int64).reshape(2, SLOTS)
    # The last iteration's number is in the watch, and its times in the slot of that number.
    arrived, left = np.roll(noted, -(watch.iteration + 1) % SLOTS, axis=1)[:, WARMUP:]
    return events[:, LEFT] - events[:, ARRIVED], arrived, left


def row(intervals: Times, arrived: Times, left: Times) -> str:
    """A case's figures in us. Raises ValueError if a rank leaves before it arrives, or the
    collective ends before all have arrived."""
    true = left.max(axis=0) - arrived.max(axis=0)
    if (left < arrived).any() or (true < 0).any():
        raise ValueError("a rank leaves before it, or the last rank, has arrived")
    longest = (left - arrived).max(axis=0)
    columns = [f"{np.median(true) / 1e3:9.2f}", f"{np.median(np.ptp(arrived, axis=0)) / 1e3:9.2f}"]
    for estimate in (intervals.max(axis=0), longest):
        differences = np.quantile(estimate - true, QUANTILES) / 1e3
        columns.append(" ".join(f"{value:8.2f}" for value in differences))
    return " ".join(columns)


def settings(library: Mapping[str, Any], variables: Mapping[str, str]) -> list[str]:
    """What the figures hold for, from the facts of a run's head. Without it a library that was
    limited would pass for one at its best."""
    channels = [
        f"{counts.get('coll', 'unknown')} of {label}"
        for label, counts in library.get("channels", {}).items()
    ]
    known = [f"{name}={scrub_value(variables[name])}" for name in VARIABLES if name in variables]
    return [
        f"library: {library['library']}; channels: {', '.join(channels) or 'unknown'}",
        f"variables: {' '.join(known) or 'none'}",
    ]


def work(sweep: SweepOptions, session: Session) -> int:
    """Measures and prints each case. Raises Refusal where ranks have several clocks."""
    device, communicator = session.world.device, session.communicator
    if device.is_cpu or device.sharers < communicator.size:
        raise Refusal("all ranks must share one GPU, whose clock they read: --ranks-share-gpus")
    suite = prepare(sweep, session)
    slots, status, steps = device.private(2 * 8 * SLOTS), FINE, set[int]()
    title = f"{'size':>9} {'algorithm':26} {'true us':>9} {'skew us':>9}"
    quantiles = " ".join(f"{100 * quantile:7.0f}%" for quantile in QUANTILES)
    lines = [f"{title} events less true: {quantiles}; kernels less true: {quantiles}"]
    for number, iteration in suite.iterations.items():
        header = suite.headers[number]
        gathered = communicator.gather(measured(session, iteration, slots))
        if gathered is None:
            continue
        intervals, arrived, left = (np.stack(each) for each in zip(*gathered, strict=True))
        steps.update(np.diff(np.unique([arrived, left])).tolist())
        name = f"{header.size_bytes:9} {header.algorithm + ' ' + header.variant:26}"
        try:
            lines.append(f"{name} {row(intervals, arrived, left)}")
        except ValueError as error:
            say("estimator", f"{name.strip()}: {error}")
            status = WRONG
    lines += settings(session.world.library.describe(session.world), os.environ)
    if communicator.rank == 0:
        lines.append(f"the clock's least step: {min(steps)} ns")
        print_out("\n".join(lines) + "\n")
    return int(communicator.broadcast(status))


def main() -> None:
    parser = sweep_parser("estimator", "all_reduce", str(__doc__))
    run, sweep = sweep_options(parser, parser.parse_args([*DEFAULTS, *sys.argv[1:]]))
    start(run, lambda session: work(sweep, session))


if __name__ == "__main__":
    main()
