"""The pictures of performance.md: the default algorithms of CPUs beside MPI libraries."""

from collections.abc import Mapping

import pandas as pd
from drawing import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    label_ratios,
    label_sizes,
    legend_below,
    panels,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLES = {"near": "-", "far": "--", "one socket": "-"}
BUFFERS = {"copied": BLUE, "registered": RED}
FASTER = "library's time / auto's"


def draw_states(
    axes: Axes, rows: pd.DataFrame, colours: Mapping[str, str], by: str, value: str
) -> None:
    """A line for each value of a column (its colour) and each state of the link (its style)."""
    for (name, state), line in rows.groupby([by, "state"], sort=False):
        line = line.sort_values("size_kib")
        axes.plot(
            line.size_kib,
            line[value],
            STYLES[state],
            color=colours[name],
            marker="o",
            label=f"{name}, {state}",
        )
    label_sizes(axes, rows.size_kib)


def beside_intel_mpi(table: pd.DataFrame) -> Figure:
    figure, axes = panels("Untuned auto is faster than Intel MPI at every size", 2, 2, 2.8)
    machines = {
        "searched settings": "EPYC A, in searched settings",
        "third generation": "EPYC of the third generation, near",
        "fourth generation": "EPYC of the fourth generation",
        "Xeon": "Xeon of the fifth generation, at its defaults",
    }
    for panel, (series, title) in zip(axes, machines.items(), strict=True):
        rows = table[(table.series == series) & table.buffers.isin(BUFFERS)]
        draw_states(panel, rows, BUFFERS, "buffers", "library_over_auto")
        panel.set_title(title)
        label_ratios(panel, [1, 1.5, 2, 3, 4])
    for panel in axes[::2]:
        panel.set_ylabel(FASTER)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def make_libraries(table: pd.DataFrame) -> Figure:
    figure, axes = panels(
        "Tuned auto is 1.47 to 9.2 times as fast as three MPI libraries", 1, 2, 3.4
    )
    colours = {
        "MPICH": BLUE,
        "Open MPI": GREEN,
        "Intel MPI": RED,
        "MPICH or Open MPI": PURPLE,
    }
    launched = table[table.series == "make peers"]  # as the command was called then
    for panel, (machine, rows) in zip(axes, launched.groupby("machine", sort=False), strict=True):
        draw_states(panel, rows, colours, "library", "library_over_auto")
        panel.set_title(f"{machine}, the better of copied and registered")
        legend_below(panel, 2)
        label_ratios(panel, [1, 1.5, 2, 3, 4, 6, 10])
    axes[0].set_ylabel(FASTER)
    return figure


def other_collectives(table: pd.DataFrame) -> Figure:
    finding = "Reduce-scatter always wins; what only copies wins, or loses up to 14 %"
    figure, axes = panels(finding, 2, 3, 3)
    machines = {"EPYC A": BLUE, "EPYC 4th gen": ORANGE, "Xeon 5th gen": GREEN}
    copied = table[table.buffers == "copied"]
    keys = ["collective", "machine", "state", "size_kib"]
    least = copied.groupby(keys, sort=False).library_over_auto.min().reset_index()
    for panel, (collective, rows) in zip(
        axes, least.groupby("collective", sort=False), strict=False
    ):
        draw_states(panel, rows, machines, "machine", "library_over_auto")
        panel.set_title(collective)
        label_ratios(panel, [0.8, 1, 1.5, 2, 3, 5, 8])
    axes[-1].set_axis_off()
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="center", title="least of its series")
    axes[0].set_ylabel(FASTER)
    axes[3].set_ylabel(FASTER)
    return figure


def lines(table: pd.DataFrame, warm_up: pd.DataFrame) -> Figure:
    finding = "Stores into lines that a core holds: calls are up to 7.6 times as fast"
    figure, axes = panels(finding, 1, 3, 3.6, same_y=False)
    table["ratio"] = table.without_us / table.with_us
    forms = {
        "one-shot pull": BLUE,
        "two-shot": RED,
        "all-gather": GREEN,
        "reduce-scatter": PURPLE,
        "all-to-all": ORANGE,
        "one way": BLUE,
        "there and back": RED,
    }
    titles = {
        "places change hands": "Places change hands, EPYC A",
        "receiver takes lines over": "Lines taken over, EPYC 4th gen",
    }
    for panel, (change, title) in zip(axes, titles.items(), strict=False):
        rows = table[(table.change == change) & table.form.isin(forms)]
        draw_states(panel, rows, forms, "form", "ratio")
        panel.set_title(title)
        panel.set_ylabel("time without / with the change")
        legend_below(panel, 2)
        label_ratios(panel, [0.8, 1, 2, 4, 8])
    states = {"near": BLUE, "far": RED}
    for (state, size), row in warm_up.groupby(["state", "size_kib"]):
        axes[2].plot(
            row.iteration,
            row.time_over_later,
            STYLES[state],
            color=states[state],
            marker="o",
            alpha=0.7,
            label=state if size == 64 else None,
        )
    axes[2].set_title("First calls, without a warm-up")
    axes[2].set_xlabel("number of the call in its block")
    axes[2].set_ylabel("time / time of later calls")
    legend_below(axes[2], 2)
    label_ratios(axes[2], [1, 2, 4, 6])
    return figure


def bound(table: pd.DataFrame) -> Figure:
    figure, axes = panels(
        "A core performs the parts in turn; the bound lets them overlap", 1, 3, 3.4
    )
    titles = {
        ("share of the bound", "EPYC A"): "Share of the bound, EPYC A",
        ("share of the bound", "EPYC 4th gen"): "Share of the bound, EPYC 4th gen",
        ("sum of the parts", "EPYC 4th gen"): "Sum of the parts, EPYC 4th gen",
    }
    for panel, ((figure_name, machine), title) in zip(axes, titles.items(), strict=True):
        rows = table[(table.figure == figure_name) & (table.machine == machine)]
        draw_states(panel, rows, BUFFERS, "buffers", "percent")
        panel.set_title(title)
        panel.axhline(100, color=BLACK, linewidth=1)
        panel.set_ylim(0, 145)
    axes[0].set_ylabel("% of the collective's time")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def ranks_and_types(ranks: pd.DataFrame, types: pd.DataFrame) -> Figure:
    finding = "More ranks than cores: never slower. 16-bit types: fp16 pays at 16 KiB"
    figure, axes = panels(finding, 2, 2, 2.9, same_y=False)
    for panel, (count, rows) in zip(axes, ranks.groupby("ranks"), strict=False):
        draw_states(panel, rows, BUFFERS, "buffers", "library_over_auto")
        panel.set_title(f"{count} ranks on two cores, EPYC A")
        panel.set_ylabel("Intel MPI's time / auto's")
        label_ratios(panel, [1, 1.2, 1.5, 2, 2.5])
    copied = types[types.buffers == "copied"]
    for panel, (machine, rows) in zip(axes[2:], copied.groupby("machine", sort=False), strict=True):
        draw_states(panel, rows, {"fp16": GREEN, "bf16": ORANGE}, "type", "time_over_fp32")
        panel.set_title(f"16-bit sums, copied, {machine}")
        panel.set_ylabel("time / fp32's of as many bytes")
        label_ratios(panel, [0.8, 1, 1.2, 1.5])
    for panel in axes:
        legend_below(panel, 2)
    return figure


def candidates(table: pd.DataFrame) -> Figure:
    figure, axes = panels("No algorithm is the fastest everywhere", 2, 3)
    colours = {
        "one_shot_pull": BLUE,
        "one_shot_pull+slabs": SKY,
        "two_shot": RED,
        "two_shot+128K": PURPLE,
        "two_shot+slabs": BLACK,
        "two_shot_direct": GREEN,
        "two_shot_direct+nt": ORANGE,
    }
    keys = ["machine", "buffers", "mode"]
    fastest = table.groupby([*keys, "state", "size_kib"]).us.transform("min")
    table["over_fastest"] = table.us / fastest
    chosen = (
        ("EPYC 4th gen", "copied", "isolated"),
        ("EPYC 4th gen", "registered", "chained"),
        ("EPYC A", "registered", "isolated"),
        ("EPYC A", "registered, in place", "isolated"),
        ("EPYC 4th gen", "registered", "isolated"),
        ("Xeon 5th gen", "registered", "isolated"),
    )
    for panel, key in zip(axes, chosen, strict=True):
        rows = table[(table[keys] == list(key)).all(axis="columns")]
        draw_states(panel, rows, colours, "algorithm", "over_fastest")
        panel.set_title("{}\n{}, {}".format(*key))
        label_ratios(panel, [1, 1.5, 2, 3, 5])
    axes[0].set_ylabel("time / the fastest's")
    axes[3].set_ylabel("time / the fastest's")
    for name, colour in colours.items():
        axes[-1].plot([], color=colour, marker="o", label=name)
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(
        handles[-len(colours) :],
        labels[-len(colours) :],
        loc="outside lower center",
        ncols=4,
        title="solid: near or one socket, dashed: far",
    )
    return figure


FIGURES = {
    "beside_intel_mpi": (beside_intel_mpi, ("allreduce_over_libraries",)),
    "make_libraries": (make_libraries, ("allreduce_over_libraries",)),
    "other_collectives": (other_collectives, ("collectives_over_libraries",)),
    "lines": (lines, ("lines", "warm_up")),
    "bound": (bound, ("bound",)),
    "ranks_and_types": (ranks_and_types, ("ranks", "types")),
    "candidates": (candidates, ("candidates",)),
}
