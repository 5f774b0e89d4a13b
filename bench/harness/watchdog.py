"""Ends the run if a rank fails, stops or stands still: a thread of each rank that reads the flight
records of all.

The first of the watchdogs to see a fault writes `<run>.flight/ended` and prints one sentence. The
others see that file, and all ranks exit with its status."""

import os
import select
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from psutil import STATUS_RUNNING, STATUS_STOPPED

from bench.harness.console import INTERRUPTED, SIGNALS, WRONG, say
from bench.harness.flight import ALONE, LOOK_S, FlightRecord
from bench.harness.neighbours import ANSWER_S, ASKED, Neighbours
from bench.harness.witness import UNREACHABLE, record_end, state_of
from wiretax.record.flight_records import read_flight, sentence_on

GRACE_S = 0.6  # a kernel's wait knows more, so it times out first
INTERRUPT_S = 1.3  # from Ctrl-C to the end, even if a rank waits
VERDICT_S = 0.5  # in which other hosts first report a fault of a rank of their own
LONGEST_ALONE = 10  # time-outs for a step that ranks take alone


class Watchdog:
    """Watches over the run of `flight`. `pids`: {rank: process id} of this host. `hosts`: the host
    of each rank, if there are several: their clocks are not compared, and one rank of each asks
    whether others answer."""

    def __init__(
        self,
        flight: FlightRecord,
        timeout_s: float,
        pids: dict[int, int],
        hosts: Sequence[str] = (),
    ) -> None:
        self.flight, self.timeout_s, self.pids, self.hosts = flight, timeout_s, pids, hosts
        self.rank = flight.state["rank"]
        self.neighbours = Neighbours()
        self.interrupted_s: float | None = None
        self.held_up_in: str | None = None
        self.exiting = threading.RLock()  # the thread that ends this process never releases it
        # Python runs handlers between native calls only; the pipe wakes the watchdog at once.
        self.signals, writable = os.pipe2(os.O_NONBLOCK)
        if pids:
            signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
            for number in SIGNALS:
                signal.signal(number, lambda *_: None)
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        if hosts and self.rank == min(pids):
            others = {*hosts} - {hosts[self.rank]}
            threading.Thread(target=self.neighbours.find, args=[others], daemon=True).start()

    def end(self, culprit: dict[str, Any], why: str, status: int, details: str = "") -> NoReturn:
        """Ends the run by the fault of a rank, unless another rank did so first."""
        if record_end(self.flight.folder, culprit["rank"], why, self.rank, status):
            say("wiretax", sentence_on(culprit, why) + details)
            for pid in self.pids.values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)  # a stopped rank must exit itself
        self._leave_if_ended()
        os._exit(status)

    def wait_for_end(self, during: str = "") -> NoReturn:
        """Waits in a rank whose kernel has timed out, in the work `during`: the watchdog finds the
        rank that holds it up, and ends the run."""
        self.held_up_in = during
        while True:
            time.sleep(LOOK_S)

    def close(self) -> None:
        """Removes the record after a normal end."""
        self.exiting.acquire()
        self._leave_if_ended()  # this rank was stopped
        with suppress(OSError):  # other ranks have not closed yet
            self.flight.remove()

    def _watch(self) -> None:
        flight, record, still_s = self.flight, dict[str, Any](), 0.0
        while True:
            signals = select.select([] if self.interrupted_s else [self.signals], [], [], LOOK_S)[0]
            if signals:
                self.interrupted_s = self.interrupted_s or time.monotonic()
            self._leave_if_ended()
            if self.interrupted_s and time.monotonic() - self.interrupted_s > INTERRUPT_S:
                self.end(flight.record, "was interrupted", INTERRUPTED)
            if flight.state["step"] in ALONE:  # nothing is timed: a line follows now and then
                flight.progress.show(flight.progress.phase, flight.progress.details)

            # Looks are counted: the time in which a job is suspended does not count.
            last, record = record, flight.record
            is_held_up = self.held_up_in is not None
            still_s = still_s + LOOK_S if record == last or is_held_up else 0.0
            if self.hosts and still_s > self.timeout_s / 2:
                flight.page.flush()  # over NFS other hosts see what has left this one
            if still_s > self.timeout_s - ANSWER_S + (VERDICT_S if self.rank else 0):
                if lost := self.neighbours.lost():
                    self.end(*self._lost(lost[0]), WRONG)
            else:
                self.neighbours.were_silent = []
            if is_held_up or still_s > self.timeout_s + GRACE_S:
                self._end_if_stuck(still_s)

    def _end_if_stuck(self, still_s: float) -> None:
        """Ends the run by the fault of the rank that holds the others up, if its time is over or a
        kernel's wait on this rank has timed out. `still_s`: how long this rank has stood still."""
        watch = self.flight.watch
        peer = dict(enumerate(self.pids)).get(
            watch.peer, watch.peer
        )  # a kernel counts those of this host
        states = {rank: state_of(pid) for rank, pid in self.pids.items()}
        records = read_flight(self.flight.folder).ranks or {self.rank: self.flight.record}

        def order(rank: int) -> tuple[Any, ...]:
            """Stopped ranks come first, then those furthest behind; of several one that sleeps,
            because a rank that waits spins; then the kernel's peer, which may wait itself."""
            record, counters = records[rank], records[rank]["counters"]
            position = record["steps"], counters["iteration"], counters["calls"]
            is_running = states.get(rank) == STATUS_RUNNING
            return states.get(rank) != STATUS_STOPPED, position, is_running, rank != peer

        culprit = records[min(records, key=order)]
        is_stopped = states.get(culprit["rank"]) == STATUS_STOPPED
        if self.hosts and not is_stopped:  # another host may still name the rank
            asks = self.rank == min(self.pids)
            wait_s = VERDICT_S if asks else 2 * VERDICT_S + ASKED * ANSWER_S
            if still_s < self.timeout_s + GRACE_S + wait_s:
                return
        is_alone = culprit["step"] in ALONE and not is_stopped
        patience_s = self.timeout_s * (LONGEST_ALONE if is_alone else 1)
        is_here = culprit["rank"] in self.pids
        age_s = time.monotonic() - culprit["noted_s"] if is_here else still_s
        if self.held_up_in is None and age_s <= patience_s + GRACE_S:
            return
        details = f", {self.held_up_in}" if self.held_up_in else ""
        if watch.timed_out:
            details += (
                f", kernel block {watch.block}: epoch {watch.seen >> 32} step "
                f"{watch.seen % 2**32} seen, epoch {watch.wanted >> 32} step "
                f"{watch.wanted % 2**32} wanted by rank {self.rank} from rank {peer}"
            )
        why = "was stopped" if is_stopped else "did not go on"
        self.end(culprit, f"{why} for {patience_s:g} s and held the others up", WRONG, details)

    def _lost(self, host: str) -> tuple[dict[str, Any], str]:
        """The record of the first rank on a lost host, or what this rank knows in its place; why
        the run ends."""
        rank, seen = self.hosts.index(host), read_flight(self.flight.folder).ranks
        known = self.flight.record | {"rank": rank, "name": f"rank {rank} on {host}"}
        why = f"{UNREACHABLE} for {self.timeout_s:g} s, because its host does not answer"
        return seen.get(rank, known), why

    def _leave_if_ended(self) -> None:
        folder = self.flight.folder
        if not (folder / "ended").exists():
            return
        self.exiting.acquire()
        time.sleep(LOOK_S)  # by then `ended` is written
        ended = read_flight(folder).ended
        if not ended:  # a full disk leaves the file empty
            os._exit(WRONG)
        by = ended["by"]
        if self.hosts and by not in self.pids and ended["why"].startswith(UNREACHABLE):
            # Who ended the run has said so, but not across the link that is cut.
            silent = self.neighbours.silent()
            if self.hosts[by] in silent:
                say("wiretax", sentence_on(*self._lost(silent[0])))
            elif not self.neighbours.addresses:  # the launcher would end the rank that asks
                time.sleep(ANSWER_S + VERDICT_S)
        os._exit(ended["status"])
