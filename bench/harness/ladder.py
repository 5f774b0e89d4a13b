"""Climbs from host memory to collectives over peers' memory, for `bench.doctor --ladder`. Where
peers hang the host, or copies work and collectives do not, the log tells after a reset how far the
climb came: each rung's name is on disk before the rung starts.

All rungs are first climbed in host memory, the control: if they fail there, the peers are not to
blame."""

import json
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from bench.harness.console import FINE, WRONG, print_out
from bench.harness.iteration import Buffers, case_iteration, come_late, nothing
from bench.harness.sampler import SoakLaunch, SoakSequence, captured
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.communicator import Communicator, Refusal
from collectives.connect import map_peers
from collectives.library.gpu import NcclLibrary
from collectives.operation import CollectiveCase, Unsupported, World
from collectives.peer_buffer import WaitPolicy
from collectives.probe import show
from collectives.registry import ALGORITHMS
from collectives.world import modes_of
from kernels.devices.device import Counts, Device, DeviceError, Watch
from reports.store.untrusted import printable_in, read_bytes

WAIT_S = 10.0  # of a kernel, for a flag
GIVE_UP_S = 60.0  # for a rung that does not return
SIZES_BYTES = 16, 4 << 20, 16
ROUNDS = 10
STALL_NS = 50_000_000
STARTED = "started"
# The exit status of each outcome, the worst last.
STATUSES = {"works": FINE, "inconclusive": 4, "wrong": WRONG, "hangs": WRONG}
OUTCOMES = list(STATUSES)


def stores(world: World, entry: str = "show_stores", **how: Any) -> str | None:
    return show(world.mapped, entry, **how)


def all_reduces(world: World, is_graph: bool = False, stall_ns: int = 0) -> str | None:
    """All-reduces small, large and small, ten times; rank 0 stalls before each."""
    send, receive = (memories[world.rank] for memories in world.mapped.registered)
    buffers = Buffers(send, receive, 0)
    launches = []
    with world.communicator.all_or_none(DeviceError, KeyError):
        algorithm = ALGORITHMS["all_reduce"]["one_shot_push"]  # its file is optional
        late = come_late(world, 0 if world.rank else stall_ns)
        for size_bytes in SIZES_BYTES:
            count, collective = size_bytes // 4, COLLECTIVES["all_reduce"]
            case = CollectiveCase(collective, count, DATATYPES["float32"], "sum", 0, 0)
            case = buffers.place(world, case)
            operation = algorithm.bind(world, case)
            if isinstance(operation, Unsupported):
                raise DeviceError(operation.reason)
            launches.append(SoakLaunch(case, case_iteration(world, buffers, case, operation)))
        sequence = captured(world, launches) if is_graph else SoakSequence(launches)
        idle = nothing(world)

    world.device.run(sequence.actions(late), idle, Counts(ROUNDS, 0), world.watch)
    for launch in launches:
        if wrong := launch.wrong().elements:
            return f"{wrong} wrong elements in all-reduces of {launch.case.size_bytes} B"
    return None


def call_library(world: World, library: NcclLibrary) -> None:
    with world.communicator.all_or_none():
        operation = library.bind_smallest(world)
    if isinstance(operation, Unsupported):
        raise (DeviceError if library.opened else Refusal)(operation.reason)


# What is tried, in this order, in both memories; it says what is wrong. Even ranks have odd peers.
RUNGS: dict[str, Callable[[World], str | None]] = {
    "stores of even ranks": partial(stores, rounds=1, writers=0x55),
    "stores of odd ranks": partial(stores, rounds=1, writers=0xAA),
    "stores of all ranks": partial(stores, rounds=1),
    "flags there and back": partial(stores, size_bytes=0),
    "reads": partial(stores, entry="show_reads"),
    "one kernel, many rounds": stores,
    "packets": partial(stores, entry="show_packets"),
    "all-reduces, small, large, small": all_reduces,
    "the same in a graph": partial(all_reduces, is_graph=True),
    "the same with a stalled rank": partial(all_reduces, stall_ns=STALL_NS),
}


def open_log(name: str) -> tuple[BinaryIO, dict[str, str]]:
    """The file of all climbs, a JSON line for each start and each end of a rung, and the last line.
    Raises OSError."""
    path = Path(os.path.expanduser(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    last = {}
    with suppress(FileNotFoundError):
        for line in read_bytes(path).splitlines():
            with suppress(ValueError, TypeError, RecursionError):  # a reset may tear a line
                last = dict(printable_in(json.loads(line)))
    file = path.open("ab")
    with suppress(OSError):  # the file's name; some file systems refuse this
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    return file, last


@dataclass
class Climb:
    """Performs rungs. Rank 0 has the log, and prints."""

    communicator: Communicator
    waits: WaitPolicy
    log: BinaryIO | None
    outcomes: list[str] = field(default_factory=list)

    def rung(self, name: str, work: Callable[[], str | None]) -> str:
        """Does the work on all ranks; returns the outcome."""
        self.note(name, STARTED)
        self.communicator.barrier()
        self.waits.forget()

        # The end of another rank would end rank 0 before it has written.
        limit_s = GIVE_UP_S + (2 if self.communicator.rank else 0)
        timer = threading.Timer(limit_s, self.give_up, [name])
        timer.daemon = True
        timer.start()

        outcome = "works"
        try:
            if sentence := work():
                outcome = "wrong"
        except Refusal as refusal:
            outcome, sentence = "inconclusive", str(refusal)
        except DeviceError as error:  # in a launch: the GPU is lost
            outcome, sentence = "hangs", str(error)
        if self.waits.watch.timed_out:
            outcome, sentence = "hangs", f"rank {self.waits.watch.peer} never answered"

        votes = self.communicator.all_gather((outcome, sentence))
        timer.cancel()
        outcome, sentence = max(votes, key=lambda vote: OUTCOMES.index(vote[0]))
        self.outcomes.append(outcome)
        self.note(name, outcome, sentence)
        return self.outcomes[-1]

    def note(self, rung: str, outcome: str, sentence: str | None = None) -> None:
        """Returns when the line is on disk. Raises OSError."""
        if not self.log:
            return

        time = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
        line = {"time": time, "rung": rung, "outcome": outcome, "sentence": sentence}
        self.log.write(f"\n{json.dumps(line)}".encode())
        self.log.flush()
        os.fsync(self.log.fileno())
        if outcome != STARTED:
            why = f" ({sentence})" if sentence else ""
            print_out(f"{rung}: {outcome}{why}\n")

    def give_up(self, name: str) -> None:
        with suppress(OSError):
            self.note(name, "hangs", f"it did not return in {GIVE_UP_S:g} s")
        os._exit(WRONG)


def map_memory(climb: Climb, library: NcclLibrary, kind: str, worlds: list[World]) -> None:
    """Adds a world over this kind of memory. Raises Refusal."""
    device, refusals = library.device, list[str]()
    for sharing in modes_of(device, kind):
        try:
            peers = map_peers(climb.communicator, device, climb.waits, sharing, ExitStack())
            for _ in range(2):
                peers.register(max(SIZES_BYTES))
            worlds.append(World(climb.communicator, device, peers, library, climb.waits.watch))
            return
        except Refusal as refusal:
            refusals.append(str(refusal))
    raise Refusal("; ".join(dict.fromkeys(refusals)))


def climb(communicator: Communicator, device: Device, file: str) -> int:
    """Climbs; returns the exit status, the same on every rank. Raises Refusal, and on rank 0
    OSError."""
    log, last = open_log(file) if communicator.rank == 0 else (None, {})
    if last.get("outcome") == STARTED:
        time, rung = last.get("time"), last.get("rung")
        print_out(f"The climb of {time} never returned from its rung: {rung}.\n")
    with communicator.all_or_none():
        waits = WaitPolicy(device.watch(Watch()), timeout_s=WAIT_S)
        library = NcclLibrary(communicator, device)
    climb = Climb(communicator, waits, log)

    for memory, kind in (("host memory", "host_staged"), ("peer memory", "mapped")):
        worlds = list[World]()
        climb.rung(f"{memory}: mapped", partial(map_memory, climb, library, kind, worlds))
        for name, work in RUNGS.items() if worlds else ():
            if climb.rung(f"{memory}: {name}", partial(work, worlds[0])) == "hangs":
                break  # kernels may still use this memory
        if memory == "host memory" and {*climb.outcomes} != {"works"}:
            climb.note("the climb", "inconclusive", "its control, host memory, failed")
            return STATUSES["inconclusive"]

    if "hangs" not in climb.outcomes and worlds:
        climb.rung("the GPUs' library", partial(call_library, worlds[0], library))
    return STATUSES[max(climb.outcomes, key=OUTCOMES.index)]
