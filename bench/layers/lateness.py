"""Ranks that come late at the calls of a step, as a file says: `bench.decode --lateness FILE`."""

import argparse
import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from collectives.communicator import Refusal
from collectives.operation import Operation, World
from kernels.devices.device import Lateness
from wiretax.common.launched import launched_ranks
from wiretax.record.lateness_file import Lateness as LateUs
from wiretax.record.lateness_file import read_lateness
from wiretax.record.result import ResultError


def lateness_file(text: str) -> LateUs:
    """The us of all calls and ranks in this file, (calls, ranks)."""
    try:
        late_us = read_lateness(Path(text))
    except ResultError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    ranks = launched_ranks() or 1
    if ranks == 1:
        raise argparse.ArgumentTypeError("one rank waits for nobody")
    if ranks > late_us.shape[1]:
        raise argparse.ArgumentTypeError(
            f"{text} has the lateness of {late_us.shape[1]} ranks, and here are {ranks}"
        )
    return late_us


def digest_of(late_us: LateUs) -> str:
    """Six letters that tell files apart."""
    return hashlib.sha256(late_us.tobytes()).hexdigest()[:6]


def require_room(late_us: LateUs, calls: int, steps: int, left_s: float) -> None:
    """Raises Refusal if so many steps, in which each call waits for the latest rank, take longer
    than the time that is left."""
    step_s = calls * float(late_us.max(axis=1).mean()) / 1e6
    if steps * step_s > left_s:
        raise Refusal(
            f"time ran out: with this lateness a step takes {step_s:.1f} s or more: give it more "
            "--max-time"
        )


def come_late(
    world: World, late_us: LateUs, calls: int, seed: Sequence[int], keep: list[object]
) -> list[Operation]:
    """A launch in front of each call of a step, which makes this rank as late as the file says:
    the lines follow each other from a random one on, so that a rank that is late for some calls in
    a row is so here. `keep` keeps what they read. Raises DeviceError."""
    delays_ns = np.round(1e3 * late_us[:, world.rank]).astype(np.uint64)
    table = world.device.store(delays_ns)
    keep.append(table)
    start = int(np.random.default_rng(seed).integers(len(late_us)))
    watch = ctypes.addressof(world.watch)
    return [
        Operation(
            world.device.loop_step(
                "come_late_as_listed",
                Lateness(
                    table.address,
                    len(late_us),
                    start + call,
                    calls,
                    world.oversubscribed,
                    watch,
                ),
            )
        )
        for call in range(calls)
    ]
