"""Keeps a flight record for each rank, and ends the run when a rank fails, stops or stands still.

A record is a page of the file `<run>.flight/rank-N`: a JSON line (case, block, step), then the
`Watch` counters that kernels and the timed loop write. Each rank has a watchdog thread. The first
to see a fault writes `<run>.flight/ended` and prints one sentence; then all ranks exit together.
"""

import contextlib
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench.harness.options import INTERRUPTED, LOST
from bench.harness.witness import claim, state_of
from kernels.devices.device import PHASES, Watch
from reports.result import COUNTERS_OFFSET, PAGE_BYTES, read_flight
from reports.schema import Flight

Record = dict[str, Any]
COUNTERS = [field[0] for field in Watch._fields_]
LOOK_S = 0.1
SUSPENDED_S = 1.0  # between two looks: this process was stopped itself
GRACE_S = 0.6  # a kernel's wait knows more, so it times out first
INTERRUPT_S = 1.4  # from Ctrl-C to the end, even if a rank waits
LEAVE_S = 0.25  # from the sentence to the exit of all ranks, so that each can look
# In these steps ranks compile, read or write alone, for at most LONGEST_ALONE time-outs.
ALONE = ("open the device", "map the peers", "describe the machine", "compile", "draw the weights",
         "reference", "plan the splits", "results")
LONGEST_ALONE = 10
AFTER_BLOCKS = ("results", "wait for the results", "finished")


class FlightRecord:
    """This rank's record and watchdog; without a folder (`--list`) nobody reads or watches it."""

    def __init__(self, run_id: str, folder: Path | None, rank: int, timeout_s: float) -> None:
        self.run_id, self.folder, self.rank, self.timeout_s = run_id, folder, rank, timeout_s
        if folder is None:
            self.page = mmap.mmap(-1, PAGE_BYTES)
        else:
            with (folder / f"rank-{rank}").open("xb+", buffering=0) as file:
                file.write(bytes(PAGE_BYTES))  # without space on the disk a note would raise SIGBUS
                self.page = mmap.mmap(file.fileno(), PAGE_BYTES)  # keeps the file open
        self.watch = self.page_watch = Watch.from_buffer(self.page, COUNTERS_OFFSET)
        self.state: Record = {"turn": 0, "rank": rank, "case": None, "block": None, "text": ""}
        self.interrupted_s: float | None = None
        self.pids: dict[int, int] = {}
        self.exiting = threading.RLock()  # the thread that ends this process never releases it
        self.note("set-up")

    def watch_on(self, watch: Watch) -> None:
        """Copy the counters from this watch, for kernels that cannot write into the page."""
        self.watch = watch

    def note(self, step: str, **state: Any) -> None:
        """Record that this rank begins `step`; pass case=, block=, text= where they change.

        All ranks note the same steps in the same order: the lowest `turn` is furthest behind.
        """
        self._leave_if_ended()  # a rank that was stopped must not store its block
        self.state |= {**state, "step": step, "turn": self.state["turn"] + 1, "time": time.time(),
                       "noted_s": time.monotonic(), "counters": COUNTERS}
        self.page[:COUNTERS_OFFSET] = json.dumps(self.state).encode().ljust(COUNTERS_OFFSET, b"\0")

    def where(self) -> str:
        """Return this rank's case, block, step and last epoch in words."""
        return place_of(self._own())

    def end(self, sentence: str, culprit: int, why: str, status: int, details: str = "") -> None:
        """Print details and sentence unless another rank ended the run first; exit with all."""
        self.exiting.acquire()
        by = f"rank {self.rank}"
        if self.folder is None or claim(self.folder, culprit, why, by, status):
            with contextlib.suppress(OSError):  # the launcher has gone
                print(f"{details}wiretax: {sentence}", file=sys.stderr, flush=True)
            # MPICH's launcher would kill a stopped rank and add the signal to the exit status.
            for pid in self.pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self._leave_if_ended()
        os._exit(status)

    def give_way(self) -> None:
        """Let a rank or the witness that may know more end the run first."""
        time.sleep(LEAVE_S)
        self._leave_if_ended()

    def timed_out(self, during: str = "") -> None:
        """End the run after a kernel's wait on this rank timed out, in the work `during`."""
        w = self.watch
        if not w.wanted >> 32:  # in a meeting; a rank that waits in the collective knows its epoch
            self.give_way()
        seen, wanted = (f"epoch {word >> 32} step {word % 2**32}" for word in (w.seen, w.wanted))
        details = f", {during}" if during else ""
        details += f", kernel block {w.block}: {seen} seen, {wanted} wanted by rank {self.rank}"
        self._end_if_stuck(w.peer, f"{details} from rank {w.peer}")

    def start_watchdog(self, pids: dict[int, int]) -> None:
        """Watch this rank and the others of its host, {rank: process id}; signals interrupt."""
        self.pids = pids
        # Python runs handlers between native calls only; the pipe wakes the watchdog at once.
        self.signals, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def close(self) -> None:
        """Remove the record after a normal end; the last rank removes the folder."""
        self.exiting.acquire()
        self._leave_if_ended()  # this rank was stopped
        self.watch = self.page_watch  # the device frees its own
        if self.folder is not None:
            (self.folder / f"rank-{self.rank}").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other ranks have not closed yet
                self.folder.rmdir()

    def _watch(self) -> None:
        launcher, position = os.getppid(), position_of(self._own())
        moved_s = looked_s = time.monotonic()
        while True:
            pipes = [] if self.interrupted_s else [self.signals]
            is_signalled = select.select(pipes, [], [], LOOK_S)[0]
            now_s = time.monotonic()
            if is_signalled or os.getppid() != launcher:  # Open MPI's ranks survive their mpirun
                self.interrupted_s = self.interrupted_s or now_s
            self._leave_if_ended()
            if self.interrupted_s and now_s - self.interrupted_s > INTERRUPT_S:
                when = ("after the last block" if self.state["step"] in AFTER_BLOCKS
                        else "the block in progress is lost")
                self.end(f"interrupted; {when}", self.rank, "was interrupted", INTERRUPTED)
            if self.watch is not self.page_watch:
                for name in COUNTERS:
                    setattr(self.page_watch, name, getattr(self.watch, name))
            last_position, position = position, position_of(self._own())
            if position != last_position or now_s - looked_s > SUSPENDED_S:
                moved_s = now_s
            looked_s = now_s
            if now_s - moved_s > self.timeout_s + GRACE_S:
                self._end_if_stuck()

    def _end_if_stuck(self, peer: int | None = None, details: str = "") -> None:
        """End the run by the fault of the rank that holds the others up, if its time is over.

        That rank is stopped, or else furthest behind. Of several it is one that sleeps, because a
        rank that waits spins; then `peer`, for which a kernel timed out and which may wait itself.
        """
        states = {rank: state_of(pid) for rank, pid in self.pids.items()}
        records = {self.rank: self._own(), **self._read().ranks}
        rank = min(records, key=lambda rank: (states.get(rank) != "T", position_of(records[rank]),
                                              states.get(rank) == "R", rank != peer))
        culprit, is_stopped = records[rank], states.get(rank) == "T"
        why = "was stopped" if is_stopped else "did not go on"
        is_patient = culprit["step"] in ALONE and not is_stopped
        patience_s = self.timeout_s * (LONGEST_ALONE if is_patient else 1)
        if peer is not None or time.monotonic() - culprit["noted_s"] > patience_s + GRACE_S:
            held_up = f"for {patience_s:g} s and held the others up: {place_of(culprit)}{details}"
            self.end(f"rank {rank} {why} {held_up}", rank, why, LOST)

    def _leave_if_ended(self) -> None:
        if self.folder is None or not (self.folder / "ended").exists():
            return
        # All exit at the same moment: a launcher kills ranks that outlive the first, and MPICH's
        # adds the signal to the exit status.
        self.exiting.acquire()
        age_s = time.time() - (self.folder / "ended").stat().st_mtime
        time.sleep(min(max(0.0, LEAVE_S - age_s), LEAVE_S))
        flight = self._read()
        ended = flight.ended or {"by": "", "rank": 0, "status": LOST}  # a full disk leaves it empty
        record = flight.ranks.get(ended["rank"])
        if ended["by"] == "witness" and record and self.rank == int(record["rank"] == 0):
            with contextlib.suppress(OSError):  # one survivor speaks
                print(f"wiretax: rank {record['rank']} {ended['why']}: {place_of(record)}",
                      file=sys.stderr, flush=True)
        os._exit(ended["status"])

    def _own(self) -> Record:
        """Return this rank's record in the form that `read_flight` returns."""
        return self.state | {"counters": {name: getattr(self.watch, name) for name in COUNTERS}}

    def _read(self) -> Flight:
        return (read_flight(self.folder) if self.folder else None) or Flight({}, None)


def position_of(record: Record) -> tuple[int, int, int]:
    """Return how far a rank has come; ranks that wait for each other have come equally far."""
    return record["turn"], record["counters"]["iteration"], record["counters"]["calls"]


def place_of(record: Record) -> str:
    """Return a rank's case, block, step and last epoch in words."""
    counters, is_case = record["counters"], record["case"] is not None and record["case"] >= 0
    parts = [f"case {record['case']} ({record['text']})" if is_case else record["text"],
             f"block {record['block']}" if record["block"] is not None else "",
             f"step {record['step']}", PHASES[counters["phase"]] if counters["phase"] else "",
             f"epoch {counters['epoch']}"]
    if counters["phase"] and counters["calls"]:
        parts.append(f"call {counters['calls']} of a chain")
    return ", ".join(filter(None, parts))


def start_witness(folder: Path, pids: dict[int, int]) -> None:
    """Start this host's witness: a process in its own session that exits after the ranks."""
    script, null = Path(__file__).with_name("witness.py"), subprocess.DEVNULL
    subprocess.Popen([sys.executable, "-S", "-E", script, folder, json.dumps(pids)],
                     stdin=null, stdout=null, stderr=null, start_new_session=True)
