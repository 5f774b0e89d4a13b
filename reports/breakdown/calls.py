"""The calls of all ranks, matched one to one, and what of each is transport and what waiting.

A kernel of a collective begins when its rank arrives, and ends when the exchange is over. So the
rank that arrives last has the shortest kernel, which is transport alone; what the others take
beyond it they wait. No two ranks' clocks are compared.

Calls match step by step, by collective, library, size, group and stream, in the order of each
stream. What does not match is left out or refused, and said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from reports.breakdown.cut_steps import Steps, kind_of
from reports.breakdown.one_run import RAGGED, NotOneRun
from reports.breakdown.same_steps import same_steps
from reports.breakdown.timeline import Booleans, Floats, Integers, Timeline
from reports.tables.sentences import size_text, some
from wiretax.common.grouped import grouped
from wiretax.common.untrusted import printable

# Of a single rank's calls, of which it waits least where it comes last: of eight equal ranks to an
# eighth. Where arrivals are exponential and transport varies by 2 to 10 %, the bound is 0.90 to
# 1.07 of the true mean with 2 to 8 ranks, up to 3.2 with 16; a quantile of 0.2 is up to 3.0 with 8.
BOUND_QUANTILE = 0.1
USUAL = 0.8  # of the kernels; decode with other attention kernels for longer texts has more


@dataclass
class Kind:
    """Calls that may be compared: one collective of one library, of one size in one group on one
    stream. `events[r]` are the places of the calls in rank r's timeline, (ranks, calls); `step` is
    the step of each call, (calls,); `group_size` the ranks of the group, whose traces may lack."""

    collective: str
    by: str
    size_bytes: int  # 0: the trace does not say
    group: str
    stream: int  # the first rank's number
    events: Integers
    duration_us: Floats  # (ranks, calls)
    step: Integers
    group_size: int

    @property
    def is_bound(self) -> bool:
        """Whether transport is only bounded, from above: a rank without a trace may come last."""
        return len(self.duration_us) == 1 or len(self.duration_us) < self.group_size

    @property
    def transport_us(self) -> Floats:
        """(calls,): of each call the shortest kernel of all ranks."""
        if len(self.duration_us) > 1:
            return np.asarray(self.duration_us.min(axis=0))
        low_us = np.quantile(self.duration_us[0], BOUND_QUANTILE)
        return np.asarray(np.minimum(self.duration_us[0], low_us))

    @property
    def waiting_us(self) -> Floats:
        """(ranks, calls): what each rank waits for the last one."""
        return np.asarray(self.duration_us - self.transport_us)

    def mean_by_step(self, us: Floats) -> Floats:
        """The means of (..., calls) over the calls of each step, (..., steps with calls)."""
        _, first, n_calls = np.unique(self.step, return_index=True, return_counts=True)
        return np.asarray(np.add.reduceat(us, first, axis=-1) / n_calls)


@dataclass
class Matched:
    """`kinds` have all calls of `steps`, those of each rank that are alike; `mismatches` are
    sentences on what is left out."""

    kinds: list[Kind]
    steps: list[Steps]
    mismatches: list[str] = field(default_factory=list)


Key = tuple[str, str, int, str, int]
StepKind = tuple[str, int | None, bool, tuple[int, ...]]  # name, tokens, other kernels?, calls


def match(timelines: Sequence[Timeline], steps: Sequence[Steps]) -> Matched:
    """The calls of all ranks in the commonest steps. Raises NotOneRun for traces whose steps or
    calls cannot be compared."""
    told = cut_notes(timelines, steps)
    paired = same_steps(timelines, steps, told)
    if not paired[0].names:
        raise NotOneRun(f"the traces have no whole step in common: {said(told)}")
    by_rank = [*map(calls_of, timelines)]
    keys = dict.fromkeys(key for calls in by_rank for key in calls)
    shared = [key for key in keys if is_shared(key, by_rank, timelines)]
    told += [
        f"Not all traces have {spoken(key)}: all of its time is taken as transport."
        for key in keys
        if key not in shared
    ]
    if keys and not shared:
        raise NotOneRun(
            f"the traces cannot be compared: not all have {spoken([*keys][-1])}, nor another call "
            "in common; if they are of several groups, give those of one"
        )
    n_calls = np.array([calls_by_step(shared, *each) for each in zip(by_rank, paired, strict=True)])
    is_same = (n_calls == n_calls[0]).all(axis=(0, 2))
    if not is_same.all():
        rank, place, at = np.argwhere(n_calls != n_calls[0])[0]
        counts = f"{n_calls[0, place, at]} and {n_calls[rank, place, at]} of {spoken(shared[at])}"
        n_left_out = f"{(~is_same).sum()} of {len(is_same)} steps are left out"
        told.append(f"{n_left_out}, as the ranks' calls differ in them, such as {counts}.")
    if not is_same.any():
        raise NotOneRun(f"the calls of the traces cannot be compared: {said(told)}")
    kept = commonest(timelines[0], paired[0], n_calls[0], is_same, told)
    own = [each.only(kept) for each in paired]
    called = np.flatnonzero(n_calls[0, kept].sum(axis=0))
    kinds = [kind_of_calls(shared[at], by_rank, timelines, own) for at in called]
    return Matched(kinds, own, told)


def cut_notes(timelines: Sequence[Timeline], steps: Sequence[Steps]) -> list[str]:
    """How the steps were found if no annotation tells, and what was left out of them."""
    ways = [*dict.fromkeys(each.found_by for each in steps)]
    own = zip(timelines, steps, strict=True)
    notes = [f"{printable(one.source)}: {note}." for one, cut in own for note in cut.notes]
    if len(ways) > 1 or not all(steps[0].names):
        notes.insert(0, f"Steps are cut by {' in one rank, in another by '.join(ways)}.")
    return notes


def said(told: Sequence[str]) -> str:
    """The last sentence, as the end of another."""
    return told[-1].rstrip(".") if told else "there is no work"


def calls_by_step(keys: Sequence[Key], calls: Mapping[Key, Integers], steps: Steps) -> Integers:
    """(steps, keys): the calls of each step."""
    n_calls = np.zeros((len(steps.names), len(keys)), int)
    for at, key in enumerate(keys):
        of_step = steps.of_work[calls[key]]
        n_calls[:, at] = np.bincount(of_step[of_step >= 0], minlength=len(n_calls))
    return n_calls


def commonest(
    timeline: Timeline, steps: Steps, n_calls: Integers, is_same: Booleans, told: list[str]
) -> list[int]:
    """The places of the steps of the commonest kind: of one name, as many tokens and calls, and
    almost the same kernels. `n_calls` is (steps, kinds of calls)."""
    unusual = unusual_work(timeline, steps)

    def kind(place: int) -> StepKind:
        name, tokens = kind_of(steps.names[place])
        return name, tokens, bool(unusual[place]), tuple(n_calls[place].tolist())

    by_kind = grouped(np.flatnonzero(is_same).tolist(), kind)
    kept = max(by_kind.values(), key=len)
    others = [each for each in by_kind.items() if each[1] != kept]
    if others:
        listed = some([f"{len(places)} {step_text(key)}" for key, places in others])
        n_others = sum(len(places) for _, places in others)
        told.append(f"{n_others} steps of other kinds are left out: {listed}.")
    return kept


def step_text(kind: StepKind) -> str:
    """Such as `decode of 32 tokens with 161 calls`."""
    name, tokens, is_unusual, n_calls = kind
    size = f" of {tokens} tokens" if tokens else ""
    kernels = " and other kernels" if is_unusual else ""
    return f"{name or 'unnamed'}{size} with {sum(n_calls)} calls{kernels}"


def unusual_work(timeline: Timeline, steps: Steps) -> Booleans:
    """(steps,): whether less than USUAL of a step's kernels and of those that most steps run are
    the same, as in prefill among decode. Steps whose names say what they are are none of those."""
    n_steps, n_texts = len(steps.names), len(timeline.texts)
    runs = np.zeros((n_steps, n_texts), bool)
    inside = steps.of_work >= 0
    runs[steps.of_work[inside], timeline.name[inside]] = True
    usual = np.median(runs, axis=0) > 0.5
    share = (runs & usual).sum(axis=1) / np.maximum(1, (runs | usual).sum(axis=1))
    return np.asarray((share < USUAL) & [not kind_of(name)[0] for name in steps.names])


def calls_of(timeline: Timeline) -> dict[Key, Integers]:
    """The places of a rank's calls by collective, library, size, group and stream, in order. Ranks
    may number a stream otherwise: the first with alike calls is 0, the next one 1."""

    def alike(place: int) -> tuple[str, str, int, str]:
        known = timeline.known[timeline.name[place]]
        assert known
        size_bytes = 0 if known.collective in RAGGED else int(timeline.size_bytes[place])
        return known.collective, known.by, size_bytes, timeline.groups[timeline.group[place]]

    found = dict[Key, Integers]()
    for each, places in grouped(np.flatnonzero(timeline.is_call).tolist(), alike).items():
        streams = timeline.stream[places]
        for number, stream in enumerate(np.unique(streams)):
            found[(*each, number)] = np.array(places)[streams == stream]
    return found


def is_shared(
    key: Key, by_rank: Sequence[Mapping[Key, Integers]], timelines: Sequence[Timeline]
) -> bool:
    """Whether all ranks have such calls, in one group: with tensor and data parallelism the name of
    a group may stand for another one in each rank."""
    groups = {tuple(timeline.members.get(key[3], ())) for timeline in timelines}
    return len(groups) == 1 and all(key in calls for calls in by_rank)


def spoken(key: Key) -> str:
    collective, by, size_bytes, group, stream = key
    size = f" of {size_text(size_bytes)}" if size_bytes else ""
    within = f" in group {printable(group)}" if group else ""
    beside = " on another stream" if stream else ""
    return f"{collective}{size}{within}{beside} ({by})"


def in_steps(places: Integers, of_work: Integers) -> Integers:
    """Those of the places that are in a step, by step and in order."""
    inside = places[of_work[places] >= 0]
    return inside[np.argsort(of_work[inside], kind="stable")]


def kind_of_calls(
    key: Key,
    by_rank: Sequence[Mapping[Key, Integers]],
    timelines: Sequence[Timeline],
    steps: Sequence[Steps],
) -> Kind:
    """The calls of the given steps, in which all ranks have as many."""
    events = np.array(
        [in_steps(calls[key], own.of_work) for calls, own in zip(by_rank, steps, strict=True)]
    )
    duration_us = np.array(
        [
            timeline.ends_us[own] - timeline.starts_us[own]
            for timeline, own in zip(timelines, events, strict=True)
        ]
    )
    size = group_size(key[3], timelines)
    stream = int(timelines[0].stream[events[0, 0]])
    return Kind(*key[:-1], stream, events, duration_us, steps[0].of_work[events[0]], size)


def group_size(group: str, timelines: Sequence[Timeline]) -> int:
    """The ranks of a group. If the trace does not name a call's, it is the one of just the traced
    ranks, as with pipeline parallelism, or else of all ranks."""
    first = timelines[0]
    traced = sorted(-1 if each.rank is None else each.rank for each in timelines)
    if members := first.members.get(group):
        return len(members)
    if not group and len(traced) > 1 and traced in map(sorted, first.members.values()):
        return len(traced)
    return first.ranks or len(timelines)


def last_shares(duration_us: Floats) -> list[float]:
    """How often each rank came last, from (ranks, calls): ranks of equal times, which older traces
    round to microseconds, share a call."""
    is_last = duration_us == duration_us.min(axis=0)
    return [float(share) for share in (is_last / is_last.sum(axis=0)).mean(axis=1)]
