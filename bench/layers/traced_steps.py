"""The parts of whole steps of ours, measured after the timed rounds: a product, a call and a norm
in turn, with a note of the time between them. A fused kernel has its call inside, so a split with
one is traced in its unfused form.

Steps with and without notes take turns, so that a trace shows what it costs. A rank's times are
compared with its own alone; `reports.breakdown.calls` says what of a call is waiting."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.harness.iteration import ARRIVED, LEFT, note_time
from bench.harness.run import TRACED_SHARE, RunInProgress, agreed_stop
from bench.harness.suite import MOST_STREAM_ENTRIES, Traced
from bench.harness.timing import perform
from collectives.binding import run_sequence
from collectives.collective import Array
from collectives.operation import Bound, Operation, World
from kernels.devices.device import Counts, Memory
from reports.breakdown.calls import last_shares
from wiretax.record.stats import MIN_INTERVAL_VALUES
from wiretax.record.traced import TracedSteps

PARTS = 3  # of a layer: a product, a call, a norm
NOTE_BYTES = 8
SHORT_S = 0.01  # a longer step is warm after its first layers
MOST_STEPS, LEAST_STEPS = 30, MIN_INTERVAL_VALUES
# Notes may take so much of a step; above, the parts would say more on the notes than on the step.
MOST_SLOWDOWN = 1.2
# Of a step as the host's clock or events time it, its notes cover a part: all but what is in front
# of the first and behind the last launch. A clock of another frequency (gfx90a) does not.
LEAST_COVERED, MOST_COVERED = 0.5, 1.1


def with_notes(world: World, operations: Sequence[Bound]) -> tuple[Bound, Memory]:
    """The operations in sequence, with a note of the time before each and after the last, and where
    the notes are. Raises DeviceError."""
    times = world.device.private(NOTE_BYTES * (len(operations) + 1))
    notes = [
        Operation(note_time(world, times.address + NOTE_BYTES * number))
        for number in range(len(operations) + 1)
    ]
    noted = [each for pair in zip(notes, operations, strict=False) for each in pair]
    return run_sequence(world, [*noted, notes[-1]]), times


def reason_against(world: World, noted: Operation) -> str | None:
    """Why its notes cannot run here: behind a gate a stream must have room for a whole step."""
    entries = noted.step.entries
    if world.device.is_cpu or world.graph or entries <= MOST_STREAM_ENTRIES:
        return None
    return f"{entries} launches do not fit into a stream; from a graph (-G 1) they do"


def trace(run: RunInProgress) -> list[TracedSteps]:
    """The parts of all traced steps, of as many as -n says or as the time for them allows; on rank
    0, elsewhere nothing. Raises DeviceError as `perform` does."""
    options = run.session.options
    most = max(LEAST_STEPS, min(MOST_STEPS, options.iterations or MOST_STEPS))
    soon_s = min(run.deadline_s, time.monotonic() + TRACED_SHARE * options.max_time_s)
    able = [each for each in run.suite.traced if not each.reason]
    steps: dict[int, list[Array]] = {each.number: [] for each in able}
    for turn in range(1 + most):
        until_s = run.deadline_s if turn <= LEAST_STEPS else soon_s
        for traced in able:
            run.session.flight.note("traced step", case=traced.number, block=None, text=traced.form)
            step = traced_step(run, traced, noted_first=bool(turn % 2))
            if agreed_stop(run, until_s):
                able = []
                break
            if turn:  # the first one warms up
                steps[traced.number].append(step)
    gathered = run.session.communicator.gather(steps)
    if gathered is None:
        return []
    return [
        record_of(each, np.array([own.get(each.number, []) for own in gathered]))
        for each in run.suite.traced
    ]


def traced_step(run: RunInProgress, traced: Traced, noted_first: bool) -> Array:
    """Runs a step with and one without notes, each behind one that warms up if they are short:
    their ns, and the ns of the notes."""
    order = [traced.noted, traced.plain]
    is_short = run.suite.iterations[traced.number].duration_s < SHORT_S
    counts = Counts(int(is_short), 1)
    took_ns = dict[int, int]()
    for each in order if noted_first else order[::-1]:
        stamps_ns = perform(run.session, each, counts)
        took_ns[id(each)] = int(sum(row[LEFT] - row[ARRIVED] for row in stamps_ns))
    notes_ns = traced.times.read().view(np.int64)
    return np.array([*(took_ns[id(each)] for each in order), *notes_ns])


def record_of(traced: Traced, steps_ns: Array) -> TracedSteps:
    """The parts from `traced_step` of all ranks and steps, (ranks, steps, 2 + notes); or the reason
    why they are not told."""

    def untold(reason: str) -> TracedSteps:
        return TracedSteps(case=traced.number, form=traced.form, reason=reason)

    if traced.reason:
        return untold(traced.reason)
    if steps_ns.ndim < 3 or steps_ns.shape[1] < LEAST_STEPS:
        return untold("time ran out: give it more --max-time")
    noted_ns, plain_ns, notes_ns = steps_ns[..., 0], steps_ns[..., 1], steps_ns[..., 2:]
    # Of the shortest steps: a disturbance only adds time.
    slowdown = float(noted_ns.min(axis=1).mean() / plain_ns.min(axis=1).mean())
    between_ns = np.diff(notes_ns, axis=-1)
    covered = float(np.median(between_ns.sum(axis=-1) / noted_ns))
    if between_ns.min() < 0 or not LEAST_COVERED <= covered <= MOST_COVERED:
        return untold(f"the device's clock counts {covered:.2g} of a step's time")
    if slowdown > MOST_SLOWDOWN:
        return untold(f"a step with timestamps takes {slowdown:.2f} times as long")
    us, scale = between_ns / 1e3, traced.noted.scale
    product_us, call_us, norm_us = (us[..., part::PARTS] for part in range(PARTS))
    transport_us = call_us.min(axis=0)
    hideable_us = np.minimum(call_us[..., :-1], product_us[..., 1:])

    def of_step(part_us: Array) -> Any:
        return np.round(scale * part_us.sum(axis=-1), 3).tolist()  # to the nanosecond

    return TracedSteps(
        case=traced.number,
        form=traced.form,
        calls=round(scale * call_us.shape[-1]),
        slowdown=round(slowdown, 4),
        compute_us=of_step(product_us + norm_us),
        transport_us=of_step(transport_us),
        waiting_us=of_step(call_us - transport_us),
        hideable_us=of_step(hideable_us),
        last_share=last_shares(call_us.reshape(len(us), -1)),
    )
