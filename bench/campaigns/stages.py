"""The stages of a campaign: the pilot and its forecast, the pairs of all sizes, the fresh pairs."""

import random
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from bench.campaigns.launches import ATTEMPTS, OpenCampaign, StageName, Stop, retry_launch
from bench.campaigns.options import FRESH_SHARE, MORE_PILOTS, time_text
from bench.harness.options import CANNOT, WRONG
from reports.store.manifest import Stage
from reports.store.result import read
from reports.tables.sentences import size_text
from reports.verdicts import comparison, pilot, sides
from reports.verdicts.verdict import AMBIGUOUS


def run_pilot(campaign: OpenCampaign) -> None:
    """Launches each variant, and the first twice more. Raises Stop for one that cannot run."""
    names = campaign.options.names
    done = {launch.place for launch in campaign.finished("pilot")}
    for place, name in enumerate([*names, *[names[0]] * MORE_PILOTS]):
        if place not in done and not retry_launch(campaign, "pilot", 0, place, name):
            reason = campaign.manifest.launches[-1].reason
            raise Stop(
                WRONG,
                f"variant {name} cannot run: it died {ATTEMPTS} times, the last time "
                f"with: {reason}",
            )


def announce(campaign: OpenCampaign) -> None:
    """Says how long the campaign takes and which difference it can see; records the first stage.
    Raises ResultError for variants without a common case, Stop for pilots that are too short."""
    options, head, pairs = campaign.options, campaign.options.head, campaign.options.looks[-1]
    pilots, launch_s = [], {}
    for name in options.names:
        finished = [launch for launch in campaign.finished("pilot") if launch.variant == name]
        launch_s[name] = float(np.median([launch.elapsed_s for launch in finished]))
        runs = [read(campaign.folder / str(launch.run)) for launch in finished]
        pilots.append(sides.Side(name, [sides.Launch(run, "pilot", 0) for run in runs]))
    first_s = pairs * sum(launch_s[variant.name] for variant in options.variants.values())
    fresh_s = head.fresh * sum(launch_s.values()) * (FRESH_SHARE if options.budget_s else 1)
    duration = time_text(first_s + fresh_s)
    more = f"judged after {', '.join(map(str, options.looks))} pairs"
    if head.fresh:
        more = f"with {head.fresh} fresh pairs of the sizes in doubt at most {duration}"
    campaign.tell(
        f"{pairs} pairs of all sizes, {np.mean([*launch_s.values()]):.1f} s per "
        f"launch: {time_text(first_s)}; {more}"
    )
    # The user chose what to compare: every difference is allowed, and listed now and in the table.
    compared = comparison.compare(pilots, list(sides.COMPARABLE))
    for sentence in dict.fromkeys(line for each in compared for line in each.allowed):
        campaign.tell(sentence)
    effects, twice = (
        pilot.visible_effects(
            pilots[0], n * pairs, n * head.fresh, head.margin, len(compared[0].cells)
        )
        for n in (1, 2)
    )
    if not any(costs_us for launch in pilots[0].launches for costs_us in launch.costs.values()):
        raise Stop(
            CANNOT,
            "no pilot has five blocks of a case in one state of the link: a launch "
            "needs more time (--budget, --max-time) or fewer cases",
        )
    effect = max(effects.values(), default=np.inf)
    if np.isinf(effect):
        campaign.tell(
            f"{pairs} pairs of all sizes and {head.fresh} fresh pairs are too few to see "
            "any difference, or no two pilots have five blocks of a case in one state "
            "of the link."
        )
    else:
        campaign.tell(
            f"In {duration} this machine decides {effect:.1%} (80 %; half of the sizes: "
            f"{np.median([*effects.values()]):.1%}), {max(twice.values()):.1%} with "
            f"twice the pairs in {time_text(2 * (first_s + fresh_s))}."
        )
    if not campaign.manifest.stages:
        visible = None if np.isinf(effect) else effect
        campaign.record(Stage(stage="first", visible_effect=visible, expected_s=first_s))


def run_stages(campaign: OpenCampaign) -> None:
    """Runs all pairs. Raises Stop for a variant without a finished launch."""
    options, pairs = campaign.options, campaign.options.head.pairs
    is_growing = options.head.design == "grow"
    pairs_before = max((launch.pair for launch in campaign.manifest.launches), default=0)
    for look in options.looks:
        run_rounds(campaign, "first", range(1, look + 1))
        # A campaign that was interrupted beyond this look has judged it already.
        if (
            is_growing
            and pairs_before <= look
            and AMBIGUOUS not in set(comparison.cells_of(campaign.folder).verdict)
        ):
            return
    if is_growing:
        return
    finished = {launch.variant for launch in campaign.finished("first")}
    if lost := [name for name in options.variants if name not in finished]:
        raise Stop(WRONG, f"variant {lost[0]}: none of its launches after the pilot finished")
    if campaign.manifest.stages[-1].stage != "fresh":
        choose_sizes(campaign)
    if campaign.manifest.stages[-1].sizes:
        run_rounds(campaign, "fresh", range(2 * pairs + 1, 2 * pairs + 1 + options.head.fresh))


def choose_sizes(campaign: OpenCampaign) -> None:
    """Records the sizes in doubt; before, replaces pairs that share no state of the link."""
    pairs, folder = campaign.options.head.pairs, campaign.options.folder
    last, cells = pairs, comparison.cells_of(folder)  # whose times do not decide on more pairs
    while last < 2 * pairs and (lacking := pairs - int(cells.pairs.median())) > 0:
        more = range(last + 1, min(last + lacking, 2 * pairs) + 1)
        campaign.tell(
            f"half of the cells lack {lacking} pairs in one state of the link: {len(more)} more"
        )
        run_rounds(campaign, "first", more)
        last, cells = more[-1], comparison.cells_of(folder)
    sizes = sorted(cells[cells.is_suspect].size_bytes.unique().tolist())
    campaign.record(Stage(stage="fresh", sizes=sizes))
    doubtful = ", ".join(map(size_text, sizes))
    campaign.tell(f"in doubt: {doubtful}" if sizes else "no size is in doubt")


def run_rounds(campaign: OpenCampaign, stage: StageName, pairs: range) -> None:
    """Launches each variant once per pair; fresh pairs have no control. An interrupted round starts
    again, because its launches would lie hours apart."""
    options = campaign.options
    names = options.names if stage == "fresh" else [*options.variants]
    drawn = orders(names, len(pairs), f"{options.head.seed} {stage} {pairs.start}")
    for pair, order in zip(pairs, drawn, strict=True):
        made = [
            launch
            for launch in campaign.manifest.launches
            if launch.status != "orphaned" and (launch.stage, launch.pair) == (stage, pair)
        ]
        finished = [launch for launch in made if launch.status == "finished"]
        lost = [launch for launch in made if launch.attempt == ATTEMPTS]
        if {launch.variant for launch in finished + lost} == set(names):
            continue
        campaign.tell(f"{stage} pairs: {pair} of {pairs.stop - 1}")
        for launch in finished:
            campaign.record(replace(launch, status="orphaned", reason="its round started again"))
        for place, name in enumerate(order):
            retry_launch(campaign, stage, pair, place, name)


def orders(names: Sequence[str], rounds: int, seed: str) -> list[list[str]]:
    """The order of the names in each round. Every other round mirrors the round before, so each
    name runs before any other as often as after it, and a steady drift favours none."""
    drawn: list[list[str]] = []
    for number in range(0, rounds, 2):
        order = random.Random(f"{seed} {number}").sample(names, len(names))
        drawn += [order, order[::-1]]
    return drawn[:rounds]
