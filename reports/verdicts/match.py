"""A variant beside its baseline: the launches that can be judged in pairs, the cases that both
measured, what these cost in each pair, and what somebody must know of the sides before believing a
difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reports.tables.sentences import counted, some
from reports.verdicts.days import DaySpread, assumed_spread, spread_between_days, unknown_spread
from reports.verdicts.launch_quantiles import launch_quantile_us, launch_steps, least_steps
from reports.verdicts.links_apart import links_apart
from reports.verdicts.sides import (
    Side,
    copies_told,
    deaths_of,
    faults_between,
    is_interleaved,
    notes_of,
    titles_of,
)
from reports.verdicts.states import JudgedPairs, judged_pairs
from reports.verdicts.verdict import MIN_PAIRS, Floats
from wiretax.record.case import Key, key_of
from wiretax.record.histogram import Tally
from wiretax.record.observations import observed_costs
from wiretax.record.result import ResultError
from wiretax.record.schema import Case

# Sides may differ in one of these as a whole: an algorithm beside another one.
COMPARED_FIELDS = "algorithm", "variant", "memory", "in_place", "datatype", "redop"
# Left out of the keys of cases: it contains the library's version, in which sides may differ.
VERSIONED_FIELD = "library"
Place = tuple[int, int]  # of a launch: the number of its pair, and 0 for the baseline or 1


class NothingInCommon(ResultError):
    """Comparable sides without a common case."""


@dataclass(frozen=True, eq=False)
class Match:
    """A variant beside its baseline.

    `is_interleaved`: both are of one campaign, whose launches ran in turn. `judged` has the pairs
    of launches that can be judged. `unlike` has a sentence on each field, by its name, in which all
    cases of one side differ from all of the other. `of_baseline` and `of_variant` are the cases of
    each side by their keys, which are `without` these fields and the library. With a `quantile`
    the cost of a case in a launch is that of its steps, in place of its median.
    """

    baseline: Side
    variant: Side
    is_interleaved: bool
    judged: JudgedPairs
    unlike: dict[str, str]
    of_baseline: dict[Key, Case]
    of_variant: dict[Key, Case]
    quantile: float | None = None

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.baseline, self.variant

    @property
    def without(self) -> list[str]:
        return [VERSIONED_FIELD, *self.unlike]

    @property
    def is_growing(self) -> bool:
        """Whether the launches are of a campaign that has not ended: more of them follow."""
        campaign = self.baseline.campaign
        return self.is_interleaved and not (campaign and campaign.end)

    @cached_property
    def cases(self) -> dict[Key, Case]:
        """The cases of the variant that the baseline has too, in the baseline's order."""
        return {key: self.of_variant[key] for key in self.of_baseline if key in self.of_variant}

    @cached_property
    def wrong(self) -> dict[Key, str]:
        """A sentence on each case that some launch had wrong, judged or not: of a case that both
        sides had wrong the variant's."""
        return {
            self.key_of(each.case): f"wrong in launches of {side.label}"
            for side in self.sides
            for each in side.wrong_cases
        }

    @cached_property
    def costs_us(self) -> Floats:
        """What each common case costs in the two launches of each pair, the baseline's first:
        (cases, pairs, 2). NaN if a launch has too few blocks of it, or steps for the quantile, and
        everywhere for a case that was wrong in some launch: its times prove nothing."""
        if self.quantile:
            return self.quantiles_us(self.quantile)
        places = {key: place for place, key in enumerate(self.cases) if key not in self.wrong}
        costs_us = np.full((len(self.cases), len(self.judged.pairs), 2), np.nan)
        for number, pair in enumerate(self.judged.pairs):
            for side, launch in enumerate(pair):
                for key, cost_us in observed_costs(launch, self.without):
                    if key in places:
                        costs_us[places[key], number, side] = cost_us
        return costs_us

    @cached_property
    def steps(self) -> dict[Key, dict[Place, Tally]]:
        """The steps of each common case that was never wrong, of the launches that store some."""
        found: dict[Key, dict[Place, Tally]] = {
            key: {} for key in self.cases if key not in self.wrong
        }
        for number, pair in enumerate(self.judged.pairs):
            for side, launch in enumerate(pair):
                for key, steps in launch_steps(launch, self.without):
                    if key in found:
                        found[key][number, side] = steps
        return found

    @cached_property
    def n_steps_of_sides(self) -> dict[Key, list[int]]:
        """How many steps half of the launches of each side have at least, by case; of no case
        without pairs."""
        pairs = range(len(self.judged.pairs))
        return {
            key: [
                int(np.median([own[at, side].n if (at, side) in own else 0 for at in pairs]))
                for side in (0, 1)
            ]
            for key, own in self.steps.items()
            if pairs
        }

    @property
    def n_steps(self) -> dict[Key, int]:
        """The same of the side with fewer."""
        return {key: min(of_sides) for key, of_sides in self.n_steps_of_sides.items()}

    def quantiles_us(self, quantile: float) -> Floats:
        """As `costs_us`, of a quantile, for which all launches of a case count equally many
        steps."""
        costs_us = np.full((len(self.cases), len(self.judged.pairs), 2), np.nan)
        least = least_steps(quantile)
        for of_case, key in zip(costs_us, self.cases, strict=True):
            own = self.steps.get(key, {})
            enough = {place: steps for place, steps in own.items() if steps.n >= least}
            n = min((steps.n for steps in enough.values()), default=0)
            for place, steps in enough.items():
                of_case[place] = launch_quantile_us(steps, quantile, n)
        return costs_us

    @cached_property
    def log_ratios(self) -> Floats:
        """The logs of variant over baseline, (cases, pairs); NaN for a case that one of both lacks
        in a pair."""
        baseline_us, variant_us = np.moveaxis(self.costs_us, -1, 0)
        return np.asarray(np.log(variant_us / baseline_us))

    @cached_property
    def day_spread(self) -> DaySpread | None:
        """The spread between days, which launches that ran in turn do not need."""
        if self.is_interleaved:
            return None
        groups = [(case.algorithm, case.variant) for case in self.cases.values()]
        known = spread_between_days(self.baseline, self.variant, self.quantile)
        if self.quantile:
            return known or unknown_spread(self.quantile)
        return known or assumed_spread(self.log_ratios, groups)

    @cached_property
    def titles(self) -> dict[Key, str]:
        """The title of each case of both sides."""
        every = self.of_baseline | self.of_variant
        return dict(zip(every, titles_of([*every.values()]), strict=True))

    @property
    def lost(self) -> list[str]:
        """The titles of the baseline's cases that the variant lacks."""
        return [self.titles[key] for key in self.of_baseline if key not in self.of_variant]

    @property
    def new(self) -> list[str]:
        """The titles of the variant's cases that the baseline lacks."""
        return [self.titles[key] for key in self.of_variant if key not in self.of_baseline]

    def key_of(self, case: Case) -> Key:
        return key_of(case, self.without)


def match(baseline: Side, variant: Side, quantile: float | None = None) -> Match:
    """Raises ResultError for a run that is on both sides, NothingInCommon without a common case."""
    names = f"{baseline.label} and {variant.label}"
    theirs, ours = ({launch.run.run_id for launch in side.launches} for side in (baseline, variant))
    if both := theirs & ours:
        raise ResultError(f"{min(both)} is a run of {names}: compared with itself")

    cases, others = variant.cases, baseline.cases
    unlike = unlike_fields(others, cases)
    without = [VERSIONED_FIELD, *unlike]
    found = Match(
        baseline,
        variant,
        is_interleaved(baseline, variant),
        judged_pairs(baseline, variant),
        unlike,
        of_baseline={key_of(case, without): case for case in others},
        of_variant={key_of(case, without): case for case in cases},
        quantile=quantile,
    )
    if not found.cases:
        raise NothingInCommon(f"{names} have no case in common in launches that finished")
    return found


def unlike_fields(of_baseline: Sequence[Case], of_variant: Sequence[Case]) -> dict[str, str]:
    """A sentence on each field, by its name, that has one value in all of these cases of the
    baseline and another one in all of the variant."""
    sentences = dict[str, str]()
    for name in COMPARED_FIELDS:
        theirs = {str(getattr(case, name)) for case in of_baseline}
        ours = {str(getattr(case, name)) for case in of_variant}
        if len(theirs) == len(ours) == 1 and theirs != ours:
            values = f"{min(theirs)} against {min(ours)}"
            sentences[name] = f"{name.replace('_', ' ')}: {values}"
    return sentences


def faults_of_match(found: Match, margin: float) -> list[str]:
    """Why no gate can judge the sides: those of each and between them, cases that the variant
    lacks, cases that it did not check, and links of chains that differ by this share of a call."""
    baseline, variant = found.sides
    faults = [*faults_between(baseline, variant), *links_apart(baseline, variant, margin)]
    if found.lost:
        faults.append(f"{variant.label} lacks {some(found.lost)}, which {baseline.label} has")
    # The variant's results may be wrong, and those of the baseline were right.
    faults += [
        f"{sentence}, and {baseline.label} has none"
        for sentence in unchecked_beside(found, variant, baseline)
    ]
    return faults


def unchecked_results(found: Match) -> list[str]:
    """A sentence on each side that did not check results which the other one checked."""
    baseline, variant = found.sides
    return [
        *unchecked_beside(found, baseline, variant),
        *unchecked_beside(found, variant, baseline),
    ]


def unchecked_beside(found: Match, side: Side, other: Side) -> list[str]:
    """A sentence if launches of this side did not check cases that all of the other's checked."""
    unchecked_here, unchecked_there = (
        {
            found.key_of(case)
            for launch in each.launches
            for case in launch.cases
            if case.n_wrong is None
        }
        for each in (side, other)
    )
    n_cases = len((unchecked_here - unchecked_there) & found.cases.keys())
    if not n_cases:
        return []
    return [f"{side.label} has launches without a check of {counted(n_cases, 'case')}"]


def caveats_of(found: Match, differences: Sequence[str]) -> list[str]:
    """What a reader must know: runs that are left out or incomplete, launches that died, these
    allowed `differences`, copies, other states of the link, fields in which the sides differ, new
    cases, days, nodes."""
    baseline, variant = found.sides
    caveats = [*dict.fromkeys([*notes_of([baseline]), *variant.notes])]
    caveats += deaths_of(found.sides)
    caveats += differences
    caveats += copies_told([*baseline.launches, *variant.launches])
    if found.judged.left_out:
        caveats.append(found.judged.left_out)
    caveats += found.unlike.values()
    if found.new:
        caveats.append(f"new in {variant.label}, and not judged: {some(found.new)}")
    if found.day_spread and len(found.judged.pairs) >= MIN_PAIRS:
        caveats.append(found.day_spread.source)

    theirs, ours = ({str(launch.run.node) for launch in side.launches} for side in found.sides)
    if not theirs & ours:
        nodes = f"{some(sorted(theirs))} and {some(sorted(ours))}"
        caveats.append(f"the sides ran on different nodes, {nodes}, and nodes differ")
    return caveats
