"""The stages of a campaign: the pilot and its forecast, the pairs of all sizes, the fresh pairs."""

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from bench.campaigns import launches
from bench.campaigns.launches import OpenCampaign, StageName, retry_launch
from bench.campaigns.options import LOOKS, CampaignOptions
from bench.campaigns.processes import Stop, say, time_text
from bench.harness.options import CANNOT, WRONG
from reports import comparison, sides
from reports.case import CASE_KEY
from reports.manifest import Stage
from reports.result import read
from reports.sentences import size_text
from reports.verdict import FAMILY_P, visible_effect


def run_pilot(campaign: OpenCampaign) -> None:
    """Launches each variant, and the first twice more. Raises Stop for one that cannot run."""
    names = [variant.name for variant in campaign.options.variants]
    done = {launch.place for launch in campaign.finished("pilot")}
    for place, name in enumerate([*names, *[names[0]] * launches.MORE_PILOTS]):
        if place not in done and not retry_launch(campaign, "pilot", 0, place, name):
            reason = campaign.manifest.launches[-1].reason
            raise Stop(WRONG, f"variant {name} cannot run: it died {launches.ATTEMPTS} times, the "
                       f"last time with: {reason}")


def announce(campaign: OpenCampaign) -> None:
    """Says how long the campaign takes and which difference it can see; records the first stage.
    Raises ResultError for variants without a common case, Stop for pilots that are too short."""
    options = campaign.options
    pilots, launch_s = [], []
    for name in (variant.name for variant in options.variants):
        finished = [launch for launch in campaign.finished("pilot") if launch.variant == name]
        launch_s.append(float(np.median([launch.elapsed_s for launch in finished])))
        runs = [read(campaign.folder / str(launch.run)) for launch in finished]
        pilots.append(sides.Side(name, [sides.Launch(run, "pilot", 0) for run in runs]))
    first_s = options.most_pairs * (sum(launch_s) + (launch_s[0] if options.control else 0))
    fresh_share = launches.FRESH_SHARE if options.budget_s else 1
    duration = time_text(first_s + options.fresh * sum(launch_s) * fresh_share)
    looks = ", ".join(str(options.pairs * multiple) for multiple in LOOKS)
    more = f"with {options.fresh} fresh pairs of the sizes in doubt at most {duration}"
    say(f"{options.most_pairs} pairs of all sizes, {np.mean(launch_s):.1f} s per launch: "
        f"{time_text(first_s)}; {f'judged after {looks} pairs' if options.grow else more}")
    # The user chose what to compare: every difference is allowed, and listed now and in the table.
    compared = comparison.compare(pilots, list(comparison.COMPARABLE))
    for sentence in dict.fromkeys(line for each in compared for line in each.allowed):
        say(sentence)
    effect = announce_effect(options, pilots[0], len(compared[0].cells), duration)
    if not campaign.manifest.stages:
        campaign.record(Stage(stage="first", visible_effect=effect, expected_s=first_s))


def announce_effect(options: CampaignOptions, baseline: sides.Side, cells: int,
                    duration: str) -> float | None:
    """Says and returns the visible effect at half of the sizes, a fraction; None if unknown."""
    deviations = spread(baseline)
    if not any(costs_us for launch in baseline.launches for costs_us in launch.costs.values()):
        raise Stop(CANNOT, "no pilot has five blocks of a case in one state of the link: a launch "
                   "needs more time (--budget, --max-time) or fewer cases")
    if not deviations:
        say("The visible difference is unknown: no two pilots have five blocks of a case in one "
            "state of the link.")
        return None
    alpha = FAMILY_P / 2 / cells if options.grow else FAMILY_P
    effects = {size: float(visible_effect(
        np.sqrt(2) * deviation, options.most_pairs, options.fresh, options.margin, alpha))
        for size, deviation in deviations.items()}
    effect = float(np.median([*effects.values()]))
    if np.isinf(effect):
        say(f"{options.most_pairs} pairs of all sizes and {options.fresh} fresh pairs are too few "
            "to see any difference.")
        return None
    noisiest = max(effects, key=lambda size: effects[size])
    say(f"In {duration} this machine can see a difference of {effect:.1%} (half of the sizes; the "
        f"noisiest, {size_text(noisiest)}: {effects[noisiest]:.1%}).")
    return effect


def spread(side: sides.Side) -> dict[int, float]:
    """The spread between launches of one variant, by size in bytes: the standard deviation of the
    log of a case's median within a state of the link, pooled over the cases of a size."""
    sides.find_costs(side.launches, ())
    logs = defaultdict(list)
    for launch in side.launches:
        for key, costs_us in launch.costs.items():
            for link_state, cost_us in costs_us.items():
                logs[key, link_state].append(np.log(cost_us))
    variances = defaultdict(list)
    for (key, _), values in logs.items():
        if len(values) > 1:
            variances[key[CASE_KEY.index("size_bytes")]].append(np.var(values, ddof=1))
    return {size: float(np.sqrt(np.mean(values))) for size, values in variances.items()}


def run_stages(campaign: OpenCampaign) -> None:
    """Runs all pairs. Raises Stop for a variant without a finished launch."""
    options, folder, names = campaign.options, campaign.folder, list(campaign.options.by_name)
    if options.grow:
        pairs_before = max((launch.pair for launch in campaign.manifest.launches), default=0)
        for look in (options.pairs * multiple for multiple in LOOKS):
            run_rounds(campaign, "first", range(1, look + 1), names)
            # A campaign that was interrupted beyond this look has judged it already.
            if pairs_before <= look and not comparison.undecided(folder):
                return
        return
    run_rounds(campaign, "first", range(1, options.pairs + 1), names)
    finished = {launch.variant for launch in campaign.finished("first")}
    for name in names:
        if name not in finished:
            raise Stop(WRONG, f"variant {name}: none of its launches after the pilot finished")
    if campaign.manifest.stages[-1].stage != "fresh":
        choose_sizes(campaign, names)
    if sizes := campaign.manifest.stages[-1].sizes:
        start = 2 * options.pairs + 1
        fresh = range(start, start + options.fresh)
        run_rounds(campaign, "fresh", fresh, [each.name for each in options.variants], sizes)


def choose_sizes(campaign: OpenCampaign, names: Sequence[str]) -> None:
    """Records the sizes in doubt. First adds pairs, up to as many again, if launches of a pair
    share no state of the link."""
    pairs, folder = campaign.options.pairs, campaign.folder
    last = pairs
    while last < 2 * pairs and (lacking := comparison.pairs_short(folder, pairs)):
        more = range(last + 1, min(last + lacking, 2 * pairs) + 1)
        say(f"half of the cells lack {lacking} pairs in one state of the link: {len(more)} more")
        run_rounds(campaign, "first", more, names)
        last = more[-1]
    sizes = comparison.suspect_sizes(folder)
    campaign.record(Stage(stage="fresh", sizes=sizes))
    say(f"in doubt: {', '.join(map(size_text, sizes))}" if sizes else "no size is in doubt")


def run_rounds(campaign: OpenCampaign, stage: StageName, pairs: range, names: Sequence[str],
               sizes: Sequence[int] = ()) -> None:
    """Launches each variant once per pair. An interrupted round starts again, because its launches
    would lie hours apart."""
    drawn = orders(names, len(pairs), f"{campaign.options.seed} {stage} {pairs.start}")
    for pair, order in zip(pairs, drawn, strict=True):
        made = [launch for launch in campaign.manifest.launches
                if (launch.stage, launch.pair) == (stage, pair)]
        finished = [launch for launch in made if launch.status == "finished"]
        lost = [launch for launch in made
                if launch.status == "died" and launch.attempt == launches.ATTEMPTS]
        if {launch.variant for launch in finished + lost} == set(names):
            continue
        say(f"{stage} pairs: {pair} of {pairs.stop - 1}")
        for launch in finished:
            campaign.record(replace(launch, status="orphaned", reason="its round started again"))
        for place, name in enumerate(order):
            retry_launch(campaign, stage, pair, place, name, sizes)


def orders(names: Sequence[str], rounds: int, seed: str) -> list[list[str]]:
    """The order of the names in each round. Every other round mirrors the round before, so each
    name runs before any other as often as after it, and a steady drift favours none."""
    drawn: list[list[str]] = []
    for number in range(0, rounds, 2):
        order = random.Random(f"{seed} {number}").sample(names, len(names))
        drawn += [order, order[::-1]]
    return drawn[:rounds]
