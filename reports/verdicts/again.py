"""What to do after an outcome of the gate, and what to type for it, which repeats what was run."""

import re
from collections.abc import Sequence
from shlex import join
from statistics import fmean

from reports.store.program import BENCH, RUN
from reports.verdicts.gate import INCONCLUSIVE, INTERRUPTED, PASS, REGRESSION, UNUSABLE, Outcome
from reports.verdicts.verdict import MOST_PAIRS

LEAST_LAUNCH_S = 5  # that bench.gate takes
# What to do next after each outcome.
NEXT = {
    PASS: "Nothing: every case excludes the slowdown to exclude, so this can be merged or kept",
    REGRESSION: "Find out what made these cases slower, among what differs",
    INCONCLUSIVE: "Measure again, longer or fewer sizes, as what was found says",
    UNUSABLE: "Mend the side that is named and measure again",
    INTERRUPTED: "Start it again, in a new folder",
}
NOT_JUDGED = "Mend what is named and start it again"


def next_command(outcome: Outcome) -> str:
    """After a regression the commits between the sides; nothing if all is well, or without a
    campaign that knows its commands; otherwise the same gate once more, with twice the pairs if
    more are what it lacks, and the time for them."""
    status, comparison = outcome.status, outcome.comparison
    campaign = comparison and comparison.baseline.campaign
    if status == PASS or not comparison or not campaign or not comparison.variant.command:
        return ""

    base, head = (
        (side.commit[:9], side.typed) for side in (comparison.baseline, comparison.variant)
    )
    if status == REGRESSION:
        is_between = base[0] and head[0] not in ("", base[0])
        return f"git log --oneline {base[0]}..{head[0]}" if is_between else ""

    settings = campaign.campaign
    pairs = min(MOST_PAIRS, settings.pairs * (2 if status == INCONCLUSIVE else 1))
    launch_s = max(LEAST_LAUNCH_S, fmean(each.elapsed_s for each in campaign.launches))
    return gate_command(
        base,
        head,
        comparison.allowed,
        budget=f"{1 + launch_s * (pairs + 2) // 30:.0f}m",  # with two pairs of pilots
        pairs=pairs,
        seed=settings.seed,
        margin=f"{100 * settings.margin:g}",
        **{"min-effect": f"{100 * outcome.min_effect:g}"} if outcome.min_effect else {},
    )


def gate_command(
    base: tuple[str, str], head: tuple[str, str], allowed: Sequence[str] = (), **options: object
) -> str:
    """The gate of two sides, each the commit that it runs, or "", and its command. What was not
    stored says whose it is: otherwise both sides would look alike."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += [word for name in allowed for word in ("--allow", name)]
    for name, (commit, command) in {"base": base, "head": head}.items():
        words += ["--revision", f"{name}={commit}"] if commit else []
        words += [f"--{name}", re.sub("<(path|set)>", rf"<\1 of {name}>", command)]
    return f"{RUN}{BENCH}gate {join(words)}"
