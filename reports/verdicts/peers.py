"""The command `peers`: ours beside several MPI libraries, from a campaign with a variant for each.

For every size it shows the library's time and how many times faster ours is inside each launch. A
ratio comes from one run and one state of the link; times of two launches are never compared.
"""

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from reports.store.case import LinkStates, find_states
from reports.store.manifest import CONTROL
from reports.store.result import ResultError
from reports.tables.rows import default_rows
from reports.tables.sentences import number, size_text
from reports.verdicts.sides import Side, read_sides
from reports.verdicts.verdict import evidence

SAME_STATE_RATIO = 1.5  # between the round trips of two launches; states differ by 2 to 5 times
MODES = "isolated", "chained"

SizeKey = tuple[str, int]  # mode and size in bytes


@dataclass(frozen=True)
class Peer:
    """A library at one size: its median time over the launches, and library over ours over the
    launches with its 95 % interval (infinite below six), above 1 if ours is faster."""

    library_us: float
    ratio: float
    low: float
    high: float

    def text(self) -> str:
        interval = f"[{self.low:.2f} {self.high:.2f}]" if np.isfinite(self.high) else ""
        return f"{number(self.library_us):>6} {self.ratio:5.2f} {interval}"


def link_states(sides: Sequence[Side]) -> list[tuple[float, float]]:
    """The states of the link over all launches, as the smallest and the largest round trip of a
    flag in ns. A new state begins at a round trip 1.5 times the one below."""
    runs = [launch.result for side in sides for launch in side.launches]
    trips = sorted(filter(None, (trip_ns(find_states(run.blocks)) for run in runs)))
    starts = [i for i, (below, trip) in enumerate(pairwise([0.0, *trips]))
              if trip > SAME_STATE_RATIO * below]
    return [(trips[start], trips[end - 1]) for start, end in pairwise([*starts, len(trips)])]


def trip_ns(states: LinkStates) -> float:
    """A flag's round trip in the state that the launch was in longest; 0 without one."""
    if states.longest is None or not states.rtt_ns:
        return 0.0
    return states.rtt_ns[states.longest]


def peers_of(side: Side, least_ns: float, most_ns: float) -> dict[SizeKey, Peer]:
    """The variant's library at each size, over the launches in this state of the link that have
    both times in one state."""
    times: dict[SizeKey, list[tuple[float, float]]] = defaultdict(list)
    for launch in side.launches:
        states = find_states(launch.result.blocks)
        if not least_ns <= trip_ns(states) <= most_ns:
            continue
        for mode in MODES:
            for row in default_rows(launch.result, (mode, None), states):
                if row.ratio and row.library_us:
                    log_ratio = float(np.log(row.ratio[0]))
                    times[mode, row.size_bytes].append((row.library_us, log_ratio))
    peers = {}
    for key, values in times.items():
        library_us, log_ratios = np.array(values).T
        result = evidence(log_ratios[None])
        ratio, low, high = (float(np.exp(log[0]))
                            for log in (result.estimate, result.low, result.high))
        peers[key] = Peer(float(np.median(library_us)), ratio, low, high)
    return peers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `peers`."""
    parser.add_argument("campaign", metavar="CAMPAIGN",
                        help="the folder of a campaign, a variant for each library")
    parser.add_argument("--imb", metavar="FILE", type=Path, help="what `IMB-MPI1 Allreduce` "
                        "printed, to hold the times of Intel MPI against")


def peers(arguments: argparse.Namespace) -> int:
    """Prints the table and returns exit status 0. Raises ResultError for another folder."""
    sides, notes = read_sides([arguments.campaign])
    for note in notes:
        print(f"reports: {note}", file=sys.stderr)
    sides = [side for side in sides if side.name != CONTROL]
    text = render(sides)
    if arguments.imb:
        text += render_imb(sides, imb_times(arguments.imb))
    sys.stdout.write(text)
    return 0


def render(sides: list[Side]) -> str:
    """A table for each state of the link and mode: a row per size, a column per library, and the
    library closest to ours. Raises ResultError if no launch measured a library beside ours."""
    names = {side.name: library_name(side) for side in sides}
    tables = {state: {side.name: peers_of(side, *state) for side in sides}
              for state in link_states(sides) or [(0.0, 0.0)]}
    tables = {state: table for state, table in tables.items() if any(table.values())}
    if not tables:
        raise ResultError("no launch measured a library beside ours in one state of the link")
    levels = {str(launch.result.run.world.get("mpi_thread_level"))
              for side in sides for launch in side.launches}
    launches = min(len(side.launches) for side in sides)
    lines = [f"ours (auto) beside each library, inside each of {launches} launches or more;",
             "us = the library's time, then library/auto with its 95 % interval over launches;",
             f"thread level {', '.join(sorted(levels))}"]
    for (least_ns, most_ns), table in tables.items():
        trip = f", a flag's round trip {least_ns:.0f} to {most_ns:.0f} ns" if most_ns else ""
        header = f"{'':8}{''.join(f'  {names[variant]:<28}' for variant in table)}closest to ours"
        for mode in MODES:
            if rows := _rows(table, names, mode):
                lines += ["", mode + trip, header, *rows]
        ratio, size_bytes, mode, variant = min(
            (peer.ratio, size_bytes, mode, variant) for variant, at_sizes in table.items()
            for (mode, size_bytes), peer in at_sizes.items())
        lines += ["", f"Ours gains least over {names[variant]} at {size_text(size_bytes)}, {mode}: "
                  f"{ratio:.2f}x."]
    return "\n".join(lines) + "\n"


def library_name(side: Side) -> str:
    """The name of the library in the variant's cases, or the variant's name."""
    cases = (case for launch in side.launches for case in launch.result.cases)
    return next((case.library for case in cases if case.library), side.name)


def _rows(table: Mapping[str, Mapping[SizeKey, Peer]], names: Mapping[str, str],
          mode: str) -> list[str]:
    rows = []
    keys = {key for at_sizes in table.values() for key in at_sizes if key[0] == mode}
    for key in sorted(keys):
        here = {variant: at_sizes[key] for variant, at_sizes in table.items() if key in at_sizes}
        texts = [here[variant].text() if variant in here else "-" for variant in table]
        columns = "".join(f"  {text:<28}" for text in texts)
        closest = min(here, key=lambda variant: here[variant].ratio)
        rows.append(f"{size_text(key[1]):>8}{columns}{names[closest] if len(here) > 1 else ''}")
    return [row.rstrip() for row in rows]


def imb_times(path: Path) -> dict[int, float]:
    """The slowest rank's time of a call in microseconds (t_max) by size in bytes, as printed by the
    Intel MPI Benchmarks. Raises ResultError for a file without their table."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: {getattr(error, 'strerror', None) or 'no text'}") from error
    row = r"^ +(\d+) +\d+ +\d+\.\d+ +(\d+\.\d+) +\d+\.\d+$"
    rows = re.findall(row, text, re.MULTILINE)
    if "# Benchmarking Allreduce" not in text or not rows:
        raise ResultError(f"{path} has no table of IMB-MPI1 Allreduce")
    return {int(size_bytes): float(time_us) for size_bytes, time_us in rows}


def render_imb(sides: list[Side], imb_us: Mapping[int, float]) -> str:
    """The times of Intel MPI by its own benchmark beside ours. Raises ResultError if no launch used
    Intel MPI."""
    here_us: dict[int, list[float]] = defaultdict(list)
    for case in (case for side in sides for launch in side.launches
                 for case in launch.result.cases):
        is_intel = (case.library or "").startswith("Intel MPI")
        if is_intel and case.mode == "isolated" and case.status == "ok" and case.time_us:
            here_us[case.size_bytes].append(case.time_us.median)
    if not here_us:
        raise ResultError("--imb: no launch used Intel MPI")
    lines = ["", "Intel MPI by its own benchmark (IMB, t_max: call after call over the same "
             "buffers, which stay in", "cache) and here (a send buffer written anew, and a "
             "barrier, before each call), the collective alone",
             f"{'':>8} {'IMB us':>8} {'here us':>8} {'here/IMB':>9}"]
    for size_bytes in sorted(here_us.keys() & imb_us.keys()):
        us = float(np.median(here_us[size_bytes]))
        ratio = us / imb_us[size_bytes]
        lines.append(f"{size_text(size_bytes):>8} {number(imb_us[size_bytes]):>8} {number(us):>8} "
                     f"{ratio:>8.2f}x")
    return "\n".join(lines) + "\n"
