"""How much a collective and a matmul beside it slow each other down: the time of the collective
over its time alone, in the same rounds, and the rate of the matmul over its rate beside ranks that
only wait, with intervals over the blocks of this launch."""

from operator import attrgetter

import numpy as np
from msgspec.structs import replace
from numpy.typing import ArrayLike
from rich.table import Table

from reports.store.case import CASE_KEY, LinkStates
from reports.store.schema import Result
from reports.store.stats import median_interval
from reports.tables.rows import View, cost_us, costs_of, default_rows, ratio_text, ratios_of
from reports.tables.sentences import count, has_gpus, number, plain_table


def caption(result: Result, view: View) -> str:
    """The title of the table of a view."""
    place = "in a separate stream on each GPU" if has_gpus(result) else "on a core that no rank has"
    calls = ", chained, us of a call" * (view[0] == "chained")
    return f"beside a matmul{calls}: what each loses to the other (fp32, ours, {place})"


def footprint(result: Result, view: View, states: LinkStates) -> Table:
    """The table of a view, at most 80 columns: rows for the library and for ours."""
    is_cpu, key, cells = not has_gpus(result), attrgetter(*CASE_KEY), []
    costs = costs_of(result, states, states.longest)

    for row in default_rows(result, view, states):
        for case in filter(None, (row.library, row.ours)):
            blocks = 1 if is_cpu else result.run.cases[case.case].blocks
            shape = {name: value for name, value in case.shape.items() if name != "beside"}
            key_alone = key(replace(case, shape=shape or None))
            alone = next((other for other in result.cases if key(other) == key_alone), None)
            # The rate of the matmul beside the case over its rate beside ranks that wait.
            rates = [
                block.matmul_gflop_s / block.matmul_alone_gflop_s
                for block, state in zip(result.blocks, states.of_block, strict=True)
                if block.case == case.case
                and state == states.longest
                and block.matmul_gflop_s is not None
                and block.matmul_alone_gflop_s
            ]
            figures = [
                number(cost_us(case)),
                _ratio_text(ratios_of(case, alone, costs)),
                _ratio_text(rates),
            ]
            if case.status != "ok":
                figures = ["-", case.status.upper(), "-"]
            name = "library" if case.library else (case.chosen or case.algorithm).partition("+")[0]
            cells.append([row.label, name, str(blocks or "-"), *figures, count(case.n_wrong)])

    headings = [
        "size\n",
        "\nalgorithm",
        "\ncores" if is_cpu else "\nblocks",
        "beside\nus",
        "beside/alone\n[95 %]",
        "matmul rate\n[95 %]",
        "\n#wrong",
    ]
    return plain_table(headings, cells)


def _ratio_text(ratios: ArrayLike) -> str:
    return ratio_text(median_interval(ratios) if np.size(ratios) else None)
