"""A percentile of each launch's own steps is judged in place of its median: the option, and what
must be said where launches have too few steps for it."""

import argparse
from math import floor

import numpy as np

from reports.tables.sentences import some
from reports.verdicts.launch_quantiles import JUDGED_BEYOND, least_steps, quantile_name
from reports.verdicts.match import Match
from reports.verdicts.sides import Side
from wiretax.common.arguments import percentile

REMEDY = "use fewer sizes, a longer --max-time or a lower --quantile"
# Times as many steps on one side: of 1.2 times as many, equal tails have verdicts in at most 5 % of
# tables, of 1.5 in 3 to 7, of twice as many in 9 to 15 (docs/calibration.md).
MOST_UNEVEN = 1.3


def add_quantile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quantile",
        metavar="Q",
        type=percentile,
        help="judge this percentile of each launch's own steps, such as 99, in place of its "
        "median cost (the campaign's, else the median)",
    )


def judged_quantile(baseline: Side, typed: float | None) -> float | None:
    """The quantile that was typed, or else the campaign's; None for medians."""
    campaign = baseline.campaign
    return campaign.campaign.quantile if typed is None and campaign else typed


def of_quantile(quantile: float | None) -> str:
    """`P99 ` before what is said of this quantile; nothing before what is said of medians."""
    return f"{quantile_name(quantile)} " if quantile else ""


def option_of(quantile: float | None) -> list[str]:
    """The option as a user types it; nothing for medians."""
    return [f"--quantile={100 * quantile:g}"] if quantile else []


def needs(quantile: float) -> str:
    """How many steps a verdict takes."""
    return f"the {least_steps(quantile)} steps that a launch's {quantile_name(quantile)} takes"


def faults_of_steps(found: Match) -> list[str]:
    """Why no gate can judge the quantile: no pair of launches has enough steps of any case."""
    quantile = found.quantile
    if not quantile or not found.judged.pairs or np.isfinite(found.log_ratios).any():
        return []

    without = [
        side.label
        for place, side in enumerate(found.sides)
        if not any(side == place for own in found.steps.values() for _, side in own)
    ]
    if without:
        return [
            f"{' and '.join(without)} stored no steps, as runs of older versions and of other "
            f"programs: no {quantile_name(quantile)} can be judged"
        ]
    most = max(found.n_steps.values(), default=0)
    lower = floor(100 * (1 - JUDGED_BEYOND / most)) if most else 0
    remedy = REMEDY.replace("a lower --quantile", f"--quantile {lower}") if lower >= 50 else REMEDY
    return [f"no case has {needs(quantile)}, but {most} at most: {remedy}"]


def uneven_steps(found: Match) -> list[str]:
    """A sentence on the cases of which one side's launches have over MOST_UNEVEN times as many
    steps as the other's: P99s of more steps scatter less and are less skewed, so that pairs of
    equal tails are not symmetric around 0."""
    if not found.quantile:
        return []
    titles = [
        found.titles[key]
        for key, (n_base, n_variant) in found.n_steps_of_sides.items()
        if max(n_base, n_variant) > MOST_UNEVEN * min(n_base, n_variant) > 0
    ]
    if not titles:
        return []
    return [
        f"one side has over {MOST_UNEVEN:g} times as many steps as the other of {some(titles)}, so "
        "that verdicts on tails are false more often: give both one --iters"
    ]
