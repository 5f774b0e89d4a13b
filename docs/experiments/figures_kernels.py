"""The pictures of kernels.md, fused.md and gpu.md."""

import numpy as np
import pandas as pd
from drawing import BLACK, BLUE, COLOURS, GREEN, ORANGE, RED, label_sizes, legend_below, panels
from matplotlib.figure import Figure


def kernels(table: pd.DataFrame) -> Figure:
    figure, (axes,) = panels("No kernel spills a register, on any of six architectures", 1, 1, 3.6)
    chance = np.random.default_rng(0)
    shown = {1: RED, 2: BLUE, 3: ORANGE, 4: GREEN}
    names = list(dict.fromkeys(table.architecture))
    for blocks, rows in table.groupby("blocks"):
        places = np.array([names.index(arch) for arch in rows.architecture])
        spread = chance.uniform(-0.3, 0.3, len(rows))
        label = f"{blocks} blocks fit" if blocks > 1 else "1 block fits"
        axes.plot(places + spread, rows.registers, "o", color=shown[blocks], alpha=0.7, label=label)
    axes.axhline(128, color=BLACK, linewidth=1)
    axes.annotate("most for a block of 512 threads on NVIDIA", (-0.4, 130), fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("registers of a thread")
    axes.set_ylim(0, 142)
    legend_below(axes, 4)
    return figure


def fused(trials: pd.DataFrame, saved: pd.DataFrame) -> Figure:
    finding = "Fusing saves a microsecond of a GEMV and a millisecond of 8 MiB with RMSNorm"
    figure, (left, right) = panels(finding, 1, 2, 4, same_y=False)
    for state, colour, offset in (("near", BLUE, 0.15), ("far", RED, -0.15)):
        rows = trials[::-1].reset_index()
        low, high = rows[f"{state}_low_us"], rows[f"{state}_high_us"]
        left.plot([low, high], [rows.index + offset] * 2, "o-", color=colour)
        left.plot([], "o-", color=colour, label=state)
    left.set_yticks(range(len(trials)), trials.name[::-1])
    left.set_xscale("log")
    left.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    left.set_xlabel("exposed us")
    left.set_title("Trials of GEMV + all-reduce, EPYC A")
    legend_below(left, 2)
    forms = sorted(saved.form.unique(), reverse=True)
    for number, ((machine, state), rows) in enumerate(saved.groupby(["machine", "state"])):
        places = [forms.index(form) + 0.2 - 0.13 * number for form in rows.form]
        label = machine if state == "not recorded" else f"{machine}, {state}"
        right.plot(rows.saved_us, places, "o", color=COLOURS[number], alpha=0.7, label=label)
    right.set_yticks(range(len(forms)), forms)
    right.set_xscale("log")
    right.set_xlabel("us saved, a point a launch")
    right.set_title("Fused against separate, two ranks")
    legend_below(right, 2)
    return figure


def gpu_one_card(table: pd.DataFrame) -> Figure:
    figure, (left, right) = panels("Two ranks on one H100, without a wire", 1, 2, 3.6, same_y=False)
    colours = dict(
        zip(dict.fromkeys(table.algorithm), [*COLOURS, "#999999", "#882255"], strict=True)
    )
    for (mode, launched, algorithm), line in table.groupby(
        ["mode", "launched", "algorithm"], sort=False
    ):
        axes = left if mode == "isolated" else right
        style = "o--" if launched == "graph" else "o-"
        axes.plot(line.size_kib, line.us, style, color=colours[algorithm], label=algorithm)
    left.set_title("A single call and the reading of its result")
    left.set_yscale("log")
    left.set_yticks([15, 20, 30, 50, 100, 200], ["15", "20", "30", "50", "100", "200"])
    left.set_yticks([], minor=True)
    left.set_ylabel("us")
    legend_below(left, 3)
    right.set_title("A call of a chain of 160; dashed: from a graph")
    right.set_ylim(0, 11)
    for axes, mode in ((left, "isolated"), (right, "chained")):
        label_sizes(axes, table[table["mode"] == mode].size_kib)
    return figure


FIGURES = {
    "kernels": (kernels, ("kernels",)),
    "fused": (fused, ("fused_trials", "fused_saved")),
    "gpu_one_card": (gpu_one_card, ("gpu_one_card",)),
}
