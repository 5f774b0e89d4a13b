"""The flight record: what each rank was doing, kept where it outlives the rank, and who ended first.

Each rank maps one page of a file `<run>.flight/rank-N`: a JSON line (case, block, step), and behind it the `Watch` that kernels and the
timed loop write (iteration, phase). A thread that sleeps most of the time looks whether this rank still moves; when it has stood for
longer than the time-out it says who is behind and ends the rank, whereupon the launcher ends the others. MPICH's launcher ends the
survivors of a killed rank about two milliseconds later, too soon for them to say anything, so one helper process a host waits
for the ranks' ends and writes down whose came first.
"""

import json
import mmap
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from collectives.algorithm import PHASES, Watch

PAGE_BYTES = 4096
WATCH_OFFSET = 2048
GRACE_S = 1.0  # a kernel's own wait knows whom it waited for, so it speaks first
INTERRUPT_S = 1.5  # from Ctrl-C to the end, whatever a rank waits for


def claim(folder: Path, rank: int, why: str, by: str) -> bool:
    """Writes down who ended first. False when somebody else has: then that was the first."""
    try:
        fd = os.open(folder / "ended", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(fd, "w") as file:
        json.dump({"rank": rank, "why": why, "by": by}, file)
    return True


class Flight:
    """This rank's record, and its watchdog.

    `folder` may be None (a command that keeps no run): then the record is memory alone and no thread watches.
    """

    def __init__(self, run_id: str, folder: Path | None, rank: int, timeout_s: float) -> None:
        self.run_id = run_id
        self.folder, self.rank, self.timeout_s = folder, rank, timeout_s
        if folder is None:
            self.page = mmap.mmap(-1, PAGE_BYTES)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / f"rank-{rank}", "wb+") as file:
                file.truncate(PAGE_BYTES)
                self.page = mmap.mmap(file.fileno(), PAGE_BYTES)
        self.watch = Watch.from_buffer(self.page, WATCH_OFFSET)
        self.state: dict[str, Any] = {"rank": rank, "pid": os.getpid(), "case": None, "block": None, "step": "set-up", "text": "", "turn": 0}
        self.moved_s = time.monotonic()
        self.interrupted_s: float | None = None
        self._write()

    def _write(self) -> None:
        text = json.dumps({**self.state, "time": time.time()}).encode()[: WATCH_OFFSET - 1]
        self.page[:WATCH_OFFSET] = text.ljust(WATCH_OFFSET, b"\0")

    def note(self, step: str, **state: Any) -> None:
        """This rank now does `step` (with case=, block=, text= where they change). All ranks note the same steps in the same
        order, so that whose turn is lowest is behind."""
        self.state.update(state, step=step, turn=self.state["turn"] + 1)
        self.moved_s = time.monotonic()
        self._write()

    def where(self) -> str:
        """Case, block and step in words."""
        case = f"case {self.state['case']} ({self.state['text']}), block {self.state['block']}, " if self.state["case"] is not None else ""
        phase = PHASES[self.watch.phase] if self.watch.phase < len(PHASES) else "?"
        return f"{case}step {self.state['step']}" + (f", {phase}" if self.watch.phase else "")

    def interrupt(self) -> None:
        """Ctrl-C or SIGTERM: the run ends at the next block; if it does not, the watchdog ends it."""
        if self.interrupted_s is None:
            self.interrupted_s = time.monotonic()

    def end(self, sentence: str, culprit: int, why: str, status: int) -> None:
        """Says the sentence, unless another rank was first, and ends this process; the launcher ends the others."""
        if self.folder is None or claim(self.folder, culprit, why, f"rank {self.rank}"):
            print(f"wiretax: {sentence}", file=sys.stderr, flush=True)
        else:
            time.sleep(0.2)  # let the first one's sentence get out before the launcher ends everybody
        os._exit(status)

    def timed_out(self) -> None:
        """Ends the run after a kernel's wait ran into the time-out."""
        w = self.watch
        self.end(
            f"rank {w.peer} did not answer rank {self.rank} within {self.timeout_s:g} s: {self.where()}, "
            f"epoch {w.seen >> 32} step {w.seen & 0xFFFFFFFF} seen, epoch {w.wanted >> 32} step {w.wanted & 0xFFFFFFFF} wanted",
            int(w.peer), "did not answer", 1,
        )

    def start_watchdog(self) -> None:
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def _watch(self) -> None:
        iteration = 0
        while True:
            time.sleep(0.1)
            now = time.monotonic()
            if self.watch.iteration != iteration:
                iteration, self.moved_s = self.watch.iteration, now
            if self.interrupted_s is not None and now - self.interrupted_s > INTERRUPT_S:
                self.end("interrupted; the block in flight is lost", self.rank, "was interrupted", 130)
            if now - self.moved_s > self.timeout_s + GRACE_S:
                culprit, why = self.behind()
                self.end(f"rank {culprit} {why} for {self.timeout_s:g} s: rank {self.rank} at {self.where()}", culprit, why, 1)

    def behind(self) -> tuple[int, str]:
        """The rank that holds the others up, by the records on this host: one that is stopped or gone, else the one furthest behind."""
        records = {r: record for r in range(64) if (record := self._record_of(r))}
        for rank, record in records.items():
            try:
                state = Path(f"/proc/{record['pid']}/stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                return rank, "was gone"
            if state in "Tt":
                return rank, "was stopped"
        last = min(records, key=lambda r: (records[r]["turn"], records[r]["iteration"], r == self.rank))
        return last, "did not go on"

    def _record_of(self, rank: int) -> dict[str, Any] | None:
        assert self.folder is not None
        try:
            page = (self.folder / f"rank-{rank}").read_bytes()
            record: dict[str, Any] = json.loads(page[:WATCH_OFFSET].rstrip(b"\0"))
        except (OSError, ValueError):  # not on this host, or caught while it was being written
            return None
        record["iteration"] = Watch.from_buffer_copy(page, WATCH_OFFSET).iteration
        return record

    def close(self) -> None:
        """The normal end: nothing is watched any more, and the record goes."""
        self.note("finished")
        self.timeout_s = float("inf")
        self.interrupted_s = None
        if self.folder is not None:
            (self.folder / f"rank-{self.rank}").unlink()


def start_witness(folder: Path, pids: dict[int, int]) -> None:
    """Starts the helper of this host: a process in a session of its own that outlives the ranks, and ends with them."""
    arguments = [str(folder), *(f"{rank}:{pid}" for rank, pid in pids.items())]
    subprocess.Popen(
        [sys.executable, "-S", "-E", str(Path(__file__).with_name("witness.py")), *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
