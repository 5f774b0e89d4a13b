"""The model of docs/answer.md, and its picture: what a call costs inside engines and alone."""

import re
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from answer_counter import calls_alone, implied_pairs
from answer_pairs import Pair, drafts, is_pcie
from drawing import BLACK, BLUE, ORANGE, RED
from matplotlib.figure import Figure

from reports.advice.even_calls import TOKEN_BYTES, WEIGHTS, by_tensor, even_token_us
from reports.advice.reduce_times import assumed_times
from reports.advice.serving import Deployment
from reports.advice.specs import GPUS, link_between
from reports.references.published import PublishedCall, calls, near_size, select
from tests.reports.archived import unpack
from wiretax.common.grouped import grouped
from wiretax.record.observations import method_of
from wiretax.record.result import Result, read

CARD = GPUS["r9700"]
OURS = "2 ranks on one H100, PCIe 5 x16"
LEAST_US, MOST_US = 5, 2000  # ends of the picture; a pair below it stands at its edge


def of_two(token_us: float, chunk_us: float = 0.0, weights: str = WEIGHTS) -> Deployment:
    """The 70B split by tensor over two R9700s whose all-reduces take these times."""
    return by_tensor(CARD, token_us, chunk_us, weights)


def advised(weights: str = WEIGHTS) -> Deployment:
    """The same with the all-reduce of a token that `advise` assumes."""
    times = assumed_times(2, CARD, link_between(CARD, 2))
    return of_two(times(TOKEN_BYTES).value, weights=weights)


def step_ms(load: Deployment) -> float:
    return load.decode_us(1).value / 1e3


def even_us() -> float:
    """The time of a call at which both splits of the 70B decode equally fast, at the data sheet's
    bandwidth and without hand-offs."""
    return even_token_us(CARD)


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
    """A row for each figure of the picture, the dearest names first: of two cards over PCIe without
    a drafter the implied cost of a call, each pair's own break-even, and calls alone."""
    rows = []
    for pair in implied_pairs():
        if pair.other.gpus != 2 or not is_pcie(pair.other) or drafts(pair.other):
            continue
        name, replay = pair_name(pair), pair.replay
        rows += [(name, "implied", replay, pair.implied_us), (name, "even", replay, pair.even_us)]
        rows += [(name, "alone", call.mode, call.us) for call in calls_alone(pair)]
    others = [
        (name, "alone, others", call.mode, call.us)
        for name in dict.fromkeys(name for name, *_ in rows)
        if not any(row[:2] == (name, "alone") for row in rows)
        for own in small_calls().values()
        for call in own
        if f"2x {call.gpu}" == name.partition(",")[0] and call.gpus == 2 and not is_setting(call)
        if call.transport != "network"
    ]
    columns = ["name", "kind", "replay", "us"]
    table = pd.DataFrame([*rows, *others], columns=columns).drop_duplicates()
    table["us"] = table.us.round(2)
    table["model_even_us"] = round(even_us(), 2)
    costs = table[table.kind == "implied"].groupby("name").us.max()
    order = table.name.map(costs).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def pair_name(pair: Pair) -> str:
    """`2x Arc Pro B70, PCIe 5 x8, vLLM, eager`: a line of the picture."""
    card = re.sub(r" (\d+GB|\(.*\))", "", pair.other.gpu)
    parts = [f"2x {card}", pair.other.fabric, re.split("[ ,]", pair.other.engine)[0]]
    parts += ["eager"] if pair.replay == "eager" else []
    return ", ".join(part for part in parts if part != "unknown")


def answer(table: pd.DataFrame) -> Figure:
    """A portrait, whose letters a phone shows too."""
    alone = table[table.kind == "alone"].groupby("name").us.min()
    costs = table[table.kind == "implied"].groupby("name").us.max()
    most = (costs / alone).max()
    names = list(dict.fromkeys(table.name))[::-1]
    figure = Figure(figsize=(6, 0.54 * len(names) + 2), layout="constrained")
    title = f"Inside an engine a call cost up to\n{most:.0f} times what it cost alone"
    figure.suptitle(title, fontsize=15, weight="bold", x=0.01, ha="left")
    axes = figure.subplots()

    styles: dict[str, dict[str, Any]] = {
        "alone": {"marker": "o", "markerfacecolor": "none", "color": ORANGE},
        "alone, others": {"marker": "D", "markerfacecolor": "none", "color": ORANGE},
        "implied": {"marker": "s", "color": BLUE},
        "even": {"marker": "|", "color": BLACK, "markersize": 18, "markeredgewidth": 2.5},
    }
    for (name, kind, replay), rows in table.groupby(["name", "kind", "replay"], sort=False):
        style = {"markersize": 8, "markeredgewidth": 1.8} | styles[kind]
        if kind == "implied" and replay == "eager":
            style["color"] = RED
        if rows.us.min() < LEAST_US:
            style["marker"] = "<"
        seen = rows.us.clip(lower=LEAST_US)
        axes.plot(seen, [names.index(name) - 0.12] * len(rows), linestyle="none", **style)

    labels = {
        "alone": "alone, the same owner",
        "alone, others": "alone, another owner",
        "implied": "inside an engine",
        "even": "the pair's break-even",
    }
    shown = {"linestyle": "none", "markersize": 8, "markeredgewidth": 1.8}
    for kind, label in labels.items():
        axes.plot([], [], label=label, **(shown | styles[kind] | {"markersize": 9}))
    axes.plot([], [], marker="s", color=RED, label="inside, eager", linestyle="none", markersize=8)
    model_us = table.model_even_us[0]
    label = f"a 70B on two R9700s: {model_us:.0f} us"
    axes.axvline(model_us, color=BLACK, linestyle="--", linewidth=1.2, label=label)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2, fontsize=12, handletextpad=0.2
    )

    for place, name in enumerate(names):
        axes.text(LEAST_US, place + 0.16, name, fontsize=12, va="bottom", weight=weight_of(name))
    axes.set_yticks(range(len(names)), [""] * len(names))
    axes.set_ylim(-0.7, len(names) - 0.2)
    axes.grid(visible=False, axis="y")
    axes.set_xscale("log")
    axes.set_xlim(LEAST_US * 0.85, MOST_US)
    ticks = [5, 20, 50, 200, 500, 2000]
    axes.set_xticks(ticks, list(map(str, ticks)), fontsize=12)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("us a call: left of the break-even, by tensor is faster", fontsize=12)
    return figure


def weight_of(name: str) -> str:
    return "bold" if "R9700" in name else "normal"


FIGURES = {"answer": (answer, ("answer",))}
