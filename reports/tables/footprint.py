"""The footprint: how much a collective and a matmul beside it slow each other down.

The collective is compared with itself without the matmul, in the same rounds; the matmul is
compared with itself beside ranks that only wait. Losses are in percent of the time of the
collective and of the rate of the matmul, with intervals over the blocks of this launch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from rich.table import Table

from reports.store.case import CASE_KEY, LinkStates, beside
from reports.store.schema import Case, Result
from reports.store.stats import median_interval
from reports.tables.rows import View, cost_us, costs_of, default_rows, ratios_of
from reports.tables.sentences import count, number, plain_table


def caption(result: Result) -> str:
    """The core or GPU of the matmul, its rate, and its reference."""
    rates = [block.matmul_alone_gflop_s for block in result.blocks if block.matmul_alone_gflop_s]
    rate = f"{number(float(np.median(rates)))} GFLOP/s a rank" if rates else "unknown speed"
    if result.run.clock_shared:
        place = "on a core that no rank has"
    else:
        most = max(rank.get("multiprocessors", 0) for rank in result.run.world["ranks"])
        place = f"in a separate stream on each GPU of {most} multiprocessors"
    return (f"what each loses to the other. The matmul (fp32, ours, {rate} beside ranks that only "
            f"wait) runs {place}.")


def footprint(result: Result, view: View, states: LinkStates) -> Table:
    """The table of a view, at most 80 columns: rows for the library and for ours."""
    units = "cores" if result.run.clock_shared else "blocks"
    return plain_table(
        {"size\n": 8, "\nalgorithm": 13, f"\n{units}": 6, "alone\nus": 6, "beside\nus": 6,
         "loses\n[95 %]": 13, "matmul loses\n[95 %]": 13, "\n#wrong": 6},
        [[row.label, *_cells(result, case, states)] for row in default_rows(result, view, states)
         for case in (row.library, row.ours) if case])


def _cells(result: Result, case: Case, states: LinkStates) -> list[str]:
    name = "library" if case.library else (case.chosen or case.algorithm).partition("+")[0]
    units = 1 if result.run.clock_shared else result.run.cases[case.case].blocks
    cells = ["-", "-", case.status.upper(), "-"]
    if case.status == "ok":
        alone = next((other for other in result.cases
                      if not beside(other.shape) and _key(other) == _key(case)), None)
        slowdowns = ratios_of(case, alone, costs_of(result, states, states.longest))
        # The rate of the matmul beside the case over its rate beside ranks that wait.
        rates = [block.matmul_gflop_s / block.matmul_alone_gflop_s
                 for block, state in zip(result.blocks, states.of_block, strict=True)
                 if block.case == case.case and state == states.longest
                 and block.matmul_gflop_s is not None and block.matmul_alone_gflop_s]
        cells = [number(cost_us(alone) if alone else None), number(cost_us(case)),
                 _percent(slowdowns, 1), _percent(rates, -1)]
    return [name, "-" if units is None else str(units), *cells, count(case.n_wrong)]


def _key(case: Case) -> object:
    """The key of a case without the work beside it."""
    shape = {name: value for name, value in (case.shape or {}).items() if name != "beside"}
    return [getattr(case, name) for name in CASE_KEY if name != "shape"], shape


def _percent(ratios: ArrayLike, sign: int) -> str:
    """`31 % [28 35]`, the median change of ratios from 1 with its interval."""
    if not np.size(ratios):
        return "-"
    middle, *ends = (None if value is None else round(100 * sign * (value - 1))
                     for value in median_interval(ratios))
    low, high = sorted(end for end in ends if end is not None) or (None, None)
    return f"{middle} %" + (f" [{low} {high}]" if low is not None else "")
