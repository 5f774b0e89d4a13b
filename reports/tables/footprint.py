"""What a collective and a matmul beside it lose to each other: the footprint, a row for the library and one for ours.

A collective is held against itself with nothing beside it, in the same rounds; the matmul against itself beside ranks
that only wait. Each loses what its time, or its rate, is worse, in percent, with an interval over this launch's blocks.
"""

from __future__ import annotations

import numpy as np
from rich.table import Table

from reports.store.case import CASE_KEY, LinkStates, beside
from reports.store.schema import Case, Result
from reports.store.stats import Interval, ratio_interval
from reports.tables.rows import View, cost_us, costs_in, default_rows
from reports.tables.sentences import label, number


def caption(result: Result) -> str:
    """Where the matmul runs, how fast, and what it is held against."""
    alone = [block.matmul_alone_gflop_s for block in result.blocks if block.matmul_alone_gflop_s]
    rate = f"{number(float(np.median(alone)))} GFLOP/s a rank" if alone else "unknown speed"
    if result.run.clock_shared:
        where = "on a core that no rank has"
    else:
        most = max(rank.get("multiprocessors", 0) for rank in result.run.world["ranks"])
        where = f"in a stream of its own on each GPU of {most} multiprocessors"
    return (f"what each loses to the other. The matmul (fp32, ours, {rate} beside ranks that only wait) runs {where}.")


def footprint(result: Result, view: View, states: LinkStates) -> Table:
    """The table of this view, at most 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    units = "cores" if result.run.clock_shared else "blocks"
    for name, width in (("size\n", 8), ("\nalgorithm", 13), (f"\n{units}", 6), ("alone\nus", 6), ("beside\nus", 6),
                        ("loses\n[95 %]", 13), ("matmul loses\n[95 %]", 13), ("\n#wrong", 6)):
        table.add_column(name, justify="left" if "algorithm" in name else "right", no_wrap=True, min_width=width)
    for row in default_rows(result, view, states):
        for case in filter(None, (row.library, row.ours)):
            table.add_row(label(row), *_cells(result, case, states))
    return table


def _cells(result: Result, case: Case, states: LinkStates) -> list[str]:
    name = "library" if case.library else (case.chosen or case.algorithm).partition("+")[0]
    used = 1 if result.run.clock_shared else result.run.cases[case.case].blocks
    name_and_use = [name, "-" if used is None else str(used)]
    wrong = "-" if case.n_wrong is None else str(case.n_wrong)
    if case.status != "ok":
        return [*name_and_use, "-", "-", case.status.upper(), "-", wrong]
    alone = next((other for other in result.cases if not beside(other.shape) and _key(other) == _key(case)), None)
    costs = costs_in(result, states, states.longest)
    with_it, without = costs.get(case.case, {}), costs.get(alone.case, {}) if alone else {}
    rounds = sorted(with_it.keys() & without.keys())
    slower = ratio_interval([with_it[r] for r in rounds], [without[r] for r in rounds]) if rounds else None
    alone_us = cost_us(alone) if alone else None
    return [*name_and_use, number(alone_us), number(cost_us(case)), _percent(slower, 1),
            _percent(_matmul(result, case, states), -1), wrong]


def _key(case: Case) -> object:
    """What makes it a case, but for what is beside it."""
    shape = {name: said for name, said in (case.shape or {}).items() if name != "beside"}
    return [getattr(case, name) for name in CASE_KEY if name != "shape"], shape


def _matmul(result: Result, case: Case, states: LinkStates) -> Interval | None:
    """The matmul's rate beside this case over that alone."""
    here = [block for block, its in zip(result.blocks, states.of_block, strict=True)
            if block.case == case.case and its == states.longest]
    rates = [(block.matmul_gflop_s, block.matmul_alone_gflop_s) for block in here]
    known = [(rate, alone) for rate, alone in rates if rate is not None and alone]
    return ratio_interval([rate for rate, _ in known], [alone for _, alone in known]) if known else None


def _percent(ratio: Interval | None, sign: int) -> str:
    """`31 % [28 35]`."""
    if ratio is None:
        return "-"
    middle, low, high = ratio
    ends = [] if low is None or high is None else sorted(round(100 * sign * (end - 1)) for end in (low, high))
    return f"{round(100 * sign * (middle - 1))} %" + (f" [{ends[0]} {ends[1]}]" if ends else "")
