"""The heat maps of pages: of a link, every pair of ranks; of a search for the fastest algorithm,
every candidate at every size."""

from collections.abc import Collection, Iterator, Sequence
from statistics import geometric_mean, median

import numpy as np
from markupsafe import Markup

from reports.kit.chart import heat
from reports.kit.page import Cell, Row, Section
from reports.tables import link_table, tune_table
from reports.tables.sentences import algorithm_of, capitalised, number, size_text
from wiretax.common.grouped import grouped
from wiretax.record.schema import Case, Result

LEAST_HOTTEST = 2.0  # times as slow as the best: below, differences are noise
UNTUNED = "auto, untuned"
Times = dict[str, dict[str, float]]  # by candidate and size
EARLY = "Candidates that left early have few rounds."


def link_sections(result: Result) -> Iterator[Section]:
    """What stands out, and a heat map for each kind of transfer, from rank (row) to rank (column).
    The diagonal, which crosses no link, has no colour."""
    yield Section("What stands out", link_table.findings(result))

    ranks, matrices = link_table.matrices_of(result)
    for title, is_latency, of_pairs in matrices:
        between = [figure for (src, dst), figure in of_pairs.items() if src != dst]
        best, worst = min(between, default=1.0), max(between, default=1.0)
        if not is_latency:
            best, worst = worst, best
        hottest = hottest_of([worst / best, best / worst])
        rows: list[Row] = []
        for src in ranks:
            row: dict[str, Cell] = {"from": str(src)}
            for dst in ranks:
                figure = of_pairs.get((src, dst), np.nan)
                text = number(figure) if np.isfinite(figure) else "-"
                times = figure / best if is_latency else best / figure
                row[str(dst)] = text if src == dst else shade(times, text, hottest)
            rows.append(row)
        yield Section(capitalised(title), [key(hottest)], rows=rows, is_matrix=True)


def hottest_of(times: Collection[float]) -> float:
    """The times as long as the best of which a cell is deepest."""
    return max([LEAST_HOTTEST, *times])


def key(hottest: float) -> str:
    """What the colours mean."""
    return f"The deeper its colour, the slower a cell: deepest at {hottest:.3g}x the best's time."


def shade(times: float, text: str, hottest: float) -> Markup:
    """A cell of a heat map on a logarithmic scale, by how many times as long as the best it takes;
    what seems faster has no colour."""
    return heat(float(np.log(times)), text, float(np.log(hottest)))


def tune_sections(result: Result) -> Iterator[Section]:
    """What `auto` takes, and a heat map for each mode and variant: candidates against sizes."""
    winners: list[Row] = [
        {
            "size": size,
            "mode": winner.mode,
            **dict(zip(tune_table.HEADINGS[1:], cells, strict=True)),
        }
        for winner in result.winners
        for size, *cells in [tune_table.cells_of(winner)]
    ]
    notes = tune_table.NOTES if winners else [tune_table.NO_WINNER]
    yield Section("What auto takes", [f"{capitalised(note)}." for note in notes], rows=winners)

    cases = [case for case in result.cases if case.status == "ok" and not case.library]
    several = len({case.memory for case in cases}) > 1
    for (mode, variant), own in grouped(cases, lambda case: (case.mode, case.variant)).items():
        times = times_of(result, own, several)
        hottest = hottest_of([ratio for of_size in times.values() for ratio in of_size.values()])
        sizes = [size_text(size) for size in sorted({case.size_bytes for case in own})]

        def rank(name: str, times: Times = times) -> tuple[int, float]:
            """Those of all sizes first, by how long they take."""
            return -len(times[name]), geometric_mean(times[name].values())

        rows: list[Row] = []
        for name in sorted(times, key=rank):
            row: dict[str, Cell] = {"candidate": name}
            for size in sizes:
                ratio = times[name].get(size, np.nan)
                row[size] = shade(ratio, f"{ratio:.2f}x", hottest)
            rows.append(row)
        if not rows:
            continue
        yield Section(
            f"Every candidate: {variant}, {mode}",
            [f"Time over that of the fastest. {key(hottest)} {EARLY}"],
            rows=rows,
            is_matrix=True,
        )


def times_of(result: Result, cases: Sequence[Case], names_memory: bool) -> Times:
    """By candidate and size, the median over their common rounds of its time over that of the
    size's fastest candidate that stayed for half of the rounds."""

    def name_of(case: Case) -> str:
        if case.algorithm in ("auto", "auto_stable"):
            return UNTUNED
        return f"{algorithm_of(case)} {case.memory}" if names_memory else algorithm_of(case)

    costs_us, times = result.counted.costs_us, Times()
    for size, own in grouped(cases, lambda case: case.size_bytes).items():
        rounds = {case.case: costs_us.get(case.case, {}) for case in own}
        most = max(map(len, rounds.values()))
        lasting = [each for each in rounds.values() if each and len(each) >= most / 2]
        fastest = min(lasting, key=lambda each: median(each.values()), default={})
        for case in own:
            if shared := rounds[case.case].keys() & fastest.keys():
                ratios = [rounds[case.case][turn] / fastest[turn] for turn in shared]
                times.setdefault(name_of(case), {})[size_text(size)] = median(ratios)

    return times
