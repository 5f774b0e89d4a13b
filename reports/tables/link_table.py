"""A run of `bench.link` as text: a matrix for each kind of transfer between ranks, and
sentences that name the slow pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from operator import attrgetter
from typing import NamedTuple

from reports.tables.headline import Point, headline
from reports.tables.run_text import lay_out_run
from reports.tables.sentences import (
    interval_text,
    number,
    plain_table,
    shape_text,
    shares_places,
    size_text,
)
from wiretax.common.grouped import grouped
from wiretax.record.schema import Case, Result

SLOWER = 1.25  # sentences name pairs and directions that differ by more


@dataclass(frozen=True)
class Matrix:
    """How the cases of an algorithm are shown, from rank (row) to rank (column): the title, with
    their size and the library that moves the data; as latencies, or as bandwidths. A case `of_both`
    directions stands in both of their cells."""

    title: str
    is_latency: bool = False
    of_both: bool = False


MATRICES = {
    "push": Matrix("push, {size}: row stores into column; diagonal: local copy"),
    "pull": Matrix("pull, {size}: column reads from row"),
    "engine_push": Matrix("push by copy engine, {size}: row copies into column"),
    "both_directions": Matrix("both directions at once, {size}: each", of_both=True),
    "ping_pong": Matrix("flag, the floor of any collective", is_latency=True, of_both=True),
    "send_library": Matrix("message by {library}, {size}: row sends to column"),
    "both_directions_library": Matrix(
        "both directions at once by {library}, {size}: each", of_both=True
    ),
    "ping_pong_library": Matrix(
        "message of one element by {library}", is_latency=True, of_both=True
    ),
}
# In the headline: the slowest of each kind.
LABELS = {
    "push": "{size} push",
    "send_library": "{size} between hosts",
    "ping_pong": "flag",
    "ping_pong_library": "message",
}
LATENCIES = [name for name, matrix in MATRICES.items() if matrix.is_latency]
ONE_WAY = "pull", "push", "send_library"
# A launch of a rank and the wait for its end; and the all-reduces of one token of a 70B model: 80
# layers, two each.
SUBMIT, SUBMIT_GRAPH, A_TOKEN = "submit_wait", "submit_wait_graph", 160
US, LOW_US, HIGH_US = (attrgetter(f"time_us.{part}") for part in ("median", "ci_low", "ci_high"))
Shown = dict[str, list[Case]]  # by algorithm


def measured(result: Result) -> list[Case]:
    """The cases with a time above 0."""
    return [
        case
        for case in result.cases
        if case.status == "ok" and case.time_us and case.time_us.median
    ]


def shown_in(result: Result) -> Shown:
    """The latencies, which have one size, and the others at one size: where most pushes, pulls and
    messages have an interval, or else a time; the largest of several such."""
    every = measured(result)

    def figures(size: int) -> tuple[int, int, int]:
        own = [case for case in every if case.size_bytes == size and case.algorithm in ONE_WAY]
        return sum(bool(HIGH_US(case)) for case in own), len(own), size

    size_bytes = max({case.size_bytes for case in every}, key=figures, default=0)
    shown = [
        case for case in every if case.algorithm in LATENCIES or case.size_bytes in (0, size_bytes)
    ]
    return grouped(shown, attrgetter("algorithm"))


def figure_of(case: Case) -> tuple[float, str]:
    """Its latency or its bandwidth, with the unit."""
    if case.algorithm in LATENCIES:
        return 1e3 * US(case), "ns one way"
    return case.size_bytes / US(case) / 1e3, "GB/s"


def pair_of(case: Case) -> tuple[int, int]:
    """The ranks from which and to which it transfers."""
    shape = case.shape or {}
    return shape.get("src", 0), shape.get("dst", 0)


class Figures(NamedTuple):
    """A matrix of a run: its title with the unit, and the figure of each pair (from, to)."""

    title: str
    is_latency: bool
    of_pairs: dict[tuple[int, int], float]


def matrices_of(result: Result) -> tuple[range, list[Figures]]:
    """The ranks, and the matrices in which something was measured. The diagonal of the first is
    local copies."""
    shown, found = shown_in(result), []
    pairs = [pair_of(case) for own in shown.values() for case in own]
    ranks = range(1 + max(map(max, pairs), default=0))
    library = next((case.library for case in result.cases if case.library), "the library")
    shown["push"] = [*shown.get("push", []), *shown.get("local_copy", [])]

    for algorithm, matrix in MATRICES.items():
        of_pairs = dict[tuple[int, int], float]()
        for case in shown.get(algorithm, []):
            (figure, unit), (src, dst) = figure_of(case), pair_of(case)
            of_pairs[src, dst] = figure
            if matrix.of_both:
                of_pairs[dst, src] = figure
        if of_pairs:
            title = matrix.title.format(size=size_text(case.size_bytes), library=library)
            found.append(Figures(f"{title}, {unit}", matrix.is_latency, of_pairs))

    return ranks, found


def render(result: Result) -> str:
    """The matrices from rank (row) to rank (column), `-` where nothing was measured, with their
    head and sentences."""
    ranks, matrices = matrices_of(result)

    def text_of(figure: float | None) -> str:
        return "-" if figure is None else number(figure)

    tables = []
    for title, _, of_pairs in matrices:
        rows = [[str(src), *(text_of(of_pairs.get((src, dst))) for dst in ranks)] for src in ranks]
        tables.append((title, plain_table(["", *map(str, ranks)], rows)))

    return lay_out_run(result, headline([result], points), [], tables, findings(result))


def points(result: Result) -> list[Point]:
    """The headline's figures: the slowest push and flag, and the same between hosts."""
    shown, figures = shown_in(result), list[Point]()
    for algorithm, label in LABELS.items():
        if cases := shown.get(algorithm):
            slowest = max(cases, key=US)
            label = label.format(size=size_text(slowest.size_bytes))
            figures.append(Point(label, *figure_of(slowest)))

    return figures


def findings(result: Result) -> list[str]:
    """The run in sentences: slow pairs and directions, the cost of contention and of a launch."""
    cases = measured(result)
    launches = _submissions(cases, bool(result.run.gpus))
    if shares_places(result.run.ranks):
        return ["Pairs are not compared: ranks share a GPU or a core.", *launches]
    return [*_slow_transfers(shown_in(result)), *_contention(cases), *launches]


def _submissions(cases: Sequence[Case], are_gpus: bool) -> list[str]:
    """What a launch and the wait for its end take the slowest rank, and those of a token."""
    by_name = grouped(cases, attrgetter("algorithm"))
    slowest = [max(by_name[name], key=US) for name in (SUBMIT, SUBMIT_GRAPH) if name in by_name]
    if not slowest:
        return []
    us = ", from a graph ".join(f"{_us_text(case)} us" for case in slowest)
    ms = ", from graphs ".join(f"{number(A_TOKEN * US(case) / 1e3)} ms" for case in slowest)
    what = "A rank's launch and the wait for its end take"
    if not are_gpus:
        what = "A CPU launches nothing: an iteration without a collective takes"
    return [
        f"{what} at most {us}; {A_TOKEN} of them, one for each all-reduce of a token of a 70B "
        f"model, {ms}."
    ]


def _us_text(case: Case) -> str:
    return interval_text((US(case), LOW_US(case), HIGH_US(case)))


def _slow_transfers(shown: Shown) -> list[str]:
    """The slowest transfer of each kind from one rank to another, or why they are not compared."""
    kinds = (shown.get(algorithm, []) for algorithm in (*LATENCIES, *ONE_WAY))
    several = [cases for cases in kinds if len(cases) > 1]
    comparable = [cases for cases in several if all(map(HIGH_US, cases))]
    if several and not comparable:
        return ["Pairs are not compared: too few blocks for intervals; --max-time gives more."]

    sentences = []
    for cases in comparable:
        fastest, *_, slowest = sorted(cases, key=US)
        ratio = US(slowest) / US(fastest)
        if (LOW_US(slowest) or 0) > HIGH_US(fastest) and ratio > SLOWER:
            pair, other = (shape_text(case.shape) for case in (slowest, fastest))
            sentences.append(
                f"{pair} is {ratio:.1f}x slower than {other} by {slowest.algorithm}, "
                f"{size_text(slowest.size_bytes)}."
            )

    even = f"No pair is more than {SLOWER:.2f}x slower than another."
    return sentences or ([even] if several else [])


def _contention(cases: Sequence[Case]) -> list[str]:
    """The largest slowdown of pushes at once over the slowest of them alone."""
    alone_us = {
        (*pair_of(case), case.size_bytes): US(case) for case in cases if case.algorithm == "push"
    }
    slowdowns = []

    for case in cases:
        if pairs := (case.shape or {}).get("pairs"):
            size = case.size_bytes
            slowest_us = max(alone_us.get((*pair, size), inf) for pair in pairs)
            names = " and ".join(f"{src} to {dst}" for src, dst in pairs)
            slowdowns.append((US(case) / slowest_us, f"{names}, {size_text(size)}"))

    ratio, where = max(slowdowns, default=(0.0, ""))
    said = f"A push takes up to {ratio:.2f}x as long in disjoint_pairs as alone (ranks {where})."
    return [said] if ratio else []
