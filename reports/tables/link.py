"""A run of `bench.link`, as text and as a picture: a matrix for each kind of transfer between
ranks, the bandwidth at each size, and sentences that name the slow pair."""

from typing import Any

import numpy as np

from reports.store.result import ResultError
from reports.store.schema import Result, Summary
from reports.tables.figure import Target, dress, figure, figure_title
from reports.tables.headline import Point, headline
from reports.tables.sentences import has_gpus, lay_out_run, number, plain_table, size_text

SLOWER = 1.25  # sentences name pairs and directions that differ by more
# The transfers with a bandwidth: the heading, colour (Okabe and Ito's palette) and mark of each.
RATES = {
    "push": ("push", "#D55E00", "o"),
    "pull": ("pull", "#0072B2", "^"),
    "engine_push": ("by engine", "#CC79A7", "v"),
    "both_directions": ("both, each", "#009E73", "D"),
    "local_copy": ("local copy", "#7F7F7F", "s"),
    "send_library": ("between hosts", "#E69F00", "P"),
}
# The title and the unit of each matrix.
PANELS = {
    "push": ("push, {}: row stores into column; diagonal: local copy", "GB/s"),
    "pull": ("pull, {}: column reads from row", "GB/s"),
    "engine_push": ("push by copy engine, {}: row copies into column", "GB/s"),
    "both_directions": ("both directions at once, {}: each", "GB/s"),
    "ping_pong": ("flag, one way", "ns"),
}
# Between hosts the library moves the data: what stands in the matrix of each transfer.
FAR = {
    "push": "send_library",
    "both_directions": "both_directions_library",
    "ping_pong": "ping_pong_library",
}
# Its title if no pair of ranks is on one host.
FAR_TITLES = {
    "push": "message, {}: row sends to column; diagonal: local copy",
    "both_directions": PANELS["both_directions"][0],
    "ping_pong": "message of one element, one way",
}
COMPARED = {
    "push": "by push, {}",
    "pull": "by pull, {}",
    "ping_pong": "for a flag, one way",
    "send_library": "by message, {}",
    "ping_pong_library": "for a message, one way",
}
ONE_WAY = "push", "pull", "send_library"
LATENCIES = "ping_pong", "ping_pong_library"
CONTENTION = {
    "disjoint_pairs": "Disjoint pairs at once take up to {:.2f}x as long as the slowest alone: {}.",
    "host_copy_beside": "Beside a host copy at its target, a push takes up to {:.2f}x as long: {}.",
}


def transfers(result: Result) -> tuple[Any, Any]:
    """The cases with a time: the `pairs` of ranks at once, the first as `src`, `dst` and as text;
    GB/s, and the median above 0 with its interval in us. Then those of them at one size, the
    largest at which every push, pull and message has an interval, or else a time; and latencies,
    which have one size."""
    import pandas as pd  # takes 0.3 s, which other runs do not need

    name = "GPU" if has_gpus(result) else "rank"
    rows = []
    for case in result.cases:
        time, shape = case.time_us or Summary(median=np.nan), case.shape or {}
        pairs = shape.get("pairs") or [(shape.get("src", 0), shape.get("dst", 0))]
        pair = "-".join(f"{name}{rank}" for rank in sorted(pairs[0]))
        rows.append(
            (
                case.algorithm,
                case.size_bytes,
                case.status,
                *pairs[0],
                pairs,
                pair,
                case.alg_bw_gb_s or 0.0,
                max(time.median, 1e-9),
                time.ci_low or np.nan,
                time.ci_high or np.nan,
            )
        )
    frame = pd.DataFrame(
        rows,
        columns=[
            "algorithm",
            "size_bytes",
            "status",
            "src",
            "dst",
            "pairs",
            "pair",
            "gb_s",
            "us",
            "low",
            "high",
        ],
    )
    one_way = frame[frame.algorithm.isin(ONE_WAY)]
    unsure = set(one_way.size_bytes[one_way.high.isna()])
    sizes = set(one_way.size_bytes) - unsure or set(one_way.size_bytes[one_way.us.notna()])
    frame = frame[(frame.status == "ok") & frame.us.notna()]
    has_one_size = frame.algorithm.isin(LATENCIES)
    return frame, frame[has_one_size | frame.size_bytes.isin([0, max(sizes, default=0)])]


def panels(result: Result) -> list[tuple[str, str, Any]]:
    """The measured matrices from rank (row) to rank (column): title, unit and values, NaN if not
    measured. The diagonal of the first is local copies."""
    shown = transfers(result)[1].replace({"algorithm": {"local_copy": "push"}})
    ranks, measured = 1 + max([*shown.src, *shown.dst], default=0), []
    for algorithm, (title, unit) in PANELS.items():
        is_far = shown.algorithm == FAR.get(algorithm)
        cases = shown[is_far | (shown.algorithm == algorithm)]
        if len(cases):
            values = np.full((ranks, ranks), np.nan)
            values[cases.src, cases.dst] = cases.gb_s if unit == "GB/s" else 1e3 * cases.us
            if algorithm in ("both_directions", "ping_pong"):
                values[cases.dst, cases.src] = values[cases.src, cases.dst]
            if is_far.any():
                is_near = (cases.algorithm == algorithm) & (cases.src != cases.dst)
                title = title if is_near.any() else FAR_TITLES[algorithm]
                title += f"; between hosts {library_of(result)}"
            measured.append((title.format(size_text(cases.size_bytes.max())), unit, values))
    return measured


def library_of(result: Result) -> str:
    """The library that moves data between hosts, such as `MPICH 5.0.2`."""
    return next((case.library for case in result.cases if case.library), "the library")


def rates(result: Result) -> Any:
    """The GB/s of the slowest, the median and the fastest pair by algorithm and size."""
    frame = transfers(result)[0]
    return (
        frame[frame.algorithm.isin(RATES)]
        .groupby(["algorithm", "size_bytes"])
        .gb_s.agg(["count", "min", "median", "max"])
    )


def render(result: Result) -> str:
    """The matrices with their head and sentences, at most 80 columns for up to 9 ranks."""
    gb_s, tables, ranks = rates(result), [], range(0)
    for title, unit, values in panels(result):
        ranks = range(len(values))
        rows = [
            [f"{rank:>4}", *("-" if np.isnan(value) else number(value) for value in row)]
            for rank, row in enumerate(values)
        ]
        columns = {"": 4} | {str(rank): 8 for rank in ranks}
        tables.append((f"{title}, {unit}", plain_table(columns, rows, gap=0)))
    spans = {
        place: number(rate["max"])
        if rate["count"] == 1
        else f"{number(rate['min'])} - {number(rate['max'])}"
        for place, rate in gb_s.to_dict("index").items()
    }
    names = [name for name in RATES if name in gb_s.index]
    rows = [
        [size_text(size), *(spans.get((name, size), "-") for name in names)]
        for size in sorted({size for _, size in spans})
    ]
    width = {5: 13, 6: 11}.get(len(names), 16)
    columns = {"size": 7} | {RATES[name][0]: width for name in names}
    tables.append(("GB/s, slowest and fastest of all", plain_table(columns, rows)))
    return lay_out_run(
        result, headline([result], points), [], tables, findings(result), 8 * (len(ranks) + 1)
    )


def points(result: Result) -> list[Point]:
    """The headline's figures: the slowest push, or else pull, and the slowest flag; and of those
    between hosts."""
    shown, figures = transfers(result)[1], list[Point]()
    for name in ONE_WAY:
        cases = shown[shown.algorithm == name]
        if len(cases) and (name != "pull" or not figures):
            label = f"{size_text(int(cases.size_bytes.max()))} " + (
                "between hosts" if name == FAR["push"] else name
            )
            figures.append(Point(label, float(cases.gb_s.min()), "GB/s"))
    for name, label in (("ping_pong", "flag"), (FAR["ping_pong"], "message")):
        trips = shown[shown.algorithm == name]
        if len(trips):
            unit, scale = ("ns", 1e3) if name == "ping_pong" else ("us", 1.0)
            figures.append(Point(label, scale * float(trips.us.max()), f"{unit} one way"))
    return figures


def findings(result: Result) -> list[str]:
    """The run in sentences: slow pairs and directions, latencies, and the cost of contention."""
    frame, shown = transfers(result)
    name, ranks = "GPU" if has_gpus(result) else "rank", result.run.world.get("ranks", [])
    places = [
        (rank.get("host"), place)
        for number, rank in enumerate(ranks)
        for place in (
            [rank["pci_bus_id"]] if rank.get("pci_bus_id") else rank.get("cpus") or [number]
        )
    ]
    take_turns = len({*places}) < len(ranks)
    sentences = ["Pairs are not compared: ranks take turns, so that times are the scheduler's."]
    if not take_turns:
        sentences = _comparisons(shown, name)
    trips, launches = (shown[shown.algorithm == kind] for kind in ("ping_pong", "launch"))
    if len(trips):
        nearest = trips.loc[trips.us.idxmin()]
        sentences.append(
            f"A flag takes {number(1e3 * nearest.us)} ns one way ({nearest.pair}"
            f"{', the nearest' * (len(trips) > 1)}), the floor of any collective"
            f"{' within a host' * (result.run.world.get('hosts', 1) != 1)}."
        )
    sentences += _between_hosts(result, shown, take_turns)
    if len(launches):
        slowest = launches.loc[launches.us.idxmax()]
        sentences.append(
            f"To launch an empty kernel and wait for it takes {number(slowest.us)} us "
            f"on {name}{slowest.src}{', the slowest' * (len(launches) > 1)}."
        )
    return sentences if take_turns else [*sentences, *_contention(frame, name)]


def _between_hosts(result: Result, shown: Any, take_turns: bool) -> list[str]:
    """The time of messages between hosts, beside the slowest transfer within a host unless ranks
    take turns."""
    sends, pushes, trips = (
        shown[shown.algorithm == kind] for kind in (FAR["push"], "push", FAR["ping_pong"])
    )
    sentences = []
    if len(trips):
        nearest = trips.loc[trips.us.idxmin()]
        sentences.append(
            f"Between hosts an element takes {number(nearest.us)} us one way "
            f"({nearest.pair}{', the nearest' * (len(trips) > 1)}) by "
            f"{library_of(result)}, the floor of any collective over hosts."
        )
    if len(sends) and len(pushes) and not take_turns:
        slowest, push = sends.loc[sends.us.idxmax()], pushes.loc[pushes.us.idxmax()]
        sentences.append(
            f"{size_text(slowest.size_bytes)} between hosts take "
            f"{slowest.us / push.us:.1f}x as long as within one ({slowest.pair} "
            f"{number(slowest.gb_s)} GB/s, {push.pair} {number(push.gb_s)} GB/s; "
            "the slowest of each)."
        )
    return sentences


def _comparisons(shown: Any, name: str) -> list[str]:
    """The slowest pair by push, by pull and for a flag, or why pairs are not compared; and the pair
    with the largest difference between its directions."""
    # Pairs are comparable if all have an interval.
    comparable = shown.groupby("algorithm").filter(lambda cases: cases.high.notna().all())
    ordered = comparable.sort_values(["algorithm", "us"], ascending=[False, True])  # push first
    sentences = []
    for algorithm, cases in ordered.groupby("algorithm", sort=False):
        fastest, slowest = cases.iloc[0], cases.iloc[-1]
        slow = cases[(cases.low > fastest.high) & (cases.us / fastest.us > SLOWER)]
        if algorithm in COMPARED and slowest.name in slow.index and cases.pair.nunique() > 1:
            pairs = slow.pair.nunique()
            more = f"; {pairs} pairs are slower than that" if pairs > 1 else ""
            words = COMPARED[algorithm].format(size_text(slowest.size_bytes))
            sentences.append(
                f"{slowest.pair} is {slowest.us / fastest.us:.1f}x slower than "
                f"{fastest.pair} {words}{more}."
            )
    pairs = shown[shown.algorithm.isin(ONE_WAY)].groupby("algorithm").pair.nunique()
    several = pairs[pairs > 1].index
    if not len(several):
        sentences = ["One pair: there is no other to compare it with."] * bool(len(pairs))
    elif not {*several} & {*comparable.algorithm}:
        sentences = ["Pairs are not compared: too few blocks for intervals; --max-time gives more."]
    elif not sentences:
        sentences = [f"No pair is more than {SLOWER:.2f}x slower than another."]
    both = comparable[comparable.algorithm.isin(ONE_WAY)]
    both = both.merge(
        both,
        left_on=["algorithm", "src", "dst"],
        suffixes=("", "_back"),
        right_on=["algorithm", "dst", "src"],
    )
    both["ratio"] = both.us / both.us_back
    unequal = both[(both.low > both.high_back) & (both.ratio > SLOWER)]
    for worst in unequal.sort_values("ratio", ascending=False, kind="stable")[:1].itertuples():
        src, dst = f"{name}{worst.src}", f"{name}{worst.dst}"
        sentences.append(
            f"{src} to {dst} is {worst.ratio:.1f}x slower than {dst} to {src} "
            f"{COMPARED[worst.algorithm].format(size_text(worst.size_bytes))}."
        )
    return sentences


def _contention(frame: Any, name: str) -> list[str]:
    """The largest slowdown of pushes at once, and beside a host copy, over the slowest alone."""
    alone_us = frame[frame.algorithm == "push"].set_index(["src", "dst", "size_bytes"]).us.to_dict()
    sentences = []
    for algorithm, sentence in CONTENTION.items():
        cases = frame[frame.algorithm == algorithm]
        ratio, pairs, size = max(
            (
                (us / max(alone_us.get((*pair, size), np.inf) for pair in pairs), pairs, size)
                for pairs, size, us in zip(cases.pairs, cases.size_bytes, cases.us, strict=True)
            ),
            default=(0.0, [], 0),
        )
        if ratio:
            names = " and ".join(f"{name}{src}-{name}{dst}" for src, dst in pairs)
            sentences.append(sentence.format(ratio, f"{names}, {size_text(size)}"))
    return sentences


def draw(result: Result, path: Target) -> None:
    """Draws a heat map for each kind of transfer, and bandwidth against size. Raises ResultError
    for a run without a measured case, or a file that cannot be written."""
    maps, gb_s = panels(result), rates(result)
    if gb_s.empty:
        raise ResultError(f"{result.path} has no measured case to draw")
    rows, columns = -(-(len(maps) + 1) // 3), min(3, len(maps) + 1)
    with figure(path, rows, columns, (5.2 * columns, 4.9 * rows)) as (drawing, axes):
        for place, panel in zip(axes.flat, maps, strict=False):
            _draw_map(place, *panel)
        sizes, *unused = axes.flat[len(maps) :]
        # The median pair as a line, in a band from the slowest to the fastest.
        for name, (heading, colour, marker) in RATES.items():
            if name in gb_s.index:
                rate = gb_s.loc[name]
                label = heading if name == FAR["push"] else name.replace("_", " ")
                sizes.plot(rate["median"], color=colour, marker=marker, label=label)
                sizes.fill_between(rate.index, rate["min"], rate["max"], color=colour, alpha=0.2)
        sizes.set_ylabel("GB/s")
        dress(sizes, sorted(gb_s.index.unique("size_bytes")))
        sizes.set_title("GB/s against size: median pair, slowest to fastest", fontsize=10)
        sizes.legend(frameon=False, fontsize=9)
        for place in unused:
            place.axis("off")
        drawing.suptitle(figure_title(result))


def _draw_map(axes: Any, title: str, unit: str, values: Any) -> None:
    """Every cell shows its value, so that no reader depends on colours; bright is good. Local
    copies have no colour, because they are off the scale of the link."""
    is_rate, ranks = unit == "GB/s", range(len(values))
    link = values.copy()
    np.fill_diagonal(link, np.nan)
    # Rates start at 0; times span a factor of two or more, so that small differences look small.
    low = 0.0 if is_rate else float(np.nanmin(link))
    high = max(float(np.nanmax(link)), 2 * low)
    axes.imshow(link, cmap="cividis" if is_rate else "cividis_r", vmin=low, vmax=high)
    for row, column in np.argwhere(np.isfinite(values)):
        # Local copies stand on the white page, which a dark page inverts together with black text.
        # Cells keep their colours on a dark page, and so must their texts: no pure white or grey.
        is_dark = (link[row, column] < (low + high) / 2) == is_rate
        colour = "#fefeff" if is_dark else "#101112"
        axes.text(
            column,
            row,
            number(float(values[row, column])),
            ha="center",
            va="center",
            color="black" if row == column else colour,
            fontsize=13 if len(ranks) < 5 else 9,
        )
    axes.set(
        xticks=ranks,
        yticks=ranks,
        xlabel="to rank" if is_rate else "rank",
        ylabel="from rank" if is_rate else "rank",
    )
    transfer, _, detail = title.partition(": ")
    axes.set_title(f"{transfer}, {unit}" + (f"\n{detail}" if detail else ""), fontsize=10)
