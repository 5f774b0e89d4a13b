"""A run of `bench.link`, as text and as a picture: a matrix for each kind of transfer between
ranks, the bandwidth at each size, and sentences that name the slow pair."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from reports.store.result import ResultError
from reports.store.schema import Result
from reports.tables.figure import dress, figure, figure_title
from reports.tables.sentences import has_gpus, lay_out_run, number, plain_table, size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BENCHMARK = "link"
SLOWER = 1.25  # sentences name pairs and directions that differ by more
# The transfers with a bandwidth: the heading, colour (Okabe and Ito's palette) and mark of each.
RATES = {"push": ("push", "#D55E00", "o"), "pull": ("pull", "#0072B2", "^"),
         "both_directions": ("both, each", "#009E73", "D"),
         "local_copy": ("local copy", "#7F7F7F", "s")}
PANEL_COLUMNS = 3
CONTENTION = {
    "disjoint_pairs": "At once, disjoint pairs take at most {:.2f}x as long as the slowest of them "
    "alone ({}).",
    "host_copy_beside": "Beside a host copy on the rank that gets the data, a push takes at most "
    "{:.2f}x as long ({})."}
Matrix = NDArray[np.float64]


def transfers(result: Result) -> pd.DataFrame:
    """The cases with a time, by algorithm and size: the ranks `src` and `dst`, or all `pairs` at
    once; median and interval in us, and GB/s."""
    rows = []
    for case in result.cases:
        if case.status == "ok" and case.time_us:
            time, src, dst = case.time_us, case.shape.get("src"), case.shape.get("dst")
            rows.append((case.algorithm, case.size_bytes, src, dst,
                         case.shape.get("pairs") or [(src, dst)], case.alg_bw_gb_s or 0.0,
                         time.median, time.ci_low or np.nan, time.ci_high or np.nan))
    return pd.DataFrame(rows, columns=["algorithm", "size_bytes", "src", "dst", "pairs", "gb_s",
                                       "us", "low", "high"])


def shown_size(result: Result) -> int | None:
    """The size of the matrices and of comparisons: the largest at which every push and pull has an
    interval, or else the largest measured one."""
    cases = [case for case in result.cases if case.algorithm in ("push", "pull")]
    unsure = {case.size_bytes for case in cases
              if case.time_us is None or None in (case.time_us.ci_low, case.time_us.ci_high)}
    sizes = {case.size_bytes for case in cases}
    return max(sizes - unsure or {case.size_bytes for case in cases if case.time_us}, default=None)


def _shown(result: Result) -> pd.DataFrame:
    """The transfers at the size of the comparisons; a flag has no size."""
    frame, size = transfers(result), shown_size(result) or 0
    return frame[frame.size_bytes == np.where(frame.algorithm == "ping_pong", 0, size)]


def _matrix(shown: pd.DataFrame, ranks: int, algorithm: str) -> Matrix:
    """GB/s from rank (row) to rank (column), or nanoseconds one way for `ping_pong`; NaN if not
    measured. A figure for both directions is stored twice."""
    cases, is_trip = shown[shown.algorithm == algorithm], algorithm == "ping_pong"
    values = np.full((ranks, ranks), np.nan)
    ends = cases.src.astype(int), cases.dst.astype(int)
    values[ends] = 1e3 * cases.us if is_trip else cases.gb_s
    if is_trip or algorithm == "both_directions":
        values[ends[::-1]] = values[ends]
    return values


def panels(result: Result) -> list[tuple[str, str, Matrix]]:
    """The measured matrices: title, unit and values. The diagonal of the first is local copies."""
    size = shown_size(result)
    if size is None:
        return []
    shown, ranks, at = _shown(result), result.run.world["size"], size_text(size)
    push, local, pull, both, flag = (_matrix(shown, ranks, algorithm) for algorithm in (
        "push", "local_copy", "pull", "both_directions", "ping_pong"))
    np.fill_diagonal(push, np.diag(local))
    matrices = [
        (f"push, {at}: row stores into column; diagonal: local copy", "GB/s", push),
        (f"pull, {at}: column reads from row", "GB/s", pull),
        (f"both directions at once, {at}: each", "GB/s", both),
        ("flag, one way", "ns", flag)]
    return [panel for panel in matrices if np.isfinite(panel[2]).any()]


def rates(result: Result) -> pd.DataFrame:
    """The GB/s of the slowest, the median and the fastest pair by algorithm and size."""
    frame = transfers(result)
    return frame[frame.algorithm.isin(RATES)].groupby(["algorithm", "size_bytes"]).gb_s.agg(
        ["count", "min", "median", "max"])


def render(result: Result) -> str:
    """The matrices with their head and sentences, at most 80 columns for up to 9 ranks; ends with a
    newline."""
    tables = [(f"{title}, {unit}", _matrix_table(values)) for title, unit, values in panels(result)]
    tables.append(("GB/s, slowest and fastest of all", _rate_table(rates(result))))
    return lay_out_run(result, [], tables, findings(result), 8 * (result.run.world["size"] + 1))


def _matrix_table(values: Matrix) -> Table:
    rows = [[f"{rank:>4}", *(number(None if np.isnan(value) else value) for value in row)]
            for rank, row in enumerate(values)]
    return plain_table({"": 4, **{str(rank): 8 for rank in range(len(values))}}, rows, gap=0)


def _rate_table(gb_s: Any) -> Table:
    """The bandwidth of the slowest and the fastest pair at each size."""
    spans = {place: number(rate["max"]) if rate["count"] == 1 else
             f"{number(rate['min'])} - {number(rate['max'])}"
             for place, rate in gb_s.to_dict("index").items()}
    names = [name for name in RATES if name in gb_s.index]
    return plain_table(
        {"size": 8, **{RATES[name][0]: 17 for name in names}},
        [[size_text(size), *(spans.get((name, size), "-") for name in names)]
         for size in sorted({size for _, size in spans})], gap=0)


def findings(result: Result) -> list[str]:
    """The run in sentences: the slow pair, unequal directions, the latency of a flag, the launch,
    and the cost of contention."""
    shown = _shown(result)
    sentences = [*_slow_pairs(result, shown), *_directions(result, shown)]
    frame, name = transfers(result), _rank_name(result)
    trips: list[Any] = [*frame[frame.algorithm == "ping_pong"].itertuples()]
    launches: list[Any] = [*frame[frame.algorithm == "launch"].itertuples()]
    if trips:
        nearest = min(trips, key=attrgetter("us"))
        sentences.append(
            f"A flag takes {number(1e3 * nearest.us)} ns one way ({_pair(name, nearest)}"
            f"{', the nearest' * (len(trips) > 1)}), which is the floor of any collective.")
    if launches:
        slowest = max(launches, key=attrgetter("us"))
        sentences.append(f"To launch an empty kernel and wait for its end takes "
                         f"{number(slowest.us)} us on {name}{slowest.src:.0f}"
                         f"{', the slowest' * (len(launches) > 1)}.")
    return sentences if shares_cores(result) else [*sentences, *_contention(frame, name)]


def shares_cores(result: Result) -> bool:
    """Whether ranks take turns on a core or a GPU: then pairs are not comparable."""
    ranks = result.run.world.get("ranks", [])
    places = [[rank["pci_bus_id"]] if rank.get("pci_bus_id") else rank.get("cpus") or [number]
              for number, rank in enumerate(ranks)]
    return len({part for place in places for part in place}) < len(ranks)


def _comparable(shown: pd.DataFrame, algorithm: str) -> pd.DataFrame:
    """The transfers of all pairs at the shown size; none if one lacks an interval."""
    cases = shown[shown.algorithm == algorithm]
    return cases[:0] if cases[["low", "high"]].isna().any(axis=None) else cases


def _slow_pairs(result: Result, shown: pd.DataFrame) -> list[str]:
    """The slowest pair by push, by pull and for a flag, or why pairs are not compared."""
    size, name = result.run.world["size"], _rank_name(result)
    if size < 3:
        return ["One pair: there is no other to compare it with."] * (size == 2)
    if shares_cores(result):
        return ["Pairs are not compared: ranks take turns, so that times are the scheduler's."]
    if not len(_comparable(shown, "push")):
        return ["Pairs are not compared: there are too few blocks for intervals; --max-time gives "
                "more."]
    sentences = []
    for algorithm, transfer in (("push", "by push, "), ("pull", "by pull, "),
                                ("ping_pong", "for a flag, one way")):
        ordered = _comparable(shown, algorithm).sort_values("us", kind="stable")
        if ordered.empty or not _is_slower(ordered, ordered.iloc[0]).iloc[-1]:
            continue
        fastest, slowest = ordered.iloc[0], ordered.iloc[-1]
        slow = ordered[_is_slower(ordered, fastest)]
        pairs = len(set(map(frozenset, zip(slow.src, slow.dst, strict=True))))
        more = f"; {pairs} pairs are slower than that" if pairs > 1 else ""
        at = size_text(slowest.size_bytes) if slowest.size_bytes else ""
        sentences.append(
            f"{_pair(name, slowest)} is {_ratio(slowest.us, fastest.us):.1f}x slower than "
            f"{_pair(name, fastest)} {transfer}{at}{more}.")
    return sentences or [f"No pair is more than {SLOWER:.2f}x slower than another."]


def _directions(result: Result, shown: pd.DataFrame) -> list[str]:
    """The pair with the largest difference between its two directions."""
    cases = pd.concat([_comparable(shown, "push"), _comparable(shown, "pull")])
    both = cases.merge(cases, left_on=["algorithm", "src", "dst"], suffixes=("", "_back"),
                       right_on=["algorithm", "dst", "src"])
    back = both[["us_back", "high_back"]].set_axis(["us", "high"], axis=1)
    unequal = both[_is_slower(both, back)]
    if unequal.empty or shares_cores(result):
        return []
    worst = unequal.loc[_ratio(unequal.us, unequal.us_back).idxmax()]
    name = _rank_name(result)
    src, dst = f"{name}{worst.src:.0f}", f"{name}{worst.dst:.0f}"
    return [f"{src} to {dst} is {_ratio(worst.us, worst.us_back):.1f}x slower than {dst} to {src} "
            f"by {worst.algorithm}, {size_text(worst.size_bytes)}."]


def _contention(frame: pd.DataFrame, name: str) -> list[str]:
    """The largest slowdown of pushes at the same time, and of a push beside a host copy, over the
    slowest of their pairs alone."""
    push = frame[frame.algorithm == "push"]
    alone_us = {(src, dst, size): us for src, dst, size, us in
                push[["src", "dst", "size_bytes", "us"]].itertuples(index=False)}
    sentences = []
    for algorithm, sentence in CONTENTION.items():
        worst, worst_pairs = 0.0, ""
        cases = frame[frame.algorithm == algorithm]
        for pairs, size, us in zip(cases.pairs, cases.size_bytes, cases.us, strict=True):
            single_us = [alone_us.get((src, dst, size), 0.0) for src, dst in pairs]
            if any(single_us) and _ratio(us, max(single_us)) > worst:
                worst = _ratio(us, max(single_us))
                names = (f"{name}{src:.0f}-{name}{dst:.0f}" for src, dst in pairs)
                worst_pairs = f"{' and '.join(names)}, {size_text(size)}"
        if worst:
            sentences.append(sentence.format(worst, worst_pairs))
    return sentences


def _ratio(slow_us: Any, fast_us: Any) -> Any:
    return slow_us / np.maximum(fast_us, 1e-9)


def _is_slower(slow: Any, fast: Any) -> Any:
    """Whether a transfer is slower by more than SLOWER, with separate intervals."""
    return (slow.low > fast.high) & (_ratio(slow.us, fast.us) > SLOWER)


def _rank_name(result: Result) -> str:
    return "GPU" if has_gpus(result) else "rank"


def _pair(name: str, transfer: Any) -> str:
    return "-".join(f"{name}{rank:.0f}" for rank in sorted((transfer.src, transfer.dst)))


def draw(result: Result, path: Path | IO[Any]) -> None:
    """Draws a heat map for each kind of transfer, and bandwidth against size. Raises ResultError
    for a run without a measured case, or a file that cannot be written."""
    maps, gb_s = panels(result), rates(result)
    if gb_s.empty:
        raise ResultError(f"{result.path} has no measured case to draw")
    rows, columns = -(-(len(maps) + 1) // PANEL_COLUMNS), min(PANEL_COLUMNS, len(maps) + 1)
    with figure(path, rows, columns, (5.2 * columns, 4.9 * rows), dpi=110) as (made, axes):
        places = iter(axes.flat)
        for panel in maps:
            _draw_map(next(places), *panel)
        _draw_sizes(next(places), gb_s)
        for place in places:
            place.axis("off")
        made.suptitle(figure_title(result))


def _draw_map(axes: Axes, title: str, unit: str, values: Matrix) -> None:
    """Every cell shows its value, so that no reader depends on colours; bright is good. Local
    copies have no colour, because they are off the scale of the link."""
    is_rate = unit == "GB/s"
    link = values.copy()
    np.fill_diagonal(link, np.nan)
    # Rates start at 0; times span a factor of two or more, so that small differences look small.
    low = 0.0 if is_rate else float(np.nanmin(link))
    high = max(float(np.nanmax(link)), 2 * low)
    axes.imshow(link, cmap="cividis" if is_rate else "cividis_r", vmin=low, vmax=high)
    for (row, column), value in np.ndenumerate(values):
        brightness = (link[row, column] - low) / (high - low)
        if not is_rate:
            brightness = 1 - brightness
        # Local copies stand on the white page, which a dark page inverts together with black text.
        colour = "black" if np.isnan(brightness) else "white" if brightness < 0.5 else "#111111"
        axes.text(column, row, "" if np.isnan(value) else number(float(value)), ha="center",
                  va="center", color=colour, fontsize=13 if len(values) < 5 else 9)
    ranks = range(len(values))
    axes.set(xticks=ranks, yticks=ranks, xlabel="to rank" if is_rate else "rank",
             ylabel="from rank" if is_rate else "rank")
    transfer, _, detail = title.partition(": ")
    axes.set_title(f"{transfer}, {unit}" + (f"\n{detail}" if detail else ""), fontsize=10)


def _draw_sizes(axes: Axes, gb_s: Any) -> None:
    """The median pair as a line, in a band from the slowest to the fastest."""
    for name, (_, colour, marker) in RATES.items():
        if name in gb_s.index:
            rate, label = gb_s.loc[name], name.replace("_", " ")
            axes.plot(rate["median"], color=colour, marker=marker, label=label)
            axes.fill_between(rate.index, rate["min"], rate["max"], color=colour, alpha=0.2)
    dress(axes, sorted(gb_s.index.unique("size_bytes")))
    axes.set_title("GB/s against size: median pair, slowest to fastest", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
