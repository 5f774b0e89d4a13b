"""`python -m bench.campaign` launches two or more commands in turn and compares them pair by pair.

1. The pilot launches each variant, and the first twice more: it shows times and their spread.
2. Pairs of launches follow; one look at all of them decides."""

import random
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from bench.campaigns.campaign_options import LEAST_LAUNCH_S, MORE_PILOTS, Stop, parse, time_text
from bench.campaigns.ending import run_command
from bench.campaigns.launches import retry_launch
from bench.campaigns.open_campaign import OpenCampaign, check_new
from bench.campaigns.revisions import check_out, unmeasured_changes
from bench.harness.console import CANNOT, FINE, USAGE, WRONG, say
from reports.__main__ import main as reports
from reports.verdicts.judge import Incomparable, compare
from reports.verdicts.match import match
from reports.verdicts.quantile import REMEDY, faults_of_steps, needs
from reports.verdicts.sides import COMPARABLE, Side, log_costs, read_sides
from reports.verdicts.verdict import (
    MIN_PAIRS,
    MOST_PAIRS,
    MOST_PLANNED,
    excludable_effects,
    pairs_despite_events,
    pairs_needed,
    resolvable_effects,
    tolerated_events,
)
from wiretax.common.grouped import grouped
from wiretax.common.owners import private_folder
from wiretax.common.program import BENCH, typed
from wiretax.record.manifest import CampaignEnd
from wiretax.record.observations import MIN_BLOCKS, entry_of, in_one_state
from wiretax.record.result import read
from wiretax.record.schema import Result

EVENT = np.log(1.5)  # what slows a launch by more is no noise: an interrupt, a neighbour, swapping


def run_campaign(argv: Sequence[str] | None) -> int:
    """Makes the launches, prints the comparison, and returns the exit status. Raises one of
    FAILURES."""
    options = parse(argv)
    check_new(options.folder)
    campaign = OpenCampaign(options)
    run_launches(campaign, [*COMPARABLE])  # the user chose: the table lists every difference
    allowed = [word for key in COMPARABLE for word in ("--allow", key)]
    compare_status = reports(["compare", str(options.folder), *allowed])
    print(f"campaign: {options.folder} ({len(campaign.launches)} launches)")
    if compare_status or any(side.wrong_cases for side in read_sides([str(options.folder)])):
        return WRONG
    return FINE


def run_launches(
    campaign: OpenCampaign, allowed: Sequence[str], min_effect: float | None = None
) -> None:
    """Makes all launches, of a gate that must exclude the share `min_effect`. Of a campaign that is
    refused before they are compared nothing stays. The files of revisions are there while they run:
    where nobody else can write, who could run code as this user in the campaign's folder. Raises
    Incomparable after the pilot for a difference that is not `allowed`."""
    variants = campaign.options.variants
    private = private_folder() if any(map(campaign.revision_folder, variants.values())) else None
    try:
        with TemporaryDirectory(
            "-revisions", dir=private, ignore_cleanup_errors=True
        ) as campaign.revisions:
            for variant in variants.values():
                if folder := campaign.revision_folder(variant):
                    campaign.programs[variant.name] = check_out(variant, folder)
            if sentence := unmeasured_changes(variants.values()):
                say(f"{BENCH}{campaign.progress.command}", sentence)
            names = [*variants]
            if sentence := open_after_one_event(campaign.options.head.pairs):
                campaign.progress.write(sentence)
            run_round(campaign, 0, [*names, *[names[0]] * MORE_PILOTS])
            announce(campaign, allowed, min_effect)
            run_pairs(campaign)
            campaign.record(CampaignEnd(status="complete"))
    except Incomparable:
        campaign.discard()
        raise
    except Stop as stop:
        is_early = not stop.is_of_variant or not campaign.finished("pilot")
        if stop.exit_status in (USAGE, CANNOT) and is_early:
            campaign.discard()
        raise


def run_round(campaign: OpenCampaign, pair: int, names: Sequence[str]) -> None:
    """Launches these variants one after the other. The pilot is pair 0. Raises Stop for a variant
    whose pilot cannot run."""
    for place, name in enumerate(names):
        retry_launch(campaign, pair, place, name)


def open_after_one_event(pairs: int) -> str:
    """A sentence on so few pairs that one outlying launch leaves a cell open; "" for others."""
    if pairs < MIN_PAIRS or tolerated_events(pairs):
        return ""
    enough = next(n for n in range(pairs, MOST_PAIRS) if tolerated_events(n))
    return (
        f"The interval of {pairs} pairs uses all of them: one launch that an event slows leaves "
        f"its cells undecided. {enough} pairs tolerate one such launch "
        f"({typed('--pairs', enough)}), and a budget for them."
    )


def pairs_by_pilots(
    campaign: OpenCampaign, logs: pd.DataFrame, n_cells: int, min_effect: float | None
) -> list[tuple[int | None, str]]:
    """The pairs that it takes by the pilots' log costs, and why: for the events among them, and to
    exclude `min_effect`."""
    found = list[tuple[int | None, str]]()
    slowed = logs.log_cost - logs.groupby("key").log_cost.transform("median") > EVENT
    if slowed.any():
        why = f"{slowed.sum()} of {len(slowed)} times of the pilots are over 1.5 x their median"
        found.append((pairs_despite_events(float(slowed.mean()), n_cells), why))
    if min_effect:
        margin = campaign.options.head.margin
        calm, planned = logs[~slowed], range(MIN_PAIRS, MOST_PLANNED + 1)
        place = bisect_left(
            planned,
            -min_effect,
            key=lambda n: -max(excludable_effects(calm, n, margin, n_cells), default=0.0),
        )
        needed = planned[place] if place < len(planned) else None
        found.append((needed, f"to exclude {typed('--min-effect', f'{100 * min_effect:g}')}"))
    return found


def announce(
    campaign: OpenCampaign, allowed: Sequence[str], min_effect: float | None = None
) -> None:
    """Says how long the campaign takes and which difference it can see. Raises ResultError for
    variants without a common case or with a difference that is not `allowed`, Stop for pilots that
    are too short."""
    head, progress = campaign.options.head, campaign.progress
    finished = grouped(campaign.finished("pilot"), attrgetter("variant"))
    pilots = [
        Side(name, [read(campaign.folder / str(launch.run)) for launch in own])
        for name, own in finished.items()
    ]
    compiled_s = {
        str(run.path): run.end.compile_s for each in pilots for run in each.launches if run.end
    }
    share_budget(campaign, sum(compiled_s.values()))
    pair_s = sum(
        median(
            launch.elapsed_s - compiled_s.get(str(campaign.folder / str(launch.run)), 0.0)
            for launch in own
        )
        for own in finished.values()
    )
    pairs = campaign.pairs = pairs_in_budget(campaign, pair_s)
    all_s = pairs * pair_s
    progress.write(f"{pairs} pairs, {pair_s / len(pilots):.1f} s per launch: {time_text(all_s)}")
    compared = compare(pilots, allowed)
    for sentence in dict.fromkeys(line for each in compared for line in each.caveats):
        progress.write(sentence)
    check_steps(campaign, pilots)
    n_cells = len(compared[0].cells)
    logs = log_costs(in_one_state([entry_of(launch) for launch in pilots[0].launches])[0])
    if logs.empty and all(case.status == "wrong" for case in pilots[0].cases):
        raise Stop(WRONG, f"variant {pilots[0].name}: all its results are wrong", True)
    if logs.empty:
        raise Stop(
            CANNOT,
            "no pilot has five blocks of a case in one state of the link: a launch needs fewer "
            f"cases, or more time: {more_time(campaign, pilots[0].launches)}",
        )
    effects, twice = (resolvable_effects(logs, n * pairs, head.margin, n_cells) for n in (1, 2))
    needed = pairs_needed(n_cells)
    if pairs < needed:
        found = "show only a large difference in one" if pairs >= MIN_PAIRS else "decide none"
        progress.write(
            f"{pairs} pairs {found} of {n_cells} cells: it takes {needed} "
            f"({typed('--pairs', needed)}), and a budget for them."
        )
    elif len(effects) and not head.quantile:  # three pilots do not tell how tails scatter
        progress.write(
            f"In {time_text(all_s)} this machine finds a slowdown of {max(effects):.1%} four "
            f"times in five ({np.median(effects):.1%} at half of the sizes); with twice the "
            f"pairs, in {time_text(2 * all_s)}, {max(twice):.1%}."
        )

    for n, why in pairs_by_pilots(campaign, logs, n_cells, min_effect):
        if n is None:
            progress.write(f"{why}: not even {MOST_PLANNED} pairs decide all {n_cells} cells.")
        elif n > pairs:
            all_s = time.monotonic() - campaign.started_s + n * pair_s
            budget = f"{np.ceil(all_s / 60):.0f}m"
            options = f"{typed('--pairs', n)} {typed('--budget', budget)}"
            progress.write(
                f"{why}: that takes about {n} pairs in place of {pairs}, or cells stay undecided "
                f"({options})"
            )


def more_time(campaign: OpenCampaign, runs: Sequence[Result]) -> str:
    """The options that give a launch the time for enough blocks, by the blocks that these pilots
    had. A budget alone would go into more pairs first."""
    variant, *_ = campaign.options.variants.values()
    rounds = list[float]()
    for run in runs:
        blocks = [*map(len, run.counted.by_case.values())]
        most = max(blocks, default=0)
        rounds.append(most if most > 1 else sum(blocks) / len(run.cases))
    took_s = max(run.end.elapsed_s or 0.0 for run in runs if run.end)
    # Twice the blocks, as launches differ. Of a pilot with hardly any, the start took most.
    enough_s = np.ceil(took_s * 2 * MIN_BLOCKS / np.clip(min(rounds), 0.5, MIN_BLOCKS))
    budget_s = campaign.options.budget_s
    if not budget_s or any(word.startswith("--max-time") for word in variant.arguments):
        return f"about {typed('--max-time', f'{enough_s:.0f}')} in each command"
    launches = MORE_PILOTS + len(campaign.options.variants) * (1 + campaign.pairs)
    budget = f"{np.ceil(enough_s * launches / 60):.0f}m"
    return f"about {typed('--pairs', campaign.pairs)} {typed('--budget', budget)}"


def check_steps(campaign: OpenCampaign, pilots: Sequence[Side]) -> None:
    """Says in how many cells the pilots have enough steps for the campaign's quantile. Raises Stop
    if they have in none."""
    quantile = campaign.options.quantile
    if not quantile:
        return
    for variant in pilots[1:]:
        found = match(pilots[0], variant, quantile)
        if faults := faults_of_steps(found):
            raise Stop(CANNOT, faults[0], True)
        n_judged = int(np.isfinite(found.log_ratios).any(axis=1).sum())
        if n_judged < len(found.cases) and found.judged.pairs:
            campaign.progress.write(
                f"only {n_judged} of {len(found.cases)} cells of {variant.name} have "
                f"{needs(quantile)}: {REMEDY}"
            )


def share_budget(campaign: OpenCampaign, compile_s: float) -> None:
    """Takes the time of the pilots' compilers, which their --max-time did not count, from the
    launches of the pairs: these find all compiled. Raises Stop if too little is left."""
    options = campaign.options
    if campaign.launch_s is None or options.budget_s is None or compile_s < 1.0:
        return
    sides, pilots = len(options.variants), len(campaign.finished("pilot"))
    left_s = options.budget_s - pilots * campaign.launch_s - compile_s
    least = min(campaign.pairs, MIN_PAIRS)
    fitting = int(left_s / LEAST_LAUNCH_S / sides)
    if fitting < least:
        raise Stop(
            USAGE,
            f"--budget: compilers took {compile_s:.0f} s of it, and {least} pairs do not fit the "
            "rest: type it again, for what is compiled is kept",
        )
    campaign.pairs = min(campaign.pairs, fitting)
    campaign.launch_s = min(campaign.launch_s, left_s / (campaign.pairs * sides))
    campaign.progress.write(
        f"compilers took {compile_s:.0f} s: each further launch gets {campaign.launch_s:.1f} s"
    )


def pairs_in_budget(campaign: OpenCampaign, pair_s: float) -> int:
    """The pairs that the rest of the budget allows, where launches of other harnesses take the time
    that they take. Raises Stop if these are too few for a verdict."""
    options, pairs = campaign.options, campaign.pairs
    if options.budget_s is None or not any(each.is_foreign for each in options.variants.values()):
        return pairs
    spent_s = time.monotonic() - campaign.started_s
    least = min(pairs, MIN_PAIRS)
    fitting = int((options.budget_s - spent_s) / pair_s)
    if fitting < least:
        raise Stop(
            USAGE,
            f"--budget: {least} pairs of {pair_s:.1f} s, after pilots of {spent_s:.0f} s, need at "
            f"least {time_text(np.ceil(spent_s + least * pair_s))}",
        )
    return min(pairs, fitting)


def run_pairs(campaign: OpenCampaign) -> None:
    """Runs all pairs, and at most as many again to replace pairs that share no state of the link.
    Raises Stop for a variant without a finished launch."""
    names, pairs, last = [*campaign.options.variants], campaign.pairs, 0
    more = pairs
    while more > 0:
        campaign.pairs = last + more
        for pair in range(last + 1, campaign.pairs + 1):
            run_round(campaign, pair, order_of(names, pair, campaign.options.head.seed))
        last = campaign.pairs
        finished = {launch.variant for launch in campaign.finished("first")}
        if lost := [name for name in names if name not in finished]:
            sentence = f"variant {lost[0]}: none of its launches after the pilot finished"
            raise Stop(WRONG, sentence, True)
        lacking = pairs - shared_pairs(campaign)  # times do not decide on more pairs
        more = min(lacking, 2 * pairs - last)
        if more > 0:
            pair_s = sum(launch.elapsed_s for launch in campaign.finished("first")) / last
            campaign.progress.write(
                f"half of the cells lack {lacking} pairs in one state of the link: {more} more, "
                f"{time_text(more * pair_s)}"
            )


def shared_pairs(campaign: OpenCampaign) -> int:
    """The number of pairs that half of the cells have in one state of the link. No pair mends a
    cell that was wrong."""
    compared = compare(read_sides([str(campaign.folder)]), list(COMPARABLE))
    cells = pd.concat([each.cells for each in compared])
    pairs = cells.pairs[~cells.is_wrong]
    return int(pairs.median()) if len(pairs) else campaign.pairs


def order_of(names: Sequence[str], pair: int, seed: int) -> list[str]:
    """The order of the names in a pair, from 1 on. Every even one mirrors the one before, so each
    name runs before any other as often as after it, and a steady drift favours none."""
    order = random.Random(f"{seed} {(pair + 1) // 2}").sample(names, len(names))
    return order if pair % 2 else order[::-1]


main = partial(run_command, f"{BENCH}campaign", run_campaign)

if __name__ == "__main__":
    sys.exit(main())
