"""The flight record: what each rank was doing, kept where it outlives the rank, and who ended first.

Each rank maps one page of a file `<run>.flight/rank-N`: a JSON line (case, block, step), and behind it the `Watch` that
kernels and the timed loop write (iteration, phase). A thread that sleeps most of the time looks whether this rank still
moves. When it has stood for longer than the time-out, and so has whoever is furthest behind, one rank says who that is
and all end together. MPICH's launcher ends the survivors of a killed rank about two milliseconds later, too soon for
them to say anything, so one helper process a host waits for the ranks' ends and writes down whose came first.
"""

import contextlib
import ctypes
import json
import mmap
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from bench.harness.options import INTERRUPTED, LOST
from bench.harness.witness import ENDED_BYTES, claim, shared_memory, state_of
from collectives.operation import PHASES, Watch
from reports.result import COUNTERS_OFFSET, PAGE_BYTES

Records = dict[int, dict[str, Any]]  # by rank

COUNTERS = [field[0] for field in Watch._fields_]  # a page says what its numbers are
LOOK_S = 0.1
IDLE_LOOKS = 4  # in a row: who works sleeps at a look now and then, over a file or a lock
GRACE_S = 0.6  # a kernel's own wait knows whom it waited for, so it speaks first
INTERRUPT_S = 1.4  # from Ctrl-C to the end, whatever a rank waits for
LEAVE_S = 0.25  # from the sentence to the end of all ranks: time for each to look
# Steps in which a rank waits for nobody, so that being busy is getting on.
ALONE = ("open the device", "compile", "results")
LONGEST_ALONE = 10  # time-outs


class Flight:
    """This rank's record, and its watchdog.

    `folder` may be None (a command that keeps no run): then the record is memory alone and no thread watches.
    """

    def __init__(self, run_id: str, folder: Path | None, rank: int, timeout_s: float) -> None:
        self.run_id, self.folder, self.rank, self.timeout_s = run_id, folder, rank, timeout_s
        if folder is None:
            self.page = mmap.mmap(-1, PAGE_BYTES)
        else:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            with (folder / f"ended-by-{rank}").open("xb") as room:  # a full disk must not keep it from a claim
                room.write(bytes(ENDED_BYTES))
            # Left open: that the kernel closes it is the first thing that the witness sees of a rank's end.
            self.file = open(folder / f"rank-{rank}", "xb+")  # noqa: SIM115
            self.file.write(bytes(PAGE_BYTES))  # a hole could not be filled on a full disk, which ends a rank by SIGBUS
            self.file.flush()
            self.page = mmap.mmap(self.file.fileno(), PAGE_BYTES)
        self.watch = self.kept_watch = Watch.from_buffer(self.page, COUNTERS_OFFSET)
        self.state: dict[str, Any] = {"turn": 0, "rank": rank, "case": None, "block": None, "text": ""}
        self.interrupted_s: float | None = None
        self.closed = False
        # The watchdog and the main thread may both have a reason.
        self.ending, self.leaving = threading.Lock(), threading.Lock()
        self.pids: dict[int, int] = {}
        self.note("set-up")

    def watch_on(self, watch: Watch) -> None:
        """Kernels that cannot write the record write this watch; it is copied into the record now and then."""
        self.watch = watch

    def _keep_watch(self) -> None:
        if ctypes.addressof(self.watch) != ctypes.addressof(self.kept_watch):
            ctypes.memmove(ctypes.addressof(self.kept_watch), ctypes.addressof(self.watch), ctypes.sizeof(Watch))

    def note(self, step: str, **state: Any) -> None:
        """This rank now does `step` (with case=, block=, text= where they change). All ranks note the same steps in the
        same order, so that whose turn is lowest is behind. When the run has ended this rank goes no further: who was
        stopped is continued to leave, and what is measured until then holds the stop."""
        if self.folder is not None:
            self._leave_with_others()
        self.state.update(state, step=step, turn=self.state["turn"] + 1)
        self.moved_s = time.monotonic()
        self._keep_watch()
        # Whoever reads the page while it is written finds another turn at its end than at its beginning.
        line = {**self.state, "time": time.time(), "noted_s": self.moved_s, "counters": COUNTERS,
                "same_turn": self.state["turn"]}
        self.page[:COUNTERS_OFFSET] = json.dumps(line).encode().ljust(COUNTERS_OFFSET, b"\0")

    def where(self) -> str:
        """This rank's case, block, step and last epoch in words."""
        return place(self.state | seen(self.watch))

    def interrupt(self) -> None:
        """Ctrl-C or SIGTERM: the run ends at the next block; if it does not, the watchdog ends it."""
        self.interrupted_s = self.interrupted_s or time.monotonic()

    def end(self, sentence: str, culprit: int, why: str, status: int, details: str = "") -> None:
        """Says the sentence below its details, unless another rank was first, and ends this process with the others."""
        by, leave_s, is_known = f"rank {self.rank}", time.monotonic() + LEAVE_S, self.folder is not None
        try:
            is_first = self.ending.acquire(blocking=False) and (
                self.folder is None or claim(self.folder / f"ended-by-{self.rank}", culprit, why, by, status, leave_s))
        except OSError:  # nobody can be told but by the launcher, which ends the others when this one has left
            is_first, is_known = True, False
        if is_first:
            with contextlib.suppress(OSError):  # nobody reads any more: the launcher has gone
                print(f"{details}wiretax: {sentence}", file=sys.stderr, flush=True)
            if is_known:
                self._continue_stopped()
        latest_s = time.monotonic() + 2 * LEAVE_S
        while self.folder is not None and time.monotonic() < latest_s:
            self._leave_with_others()
            time.sleep(0.01)
        if not self.closed:
            os._exit(status)

    def _leave_with_others(self) -> None:
        """Ends this process if some rank has ended the run, all at one moment: whomever the launcher finds alive after
        the first has left it kills, and mixes that into the exit status."""
        assert self.folder is not None
        try:
            ended = json.loads((self.folder / "ended").read_bytes())
            rank, why, status = int(ended["rank"]), str(ended["why"]), int(ended["status"])
            leave_s = float(ended["leave_s"])
        except (OSError, ValueError, TypeError, KeyError, OverflowError):  # nobody has, or none of ours
            return
        self.leaving.acquire()  # for good: a second thread of this rank must not end it before the first has spoken
        # Nobody has said what the witness noted: MPICH's launcher leaves no time to, but others do.
        if ended.get("by") == "witness" and why.isprintable():
            with contextlib.suppress(OSError):
                os.link(self.folder / "ended", self.folder / "told")  # by the first survivor alone
                print(f"wiretax: rank {rank} {why}: {self._place_of(rank)}", file=sys.stderr, flush=True)
        # Clocks of other hosts stand elsewhere.
        time.sleep(min(max(0.0, leave_s - time.monotonic()), LEAVE_S))
        os._exit(status if status in range(1, 256) else LOST)

    def _continue_stopped(self) -> None:
        """Lets the stopped ranks of this host go on, so that they leave with the others: if MPICH's launcher kills one
        while another's output is still open, it takes the signal for the exit status. Their records stay as they are:
        what such a rank writes from now on goes into a file without a name."""
        assert self.folder is not None
        for rank, pid in self.pids.items():
            with contextlib.suppress(OSError):  # it has ended, or the disk is full: then the launcher kills it
                if state_of(pid) == "T":
                    record, copy = self.folder / f"rank-{rank}", self.folder / f"ended-at-{rank}"
                    with copy.open("xb") as file:
                        file.write(record.read_bytes())
                    copy.replace(record)
                    os.kill(pid, signal.SIGCONT)

    def give_way(self) -> None:
        """Lets others speak first, who may know more than this rank: ends this process if they do."""
        if self.folder is not None:
            time.sleep(LEAVE_S)
            self._leave_with_others()

    def timed_out(self, during: str = "") -> None:
        """Ends the run after a kernel's wait ran into the time-out, while this rank launched that."""
        w = self.watch
        if not w.wanted >> 32:  # in a meeting: who waits in the collective knows its epoch
            self.give_way()
        # The peer may itself wait for another, as neighbours in a ring do.
        culprit, why = behind(self._records(), waited_for=int(w.peer)) or (int(w.peer), "did not answer")
        seen, wanted = (f"epoch {stamp >> 32} step {stamp & 0xFFFFFFFF}" for stamp in (w.seen, w.wanted))
        waited = f"{seen} seen, {wanted} wanted by rank {self.rank} from rank {w.peer}"
        self._give_up(culprit, why, f"{', ' * bool(during)}{during}, kernel block {w.block}: {waited}")

    def _give_up(self, culprit: int, why: str, waited_for: str = "") -> None:
        held_up = f"for {self.timeout_s:g} s and held the others up: {self._place_of(culprit)}{waited_for}"
        self.end(f"rank {culprit} {why} {held_up}", culprit, why, LOST)

    def _place_of(self, rank: int) -> str:
        record = self._record_of(rank)
        return place(record) if record else f"rank {self.rank} at {self.where()}"

    def start_watchdog(self, pids: dict[int, int]) -> None:
        """Watches over this rank and those of its host, {rank: process id}; from now on signals interrupt the run."""
        self.pids = pids
        # Python's own handlers wait for a native call to return; these bytes come while the main thread spins in one.
        self.signals, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.interrupt())
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def _watch(self) -> None:
        progress, idle, launcher = (0, 0), 0, os.getppid()
        before: Records = {}
        while not self.closed:
            if select.select([self.signals], [], [], LOOK_S)[0]:
                os.read(self.signals, PAGE_BYTES)
                self.interrupt()
            if os.getppid() != launcher:  # it was killed: Open MPI's ranks would run on, and nobody end them
                self.interrupt()
            self._leave_with_others()
            self._keep_watch()
            now = time.monotonic()
            if (here := (self.watch.iteration, self.watch.calls)) != progress:
                progress, self.moved_s = here, now
            if self.interrupted_s is not None and now - self.interrupted_s > INTERRUPT_S:
                self.end("interrupted; what was under way is lost", self.rank, "was interrupted", INTERRUPTED)
            if now - self.moved_s <= self.timeout_s + GRACE_S:
                before, idle = {}, 0
                continue
            records = self._records()
            if before:
                self.moved_s = max(self.moved_s, self._last_move_s(records, before, now))
                idle += 1
                if idle >= IDLE_LOOKS and now - self.moved_s > self.timeout_s + GRACE_S and (found := behind(records)):
                    self._give_up(*found)
            before = records

    def _last_move_s(self, records: Records, before: Records, now: float) -> float:
        """When a rank that the others wait for last got on: noted something, iterated, had a child (a compiler) that
        works, was busy in a step of its own, or waited for another run's compiler. Never, for one that is stopped."""
        ranks, moves = furthest_behind(records), [0.0]
        same_child = {rank: records[rank]["child_s"] == before.get(rank, {}).get("child_s") for rank in ranks}
        holders = {rank: lock_holder(self.pids[rank]) for rank in ranks if records[rank]["state"] == "S"}
        # Who waits for another spins, and looks as busy as who works: one that sleeps for nothing tells them apart.
        one_idles = any(same_child[rank] and holder is None for rank, holder in holders.items())
        for rank in ranks:
            record, earlier = records[rank], before.get(rank, {})
            if record["state"] in "TtZX":
                return 0.0
            moves.append(record["noted_s"])
            is_busy = record["step"] in ALONE and record["state"] in "RD" and not one_idles
            waits_for_another_run = holders.get(rank) is not None and holders[rank] not in self.pids.values()
            patient = now - record["noted_s"] <= LONGEST_ALONE * self.timeout_s
            if record["iteration"] != earlier.get("iteration") or (
                    patient and (not same_child[rank] or is_busy or waits_for_another_run)):
                moves.append(now)
        return max(moves)

    def _records(self) -> Records:
        return {rank: record for rank in self.pids if (record := self._record_of(rank))}

    def _record_of(self, rank: int) -> dict[str, Any] | None:
        """What a rank of this host has noted, and how its process does; None where it has finished."""
        assert self.folder is not None
        for _ in range(5):
            try:
                page = (self.folder / f"rank-{rank}").read_bytes()
                record: dict[str, Any] = json.loads(page[:COUNTERS_OFFSET].rstrip(b"\0"))
            except FileNotFoundError:
                return None
            except ValueError:  # caught while it was being written
                continue
            if record["turn"] == record["same_turn"]:
                watch = Watch.from_buffer_copy(page, COUNTERS_OFFSET)
                return record | seen(watch) | process(self.pids.get(rank, 0))
        return None

    def close(self) -> None:
        """The normal end of all ranks: nothing is watched any more, the record goes, and with the last the folder."""
        if self.folder is None:
            return
        # For good: where the watchdog has one of them it ends this process.
        self.ending.acquire()
        self._leave_with_others()  # a rank that was stopped may come here only now, and the run has failed
        self.leaving.acquire()
        self.closed = True
        for own in (f"rank-{self.rank}", f"ended-by-{self.rank}"):
            (self.folder / own).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are still on their way out
            self.folder.rmdir()


def process(pid: int) -> dict[str, Any]:
    """The `state` of a process's main thread, a letter as in proc(5) (X: there is none), and `child_s`, the seconds of
    CPU that its children, which are compilers, have used."""
    try:
        state = state_of(pid)
        children = psutil.Process(pid).children(recursive=True)
    except (OSError, psutil.NoSuchProcess):
        return {"state": "X", "child_s": 0.0}
    used_s = 0.0
    for child in children:
        try:
            used_s += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            used_s += 1.0  # it ended just now: a change
    return {"state": state, "child_s": used_s}


def lock_holder(pid: int) -> int | None:
    """The process that holds the lock, as that of the compile cache, for which this one waits; None where none does."""
    waits = rf"^(\d+): FLOCK +\w+ +\w+ (\d+) .*\n(?:\1: +->.*\n)*?\1: +-> FLOCK +\w+ +\w+ {pid} "
    with contextlib.suppress(OSError):
        found = re.search(waits, Path("/proc/locks").read_text(), re.MULTILINE)
        return int(found[2]) if found else None
    return None


def seen(watch: Watch) -> dict[str, Any]:
    """What kernels and the timed loop have last written of where they are."""
    return {"iteration": (watch.iteration, watch.calls), "phase": watch.phase, "epoch": watch.epoch}


def place(record: dict[str, Any]) -> str:
    """Case, block, step and last epoch of a record in words."""
    is_case = record["case"] is not None and record["case"] >= 0
    what = f"case {record['case']} ({record['text']}), " if is_case else f"{record['text']}, " if record["text"] else ""
    block = f"block {record['block']}, " if record["block"] is not None else ""
    phase = f", {PHASES[record['phase']]}" if 0 < record["phase"] < len(PHASES) else ""
    call = f", call {record['iteration'][1]} of a chain" if record["phase"] and record["iteration"][1] else ""
    return f"{what}{block}step {record['step']}{phase}, epoch {record['epoch']}{call}"


def furthest_behind(records: Records) -> list[int]:
    """The ranks that have come least far; those that wait for one another have come equally far."""
    far = {rank: (record["turn"], record["iteration"]) for rank, record in records.items()}
    return [rank for rank in far if far[rank] == min(far.values())]


def behind(records: Records, waited_for: int | None = None) -> tuple[int, str] | None:
    """The rank that holds the others up, and why: one that is stopped or gone, else of those furthest behind one that
    sleeps, because who waits for another spins. `waited_for`, the rank that a kernel missed, decides where that does
    not. None where there is no record."""
    for rank in records:
        state = records[rank]["state"]
        if state in "TtZX":
            return rank, "was stopped" if state in "Tt" else "was gone"
    if not (last := furthest_behind(records)):
        return None
    asleep = [rank for rank in last if records[rank]["state"] != "R"]
    if waited_for is not None and len(last) == len(records) and waited_for in (asleep or last):
        return waited_for, "did not answer"
    return (asleep or last)[0], "did not go on"


def start_witness(folder: Path, pids: dict[int, int]) -> None:
    """Starts the helper of this host: a process in a session of its own that outlives the ranks, and ends with them."""
    # The MPI library's segments are told: should all ranks be killed now, the witness will come too late to see them.
    arguments = [str(folder), ",".join(shared_memory(os.getpid())), *(f"{rank}:{pid}" for rank, pid in pids.items())]
    subprocess.Popen([sys.executable, "-S", "-E", str(Path(__file__).with_name("witness.py")), *arguments],
                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                     start_new_session=True)
