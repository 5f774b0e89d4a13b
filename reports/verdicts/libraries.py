"""The command `peers`: ours beside several MPI libraries, from a campaign with variants for each.
At each size the library's variant with the least median time counts, which favours the library. A
ratio comes from one run and one state of the link."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.store.case import find_states
from reports.store.report_json import write_json
from reports.store.result import ResultError, content_of
from reports.store.stats import STATE_RATIO
from reports.tables.headline import contains_one, ends
from reports.tables.rows import default_rows, is_noisy
from reports.tables.sentences import number, size_text
from reports.verdicts.sides import Side, notes_of, read_sides
from reports.verdicts.verdict import MIN_PAIRS, evidence

MODES = "isolated", "chained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "campaign", metavar="CAMPAIGN", help="the folder of a campaign, variants for each library"
    )
    parser.add_argument(
        "--imb",
        metavar="FILE",
        type=Path,
        help="what `IMB-MPI1 Allreduce` printed, to hold the times of Intel MPI against",
    )


def peers(arguments: argparse.Namespace) -> int:
    """Prints the tables and returns exit status 0. Raises ResultError without measurements."""
    sides = read_sides([arguments.campaign])
    for note in notes_of(sides):
        print(f"reports: {note}", file=sys.stderr)
    lines = render(sides)
    if arguments.json:
        tables = [
            {
                "mode": mode,
                "link_rtt_ns": [launches.trip_ns.min(), launches.trip_ns.max()],
                "libraries": summaries(launches).drop(columns=["text", "noisy"]),
            }
            for (_, mode), launches in measurements(sides).groupby(["state", "mode"], sort=False)
        ]
        write_json(
            "peers",
            tables=tables,
            imb=render_imb(sides, arguments.imb)[1:] if arguments.imb else None,
        )
        return 0
    if arguments.imb:
        lines += render_imb(sides, arguments.imb)
    print("\n".join(lines))
    return 0


def setting_of(side: Side) -> str:
    """How the side's variant sets its library: `I_MPI_SHM=icx --mpi-thread-level=multiple`."""
    variants = side.campaign.campaign.variants if side.campaign else []
    words = [
        word
        for variant in variants
        if variant.name == side.name
        for word in (
            *(f"{name}={value}" for name, value in variant.environment.items()),
            *(word for word in variant.argv if word.startswith("--mpi-thread-level=")),
        )
    ]
    return " ".join(words) or "default"


def measurements(sides: Sequence[Side]) -> pd.DataFrame:
    """A row for each launch, mode and size of each library's fastest variant there: the library's
    time in us, the log of library over ours, the flag's round trip in the launch's longest state in
    ns, and the number of that state."""
    rows = []
    runs = [(side, launch.result) for side in sides for launch in side.launches]
    for side, run in runs:
        states = find_states(run.blocks)
        trip_ns = states.rtt_ns[states.longest or 0] if states.rtt_ns else 0.0
        rows += [
            (
                row.library.library or side.name,
                side.name,
                setting_of(side),
                trip_ns,
                mode,
                row.size_bytes,
                row.library_us,
                np.log(row.ratio[0]),
            )
            for mode in MODES
            for row in default_rows(run, (mode, None), states)
            if row.library and row.ratio and row.library_us
        ]
    columns = [
        "library",
        "variant",
        "setting",
        "trip_ns",
        "mode",
        "size_bytes",
        "library_us",
        "log_ratio",
    ]
    frame = pd.DataFrame(rows, columns=columns).sort_values("trip_ns", kind="stable")
    if (frame.trip_ns > 0).any():  # launches without a state count only if no launch has one
        frame = frame[frame.trip_ns > 0]
    is_first = frame.trip_ns > STATE_RATIO * frame.trip_ns.shift(fill_value=0.0)
    frame = frame.assign(state=is_first.cumsum())
    cell = ["state", "mode", "size_bytes", "library"]
    times = frame.groupby([*cell, "variant"], as_index=False).library_us.median()
    fastest = times.loc[times.groupby(cell).library_us.idxmin(), [*cell, "variant"]]
    return frame.merge(fastest)


def summaries(frame: pd.DataFrame) -> pd.DataFrame:
    """For each size and library, the least ratio first, those that are too noisy last: library over
    ours, above 1 if ours is faster, and a text with the library's median time, that ratio and its
    95 % interval."""
    rows, keys = [], ["size_bytes", "library", "variant", "setting"]
    for key, launches in frame.groupby(keys):
        result = evidence(launches.log_ratio.to_numpy()[None])
        ratio, low, high = np.exp([result.estimate[0], result.low[0], result.high[0]])
        time_us = launches.library_us.median()
        noisy = bool(np.isfinite(high)) and is_noisy((ratio, low, high))
        interval = f"[{low:.2f} {high:.2f}]" if np.isfinite(high) else ""
        text = f"{number(time_us):>6} " + ("too noisy" if noisy else f"{ratio:5.2f} {interval}")
        rows.append((*key, ratio, text, noisy, time_us, low, high))
    columns = [*keys, "ratio", "text", "noisy", "library_us", "low", "high"]
    return pd.DataFrame(rows, columns=columns).sort_values(["noisy", "ratio"], kind="stable")


def headline(table: pd.DataFrame, libraries: int, mode: str) -> str:
    """Ours beside the closest library, at decode's size or the smallest, and at the largest."""
    texts = []
    for size in ends(table.size_bytes):
        cell: Any = table[table.size_bytes == size].iloc[0]  # the least ratio comes first
        unclear = ", unclear" * bool(contains_one((cell.ratio, cell.low, cell.high)))
        text = f"{cell.ratio:.2f}x {cell.library}{unclear}"
        texts.append(f"{size_text(size)} {'too noisy' if cell.noisy else text}")
    return f"Ours beside the closest of {libraries} libraries, {mode}: {', '.join(texts)}"


def setting_lines(table: pd.DataFrame) -> Iterator[str]:
    """`Open MPI 5.0.11: 16 KiB to 64 KiB default; 128 KiB OMPI_MCA_pml=cm`, for each library of
    which a setting other than the default was the fastest."""
    for library, own in table.sort_values("size_bytes").groupby("library", sort=False):
        ranges = []
        for setting, group in groupby(
            zip(own.setting, own.size_bytes, strict=True), key=lambda each: each[0]
        ):
            sizes = [size_text(size) for _, size in group]
            ranges.append(f"{' to '.join(dict.fromkeys([sizes[0], sizes[-1]]))} {setting}")
        if {*own.setting} != {"default"}:
            yield f"{library}: {'; '.join(ranges)}"


def render(sides: Sequence[Side]) -> list[str]:
    """A table for each state of the link and mode: a row per size, a column per library."""
    frame = measurements(sides)
    if frame.empty:
        raise ResultError("no launch measured a library beside ours in one state of the link")
    runs = [launch.result for side in sides for launch in side.launches]
    used = dict.fromkeys(case.library for run in runs for case in run.cases)
    libraries = [library for library in used if library in {*frame.library}]
    levels = {str(run.run.world.get("mpi_thread_level")) for run in runs}
    (_, mode), launches = next(iter(frame.groupby(["state", "mode"], sort=False)))
    lines = [
        headline(summaries(launches), len(libraries), str(mode)),
        "us = the library's time in its fastest setting (which favours the library), then",
        f"library/auto [95 % interval over {MIN_PAIRS} launches or more]; thread level "
        f"{', '.join(sorted(levels))}",
    ]
    header = f"{'':8}{''.join(f'  {name:<28}' for name in libraries)}closest to ours"
    for (_, mode), launches in frame.groupby(["state", "mode"], sort=False):
        low_ns, high_ns = launches.trip_ns.min(), launches.trip_ns.max()
        trip = f", a flag's round trip {low_ns:.0f} to {high_ns:.0f} ns" if high_ns else ""
        table = summaries(launches)
        fewest = launches.groupby(["library", "size_bytes"]).size().min()
        lines += ["", f"{mode}{trip}; launches of each library: at least {fewest}", header]
        for _, at_size in table.groupby("size_bytes"):
            texts = dict(zip(at_size.library, at_size.text, strict=True))
            columns = "".join(f"  {texts.get(library, '-'):<28}" for library in libraries)
            best = at_size.iloc[0]
            closest = "-" if best.noisy else best.library
            lines.append(f"{size_text(best.size_bytes):>8}{columns}{closest}")
        lines += ["", *setting_lines(table)]
        least = table.iloc[0]
        lines += (
            []
            if least.noisy
            else [
                f"Ours gains least over {least.library} at "
                f"{size_text(least.size_bytes)}, {mode}: {least.ratio:.2f}x."
            ]
        )
    return lines


def render_imb(sides: Sequence[Side], path: Path) -> list[str]:
    """The slowest rank's time of a call in us (t_max), as the Intel MPI Benchmarks printed it into
    a file, beside ours. Raises ResultError for another file, and if no launch used Intel MPI."""
    text = content_of(path).decode(errors="replace").partition("# Benchmarking Allreduce")[2]
    text = text.partition("# Benchmarking")[0]
    row = r"^ +(\d{1,15}) +\d+ +\d+\.\d+ +(\d{1,15}\.\d+) +\d+\.\d+$"
    imb_us = {
        int(size): float(us) for size, us in re.findall(row, text, re.MULTILINE) if float(us) > 0
    }
    if not imb_us:
        raise ResultError(f"{path} has no table of IMB-MPI1 Allreduce")
    times = [
        (case.size_bytes, case.time_us.median)
        for side in sides
        for launch in side.launches
        for case in launch.result.cases
        if case.mode == "isolated"
        and case.status == "ok"
        and case.time_us
        and (case.library or "").startswith("Intel MPI")
    ]
    if not times:
        raise ResultError("--imb: no launch used Intel MPI")
    here_us = pd.DataFrame(times).groupby(0)[1].median()
    lines = [
        "",
        "Intel MPI by its own benchmark (IMB, t_max: its buffers stay in cache) and here",
        f"{'':>8} {'IMB us':>8} {'here us':>8} {'here/IMB':>9}",
    ]
    return lines + [
        f"{size_text(size_bytes):>8} {number(imb_us[size_bytes]):>8} {number(us):>8} "
        f"{us / imb_us[size_bytes]:>8.2f}x"
        for size_bytes, us in here_us.items()
        if size_bytes in imb_us
    ]
