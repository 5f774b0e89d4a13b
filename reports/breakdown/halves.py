"""Half is not half: which kernels of a rank take more than its share of their time on one card.

That is the loss of splitting which no wire explains: a product of half the width fills the card
less well, and a norm is not divided at all. Kernels are paired by name, and those whose names
differ, as by the size of a tile, by their place between kernels of equal names in a step."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from reports.breakdown.cut_steps import Steps, kind_of, steps_of
from reports.breakdown.step_parts import interval_fields, mean_interval
from reports.breakdown.timeline import Floats, Timeline
from reports.tables.sentences import interval_text, number, some
from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError
from wiretax.record.stats import Interval

UNDIVIDED = 0.9  # of one card's time: kernels' times scatter by a few per cent
ALIKE = 0.05  # steps whose numbers of kernels differ by less from the median are alike
MOST_ORDERED = 500  # kernels at each end of a step whose order is compared: layers repeat
MOST_ROWS = 10
MOST_LETTERS = 48  # of a kernel's name


@dataclass
class Half:
    """Kernels with the same work, by their names on one card and on a rank, one of which may lack
    them, and their time in us of a step. `excess_us` is what a rank takes beyond its share."""

    one: list[str]
    split: list[str]
    one_us: float
    split_us: float
    excess_us: Interval

    @property
    def is_divided(self) -> bool:
        return self.split_us < UNDIVIDED * self.one_us


@dataclass
class Halves:
    """`kernels` from the greatest excess down, and the excess of those that both sides have."""

    kernels: list[Half]
    excess_us: Interval
    notes: list[str]

    @property
    def paired(self) -> list[Half]:
        return [each for each in self.kernels if each.one and each.split]


@dataclass
class Work:
    """What steps compute: by name the time of each step in us, (steps,); the names in the order of
    one step."""

    us: dict[str, Floats]
    order: list[str]
    notes: list[str]


def halves_of(
    one: Timeline, timelines: Sequence[Timeline], steps: Sequence[Steps], gpus: int
) -> Halves:
    """Of `gpus` ranks, of which these timelines are some, beside one card. Raises ResultError if
    `one` is not of one card or has no such step."""
    if gpus < 2:
        raise ResultError(f"{timelines[0].source} does not say of how many ranks it is: name all")
    if one.is_call.any():
        raise ResultError(f"{one.source} has collectives: --one takes the trace of one card")

    kernel = steps[0].kernel if steps[0].kernel in one.texts else ""
    of_one = work_of(one, steps_alike(one, steps_of(one, kernel), steps[0].names[0]))
    of_ranks = [work_of(*each) for each in zip(timelines, steps, strict=True)]
    split_us = mean_over_ranks([each.us for each in of_ranks])

    def half_of(own: list[str], split: list[str]) -> Half:
        own_us, split_own_us = sum_of(of_one.us, own), sum_of(split_us, split)
        means_us = float(own_us.mean()), float(split_own_us.mean())
        return Half(own, split, *means_us, excess(own_us, split_own_us, gpus))

    kernels = [half_of(*names) for names in roles(of_one, of_ranks[0], split_us)]
    kernels.sort(key=lambda each: -each.excess_us[0])
    paired = [each for each in kernels if each.one and each.split]
    if not paired:
        raise ResultError(f"{one.source} has no kernel that a rank's trace has too")
    whole = half_of(
        [name for each in paired for name in each.one],
        [name for each in paired for name in each.split],
    )
    halves = Halves(kernels, whole.excess_us, [*of_one.notes, *of_ranks[0].notes])
    devices = one.device, timelines[0].device
    if all(devices) and devices[0] != devices[1]:
        halves.notes.append(f"{one.source} is of {devices[0]}, the ranks are of {devices[1]}")
    halves.notes += one.notes + sentences(halves, len(of_one.order), len(of_ranks[0].order))
    return halves


def steps_alike(timeline: Timeline, steps: Steps, name: str) -> Steps:
    """Those of the kind and the number of tokens of the step `name`. Raises ResultError if there is
    none."""
    kind = kind_of(name)
    places = [place for place, each in enumerate(steps.names) if kind_of(each) == kind]
    if not places:
        wanted = f"such as {printable(name)}" if name else "without an annotation, as the ranks'"
        raise ResultError(f"{timeline.source} has no step {wanted}: profile both alike")
    return steps.only(places)


def work_of(timeline: Timeline, steps: Steps) -> Work:
    """The work of a timeline in the steps that have about as many kernels as most. Raises
    ResultError if there is none."""
    works = np.flatnonzero(~timeline.is_call & (steps.of_work >= 0))
    if not len(works):
        raise ResultError(f"{timeline.source} has no kernel but collectives in its steps")
    step = steps.of_work[works]
    counts = np.bincount(step, minlength=len(steps.names))
    usual = np.sort(counts)[len(counts) // 2]
    alike = np.flatnonzero(np.abs(counts - usual) <= ALIKE * usual)
    texts, row = np.unique(timeline.name[works], return_inverse=True)
    lasts_us = np.zeros((len(texts), len(counts)))
    np.add.at(lasts_us, (row, step), (timeline.ends_us - timeline.starts_us)[works])
    us = {timeline.texts[text]: own for text, own in zip(texts, lasts_us[:, alike], strict=True)}
    middle = timeline.name[works][step == alike[len(alike) // 2]]
    left_out = len(counts) - len(alike)
    notes = [f"{timeline.source}: {left_out} steps with other numbers of kernels are left out"]
    return Work(us, [timeline.texts[text] for text in middle], notes if left_out else [])


def mean_over_ranks(ranks: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    """By name the time of each step, as many as every rank has."""
    n_steps = min(len(us) for rank in ranks for us in rank.values())
    nothing = np.zeros(n_steps)
    return {
        name: np.mean([rank.get(name, nothing)[:n_steps] for rank in ranks], axis=0)
        for name in dict.fromkeys(name for rank in ranks for name in rank)
    }


def roles(
    one: Work, rank: Work, split_us: Mapping[str, Floats]
) -> list[tuple[list[str], list[str]]]:
    """The names on one card and on a rank that belong together, directly or through others."""
    named = [*((0, name) for name in one.us), *((1, name) for name in split_us)]
    role = {each: frozenset([each]) for each in named}
    pairs = [(name, name) for name in one.us if name in split_us]
    pairs += [pair for pair, _ in pairs_by_place(one.order, rank.order).most_common()]
    for a, b in pairs:
        own, split = role[0, a], role[1, b]
        if len(own) == 1 or len(split) == 1:  # otherwise both have their own already
            role |= dict.fromkeys(own | split, own | split)
    return [
        (
            sorted(name for side, name in names if side == 0),
            sorted(name for side, name in names if side == 1),
        )
        for names in dict.fromkeys(role.values())
    ]


def pairs_by_place(one: Sequence[str], rank: Sequence[str]) -> Counter[tuple[str, str]]:
    """How often two names stand at the same place between kernels of equal names."""
    pairs = Counter[tuple[str, str]]()
    for part in (slice(MOST_ORDERED), slice(-MOST_ORDERED, None)):
        a, b = one[part], rank[part]
        for what, i, i_end, j, j_end in SequenceMatcher(None, a, b, False).get_opcodes():
            if what == "replace" and i_end - i == j_end - j:
                pairs.update(zip(a[i:i_end], b[j:j_end], strict=True))
    return pairs


def sum_of(us: dict[str, Floats], names: Sequence[str]) -> Floats:
    """(steps,); zeros without names."""
    nothing = np.zeros(len(next(iter(us.values()))))
    return np.asarray(sum((us[name] for name in names), nothing))


def excess(one_us: Floats, split_us: Floats, gpus: int) -> Interval:
    """What a step takes beyond its share of one card's, with the interval of independent runs."""
    share, split = mean_interval(one_us / gpus), mean_interval(split_us)
    middle = split[0] - share[0]
    if share[1] is None or split[1] is None:
        return middle, None, None
    half = float(np.hypot(share[0] - share[1], split[0] - split[1]))
    return middle, middle - half, middle + half


def sentences(halves: Halves, one: int, split: int) -> list[str]:
    """What splitting loses, and where; `one` and `split` are the kernels of a step."""
    loses = [each for each in halves.paired if each.excess_us[0] > 0]
    most = [f"{short(each.one[0])} {number(each.excess_us[0])} us" for each in loses]
    whole = dict.fromkeys(short(each.one[0]) for each in halves.paired if not each.is_divided)
    said = [
        f"Splitting loses {interval_text(halves.excess_us)} us a step that no wire explains: "
        f"{some(most)}."
        if halves.excess_us[0] > 0
        else "Splitting loses nothing but calls: a rank's kernels take no more than their share"
        + (", if the steps are alike" if one != split else "")
        + "."
    ]
    if whole:
        said.append(f"Not divided at all: {some([*whole])}.")
    if alone := [each for each in halves.kernels if not (each.one and each.split)]:
        one_us, split_us = sum(e.one_us for e in alone), sum(e.split_us for e in alone)
        names = some([short((each.one or each.split)[0]) for each in alone])
        said.append(
            f"Without a pair are kernels of {number(one_us)} us a step on one card and of "
            f"{number(split_us)} us on a rank: {names}."
        )
    if one != split:
        said.append(
            f"A step has {one} kernels on one card and {split} on a rank, calls left out: see that "
            "both made as many tokens."
        )
    return said


def short(name: str) -> str:
    """A kernel's name without its type and arguments: `vllm::rotary_embedding_kernel`."""
    plain = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    return printable(re.split("[<(]", plain)[0].rstrip()[:MOST_LETTERS])


def half_rows(halves: Halves) -> list[dict[str, str]]:
    """A row for each of the kernels with the greatest excess."""
    return [
        {
            "kernel": short(each.one[0]),
            "one card\nus": number(each.one_us),
            "a rank\nus": number(each.split_us),
            "beyond its\nshare us": interval_text(each.excess_us),
        }
        for each in halves.paired[:MOST_ROWS]
    ]


def halves_fields(halves: Halves) -> dict[str, Any]:
    """The figures of one step."""
    return {
        **interval_fields({"excess_us": halves.excess_us}),
        "kernels": [
            {
                "one": [*map(printable, each.one)],
                "split": [*map(printable, each.split)],
                "one_us": each.one_us,
                "split_us": each.split_us,
                **interval_fields({"excess_us": each.excess_us}),
                "is_divided": each.is_divided,
            }
            for each in halves.kernels
        ],
    }
