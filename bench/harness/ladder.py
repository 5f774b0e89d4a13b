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
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, cast

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

INCONCLUSIVE = 4  # exit status
WAIT_S = 10.0  # of a kernel, for a flag
GIVE_UP_S = 60.0  # for a rung that does not return
SIZES_BYTES = 16, 4 << 20, 16
ROUNDS = 10
STALL_NS = 50_000_000
ALL_REDUCE = COLLECTIVES["all_reduce"]
FLOAT = DATATYPES["float32"]
ALGORITHM = "one_shot_push"
STARTED = "started"
OUTCOMES = "works", "inconclusive", "wrong", "hangs"


def stores(world: World, entry: str = "show_stores", **how: Any) -> str | None:
    return show(world.mapped, entry, **how)


def all_reduces(world: World, is_graph: bool = False, stall_ns: int = 0) -> str | None:
    """All-reduces small, large and small, ten times; rank 0 stalls before each."""
    rank = world.communicator.rank
    send, receive = (memories[rank] for memories in world.mapped.registered)
    buffers = Buffers(send, receive, 0)
    launches = []
    algorithm = ALGORITHMS["all_reduce"].get(ALGORITHM)
    if not algorithm:
        raise Refusal(f"{ALGORITHM} is not here")

    with world.communicator.all_or_none(DeviceError):
        for size_bytes in SIZES_BYTES:
            case = CollectiveCase(ALL_REDUCE, size_bytes // 4, FLOAT, "sum", 0, 0)
            case = buffers.place(world, case)
            operation = algorithm.bind(world, case)
            if isinstance(operation, Unsupported):
                raise DeviceError(operation.reason)
            iteration = case_iteration(world, buffers, case, operation, 0)
            launches.append(SoakLaunch(case, iteration))

        late = come_late(world, 0 if rank else stall_ns)
        sequence = SoakSequence(launches, [late] * len(launches))
        if is_graph:
            sequence.graph = captured(world, sequence)
        idle = nothing(world)

    world.device.run(sequence.actions(late), idle, Counts(ROUNDS, 0), world.watch)
    for launch, size_bytes in zip(launches, SIZES_BYTES, strict=True):
        if wrong := launch.wrong().elements:
            return f"{wrong} wrong elements in all-reduces of {size_bytes} B"
    return None


def call_library(world: World) -> None:
    library = cast(NcclLibrary, world.library)
    with world.communicator.all_or_none(DeviceError):
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


class Log:
    """The file of all climbs, a JSON line for each start and each end of a rung."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)

        self.last: dict[str, str] = {}
        for line in read_bytes(path).splitlines() if path.is_file() else ():
            with suppress(ValueError, TypeError):  # a reset may tear a line
                self.last = dict(printable_in(json.loads(line)))

        self.file = path.open("ab")
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # the file's name
        os.close(folder)

    def write(self, rung: str, outcome: str, sentence: str | None = None) -> None:
        """Returns when the line is on disk. Raises OSError."""
        line = {
            "time": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
            "rung": rung,
            "outcome": outcome,
            "sentence": sentence,
        }
        self.file.write(f"\n{json.dumps(line)}".encode())
        self.file.flush()
        os.fsync(self.file.fileno())


class Climb:
    """Performs rungs. Rank 0 has the log, and prints."""

    def __init__(self, communicator: Communicator, log: Log | None, waits: WaitPolicy) -> None:
        self.communicator = communicator
        self.log, self.waits = log, waits
        self.outcomes = list[str]()

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
            outcome = "hangs"
            sentence = f"rank {self.waits.watch.peer} never answered"

        votes = self.communicator.all_gather((OUTCOMES.index(outcome), sentence))
        timer.cancel()
        worst, sentence = max(votes, key=lambda vote: vote[0])
        self.outcomes.append(OUTCOMES[worst])
        self.note(name, OUTCOMES[worst], sentence)
        return OUTCOMES[worst]

    def note(self, name: str, outcome: str, sentence: str | None = None) -> None:
        if not self.log:
            return

        self.log.write(name, outcome, sentence)
        if outcome != STARTED:
            why = f" ({sentence})" if sentence else ""
            print_out(f"{name}: {outcome}{why}\n")

    def give_up(self, name: str) -> None:
        self.note(name, "hangs", f"it did not return in {GIVE_UP_S:g} s")
        os._exit(WRONG)


def climb(communicator: Communicator, device: Device, log: Log | None) -> int:
    """Climbs; returns the exit status, the same on every rank. Raises Refusal."""
    with communicator.all_or_none(DeviceError):
        waits = WaitPolicy(device.watch(Watch()), timeout_s=WAIT_S)
        library = NcclLibrary(communicator, device)
    climb = Climb(communicator, log, waits)

    last = log.last if log else {}
    if last.get("outcome") == STARTED:
        time = last.get("time")
        rung = last.get("rung")
        print_out(f"The climb of {time} never returned from its rung: {rung}.\n")

    for memory, kind in (("host memory", "host_staged"), ("peer memory", "mapped")):
        worlds = list[World]()

        def map_memory(kind: str = kind, worlds: list[World] = worlds) -> None:
            refusals = []
            for sharing in modes_of(device, kind):
                try:
                    peers = map_peers(communicator, device, waits, sharing, ExitStack())
                    for _ in range(2):
                        peers.register(max(SIZES_BYTES))
                    worlds.append(World(communicator, device, peers, library, waits.watch))
                    return
                except Refusal as refusal:
                    refusals.append(str(refusal))
            raise Refusal("; ".join(refusals))

        climb.rung(f"{memory}: mapped", map_memory)

        for name, work in RUNGS.items() if worlds else ():
            if climb.rung(f"{memory}: {name}", partial(work, worlds[0])) == "hangs":
                break  # kernels may still use this memory
        if memory == "host memory" and {*climb.outcomes} != {"works"}:
            climb.note("the climb", "inconclusive", "its control, host memory, failed")
            return INCONCLUSIVE

    if "hangs" not in climb.outcomes and worlds:
        climb.rung("the GPUs' library", partial(call_library, worlds[0]))

    if {"wrong", "hangs"} & {*climb.outcomes}:
        return WRONG
    return INCONCLUSIVE if "inconclusive" in climb.outcomes else FINE
