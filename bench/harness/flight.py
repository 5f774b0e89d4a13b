"""The flight record of a rank: what it does, on a page that outlives it.

The page is the file `<run>.flight/rank-N`: a JSON line (case, block, step), then the `Watch`
counters that kernels and the timed loop write. `<run>.flight/ended` says which rank ended the run,
and why. A rank only writes; its watchdog, its guard and the host's witness read."""

import ctypes
import json
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.harness.progress import Progress
from kernels.devices.device import Watch
from wiretax.record.flight_records import COUNTERS_OFFSET, PAGE_BYTES

COUNTERS = [field[0] for field in Watch._fields_]
LOOK_S = 0.1  # between two looks of a watchdog
# In these steps ranks compile, read or write alone.
ALONE = (
    "open the device",
    "map the peers",
    "describe the machine",
    "compile",
    "load the contender",
    "allocate",
    "draw the weights",
    "plan the splits",
    "results",
)
# The steps that `Progress` shows. `measure_all` shows the rounds.
SHOWN = (*ALONE, "pilot", "draw the routes")


class FlightRecord:
    """This rank's page; without a folder (`--list`) nobody else reads it. `name`: the rank, and its
    host in a run on several. Raises OSError."""

    def __init__(self, folder: Path | None, rank: int, name: str = "") -> None:
        self.folder = folder or Path(os.devnull)  # no file can be below it
        self.page = mmap.mmap(-1, PAGE_BYTES)
        if folder:
            with (folder / f"rank-{rank}").open("xb+", buffering=0) as file:
                file.write(bytes(PAGE_BYTES))  # without space on the disk a note would raise SIGBUS
                self.page = mmap.mmap(file.fileno(), PAGE_BYTES)  # keeps the file open
        self.watch = self.page_watch = Watch.from_buffer(self.page, COUNTERS_OFFSET)
        self.state = dict[str, Any](
            steps=0, rank=rank, name=name or f"rank {rank}", case=None, block=None, text=""
        )
        self.progress = Progress("", quiet=True)
        self.note("set-up")

    def note(self, step: str, **state: Any) -> None:
        """Records that this rank begins `step`; pass case=, block=, text= where they change. All
        ranks note the same steps in the same order: the lowest `steps` is furthest behind."""
        while (self.folder / "ended").exists():  # a rank that was stopped must not store its block
            time.sleep(LOOK_S)  # the watchdog ends this process
        self.state |= {
            **state,
            "step": step,
            "steps": self.state["steps"] + 1,
            "noted_s": time.monotonic(),
            "counters": COUNTERS,
        }
        self.page[:COUNTERS_OFFSET] = json.dumps(self.state).encode().ljust(COUNTERS_OFFSET, b"\0")
        if step in SHOWN:
            self.progress.show(step, self.state["text"])

    @contextmanager
    def during(self, step: str) -> Iterator[None]:
        """Records a step within the current one. If it fails, it remains the last one."""
        around = self.state["step"]
        self.note(step)
        yield
        self.note(around)

    @property
    def record(self) -> dict[str, Any]:
        """The record in the form that `read_flight` returns, with the counters of now, which the
        page gets too."""
        if self.watch is not self.page_watch:  # kernels of a GPU cannot write into the page
            ctypes.pointer(self.page_watch)[0] = self.watch
        return self.state | {"counters": {name: getattr(self.watch, name) for name in COUNTERS}}

    def remove(self) -> None:
        """Removes the page; the last rank removes the folder. Raises OSError for the others."""
        self.watch = self.page_watch  # the device frees its own
        (self.folder / f"rank-{self.state['rank']}").unlink()
        self.folder.rmdir()
