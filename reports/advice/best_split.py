"""The best split of a model over a candidate's cards for its users, what no split exceeds, and how
many such candidates a throughput takes."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from reports.advice.likely_winner import Likely, conditions_of
from reports.advice.reduce_times import ReduceTimes
from reports.advice.serving import Deployment, all_splits
from reports.advice.spans import Span
from reports.advice.specs import CardLink, link_between


@dataclass(frozen=True)
class Speed:
    """Tokens per second of all users together on `gpus` cards. By the data sheet, if communication
    took no time: `most` of the best split, `most_of_fewer` of the best over two cards or more but
    not all; and `one_card`. Both are None if the model fits none. `span` has the fastest split, end
    by end, None if that is unknown; `split` names the one that is typically fastest, `at_best` the
    one at its high end. `likely` is the range of the likely fastest, `likely_split`; None where
    nothing is known of any."""

    gpus: int
    most: float
    most_of_fewer: float | None
    one_card: float | None
    span: Span | None = None
    split: str = ""
    at_best: str = ""
    likely: Span | None = None
    likely_split: str = ""

    @property
    def is_one_card(self) -> bool:
        return self.span is not None and self.one_card == self.span.value


def best_speed(load: Deployment, link: CardLink, engine: str, has_times: bool) -> Speed | None:
    """The speed of this load over this link by an engine of a class, by one card alone unless it
    `has_times`; None if no split fits."""
    n, splits = load.gpus, _splits_that_fit(load)
    if not splits:
        return None

    no_time = ReduceTimes(n, "", {1: Span(0.0, low=0.0, high=0.0)})
    most = dict[int, float]()  # by the number of cards
    for each in splits.values():
        speed = replace(each, times=no_time, groups=None).figures["tokens_per_s"].value
        most[each.gpus] = max(speed, most.get(each.gpus, 0))
    fewer = [speed for gpus, speed in most.items() if 1 < gpus < n]
    limits = max(most.values()), max(fewer, default=None), most.get(1)

    known = {name: each for name, each in splits.items() if has_times or each.gpus == 1}
    spans = {name: each.figures["tokens_per_s"] for name, each in known.items()}
    if not spans:
        return Speed(n, *limits)

    typical = max(spans, key=lambda name: spans[name].value)
    at_best = max(spans, key=lambda name: spans[name].high)
    if spans[at_best].high == spans[typical].high:
        at_best = typical
    span = spans[typical]
    for other in spans.values():
        span = span.at_least(other)
    own_link = link == link_between(load.gpu, n)
    likely_split, likely = _likely_fastest(known, None if own_link else link, engine)
    return Speed(n, *limits, span, typical, at_best, likely, likely_split)


def _likely_fastest(
    splits: dict[str, Deployment], link: CardLink | None, engine: str
) -> tuple[str, Span | None]:
    """The split that is likely the fastest, over this link or their own, and its range; none where
    nothing is known of any."""
    ranges = dict[str, Span]()
    for name, split in splits.items():
        joined = link or link_between(split.gpu, split.gpus)  # of three cards two have a bridge
        each = Likely(split, conditions_of(split, engine, joined))
        if not each.unknown:
            ranges[name] = each.rates["tokens_per_s"]  # at most what the split can reach
    if not ranges:
        return "", None

    name = max(ranges, key=lambda name: ranges[name].value)
    return name, ranges[name]


def _splits_that_fit(load: Deployment) -> dict[str, Deployment]:
    """The splits of the users over all cards, over fewer and over one, by what a buyer reads.
    Fewer may be faster: where heads do not go into three, three cards serve as two do."""
    n, fitting = load.gpus, dict[str, Deployment]()
    for gpus in range(n, 0, -1):
        own = replace(load, tensor=gpus)
        if load.groups and 1 < gpus < n:
            own = replace(own, times=load.groups.all_reduces(gpus, 1))
        for name, split in all_splits(own).items():
            # One user takes one replica, which is a split over fewer cards.
            if split.replicas > load.slots or split.obstacle:
                continue
            of_fewer = f"one card of {n}" if gpus == 1 else f"{name} on {gpus} of {n} cards"
            fitting[of_fewer if gpus < n else name] = split
    return fitting


def nodes_needed(
    speed_of: Callable[[int], Speed | None], users: int, limit: float
) -> list[Span | None]:
    """The fewest nodes that reach `limit` tokens/s together, by the span and by the likely range of
    `speed_of`, which has the speed of one node for so many users; None of what no number of nodes
    reaches. The nodes share the users evenly, and each user is served by one node."""
    speeds = cache(speed_of)

    def reached(nodes: int, end: str, is_likely: bool) -> float:
        least, nodes_with_more = divmod(users, nodes)
        total = 0.0
        for own, count in ((least, nodes - nodes_with_more), (least + 1, nodes_with_more)):
            if count:
                speed = speeds(own)
                span = speed and (speed.likely if is_likely else speed.span)
                if span is None:
                    return 0.0
                total += count * float(getattr(span, end))
        return total

    def fewest(end: str, is_likely: bool) -> int | None:
        nodes = range(1, users + 1)
        at = bisect_left(nodes, True, key=lambda n: reached(n, end, is_likely) >= limit)
        return nodes[at] if at < users else None

    found = list[Span | None]()
    for is_likely in (False, True):
        ends = [fewest(end, is_likely) for end in ("value", "high", "low")]
        known = [float(end) for end in ends if end is not None]
        found.append(Span(*known) if len(known) == len(ends) else None)
    return found
