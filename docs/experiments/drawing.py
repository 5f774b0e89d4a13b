"""Reads the tables in data/ and draws pictures in the style of all pictures."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from reports.tables.figure import STYLE, TITLE, use_colours

HERE = Path(__file__).parent
# The roles of the pages' colours; a black line is a bound or a limit.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
    "ours",
    "line-3",
    "better",
    "worse",
    "line-1",
    "line-4",
    "ink",
)
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)

use_colours()
mpl.rcParams.update(
    STYLE
    | {
        "axes.grid.axis": "both",
        "axes.titlesize": 9,
        "legend.frameon": False,
        "lines.markersize": 4,
        "text.parse_math": True,  # powers of ten
    }
)


def path_of(table: str) -> Path:
    return HERE / "data" / f"{table}.csv"


def read(table: str) -> pd.DataFrame:
    """A table of data/. Its first lines begin with # and say the source."""
    return pd.read_csv(path_of(table), comment="#")


def digest(tables: Sequence[str]) -> str:
    """Changes with any byte of these tables."""
    return hashlib.sha256(b"".join(path_of(table).read_bytes() for table in tables)).hexdigest()


def panels(
    finding: str, rows: int, columns: int, height_in: float = 3.2, same_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """An empty picture, 9 inches wide, with its finding as the title."""
    figure = Figure(figsize=(9, height_in * rows), layout="constrained")
    figure.suptitle(finding, fontsize=TITLE, weight="bold", x=0.01, ha="left")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=same_y)
    return figure, list(axes.flat)


def label_sizes(axes: Axes, sizes_kib: Sequence[float], label: str = "size of the message") -> None:
    """A logarithmic axis of sizes."""
    ticks = [min(sizes_kib)]
    while ticks[-1] * 4 <= max(sizes_kib):
        ticks.append(ticks[-1] * 4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda kib, _: f"{kib:g}K" if kib < 1024 else f"{kib / 1024:g}M")
    axes.set_xlabel(f"{label}, bytes")


def label_ratios(axes: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic axis of ratios, with a line where both sides are equal."""
    axes.axhline(1, color=BLACK, linewidth=1)
    axes.set_yscale("log")
    axes.set_ylim(min(ticks[0], 0.95), ticks[-1])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)


def legend_below(axes: Axes, columns: int) -> None:
    """A legend that covers no data."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, fontsize=8)


def write(figure: Figure, path: Path, tables: Sequence[str]) -> None:
    """Write a PNG that names the state of its tables, so that a test finds a stale picture."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, format="png")
    note = PngImagePlugin.PngInfo()
    note.add_text("tables", digest(tables))
    # A palette takes a third of the bytes, and nobody sees the difference.
    picture = Image.open(drawn).convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE)
    picture.save(path, optimize=True, pnginfo=note)
