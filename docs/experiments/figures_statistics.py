"""The pictures of the pages on statistics, advice and reliability. figures.py draws them."""

import numpy as np
import pandas as pd
from drawing import BLACK, BLUE, GREEN, PURPLE, RED, label_sizes, legend_below, panels
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.advice.wire import GIVEN_SPREAD, Wire

GREY = "#888888"

# The subject of each group of rows in calibration_rates.csv, by the beginning of its name.
SUBJECTS = {
    "A/A, 24 cells": "gate",
    "+3 % in a cell of each": "gate",
    "A gate": "gate",
    "A/A": "comparison",
    "+3 % in one of 84": "comparison",
    "Nothing differs": "comparison",
    "One launch against one": "comparison",
    "A cell is slower": "comparison",
    "95 % intervals of a fit": "fit",
    "95 % interval": "comparison",
    "The same, if it stops": "comparison",
    "A kept baseline": "kept baseline",
    "The slowdown that a pilot": "pilot",
    "Flags are slower": "state of the link",
    "The link changes": "state of the link",
    "Equal forms": "layers and steps",
    "A fit": "fit",
    "The size at which": "fit",
    "A crossover": "fit",
    "A history": "history",
    "The same, of the first 40": "history",
    "A step of": "history",
    "Steps of": "history",
    "The size of a step": "history",
    "The run of": "history",
    "The smallest step": "history",
    "A change of": "history",
    "The state of the link": "history",
    "An alarm": "history",
    "A fleet": "fleet",
    "One launch a node": "fleet",
    "Nodes slower": "fleet",
}


def subject(group: str) -> str:
    return next(name for start, name in SUBJECTS.items() if group.startswith(start))


def used_percent(row: pd.Series) -> float:
    """The share of the allowed error that the worse end of a rate's interval uses."""
    least, most = row.at_least_percent, row.at_most_percent
    if pd.isna(least):
        return 100 * row.high_percent / most
    if pd.isna(most):
        return 100 * (100 - row.low_percent) / (100 - least)
    middle, half = (least + most) / 2, (most - least) / 2
    return 100 * max(middle - row.low_percent, row.high_percent - middle) / half


def draw_calibration_rates(rates: pd.DataFrame) -> Figure:
    has_least, has_most = rates.at_least_percent.notna(), rates.at_most_percent.notna()
    kinds = (
        ("errors: at most x %", rates[has_most & ~has_least], RED),
        ("right answers: at least x %", rates[has_least & ~has_most], BLUE),
        ("95 % intervals: 93 to 97 % are right", rates[has_most & has_least], GREEN),
    )
    names = list(dict.fromkeys(SUBJECTS.values()))
    places = {name: place for place, name in enumerate(names)}
    used = rates[has_least | has_most].apply(used_percent, axis=1)
    finding = f"{(used <= 100).sum()} of {len(used)} rates meet their limit with their interval"
    figure, (axes,) = panels(finding, 1, 1, 4.2)
    for offset, (kind, rows, colour) in zip((-0.24, 0.0, 0.24), kinds, strict=True):
        y = rows.group.map(subject).map(places) + offset
        x = rows.apply(used_percent, axis=1)
        axes.plot(x, y, "|", color=colour, markersize=9, markeredgewidth=1.3, label=kind)
    axes.axvline(100, color=BLACK)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set(xlim=(0, 122), xlabel="used share of the allowed error, % (100 is the limit)")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def size_name(size_bytes: int) -> str:
    return f"{size_bytes >> 20}M" if size_bytes >= 1 << 20 else f"{size_bytes >> 10}K"


def draw_ratios(axes: Axes, rows: pd.DataFrame, colour: str, offset: float = 0.0) -> None:
    """A ratio and its interval a row, one below another. A filled mark has a verdict."""
    for place, row in enumerate(rows.itertuples()):
        fill = "none" if row.verdict == "AMBIGUOUS" else "full"
        axes.plot([row.ratio_low, row.ratio_high], [place + offset] * 2, color=colour, zorder=1)
        axes.plot(row.ratio, place + offset, "o", color="white", markersize=6, zorder=2)
        axes.plot(row.ratio, place + offset, "o", color=colour, fillstyle=fill, markersize=5)
    axes.axvspan(0.99, 1.01, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    axes.axvline(1, color=GREY, linewidth=0.8, zorder=0)
    axes.grid(False, axis="y")


def draw_calibration_campaigns(cells: pd.DataFrame) -> Figure:
    figure, both = panels("Two campaigns with a known truth: no verdict is wrong", 1, 2, 4.6)
    titles = {"same": "a program against itself", "slowed 3 %": "our kernels slowed by 3 %"}
    for axes, (campaign, title) in zip(both, titles.items(), strict=True):
        for algorithm, colour, offset in (("library", BLACK, -0.17), ("auto", RED, 0.17)):
            rows = cells[(cells.campaign == campaign) & (cells.algorithm == algorithm)]
            draw_ratios(axes, rows, colour, offset)
            axes.set_yticks(range(len(rows)), rows.size_bytes.map(size_name))
        axes.set(title=title, xlabel="variant / baseline, with its 95 % interval")
    both[0].invert_yaxis()
    both[0].set_ylabel("size of the message, bytes")
    both[0].plot([], [], "o-", color=BLACK, label="library (never slowed)")
    both[0].plot([], [], "o-", color=RED, label="auto")
    both[0].plot([], [], "o", color=GREY, label="SLOWER or SAME")
    both[0].plot([], [], "o", color=GREY, fillstyle="none", label="AMBIGUOUS")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def draw_history(alarms: pd.DataFrame, methods: pd.DataFrame) -> Figure:
    finding = "A step of 3 spreads in one of 84 series: history with one setting, and PELT"
    figure, (left, right) = panels(finding, 1, 2, 3.8, same_y=False)
    for rho, colour in ((0.0, BLUE), (0.4, RED)):
        rows = alarms[alarms.rho == rho]
        x, y = rows.months_with_an_alarm_percent, rows.step_reported_percent
        left.plot(x, y, "o-", color=colour, label=f"rho {rho:g}")
        used = rows.spent_percent == 0.08
        left.plot(x[used], y[used], "o", color=colour, markersize=12, fillstyle="none")
    left.axvline(5, color=BLACK, linewidth=1, linestyle=":")
    left.axhline(90, color=BLACK, linewidth=1, linestyle=":")
    left.set(
        title="thresholds (ring: in use; dotted: the goals)",
        xlabel="months without a change that have an alarm, %",
        ylabel="steps reported by run 8, %",
    )
    left.legend(loc="lower right")
    column = "one_series_3_spreads_by_run_8_percent"
    wide = methods.pivot_table(
        index=["common_variance_percent", "rho"], columns="method", values=column, sort=False
    )
    wide.index = [f"rho {rho:g}" + ("\ncommon" if common else "") for common, rho in wide.index]
    wide.plot.bar(ax=right, rot=0, width=0.8, color=[RED, BLUE, GREEN, PURPLE], zorder=2)
    right.grid(False, axis="x")
    right.set(
        title="methods (PELT: 5 % of months have an alarm)",
        ylabel="steps reported by run 8, %",
    )
    legend_below(right, 2)
    return figure


def draw_reliability(faults: pd.DataFrame, cells: pd.DataFrame) -> Figure:
    finding = "A fault ends a run in time; the guards cost auto at most about 1 %"
    figure, (left, right) = panels(finding, 1, 2, 4.6, same_y=False)
    width_s = faults.to_s - faults.from_s
    left.bar(faults.from_s, faults.faults, width_s, align="edge", color=BLUE, edgecolor="white")
    left.axvline(4, color=BLACK, linewidth=1, linestyle=":")
    left.text(3.95, 80, "time-out\n+ 2 s", ha="right")
    left.set(
        title=f"{faults.faults.sum()} faults in a run or later",
        xlabel="from the fault to the end of all ranks, s (time-out: 2 s)",
        ylabel="faults",
        xlim=(0, 4.2),
    )
    left.grid(False, axis="x")
    draw_ratios(right, cells, RED)
    names = cells.algorithm + ", " + cells["mode"] + ", " + cells.size_bytes.map(size_name)
    right.set_yticks(range(len(cells)), names, fontsize=7)
    right.invert_yaxis()
    right.set(
        title="cost of the guards (filled: SAME within 1 %)",
        xlabel="time with guards / without, with its 95 % interval",
    )
    return figure


def draw_advise(steps: pd.DataFrame, hosts: pd.DataFrame) -> Figure:
    finding = "Predictions are right for one chat over our all-reduce, and too short between hosts"
    figure, (left, right) = panels(finding, 1, 2, 3.8, same_y=False)
    columns = (
        ("from_the_link_percent", "from the link", RED, -0.12),
        ("from_compute_percent", "from the measured compute", BLUE, 0.12),
    )
    for column, name, colour, offset in columns:
        left.plot(steps[column], steps.index + offset, "o", color=colour, label=name)
    left.axvspan(-5, 5, color=GREY, alpha=0.2, linewidth=0, label="aim: 5 %")
    chats = steps.chats.map({1: "1 chat", 2: "2 chats"})
    left.set_yticks(steps.index, steps.step + ", " + chats)
    left.invert_yaxis()
    left.set(title="decode steps", xlabel="error of the predicted time, %")
    legend_below(left, 2)
    ratios = hosts.measured_ms / hosts.model_ms
    right.barh(hosts.index, ratios, color=BLUE, zorder=2)
    right.axvline(1, color=BLACK, linewidth=1)
    ranks = ", 2 x " + hosts.ranks_per_host.astype(str) + " ranks, "
    right.set_yticks(hosts.index, hosts.algorithm + ranks + hosts.size_bytes.map(size_name))
    right.invert_yaxis()
    right.grid(False, axis="y")
    right.set(title="all-reduces over two hosts", xlabel="measured time / time by the model")
    return figure


def draw_another_owner(calls: pd.DataFrame) -> Figure:
    finding = "A node, the handshakes and the shared uplink give another owner's times within 18 %"
    figure, (axes,) = panels(finding, 1, 1, 3.6)
    wire, sizes = Wire(3.0, 2.9, 12.0, 2), np.geomspace(2 << 10, 512 << 10, 60)
    names = {"one_shot_push": ("one-shot", RED), "two_shot_push": ("two-shot", BLUE)}
    for kernel, (name, colour) in names.items():
        us = np.array([wire.time_us(kernel, int(size), 4) for size in sizes])
        low, high = us * (1 - GIVEN_SPREAD), us * (1 + GIVEN_SPREAD)
        axes.fill_between(sizes / 1024, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(sizes / 1024, us, color=colour, label=f"{name}: formula, +-{GIVEN_SPREAD:.0%}")
        own = calls[calls.kernel == kernel]
        axes.plot(own.size_bytes / 1024, own.time_us, "o", color=colour, label=f"{name}: measured")
    label_sizes(axes, [2, 512])
    axes.set_yscale("log")
    axes.set_yticks([5, 10, 20, 50, 100, 200], ["5", "10", "20", "50", "100", "200"])
    axes.set_yticks([], minor=True)
    axes.set_ylabel("us a call from a graph")
    legend_below(axes, 4)
    return figure


FIGURES = {
    "another_owner": (draw_another_owner, ("another_owner",)),
    "calibration_rates": (draw_calibration_rates, ("calibration_rates",)),
    "calibration_campaigns": (draw_calibration_campaigns, ("calibration_campaigns",)),
    "history": (draw_history, ("history_alarms", "history_methods")),
    "reliability": (draw_reliability, ("reliability_faults", "reliability_guards")),
    "advise": (draw_advise, ("advise_steps", "advise_hosts")),
}
