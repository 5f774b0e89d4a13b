"""The rows of the default table: the library beside our algorithm. A time is the figure of its
case, which includes reading the result (`total_us`). A ratio is of costs of the same rounds, from
the table of case x round (`Counted.costs_us`). If several variants compete, one half of the rounds
chooses and the other gives the ratio, so that the choice does not bias it (`fastest_cases`)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.tables.sentences import (
    EVEN_RATIO,
    algorithm_of,
    interval_text,
    shape_words,
    shares_places,
    size_text,
)
from wiretax.common.grouped import grouped
from wiretax.record.blocks import paired
from wiretax.record.case import is_contender, is_own_benchmark, is_own_work, late_us, work_of
from wiretax.record.chain_links import leads, ratio_with_link_error
from wiretax.record.schema import Case, Counted, Result, RoundCosts, Rounds, Run
from wiretax.record.stats import Interval, autocorrelation, median_interval
from wiretax.record.wrong import worst_first

SUSPECT = "! above 100 % of the roofline of the measured parts: suspect"  # a table's footnote
UNLESS = ", unless the intervals overlap"
UNLIKE = (
    "Ranks share a GPU: the library moves data within its memory, ours through the host, so no "
    "ratio compares them."
)
BEATEN_BY = 1.05
# An interval with a larger quotient of its ends says nothing: around 1, and anywhere, where it
# leaves even the order of magnitude open.
TOO_WIDE, TOO_WIDE_ANYWHERE = 4, 10
TOO_NOISY = "too noisy"
STABLE = "auto_stable"
FASTER, SLOWER, EVEN = CLEAR = "faster", "slower", "even"  # what a ratio says
TOO_FEW, UNCLEAR = "too few blocks", "unclear"

View = tuple[str, Any]  # a mode and a shape: one table
interval_of = attrgetter("ratio", "low", "high")  # of a cell of a comparison


@dataclass
class Named:
    """An algorithm or a contender that the command line names, at one size: its best variant, and
    the costs of the library and of ours over its own. None where nothing was measured."""

    case: Case | None
    from_library: Interval | None
    from_ours: Interval | None


@dataclass
class SizeRow:
    """One size, or one skew of a routed all-to-all. `library` is the library's best variant;
    `ratio` its cost over ours; `better` another algorithm of ours that beats `auto`, and by which
    factor; `worst` is the case with the most wrong elements, or a right one, None if nothing was
    checked; `named` has the algorithms of `named_in`.
    The interval of `ratio` holds within this launch: another launch may lie outside."""

    size_bytes: int
    skew: str | None
    library: Case | None
    ours: Case | None
    ratio: Interval | None
    better: tuple[str, float] | None
    worst: Case | None
    named: dict[str, Named]

    @property
    def label(self) -> str:
        """The first cell of the row: its skew or its size, or what a time without a message is."""
        case = self.ours or self.library
        if case and is_own_work(case):
            return str((case.shape or {}).get("metric", algorithm_of(case)))
        return self.skew or size_text(self.size_bytes)

    @property
    def name(self) -> str:
        """The label, and of a program's own work its shape: `program m 128, n 64`."""
        case = self.ours or self.library
        if not (case and is_own_benchmark(case)) or "metric" in (case.shape or {}):
            return self.label
        return f"{self.label} {', '.join(shape_words(case.shape))}".strip()


def is_noisy(ratio: Interval) -> bool:
    """Whether the interval is too wide to say anything."""
    _, low, high = ratio
    if not low or not high:
        return False

    return high > (TOO_WIDE if low <= 1 <= high else TOO_WIDE_ANYWHERE) * low


def verdict_of(ratio: Interval | None) -> str | None:
    """Whether ours is faster than the library, in words; None if nothing can be said."""
    if ratio is None or is_noisy(ratio):
        return None

    middle, low, high = ratio
    if low is None or high is None:
        return TOO_FEW
    if low > 1 and middle > EVEN_RATIO:
        return FASTER
    if high < 1 and middle * EVEN_RATIO < 1:
        return SLOWER

    return EVEN if low * EVEN_RATIO >= 1 and high <= EVEN_RATIO else UNCLEAR


def ratio_text(interval: Interval | None) -> str:
    """A ratio as `1.93 [1.88 1.97]`."""
    return TOO_NOISY if interval and is_noisy(interval) else interval_text(interval)


def beats_bound(case: Case) -> bool:
    """Whether its table shows more than 100 % of the roofline: by chance, or it is suspect."""
    return case.suspect or round(case.share_of_bound or 0, 2) > 1


def sums_in_software(case: Case | None) -> bool:
    """Whether the library adds this type by a function call an element, as MPICH 5 adds halves: it
    then takes 50 to 300 times as long as our vector instructions, whatever moves the data."""
    is_half = case is not None and case.datatype == "float16" and case.redop not in ("none", None)
    return bool(is_half and case and (case.library or "").startswith("MPICH 5."))


def software_notes(cases: Iterable[Case | None]) -> list[str]:
    """The footnote of ratios to a library that sums in software."""
    slow = [case for case in cases if case and sums_in_software(case) and case.time_us]
    return [
        f"{library} sums {datatype} in software, one element after the other: a ratio to it "
        "compares instructions, not transport"
        for library, datatype in dict.fromkeys((case.library, case.datatype) for case in slow)
    ]


def bound_notes(cases: Iterable[Case | None]) -> list[str]:
    """The footnote of the marks behind shares of the roofline."""
    over = [case for case in cases if case and beats_bound(case)]
    if not over:
        return []
    return [SUSPECT if all(case.suspect for case in over) else SUSPECT + UNLESS]


def are_unlike(run: Run, case: Case | None, other: Case | None) -> bool:
    """Whether the ratio of two cases would compare two kinds of memory: ranks share a GPU, and one
    of the cases, which is ours, goes through the host, while a library or a contender moves data
    within the GPU's memory."""
    if case is None or other is None or not shares_places(run.ranks):
        return False
    is_ours, through_host = (
        {bool(each.library) for each in (case, other)},
        {
            each.memory == "host_staged" or (each.chosen or "").endswith(" over host_staged")
            for each in (case, other)
        },
    )
    return len(is_ours) == len(through_host) == 2


def cost_us(case: Case | None) -> float | None:
    """The cost of a case in microseconds; None if it is wrong or was not measured."""
    if case is None or case.status != "ok":
        return None

    summary = case.total_us or case.time_us
    return summary.median if summary else None


def view_of(case: Case) -> View:
    """The view that shows a case: its mode and its shape without the skew."""
    shape = {name: value for name, value in (case.shape or {}).items() if name != "skew"}
    return case.mode, shape or None


def views(result: Result) -> list[View]:
    """The views of a run: isolated before chained, but where the chain leads; then late ranks.
    Unsupported cases have a view only if nothing else ran."""
    cases = [case for case in result.cases if case.status != "unsupported"] or result.cases
    distinct = {repr(view_of(case)): view_of(case) for case in cases}
    first = "chained" if leads(result) else "isolated"
    return sorted(
        distinct.values() or [("isolated", None)],  # another harness may have been cut off early
        key=lambda view: (view[0] != first, late_us(view[1])),
    )


def own_words(result: Result, shape: Any) -> list[str]:
    """The words of a shape that the run's first table does not have."""
    first = shape_words(views(result)[0][1])
    return [word for word in shape_words(shape) if word not in first]


def shown_cases(result: Result, view: View) -> list[Case]:
    """The cases of a view with its first collective, datatype and redop, out of place if that was
    measured."""
    work = attrgetter("collective", "datatype", "redop")
    cases = [case for case in result.cases if view_of(case) == view]
    cases = [case for case in cases if work(case) == work(cases[0])]
    cases = [case for case in cases if not case.in_place] or cases
    # Quantised algorithms appear only if they are named, or all there is, or `auto` chose one.
    lossless = [case for case in cases if case.snr_db is None or case.algorithm == "auto"]
    is_enough = any(case.algorithm != "library" for case in lossless)
    return lossless if is_enough and not named_in(result) else cases


def named_in(result: Result) -> list[str]:
    """The algorithms of ours that `--algorithm` or `--stable` named, those of another harness, and
    the contenders."""
    has_names = result.run.imported_from or any(
        word.partition("=")[0] == "--algorithm" for word in result.run.argv
    )
    names = (
        algorithm_of(case)
        for case in result.cases
        if is_contender(case)
        or case.algorithm == STABLE
        or (has_names and case.algorithm not in ("library", "auto"))
    )
    return list(dict.fromkeys(names))


def costs_of(result: Result) -> RoundCosts:
    """The costs by case and round; none of a wrong case."""
    costs = result.counted.costs_us
    return {
        case.case: costs.get(case.case, {}) if case.status == "ok" else {} for case in result.cases
    }


def _rounds_of(cases: Sequence[Case], costs: RoundCosts, parity: int) -> RoundCosts:
    """The costs of these cases in even rounds (0) or in odd ones (1)."""
    return {
        case.case: {number: us for number, us in costs[case.case].items() if number % 2 == parity}
        for case in cases
    }


def ratios_of(case: Case | None, other: Case | None, costs: RoundCosts) -> NDArray[np.float64]:
    """The cost of one case over the cost of another in their common rounds, in order."""
    if case is None or other is None:
        return np.array([])

    return np.asarray(np.divide(*paired(costs[case.case], costs[other.case])))


@dataclass
class Contest:
    """The cases of one size, or skew, and the fastest of each kind that competes: the library's,
    ours, and one for each name of `named_in`. `exact` are our algorithms that lose no bits, and
    `report` the costs from which ratios of the fastest are taken."""

    cases: list[Case]
    library: Case | None
    ours: Case | None
    named: dict[str, Case | None]
    exact: list[Case]
    report: RoundCosts


def _contest(
    cases: list[Case], names: Sequence[str], is_imported: bool, costs: RoundCosts
) -> Contest:
    """Another harness's library is its subject: `ours`."""
    others = [case for case in cases if case.algorithm != "library" or is_imported]
    own = [case for case in others if not is_contender(case)]
    auto = [case for case in own if case.algorithm == "auto"]
    exact = [case for case in own if case.snr_db is None]
    competing = [
        [case for case in cases if case not in others],
        auto or exact or own,
        *([case for case in others if algorithm_of(case) == name] for name in names),
    ]
    (library, ours, *best_named), report = fastest_cases(competing, costs)
    named = dict(zip(names, best_named, strict=True))
    return Contest(cases, library, ours, named, exact, report)


def default_rows(result: Result, view: View) -> list[SizeRow]:
    """The rows of a view by size; rows of one size by skew, the most even first."""
    costs, names = costs_of(result), named_in(result)
    shown = sorted(
        shown_cases(result, view),
        key=lambda case: (case.size_bytes, (case.routing or {}).get("rank_max_over_mean", 1)),
    )
    groups = grouped(shown, lambda case: (case.size_bytes, (case.shape or {}).get("skew")))
    contests = [
        _contest(cases, names, bool(result.run.imported_from), costs) for cases in groups.values()
    ]
    rho = autocorrelation([ratios_of(each.library, each.ours, each.report) for each in contests])
    return [_row(result, contest, costs, rho) for contest in contests]


def first_rows(result: Result) -> list[SizeRow]:
    """The rows of the first view; of a program's own work those of every shape."""
    first, *others = views(result)
    rows = default_rows(result, first)
    if result.cases and all(map(is_own_benchmark, result.cases)):
        rows += [row for view in others for row in default_rows(result, view)]
    return rows


def _row(result: Result, contest: Contest, costs: RoundCosts, rho: float) -> SizeRow:
    """The row of a contest; its ratios have the correlation `rho` between neighbouring rounds."""

    def ratio(case: Case | None, other: Case | None) -> Interval | None:
        if are_unlike(result.run, case, other):
            return None
        return _ratio(result.counted, case, other, contest.report, rho)

    cases, ours = contest.cases, contest.ours
    checked = [case for case in cases if case.n_wrong is not None]
    return SizeRow(
        size_bytes=cases[0].size_bytes,
        skew=(cases[0].shape or {}).get("skew"),
        library=contest.library,
        ours=ours,
        ratio=ratio(contest.library, ours),
        better=_better(result.counted, ours, contest.exact, costs, rho),
        worst=next(iter(worst_first(checked) or checked), None),
        named={
            name: Named(case, ratio(contest.library, case), ratio(ours, case))
            for name, case in contest.named.items()
        },
    )


def fastest_cases(
    competing: Iterable[Sequence[Case]], costs: RoundCosts
) -> tuple[list[Case | None], RoundCosts]:
    """The fastest case of each list by odd rounds, and the costs to report: of all rounds if it is
    the fastest by even ones too, or else of even ones. Neither favours the chosen case: without a
    difference, the halves disagree as often as they agree. A wrong case is chosen before all
    others, so that readers see it."""
    fastest, report = list[Case | None](), dict[int, Rounds]()
    for cases in competing:
        wrong = [case for case in cases if case.status == "wrong"]
        each = wrong[:1] or [case for case in cases if cost_us(case) is not None] or cases[:1]
        odd, even = (_rounds_of(each, costs, parity) for parity in (1, 0))
        case = _best(each, odd)
        fastest.append(case)
        if case:
            own = (costs if case is _best(each, even) else even)[case.case]
            report[case.case] = min(own, report.get(case.case, own), key=len)

    return fastest, report


def _better(
    counted: Counted, ours: Case | None, exact: Sequence[Case], costs: RoundCosts, rho: float
) -> tuple[str, float] | None:
    """The fastest other of our exact algorithms, if it beats `auto`, and its factor."""
    if ours is None or ours.algorithm != "auto":
        return None

    others = [
        case
        for case in exact
        if cost_us(case) is not None
        and case.algorithm != "auto"
        and ours.chosen not in (case.algorithm, f"{case.algorithm} over {case.memory}")
    ]
    (fastest,), report = fastest_cases([others], costs)
    gain = _ratio(counted, ours, fastest, {**costs, **report}, rho)

    if fastest is None or gain is None or gain[0] <= BEATEN_BY or (gain[1] or 0) <= 1:
        return None

    variant = f" {fastest.variant}" if fastest.variant != ours.variant else ""
    return f"{algorithm_of(fastest)}{variant}", gain[0]


def speed_ups(result: Result) -> dict[int, Interval | None]:
    """The cost of the library's best variant over that of every other case of the same work that
    is not unlike it, by the number of the case."""
    costs, pairs = costs_of(result), list[tuple[Case, Case, RoundCosts]]()
    for cases in grouped(result.cases, lambda case: (work_of(case), case.in_place)).values():
        rivals = [case for case in cases if case.algorithm == "library"]
        for case in cases:
            if case.algorithm == "library":
                continue
            (library, _), report = fastest_cases([rivals, [case]], costs)
            if library and not are_unlike(result.run, library, case):
                pairs.append((library, case, report))

    rho = autocorrelation([ratios_of(*pair) for pair in pairs])
    return {
        case.case: _ratio(result.counted, library, case, report, rho)
        for library, case, report in pairs
    }


def _best(cases: Sequence[Case], costs: RoundCosts) -> Case | None:
    """The case with the lowest median over these rounds."""
    return min(cases, key=lambda case: _median_us(case, costs) or float("inf"), default=None)


def _median_us(case: Case, costs: RoundCosts) -> float | None:
    """Median cost over these rounds, where it is above 0; without a round, the cost of the case."""
    costs_us = [us for us in costs[case.case].values() if us > 0]
    return float(np.median(costs_us)) if costs_us else cost_us(case)


def _ratio(
    counted: Counted, case: Case | None, other: Case | None, costs: RoundCosts, rho: float
) -> Interval | None:
    """The paired ratio of two cases; of medians, without interval, if they share no round."""
    if case is None or other is None:
        return None

    ratios, link = ratios_of(case, other, costs), counted.chain_links.get(case.case)
    case_us, other_us = cost_us(case), cost_us(other)
    if not len(ratios):
        return (case_us / other_us, None, None) if case_us and other_us else None

    interval = median_interval(ratios, rho=rho)
    if link and case_us and other_us:
        return ratio_with_link_error(interval, link, case_us, other_us)
    return interval
