"""`fit`: fits alpha and beta to runs, and says in a table and in sentences what they are and who overtakes whom."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from reports.store.result import ResultError
from reports.tables.console import plain_console, printed
from reports.tables.sentences import number, size_text
from reports.trends.fit import Crossover, Estimate, Fit, Regime, by_view, crossovers, fits_of, title, write_fits
from reports.verdicts.sides import side_of

WIDTH = 80
FAR = 0.2  # a miss that makes a line a poor description
UP_TO, STEEPER, FLAT = "up to", "steeper", "flat"
MEANINGS = {
    UP_TO: "alpha up to so much: no start-up cost can be told from none.",
    STEEPER: "steeper: these times grow faster than the size, and their line meets 0 at a size above 0.",
    FLAT: "flat: the times do not surely grow with the size.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `fit` takes."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="launches of one thing: runs, folders of runs, quoted "
                        "globs, FOLDER/VARIANT of a campaign")
    parser.add_argument("--out", metavar="FITS", type=Path, help="store the fits and crossovers; .jsonl")
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw times and lines against size; .svg or .png")


def fit(arguments: argparse.Namespace) -> int:
    """Prints the fits; the exit status, 0. Raises Incomparable for runs of different things, ResultError for what
    cannot be read, fitted, drawn or written."""
    notes: list[str] = []
    results = [launch.result for argument in arguments.runs for launch in side_of(argument, notes).launches]
    for note in dict.fromkeys(notes):
        print(f"reports: {note}", file=sys.stderr)
    fits = fits_of(results)
    if not fits:
        raise ResultError("nothing to fit: no case has five blocks in one state of the link")
    found = crossovers(fits)
    if arguments.plot:
        from reports.trends.fit_plot import plot

        plot(fits, arguments.plot)
    if arguments.out:
        write_fits(arguments.out, fits, found)
    sys.stdout.write(text(fits, found))
    return 0


def text(fits: Sequence[Fit], found: Sequence[Crossover]) -> str:
    """A table for each view (what was run, in which state of the link) and sentences below it, in 80 columns."""
    console = plain_console(WIDTH)
    for view, of_view in by_view(fits):
        console.print(f"{view}\n")
        if any(fit.regimes for fit in of_view):
            console.print(_table(of_view))
        for line in ["", *sentences(of_view, [one for one in found if title(one) == view]), ""]:
            console.print(line)
    return printed(console)


def sentences(fits: Sequence[Fit], found: Sequence[Crossover]) -> list[str]:
    """What there is to know of a view's table, and who overtakes whom there."""
    words = " ".join(word for fit in fits for regime in fit.regimes for word in cells(regime))
    lines = [meaning for word, meaning in MEANINGS.items() if word in words]
    lines += [f"{fit.name} has no line: {fit.reason}." for fit in fits if fit.reason]
    if missed := [fit.name for fit in fits if any(one.worst_residual > FAR for one in fit.regimes)]:
        lines.append(f"No line goes through all sizes of {', '.join(missed)}: more sizes would show a break.")
    if any(fit.interval == "this launch" for fit in fits):
        lines.append("Intervals are of this launch alone: another may lie outside.")
    if any(fit.interval is None for fit in fits):
        lines.append("Fewer than five launches have no intervals, and no order of theirs is certain.")
    return lines + _crossovers([one for one in found if one.interval])


def _table(fits: Sequence[Fit]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("algorithm\nlaunches", "sizes\n", "alpha us\n[95 %]", "beta GB/s\n[95 %]", "n 1/2\n", "worst\nmiss"):
        table.add_column(name, justify="left" if name.startswith("algo") else "right")
    for fit in fits:
        for regime in fit.regimes:
            is_first = regime is fit.regimes[0]
            table.add_row(f"{fit.name}, {fit.launches}" if is_first else "", *cells(regime),
                          f"{regime.worst_residual:.1%}")
    return table


def cells(regime: Regime) -> list[str]:
    """The regime in words: its sizes, alpha in us, beta in GB/s, n_1/2."""
    alpha, beta, half = regime.alpha_us, regime.beta_gb_s, regime.half_size_bytes
    least, most = (alpha.value if end is None else end for end in (alpha.low, alpha.high))
    if most is None or most <= 0:
        said = STEEPER
    else:
        said = _ends(alpha, number) if (least or 0) > 0 else f"{UP_TO} {number(most)}"
    return [f"{short(regime.from_bytes)}-{short(regime.to_bytes)}", said, _ends(beta, number) if beta.value else FLAT,
            short(half.value) if half.value else "-"]


def _ends(estimate: Estimate, said: Any) -> str:
    if estimate.low is None or estimate.high is None:
        return str(said(estimate.value))
    return f"{said(estimate.value)} [{said(estimate.low)} {said(estimate.high)}]"


def _crossovers(found: Sequence[Crossover]) -> list[str]:
    """Each crossover; then who is faster throughout, and where that is not certain."""
    lines, behind, unsure = [], dict[str, list[str]](), []
    for one in found:
        if one.size_bytes:
            lines.append(f"{one.faster_above} overtakes {one.faster_below} at {_ends(one.size_bytes, short)}.")
        elif one.faster_below and one.faster_below == one.faster_above:
            behind.setdefault(one.second if one.faster_below == one.first else one.first, []).append(one.faster_below)
        else:
            surely = {"smallest": one.faster_below, "largest": one.faster_above}
            known = [f" ({name} is at the {end} size)" for end, name in surely.items() if name]
            unsure.append(f"{one.first} or {one.second}{''.join(known)}")
    lines += [f"Faster than {name} over all measured sizes: {', '.join(ahead)}." for name, ahead in behind.items()]
    return lines + [f"Not certain which is faster: {'; '.join(unsure)}."] * bool(unsure)


def short(size_bytes: float | None) -> str:
    """`16K`, `1.5M`: there is little room."""
    return size_text(round(size_bytes or 0)).removesuffix("B").replace("i", "").replace(" ", "")
