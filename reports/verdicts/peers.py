"""The command `peers`: ours beside several MPI libraries, from a campaign with a variant for each.

For every size it shows the library's time and how many times faster ours is inside each launch. A
ratio comes from one run and one state of the link; times of two launches are never compared.
"""

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.store.case import find_states
from reports.store.manifest import CONTROL
from reports.store.result import ResultError
from reports.store.stats import STATE_RATIO
from reports.tables.rows import default_rows
from reports.tables.sentences import number, size_text
from reports.verdicts.sides import Side, notes_of, read_sides
from reports.verdicts.verdict import evidence

if TYPE_CHECKING:
    import pandas as pd

MODES = "isolated", "chained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("campaign", metavar="CAMPAIGN",
                        help="the folder of a campaign, a variant for each library")
    parser.add_argument("--imb", metavar="FILE", type=Path, help="what `IMB-MPI1 Allreduce` "
                        "printed, to hold the times of Intel MPI against")


def peers(arguments: argparse.Namespace) -> int:
    """Prints the table and returns exit status 0. Raises ResultError for another folder."""
    sides = read_sides([arguments.campaign])
    for note in notes_of(sides):
        print(f"reports: {note}", file=sys.stderr)
    sides = [side for side in sides if side.name != CONTROL]
    text = render(sides)
    if arguments.imb:
        text += render_imb(sides, imb_times(arguments.imb))
    sys.stdout.write(text)
    return 0


def measurements(sides: Sequence[Side]) -> "pd.DataFrame":
    """A row for each launch, mode and size: the library's time, the log of library over ours, the
    flag's round trip in the state that the launch was in longest, and the number of that state.

    Sorted by round trip, a new state begins at 1.5 times the one before (states differ by 2 to 5
    times). Launches without a state of the link count only if no launch has one.
    """
    import pandas as pd  # takes half a second

    rows = []
    for variant, run in ((side.name, launch.result) for side in sides for launch in side.launches):
        states = find_states(run.blocks)
        has_state = states.longest is not None and states.rtt_ns
        trip_ns = states.rtt_ns[states.longest or 0] if has_state else 0.0
        rows += [(variant, trip_ns, mode, row.size_bytes, row.library_us, np.log(row.ratio[0]))
                 for mode in MODES for row in default_rows(run, (mode, None), states)
                 if row.ratio and row.library_us]
    columns = ["variant", "trip_ns", "mode", "size_bytes", "library_us", "log_ratio"]
    frame = pd.DataFrame(rows, columns=columns).sort_values("trip_ns", kind="stable")
    if (frame.trip_ns > 0).any():
        frame = frame[frame.trip_ns > 0]
    is_first = frame.trip_ns > STATE_RATIO * frame.trip_ns.shift(fill_value=0.0)
    return frame.assign(state=is_first.cumsum())


def summaries(frame: "pd.DataFrame") -> "pd.DataFrame":
    """For each mode, size and variant: library over ours over the launches, above 1 if ours is
    faster, and a text with the library's median time, that ratio and its 95 % interval. The least
    ratio comes first."""
    import pandas as pd

    rows, keys = [], ["mode", "size_bytes", "variant"]
    for key, launches in frame.groupby(keys):
        result = evidence(launches.log_ratio.to_numpy()[None])
        ratio, low, high = np.exp([result.estimate[0], result.low[0], result.high[0]])
        interval = f"[{low:.2f} {high:.2f}]" if np.isfinite(high) else ""
        text = f"{number(launches.library_us.median()):>6} {ratio:5.2f} {interval}"
        rows.append((*key, ratio, text))
    return pd.DataFrame(rows, columns=[*keys, "ratio", "text"]).sort_values("ratio", kind="stable")


def render(sides: list[Side]) -> str:
    """A table for each state of the link and mode: a row per size, a column per library, and the
    library closest to ours. Raises ResultError if no launch measured a library beside ours."""
    frame = measurements(sides)
    if frame.empty:
        raise ResultError("no launch measured a library beside ours in one state of the link")
    names = {side.name: library_name(side) for side in sides}
    levels = {str(launch.result.run.world.get("mpi_thread_level"))
              for side in sides for launch in side.launches}
    launches = min(len(side.launches) for side in sides)
    lines = [f"ours (auto) beside each library, inside each of {launches} launches or more;",
             "us = the library's time, then library/auto with its 95 % interval over launches;",
             f"thread level {', '.join(sorted(levels))}"]
    header = f"{'':8}{''.join(f'  {name:<28}' for name in names.values())}closest to ours"
    for _, in_state in frame.groupby("state"):
        low_ns, high_ns = in_state.trip_ns.min(), in_state.trip_ns.max()
        trip = f", a flag's round trip {low_ns:.0f} to {high_ns:.0f} ns" if high_ns else ""
        table = summaries(in_state)
        for mode in MODES:
            of_sizes = table[table["mode"] == mode].groupby("size_bytes")
            rows = [_row(size_bytes, at_size, names) for size_bytes, at_size in of_sizes]
            lines += ["", mode + trip, header, *rows] if rows else []
        least = table.iloc[0]
        lines += ["", f"Ours gains least over {names[least.variant]} at "
                  f"{size_text(least.size_bytes)}, {least['mode']}: {least.ratio:.2f}x."]
    return "\n".join(lines) + "\n"


def library_name(side: Side) -> str:
    """The name of the library in the variant's cases, or the variant's name."""
    cases = (case for launch in side.launches for case in launch.result.cases)
    return next((case.library for case in cases if case.library), side.name)


def _row(size_bytes: Any, at_size: "pd.DataFrame", names: Mapping[str, str]) -> str:
    texts = dict(zip(at_size.variant, at_size.text, strict=True))
    columns = "".join(f"  {texts.get(variant, '-'):<28}" for variant in names)
    closest = names[at_size.variant.iloc[0]] if len(texts) > 1 else ""
    return f"{size_text(size_bytes):>8}{columns}{closest}".rstrip()


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
        lines.append(f"{size_text(size_bytes):>8} {number(imb_us[size_bytes]):>8} {number(us):>8} "
                     f"{us / imb_us[size_bytes]:>8.2f}x")
    return "\n".join(lines) + "\n"
