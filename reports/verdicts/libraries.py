"""The command `peers`: ours beside several MPI libraries, from a campaign with variants for each.
At each size the library's variant with the least median time counts, which favours the library. A
ratio comes from one run and one state of the link."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.store.case import find_states
from reports.store.report_json import write_json
from reports.store.result import ResultError
from reports.store.schema import Result
from reports.store.stats import STATE_RATIO
from reports.tables.headline import contains_one, ends
from reports.tables.rows import default_rows, interval_text, is_noisy
from reports.tables.sentences import number, size_text
from reports.verdicts.judge import with_ratios
from reports.verdicts.sides import Side, notes_of, read_sides
from reports.verdicts.verdict import MIN_PAIRS, evidence

MODES = "isolated", "chained"
CELL = ["state", "mode", "size_bytes", "library"]
KEY = ["size_bytes", "library", "variant"]
FIGURES = [*KEY, "pairs", "library_us", "ratio", "low", "high"]


@dataclass
class Peers:
    """What was measured in one mode and one state of the link, whose round trips lie between these
    two in ns. `cells` has a row for each size and library, the least ratio first, those that are
    too noisy last: the library's median time in us, and `ratio`, library over ours, above 1 if ours
    is faster, with its 95 % interval over the launches."""

    mode: str
    rtt_ns: tuple[float, float]
    cells: pd.DataFrame


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "campaign", metavar="CAMPAIGN", help="the folder of a campaign, variants for each library"
    )


def peers(arguments: argparse.Namespace) -> int:
    """Prints the tables and returns exit status 0. Raises ResultError without measurements."""
    sides = read_sides([arguments.campaign])
    for note in notes_of(sides):
        print(f"reports: {note}", file=sys.stderr)
    tables = [
        Peers(str(mode), (launches.rtt_ns.min(), launches.rtt_ns.max()), cells_of(launches))
        for (_, mode), launches in measurements(sides).groupby(["state", "mode"], sort=False)
    ]
    if not tables:
        raise ResultError("no launch measured a library beside ours in one state of the link")
    if arguments.json:
        parts = [
            {"mode": each.mode, "link_rtt_ns": each.rtt_ns, "libraries": each.cells[FIGURES]}
            for each in tables
        ]
        write_json("peers", tables=parts)
        return 0
    print("\n".join([*opening(tables[0]), *(line for each in tables for line in lines_of(each))]))
    return 0


def measurements(sides: Sequence[Side]) -> pd.DataFrame:
    """A row for each launch, mode and size of each library's fastest variant there: the library's
    time in us, the log of library over ours, the flag's round trip in the launch's longest state in
    ns, and the number of that state."""
    rows = [row for side in sides for launch in side.launches for row in _rows(side.name, launch)]
    if not rows:
        return pd.DataFrame(columns=["mode", "state"])
    frame = pd.DataFrame(rows).sort_values("rtt_ns", kind="stable")
    if frame.rtt_ns.any():  # launches without a state count only if no launch has one
        frame = frame[frame.rtt_ns > 0]
    is_first = frame.rtt_ns > STATE_RATIO * frame.rtt_ns.shift(fill_value=0.0)
    frame["state"] = is_first.cumsum()
    times = frame.groupby([*CELL, "variant"], as_index=False).library_us.median()
    fastest = times.loc[times.groupby(CELL).library_us.idxmin(), [*CELL, "variant"]]
    return frame.merge(fastest)


def _rows(variant: str, launch: Result) -> list[dict[str, Any]]:
    states = find_states(launch.blocks)
    return [
        {
            "library": row.library.library or variant,
            "variant": variant,
            "rtt_ns": states.rtt_ns[states.longest or 0] if states.rtt_ns else 0.0,
            "mode": mode,
            "size_bytes": row.size_bytes,
            "library_us": row.library_us,
            "log_ratio": np.log(row.ratio[0]),
        }
        for mode in MODES
        for row in default_rows(launch, (mode, None), states)
        if row.library and row.ratio and row.library_us
    ]


def cells_of(launches: pd.DataFrame) -> pd.DataFrame:
    """The `cells` of these launches."""
    number_of_launch = launches.groupby(KEY).cumcount()
    log_ratios = launches.pivot_table("log_ratio", KEY, number_of_launch)
    cells = log_ratios.index.to_frame(index=False)
    cells["library_us"] = launches.groupby(KEY).library_us.median().to_numpy()
    cells = cells.join(with_ratios(evidence(log_ratios.to_numpy())))
    cells["is_noisy"] = [*map(is_noisy, zip(cells.ratio, cells.low, cells.high, strict=True))]
    return cells.sort_values(["is_noisy", "ratio"], kind="stable")


def opening(first: Peers) -> list[str]:
    """Ours beside the closest library, at decode's size or the smallest, and at the largest; and
    what the columns are."""
    texts = []
    for size_bytes in ends(first.cells.size_bytes):
        cell: Any = first.cells[first.cells.size_bytes == size_bytes].iloc[0]
        unclear = ", unclear" if contains_one((cell.ratio, cell.low, cell.high)) else ""
        text = "too noisy" if cell.is_noisy else f"{cell.ratio:.2f}x {cell.library}{unclear}"
        texts.append(f"{size_text(size_bytes)} {text}")
    n_libraries = first.cells.library.nunique()
    return [
        f"Ours beside the closest of {n_libraries} libraries, {first.mode}: {', '.join(texts)}",
        "us = the library's time in its fastest setting (which favours the library), then",
        f"library/auto [95 % interval over {MIN_PAIRS} launches or more]",
    ]


def lines_of(table: Peers) -> list[str]:
    """A row per size and a column per library; then the fastest settings other than the default."""
    cells = table.cells
    low_ns, high_ns = table.rtt_ns
    trip = f", a flag's round trip {low_ns:.0f} to {high_ns:.0f} ns" if high_ns else ""
    libraries = sorted({*cells.library})
    lines = [
        "",
        f"{table.mode}{trip}; launches of each library: at least {cells.pairs.min()}",
        f"{'':8}{''.join(f'  {name:<28}' for name in libraries)}closest to ours",
    ]
    by_size: Any = cells.groupby("size_bytes")
    for size_bytes, at_size in by_size:
        text_of = {cell.library: _cell_text(cell) for cell in at_size.itertuples()}
        columns = "".join(f"  {text_of.get(library, '-'):<28}" for library in libraries)
        closest = "-" if at_size.is_noisy.iloc[0] else at_size.library.iloc[0]
        lines.append(f"{size_text(size_bytes):>8}{columns}{closest}")
    has_several = cells.groupby("library").variant.transform("nunique") > 1
    own: Any
    for library, own in cells[has_several].sort_values("size_bytes").groupby("library"):
        places = [f"{size_text(cell.size_bytes)} {cell.variant}" for cell in own.itertuples()]
        lines.append(f"{library}: {', '.join(places)}")
    return lines


def _cell_text(cell: Any) -> str:
    ends = (None, None) if np.isnan(cell.high) else (cell.low, cell.high)
    return f"{number(cell.library_us):>6} {interval_text((cell.ratio, *ends))}"
