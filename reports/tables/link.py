"""A run of `bench.link` as text: a matrix for each kind of transfer between ranks, and
sentences that name the slow pair."""

from typing import Any

import numpy as np

from reports.store.schema import Result, Summary
from reports.tables.headline import Point, headline
from reports.tables.run_text import lay_out_run
from reports.tables.sentences import number, plain_table, shares_places, size_text

SLOWER = 1.25  # sentences name pairs and directions that differ by more
# The title and the unit of each matrix, with the size and the library that moves the data.
MATRICES = {
    "push": ("push, {size}: row stores into column; diagonal: local copy", "GB/s"),
    "pull": ("pull, {size}: column reads from row", "GB/s"),
    "engine_push": ("push by copy engine, {size}: row copies into column", "GB/s"),
    "both_directions": ("both directions at once, {size}: each", "GB/s"),
    "ping_pong": ("flag, one way", "ns"),
    "send_library": ("message by {library}, {size}: row sends to column", "GB/s"),
    "both_directions_library": ("both directions at once by {library}, {size}: each", "GB/s"),
    "ping_pong_library": ("message of one element by {library}, one way", "ns"),
}
SYMMETRIC = [name for name in MATRICES if name.startswith(("both", "ping"))]
ONE_WAY = "push", "pull", "send_library"
LATENCIES = "ping_pong", "ping_pong_library"


def transfers(result: Result) -> tuple[Any, Any]:
    """The cases with a time: the `pairs` of ranks at once, the first as `src`, `dst` and as text;
    GB/s, and the median above 0 with its interval in us. Then those of them at one size, the
    largest at which every push, pull and message has an interval, or else the largest; and
    latencies, which have one size."""
    import pandas as pd  # takes 0.3 s, which other runs do not need

    name, rows = "GPU" if result.run.gpus else "rank", []

    for case in result.cases:
        time, shape = case.time_us or Summary(median=np.nan), case.shape or {}
        pairs = shape.get("pairs") or [(shape.get("src", 0), shape.get("dst", 0))]
        src, dst = pairs[0]
        rows.append(
            {
                "algorithm": case.algorithm,
                "size_bytes": case.size_bytes,
                "src": src,
                "dst": dst,
                "pairs": pairs,
                "pair": " to ".join(f"{name}{rank}" for rank in dict.fromkeys((src, dst))),
                "gb_s": case.alg_bw_gb_s or 0.0,
                "us": max(time.median, 1e-9) if case.status == "ok" else np.nan,
                "low": time.ci_low or np.nan,
                "high": time.ci_high or np.nan,
            }
        )

    frame = pd.DataFrame(rows)
    frame = frame[frame.us.notna()]
    one_way = frame[frame.algorithm.isin(ONE_WAY)]
    unsure = set(one_way.size_bytes[one_way.high.isna()])
    sizes = set(one_way.size_bytes) - unsure or set(frame.size_bytes)
    has_one_size = frame.algorithm.isin(LATENCIES)
    return frame, frame[has_one_size | frame.size_bytes.isin([0, max(sizes, default=0)])]


def matrices(result: Result) -> list[tuple[str, str, Any]]:
    """The measured matrices from rank (row) to rank (column): title, unit and values, NaN if not
    measured. The diagonal of the first is local copies."""
    shown = transfers(result)[1].replace({"algorithm": {"local_copy": "push"}})
    ranks, measured = 1 + max([*shown.src, *shown.dst], default=0), []
    library = next((case.library for case in result.cases if case.library), "the library")

    for algorithm, (title, unit) in MATRICES.items():
        cases = shown[shown.algorithm == algorithm]
        if len(cases):
            values = np.full((ranks, ranks), np.nan)
            values[cases.src, cases.dst] = cases.gb_s if unit == "GB/s" else 1e3 * cases.us
            if algorithm in SYMMETRIC:
                values[cases.dst, cases.src] = values[cases.src, cases.dst]
            size = size_text(cases.size_bytes.max())
            measured.append((title.format(size=size, library=library), unit, values))

    return measured


def render(result: Result) -> str:
    """The matrices with their head and sentences."""
    tables = []
    for title, unit, values in matrices(result):
        ranks = [str(rank) for rank in range(len(values))]
        rows = [[rank, *map(number, row)] for rank, row in zip(ranks, values, strict=True)]
        tables.append((f"{title}, {unit}", plain_table(["", *ranks], rows)))

    return lay_out_run(result, headline([result], points), [], tables, findings(result))


def points(result: Result) -> list[Point]:
    """The headline's figures: the slowest push and flag, and the same between hosts."""
    shown, figures = transfers(result)[1], list[Point]()
    for name, label in (("push", "push"), ("send_library", "between hosts")):
        cases = shown[shown.algorithm == name]
        if len(cases):
            size = size_text(int(cases.size_bytes.max()))
            figures.append(Point(f"{size} {label}", float(cases.gb_s.min()), "GB/s"))

    for name, label in (("ping_pong", "flag"), ("ping_pong_library", "message")):
        trips = shown[shown.algorithm == name]
        if len(trips):
            figures.append(Point(label, 1e3 * float(trips.us.max()), "ns one way"))

    return figures


def findings(result: Result) -> list[str]:
    """The run in sentences: slow pairs and directions, latencies, and the cost of contention."""
    frame, shown = transfers(result)
    is_shared = shares_places(result.run.ranks)
    sentences = ["Pairs are not compared: ranks share a GPU or a core."]

    if not is_shared:
        sentences = _slow_transfers(shown)

    for name, words in (
        ("ping_pong", "A flag takes at least {} ns one way ({}), the floor of any collective."),
        ("ping_pong_library", "Between hosts an element takes at least {} ns one way ({})."),
    ):
        cases = shown[shown.algorithm == name]
        if len(cases):
            nearest = cases.loc[cases.us.idxmin()]
            sentences.append(words.format(number(1e3 * nearest.us), nearest.pair))

    return sentences if is_shared else [*sentences, *_contention(frame)]


def _slow_transfers(shown: Any) -> list[str]:
    """The slowest transfer of each kind from one rank to another, or why they are not compared."""
    several = shown[shown.algorithm.isin([*ONE_WAY, *LATENCIES])]
    several = several.groupby("algorithm").filter(lambda cases: len(cases) > 1)

    if several.empty:
        return []

    comparable = several.groupby("algorithm").filter(lambda cases: cases.high.notna().all())
    if comparable.empty:
        return ["Pairs are not compared: too few blocks for intervals; --max-time gives more."]

    sentences = []
    for algorithm, cases in comparable.groupby("algorithm"):
        fastest, slowest = cases.loc[cases.us.idxmin()], cases.loc[cases.us.idxmax()]
        ratio = slowest.us / fastest.us
        if slowest.low > fastest.high and ratio > SLOWER:
            sentences.append(
                f"{slowest.pair} is {ratio:.1f}x slower than {fastest.pair} by {algorithm}, "
                f"{size_text(slowest.size_bytes)}."
            )

    return sentences or [f"No pair is more than {SLOWER:.2f}x slower than another."]


def _contention(frame: Any) -> list[str]:
    """The largest slowdown of pushes at once over the slowest of them alone."""
    alone_us = frame[frame.algorithm == "push"].set_index(["src", "dst", "size_bytes"]).us.to_dict()
    slowdowns = []

    for case in frame[frame.algorithm == "disjoint_pairs"].itertuples():
        slowest_us = max(alone_us.get((*pair, case.size_bytes), np.inf) for pair in case.pairs)
        pairs = " and ".join(f"{src} to {dst}" for src, dst in case.pairs)
        slowdowns.append((case.us / slowest_us, f"{pairs}, {size_text(case.size_bytes)}"))

    ratio, where = max(slowdowns, default=(0.0, ""))
    return (
        [f"A push takes up to {ratio:.2f}x as long in disjoint_pairs as alone (ranks {where})."]
        if ratio
        else []
    )
