"""`peers`: ours beside several MPI libraries, from a campaign with a variant for each: for every size the library's
time and, inside each launch, how many times faster ours is. Times of two launches are never compared: a ratio is of
what stood in the same run, in the same state of the link.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reports.store.case import LinkStates, find_states
from reports.store.manifest import CONTROL
from reports.store.result import ResultError
from reports.tables.rows import default_rows
from reports.tables.sentences import number, size_text
from reports.verdicts.sides import Side, sides
from reports.verdicts.verdict import evidence

SAME_STATE_RATIO = 1.5  # of two launches' round trips; states were 2 to 5 times apart


@dataclass(frozen=True)
class Held:
    """A size in a mode, against one library: its median time over the launches in microseconds, and library over ours
    over the launches with its 95 % interval (infinite below six), above 1 where ours is faster."""

    library_us: float
    ratio: float
    low: float
    high: float

    def text(self) -> str:
        interval = f"[{self.low:.2f} {self.high:.2f}]" if np.isfinite(self.high) else ""
        return f"{number(self.library_us):>6} {self.ratio:5.2f} {interval}"


def states_of(found: Sequence[Side]) -> list[tuple[float, float]]:
    """The states of the link that launches were in longest, as the least and the most that a flag's round trip took in
    nanoseconds: where one takes half as long again as the next below, another state begins."""
    launches = [launch.result.blocks for side in found for launch in side.launches]
    trips = sorted(filter(None, (trip_ns(find_states(blocks)) for blocks in launches)))
    begins = [i for i, trip in enumerate(trips) if i == 0 or trip > SAME_STATE_RATIO * trips[i - 1]]
    return [(trips[begin], trips[end - 1]) for begin, end in zip(begins, [*begins[1:], len(trips)], strict=True)]


def trip_ns(states: LinkStates) -> float:
    """A flag's round trip in the state that a launch was in longest; 0 where it was in none."""
    return 0.0 if states.longest is None or not states.rtt_ns else states.rtt_ns[states.longest]


def held_against(side: Side, least_ns: float, most_ns: float) -> dict[tuple[str, int], Held]:
    """What the launches of a variant say that were in this state of the link, by mode and size in bytes. A launch
    without both in one state counts for nothing at that size."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for launch in side.launches:
        states = find_states(launch.result.blocks)
        if not least_ns <= trip_ns(states) <= most_ns:
            continue
        for mode in ("isolated", "chained"):
            for row in default_rows(launch.result, (mode, None), states):
                if row.ratio and row.library_us:
                    found.setdefault((mode, row.size_bytes), []).append((row.library_us, float(np.log(row.ratio[0]))))
    held = {}
    for key, seen in found.items():
        times_us, logs = zip(*seen, strict=True)
        over = evidence(np.array([logs]))
        ratios = (float(np.exp(log[0])) for log in (over.estimate, over.low, over.high))
        held[key] = Held(float(np.median(times_us)), *ratios)
    return held


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `peers` takes."""
    parser.add_argument("campaign", metavar="CAMPAIGN", help="the folder of a campaign, a variant for each library")
    parser.add_argument("--imb", metavar="FILE", type=Path, help="what `IMB-MPI1 Allreduce` printed, to hold the "
                        "times of Intel MPI against")


def peers(arguments: argparse.Namespace) -> int:
    """Prints the table; the exit status, 0. Raises ResultError for what is no such campaign."""
    found, notes = sides([arguments.campaign])
    for note in notes:
        print(f"reports: {note}", file=sys.stderr)
    found = [side for side in found if side.name != CONTROL]
    sys.stdout.write(render(found) + (render_imb(found, imb_times(arguments.imb)) if arguments.imb else ""))
    return 0


def render(found: list[Side]) -> str:
    """One table a state of the link and mode: a row a size, a column a library, and which of them ours has least over;
    ends with a newline.

    Raises ResultError where no launch has the library beside ours.
    """
    states = states_of(found) or [(0.0, 0.0)]
    of_all = {state: {side.name: held_against(side, *state) for side in found} for state in states}
    by_state = {state: held for state, held in of_all.items() if any(held.values())}
    if not by_state:
        raise ResultError("in no launch a library was measured beside ours in one state of the link")
    names = {side.name: next((case.library for launch in side.launches for case in launch.result.cases if case.library),
                             side.name) or side.name for side in found}
    levels = {str(launch.result.run.world.get("mpi_thread_level")) for side in found for launch in side.launches}
    lines = [f"ours (auto) beside each library, inside each of {min(len(side.launches) for side in found)} launches or "
             "more;", "us = the library's time, then library/auto with its 95 % interval over launches;",
             f"thread level {', '.join(sorted(levels))}"]
    for (least_ns, most_ns), held in by_state.items():
        trip = f", a flag's round trip {least_ns:.0f} to {most_ns:.0f} ns" if most_ns else ""
        for mode in ("isolated", "chained"):
            if rows := _rows(held, names, mode):
                columns = "".join(f"  {names[name]:<28}" for name in held)
                lines += ["", mode + trip, f"{'':8}{columns}closest to ours", *rows]
        worst = min((h.ratio, size, mode, name) for name, by in held.items() for (mode, size), h in by.items())
        lines += ["", f"Ours has least over {names[worst[3]]} at {size_text(worst[1])}, {worst[2]}: {worst[0]:.2f}x."]
    return "\n".join(lines) + "\n"


def _rows(held: Mapping[str, Mapping[tuple[str, int], Held]], names: Mapping[str, str], mode: str) -> list[str]:
    rows = []
    for size in sorted({key[1] for by in held.values() for key in by if key[0] == mode}):
        here = {name: by[mode, size] for name, by in held.items() if (mode, size) in by}
        cells = "".join(f"  {here[name].text() if name in here else '-':<28}" for name in held)
        closest = min(here, key=lambda name: here[name].ratio)
        rows.append(f"{size_text(size):>8}{cells}{'' if len(here) < 2 else names[closest]}".rstrip())
    return rows


def imb_times(path: Path) -> dict[int, float]:
    """The slowest rank's time of a call in microseconds (t_max), by size in bytes, as Intel's MPI Benchmarks print it.
    Raises ResultError for a file without a table of theirs."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: {getattr(error, 'strerror', None) or 'no text'}") from error
    found = re.findall(r"^ +(\d+) +\d+ +\d+\.\d+ +(\d+\.\d+) +\d+\.\d+$", text, re.MULTILINE)
    if "# Benchmarking Allreduce" not in text or not found:
        raise ResultError(f"{path} has no table of IMB-MPI1 Allreduce")
    return {int(size): float(time_us) for size, time_us in found}


def render_imb(found: list[Side], imb_us: Mapping[int, float]) -> str:
    """What the library's own benchmark says beside what is said here of the same library, the collective alone. Raises
    ResultError where no launch is of Intel MPI."""
    here: dict[int, list[float]] = {}
    for case in (case for side in found for launch in side.launches for case in launch.result.cases):
        if (case.library or "").startswith("Intel MPI") and case.mode == "isolated" and case.status == "ok":
            assert case.time_us
            here.setdefault(case.size_bytes, []).append(case.time_us.median)
    if not here:
        raise ResultError("--imb: no launch is of Intel MPI, whose benchmark that is")
    lines = ["", "Intel MPI by its own benchmark (IMB, t_max: call after call over the same buffers, which stay in",
             "cache) and here (a send buffer written anew, and a barrier, before each call), the collective alone",
             f"{'':>8} {'IMB us':>8} {'here us':>8} {'here/IMB':>9}"]
    for size in sorted(here.keys() & imb_us.keys()):
        us = float(np.median(here[size]))
        lines.append(f"{size_text(size):>8} {number(imb_us[size]):>8} {number(us):>8} {us / imb_us[size]:>8.2f}x")
    return "\n".join(lines) + "\n"
