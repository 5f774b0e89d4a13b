"""The command `libraries`: ours beside several MPI libraries, from a campaign with variants for
each. At each size the library's variant with the least median time counts, which favours the
library. A ratio comes from one run."""

import argparse
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd

from reports.tables.rows import cost_us, default_rows, interval_of, ratio_text
from reports.tables.sentences import number, size_text
from reports.verdicts.judge import with_ratios
from reports.verdicts.sides import Side, deaths_of, notes_of, read_sides, wrong_results
from reports.verdicts.verdict import MIN_PAIRS, evidence
from wiretax.common.program import answer, complain
from wiretax.record.blocks import in_main_state
from wiretax.record.result import ResultError

CELL = ["mode", "size_bytes", "library"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "campaign", metavar="CAMPAIGN", help="the folder of a campaign, variants for each library"
    )
    parser.epilog = f"{parser.epilog}; exit status: 1 if a result was wrong, otherwise 0"


def libraries(arguments: argparse.Namespace) -> int:
    """Prints the tables and returns exit status 0, or 1 if results were wrong. Raises ResultError
    without measurements."""
    sides = read_sides([arguments.campaign])
    wrong = [sentence for side in sides for sentence in wrong_results(side)]
    complain(*wrong, *deaths_of(sides), *notes_of(sides))

    cells = cells_of(sides)
    answer(arguments, "\n".join(tables_of(cells)), cells=cells)
    return 1 if wrong else 0


def cells_of(sides: Sequence[Side]) -> pd.DataFrame:
    """A row for each mode, size and library: its fastest variant, the median time there in us, and
    `ratio`, library over ours, above 1 if ours is faster, with its 95 % interval over the launches.
    Launches in another state of the link than most do not count."""
    launches = [(side.name, launch) for side in sides for launch in side.launches]
    is_in = in_main_state([launch for _, launch in launches])
    rows = [
        {
            "library": row.library.library or name,
            "variant": name,
            "mode": mode,
            "size_bytes": row.size_bytes,
            "library_us": cost_us(row.library),
            "log_ratio": np.log(row.ratio[0]),
        }
        for name, launch in compress(launches, is_in)
        for mode in ("isolated", "chained")
        for row in default_rows(launch, (mode, None))
        if row.library and row.ratio and cost_us(row.library)
    ]
    if not rows:
        raise ResultError("no launch measured a library beside ours")

    measured, key = pd.DataFrame(rows), [*CELL, "variant"]
    log_ratios = measured.pivot_table("log_ratio", key, measured.groupby(key).cumcount())
    medians = measured.groupby(key)[["library_us"]].median().reset_index()
    cells = medians.join(with_ratios(evidence(log_ratios.to_numpy())))
    return cells.sort_values([*CELL, "library_us"], kind="stable").groupby(CELL).head(1)


def tables_of(cells: pd.DataFrame) -> list[str]:
    """A table for each mode: a row per size, a column per library."""
    lines = [
        "us = the library's time in its fastest variant (which favours the library), then",
        f"library/auto [95 % interval over {MIN_PAIRS} launches or more], and that variant",
    ]
    rows: Any = cells.itertuples()
    texts = [
        f"{number(cell.library_us)} {ratio_text(interval_of(cell))} {cell.variant}" for cell in rows
    ]
    cells = cells.assign(text=texts)

    for mode, own in cells.groupby("mode"):
        table = own.pivot(index="size_bytes", columns="library", values="text").fillna("-")
        table.index = table.index.map(size_text)
        title = f"{mode}; launches of each library: at least {own.pairs.min()}"
        lines += ["", title, table.to_string()]

    return lines
