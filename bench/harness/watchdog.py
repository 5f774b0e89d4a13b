"""Keeps a flight record for each rank, and ends the run when a rank fails, stops or stands still.

A record is a page of the file `<run>.flight/rank-N`: a JSON line (case, block, step), then the
`Watch` counters that kernels and the timed loop write. The first of the ranks' watchdog threads to
see a fault writes `<run>.flight/ended` and prints one sentence; all ranks exit with its status."""

import contextlib
import ctypes
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench.harness.console import INTERRUPTED, WRONG, say
from bench.harness.neighbours import ANSWER_S, addresses_of, answering_hosts
from bench.harness.progress import Progress
from bench.harness.witness import UNREACHABLE, record_end, state_of
from kernels.devices.device import PHASES, Watch
from reports.store.result import COUNTERS_OFFSET, PAGE_BYTES, read_flight

COUNTERS = [field[0] for field in Watch._fields_]
LOOK_S = 0.1  # looks are counted: the time in which a job is suspended does not count
GRACE_S = 0.6  # a kernel's wait knows more, so it times out first
INTERRUPT_S = 1.3  # from Ctrl-C to the end, even if a rank waits
VERDICT_S = 0.5  # in which other hosts first report a fault of a rank of their own
SILENCES = 2  # in a row: one lost packet is no cut link
# In these steps ranks compile, read or write alone, for at most LONGEST_ALONE time-outs.
ALONE = (
    "open the device",
    "map the peers",
    "describe the machine",
    "compile",
    "allocate",
    "draw the weights",
    "reference",
    "plan the splits",
    "results",
)
LONGEST_ALONE = 10
# The steps that `Progress` shows. `measure_all` shows the rounds.
SHOWN = (*ALONE, "pilot", "draw the routes", "try numbers of chunks")


class FlightRecord:
    """This rank's record and watchdog; without a folder (`--list`) nobody reads or watches it."""

    def __init__(
        self,
        run_id: str,
        folder: Path | None,
        rank: int,
        timeout_s: float,
        pids: dict[int, int],
        hosts: Sequence[str] = (),
    ) -> None:
        # `pids`: {rank: process id} of this host. `hosts`: the host of each rank, if there are
        # several: their clocks are not compared, and one rank of each asks whether others answer.
        self.run_id, self.rank, self.timeout_s, self.pids = run_id, rank, timeout_s, pids
        self.hosts, self.neighbours = hosts, dict[str, Any]()
        self.silences, self.asked_s = dict[str, int](), 0.0  # in a row, by host
        self.folder = folder or Path(os.devnull)  # no file can be below it
        self.page = mmap.mmap(-1, PAGE_BYTES)
        if folder:
            with (folder / f"rank-{rank}").open("xb+", buffering=0) as file:
                file.write(bytes(PAGE_BYTES))  # without space on the disk a note would raise SIGBUS
                self.page = mmap.mmap(file.fileno(), PAGE_BYTES)  # keeps the file open
        self.watch = self.page_watch = Watch.from_buffer(self.page, COUNTERS_OFFSET)
        name = f"rank {rank} on {hosts[rank]}" if hosts else f"rank {rank}"
        self.state = dict[str, Any](steps=0, rank=rank, name=name, case=None, block=None, text="")
        self.interrupted_s: float | None = None
        self.progress = Progress("", quiet=True)
        self.exiting = threading.RLock()  # the thread that ends this process never releases it
        self.note("set-up")
        if folder:
            # Python runs handlers between native calls only; the pipe wakes the watchdog at once.
            self.signals, writable = os.pipe2(os.O_NONBLOCK)
            signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda *_: None)
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
            if hosts and rank == min(pids):
                threading.Thread(target=self._find_neighbours, daemon=True).start()

    def note(self, step: str, **state: Any) -> None:
        """Records that this rank begins `step`; pass case=, block=, text= where they change. All
        ranks note the same steps in the same order: the lowest `steps` is furthest behind."""
        self._leave_if_ended()  # a rank that was stopped must not store its block
        self.state |= {
            **state,
            "step": step,
            "steps": self.state["steps"] + 1,
            "time": time.time(),
            "noted_s": time.monotonic(),
            "counters": COUNTERS,
        }
        self.page[:COUNTERS_OFFSET] = json.dumps(self.state).encode().ljust(COUNTERS_OFFSET, b"\0")
        if step in SHOWN:
            self.progress.show(step, self.state["text"])

    @property
    def record(self) -> dict[str, Any]:
        """This rank's record in the form that `read_flight` returns."""
        return self.state | {"counters": {name: getattr(self.watch, name) for name in COUNTERS}}

    def end(self, culprit: dict[str, Any], why: str, status: int, details: str = "") -> NoReturn:
        """Ends the run by the fault of a rank, unless another rank did so first."""
        if record_end(self.folder, culprit["rank"], why, f"rank {self.rank}", status):
            self._say(culprit, why, details)
            for pid in self.pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)  # a stopped rank must exit itself
        self._leave_if_ended()
        os._exit(status)

    def end_if_stuck(self, during: str = "", still_s: float | None = None) -> None:
        """Ends the run by the fault of the rank that holds the others up, if its time is over or a
        kernel's wait on this rank has timed out, in the work `during`. `still_s`: how long this
        rank has stood still."""
        w, details = self.watch, f", {during}" if during else ""
        # A kernel counts the ranks of this host.
        peer = dict(enumerate(self.pids)).get(w.peer, w.peer)
        if w.timed_out:
            details += (
                f", kernel block {w.block}: epoch {w.seen >> 32} step {w.seen % 2**32} "
                f"seen, epoch {w.wanted >> 32} step {w.wanted % 2**32} wanted by rank "
                f"{self.rank} from rank {peer}"
            )
        states = {rank: state_of(pid) for rank, pid in self.pids.items()}
        flight = read_flight(self.folder)
        records = flight.ranks if flight else {self.rank: self.record}

        def order(rank: int) -> tuple[Any, ...]:
            """Stopped ranks come first, then those furthest behind; of several one that sleeps,
            because a rank that waits spins; then the kernel's peer, which may wait itself."""
            record, counters = records[rank], records[rank]["counters"]
            position = record["steps"], counters["iteration"], counters["calls"]
            return states.get(rank) != "T", position, states.get(rank) == "R", rank != peer

        culprit = records[min(records, key=order)]
        is_here, is_stopped = culprit["rank"] in self.pids, states.get(culprit["rank"]) == "T"
        if self.hosts and not is_stopped and self._waits_for_hosts(still_s):
            return
        is_alone = culprit["step"] in ALONE and not is_stopped
        patience_s = self.timeout_s * (LONGEST_ALONE if is_alone else 1)
        age_s = time.monotonic() - culprit["noted_s"] if is_here else still_s or 0.0
        if w.timed_out or age_s > patience_s + GRACE_S:
            why = "was stopped" if is_stopped else "did not go on"
            self.end(culprit, f"{why} for {patience_s:g} s and held the others up", WRONG, details)

    def close(self) -> None:
        """Removes the record after a normal end; the last rank removes the folder."""
        self.exiting.acquire()
        self._leave_if_ended()  # this rank was stopped
        self.watch = self.page_watch  # the device frees its own
        with contextlib.suppress(OSError):  # other ranks have not closed yet
            (self.folder / f"rank-{self.rank}").unlink()
            self.folder.rmdir()

    def _watch(self) -> None:
        position, still_s = b"", 0.0
        while True:
            signals = select.select([] if self.interrupted_s else [self.signals], [], [], LOOK_S)[0]
            if signals:
                self.interrupted_s = self.interrupted_s or time.monotonic()
            self._leave_if_ended()
            if self.interrupted_s and time.monotonic() - self.interrupted_s > INTERRUPT_S:
                self.end(self.record, "was interrupted", INTERRUPTED)
            if self.state["step"] in ALONE:  # nothing is timed
                self.progress.show_again()
            if self.watch is not self.page_watch:  # kernels cannot write into the page
                ctypes.pointer(self.page_watch)[0] = self.watch
            last_position, position = position, bytes(self.page)
            still_s = still_s + LOOK_S if position == last_position else 0.0
            if self.hosts and still_s > self.timeout_s / 2:
                self.page.flush()  # over NFS other hosts see what has left this one
            if still_s > self.timeout_s - ANSWER_S + (VERDICT_S if self.rank else 0):
                self._end_if_cut_off()
            else:
                self.silences = {}
            if still_s > self.timeout_s + GRACE_S:
                self.end_if_stuck(still_s=still_s)

    def _find_neighbours(self) -> None:
        self.neighbours = addresses_of({*self.hosts} - {self.hosts[self.rank]})

    def _unreachable(self) -> list[str]:
        """The hosts that answered when the run began, and do not answer now."""
        return sorted({*self.neighbours} - answering_hosts(self.neighbours))

    def _end_if_cut_off(self) -> None:
        """Ends the run if a host was silent several times in a row. One rank of each host asks,
        once a second at most."""
        if not self.neighbours or time.monotonic() < self.asked_s + ANSWER_S:
            return
        self.asked_s = time.monotonic()
        self.silences = {host: self.silences.get(host, 0) + 1 for host in self._unreachable()}
        if lost := [host for host, number in self.silences.items() if number == SILENCES]:
            self.end(self._lost_rank(lost), self._lost_why(), WRONG)

    def _waits_for_hosts(self, still_s: float | None) -> bool:
        """Whether another host may still name the rank that holds this one up."""
        wait_s = VERDICT_S
        if still_s is None or self.rank != min(self.pids):
            wait_s = 2 * VERDICT_S + SILENCES * ANSWER_S
        if still_s is None:  # meanwhile the watchdog thread asks, and leaves if the run has ended
            time.sleep(wait_s)
        return still_s is not None and still_s < self.timeout_s + GRACE_S + wait_s

    def _lost_rank(self, hosts: Sequence[str]) -> dict[str, Any]:
        """The record of the first rank on these hosts, or what this rank knows in its place."""
        rank, flight = self.hosts.index(hosts[0]), read_flight(self.folder)
        return (flight.ranks.get(rank) if flight else None) or self.record | {
            "rank": rank,
            "name": f"rank {rank} on {hosts[0]}",
        }

    def _lost_why(self) -> str:
        return f"{UNREACHABLE} for {self.timeout_s:g} s, because its host does not answer"

    def _leave_if_ended(self) -> None:
        if not (self.folder / "ended").exists():
            return
        self.exiting.acquire()
        time.sleep(LOOK_S)  # by then `ended` is written
        flight, status = read_flight(self.folder), WRONG  # a full disk leaves the file empty
        if flight and (ended := flight.ended):
            status = ended["status"]
            if self.hosts:  # who ended the run has said so, but not across a link that is cut
                is_here = ended["by"] in [f"rank {rank}" for rank in self.pids]
                if ended["why"].startswith(UNREACHABLE) and not is_here:
                    asker = self.hosts[int(ended["by"].split()[1])]
                    if asker in (hosts := self._unreachable()):  # otherwise it speaks itself
                        self._say(self._lost_rank(hosts), self._lost_why())
                    elif not self.neighbours:  # the launcher would end the rank that asks
                        time.sleep(ANSWER_S + VERDICT_S)
        os._exit(status)

    def _say(self, culprit: dict[str, Any], why: str, details: str = "") -> None:
        say("wiretax", sentence_on(culprit, why) + details)


def sentence_on(culprit: dict[str, Any], why: str) -> str:
    """Which rank ended a run, why, and where it was."""
    counters, block, phase = culprit["counters"], culprit["block"], culprit["counters"]["phase"]
    place = [
        culprit["text"],
        "" if block is None else f"block {block}",
        f"step {culprit['step']}",
        PHASES[phase] if phase else "",
        f"epoch {counters['epoch']}",
        f"call {counters['calls']} of a chain" if phase and counters["calls"] else "",
    ]
    return f"{culprit['name']} {why}: {', '.join(filter(None, place))}"


def start_witness(folder: Path, pids: dict[int, int], host: str = "") -> None:
    """Starts this host's witness: a process in its own session that exits after the ranks. `host`:
    the host's name in a run on several hosts."""
    script, null = Path(__file__).with_name("witness.py"), subprocess.DEVNULL
    subprocess.Popen(
        [sys.executable, "-S", "-E", script, folder, json.dumps(pids), *filter(None, [host])],
        stdin=null,
        stdout=null,
        start_new_session=True,
    )
