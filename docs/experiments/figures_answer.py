"""The picture of docs/answer.md: published all-reduces near the size of a 70B's token."""

import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
from drawing import BLACK, BLUE, GREEN, ORANGE, panels
from matplotlib.figure import Figure

from reports.advice.reduce_times import ReduceTimes, assumed_times
from reports.advice.serving import CHUNK_TOKENS, Deployment, break_even_us
from reports.advice.spans import as_span
from reports.advice.specs import GPUS, MODELS, link_between
from reports.references.published import PublishedCall, calls, near_size, select
from reports.tables.sentences import size_text
from tests.reports.archived import unpack
from wiretax.common.grouped import grouped
from wiretax.record.observations import method_of
from wiretax.record.result import Result, read

MODEL, CARD, WEIGHTS, CONTEXT = MODELS["llama-3.1-70b"], GPUS["r9700"], "40GB", 4096
TOKEN_BYTES, CHUNK_BYTES = MODEL.all_reduce_bytes(1), MODEL.all_reduce_bytes(CHUNK_TOKENS)
OURS = "2 ranks on one H100, PCIe 5 x16"
MOST_US = 700  # at the right end
KINDS = {
    "library": (ORANGE, "RCCL, NCCL, oneCCL"),
    "tuned": (BLUE, "single kernels"),
    "ours": (GREEN, "ours, on one H100 over PCIe"),
}


def of_two(token_us: float, chunk_us: float = 0.0, weights: str = WEIGHTS) -> Deployment:
    """The 70B split by tensor over two cards whose all-reduces take these times."""
    spans = {TOKEN_BYTES: as_span(token_us), CHUNK_BYTES: as_span(chunk_us)}
    times = ReduceTimes(2, "published", spans)
    return Deployment(MODEL, CARD, weights, times, context=CONTEXT, tensor=2)


def advised(weights: str = WEIGHTS) -> Deployment:
    """The same with the all-reduce of a token that `advise` assumes."""
    times = assumed_times(2, CARD, link_between(CARD, 2))
    return of_two(times(TOKEN_BYTES).value, weights=weights)


def by_layer(tensor: Deployment) -> Deployment:
    return replace(tensor, tensor=1, stages=2)


def step_ms(load: Deployment) -> float:
    return load.decode_us(1).value / 1e3


def small_calls() -> dict[str, list[PublishedCall]]:
    """Published exact all-reduces near 16 KiB over PCIe by name: of two cards, of R9700s, and of
    single kernels on up to four cards. Of two R9700s also those over a network, and those in a
    serving trace, whose size is not printed; not the times that are shorter than a call."""
    reduces = select(calls(), collective={"all_reduce"}, kind={"library", "tuned"})
    printed = [
        call
        for call in reduces
        if call.grade != "hearsay"
        and call.gpus <= 4
        and (call.fabric.startswith("PCIe") or (call.gpu == "R9700" and call.gpus == 2))
        and (call.gpus == 2 or call.gpu == "R9700" or call.kind == "tuned")
    ]
    traced = [
        call
        for call in select(reduces, gpu={"R9700"}, gpus={2}, size_bytes={None})
        if "shorter" not in call.note.lower()
    ]
    named = grouped([*printed, *traced], name_of)
    near = {
        name: near_size(own, TOKEN_BYTES) or select(own, size_bytes={None})
        for name, own in named.items()
    }
    return {name: own for name, own in near.items() if own}


def name_of(call: PublishedCall) -> str:
    """`2x RX 7900 XT, PCIe 3 x16, rccl, host memory, graph`. A setting of the library is part of
    the name: its times are no range of the default's."""
    link = call.fabric if call.fabric != "unknown" else "link not printed"
    parts = [f"{call.gpus}x {call.gpu.partition('-')[0]}", link, call.library]
    said = [call.transport, call.mode] if call.transport != "network" else [call.mode]
    said += [call.variant] if is_setting(call) else []
    return ", ".join([*parts, *(text for text in said if text != "unknown")])


def is_setting(call: PublishedCall) -> bool:
    """Whether somebody set a variable of the library, as `CCL_ENABLE_SYCL_KERNELS=0`."""
    return bool(re.fullmatch("[A-Z_]+=[^ ,]+", call.variant))


def archived(archive: str, benchmark: str) -> list[Result]:
    """The runs of a benchmark in an archive of docs/experiments/runs."""
    with tempfile.TemporaryDirectory() as folder:
        runs = unpack(Path(folder), archive)
        return [read(path) for path in sorted(runs.glob(f"*-{benchmark}-*.jsonl"))]


def h100_us() -> list[float]:
    """The time of a call of our LL kernel through host memory over PCIe, in a chain from a graph,
    of each launch."""
    return [
        case.time_us.median
        for result in archived("h100-wire", "allreduce")
        if "graph 1" in method_of(result.run).split(", ")
        for case in result.cases
        if (case.algorithm, case.memory, case.mode) == ("one_shot_ll", "host_staged", "chained")
        and case.size_bytes == TOKEN_BYTES
        and case.time_us
    ]


def points() -> pd.DataFrame:
    """A row for each figure of the picture, the slowest names first."""
    rows = [
        {"name": name, "kind": call.kind, "grade": call.grade, "us": round(call.us, 3)}
        for name, own in small_calls().items()
        for call in own
    ]
    rows += [
        {"name": OURS, "kind": "ours", "grade": "table", "us": round(us, 3)} for us in h100_us()
    ]
    table = pd.DataFrame(rows)
    table["break_even_us"] = round(break_even_us(advised(), by_layer(advised())), 2)
    order = table.groupby("name").us.transform("max")
    slowest = order.sort_values(ascending=False, kind="stable").index
    return table.loc[slowest].reset_index(drop=True)


def answer(table: pd.DataFrame) -> Figure:
    even_us = table.break_even_us[0]
    times = even_us / table[~table.name.str.contains("=")].us.max()
    finding = f"By default each published call is at least {times:.1f} times as fast as break-even"
    figure, (axes,) = panels(finding, 1, 1, 7)
    names = list(dict.fromkeys(table.name))
    for (name, kind, grade), rows in table.groupby(["name", "kind", "grade"], sort=False):
        colour, _ = KINDS[kind]
        face = "none" if grade == "hearsay" else colour
        places = [names.index(name)] * len(rows)
        axes.plot(rows.us, places, "o-", color=colour, markerfacecolor=face, markersize=7)

    for colour, label in KINDS.values():
        axes.plot([], [], "o", color=colour, label=label, markersize=7)
    hollow = {"markerfacecolor": "none", "markersize": 7}
    axes.plot([], [], "o", color=BLACK, label="size not printed", **hollow)
    axes.legend(loc="lower left")

    axes.axvline(even_us, color=BLACK, linewidth=2)
    axes.axvspan(even_us, MOST_US, color=BLACK, alpha=0.08, linewidth=0)
    place = even_us * 1.06
    axes.annotate(f"break-even:\n{even_us:.0f} us a call", (place, len(names) - 1), va="top")
    axes.annotate("split by layer\nis faster here", (place, len(names) / 2))

    labels = [re.sub(", (?=[A-Z_]+=)", "\n", name) for name in names]
    axes.set_yticks(range(len(names)), labels)
    for label in axes.get_yticklabels():
        if "R9700" in label.get_text():
            label.set_weight("bold")
    axes.set_xscale("log")
    axes.set_xlim(5, MOST_US)
    axes.set_xlabel(f"us a call of an all-reduce near {size_text(TOKEN_BYTES)}")
    token = MODEL.all_reduces / 1e3
    scales = (lambda us: us * token, lambda ms: ms / token)
    above = axes.secondary_xaxis("top", functions=scales)
    above.set_xlabel(f"ms a token of a 70B: {MODEL.all_reduces} calls")
    for axis, ticks in (
        (axes, [5, 10, 20, 50, 100, 200, 500]),
        (above, [1, 2, 5, 10, 20, 50, 100]),
    ):
        axis.set_xticks(ticks, list(map(str, ticks)))
        axis.set_xticks([], minor=True)
    return figure


FIGURES = {"answer": (answer, ("answer",))}
