"""The best split of a model over a candidate's cards for one stream, and what no split exceeds."""

from dataclasses import dataclass, replace

from reports.advice.likely_winner import Likely, conditions_of
from reports.advice.reduce_times import ReduceTimes
from reports.advice.serving import Deployment, all_splits
from reports.advice.spans import Span
from reports.advice.specs import CardLink, link_between


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one stream on `gpus` cards. By the data sheet, if communication took no
    time: `most` of the best split, `most_of_fewer` of the best over two cards or more but not all;
    and `one_card`. Both are None if the model fits none. `span` has the fastest split, end by end,
    None if that is unknown; `split` names the one that is typically fastest, `at_best` the one at
    its high end. `likely` is the range of the likely fastest, `likely_split`; None where nothing is
    known of any."""

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
    """The splits of one stream over all cards, over fewer and over one, by what a buyer reads.
    Fewer may be faster: where heads do not go into three, three cards serve as two do."""
    n, fitting = load.gpus, dict[str, Deployment]()
    for gpus in range(n, 0, -1):
        own = replace(load, tensor=gpus)
        if load.groups and 1 < gpus < n:
            own = replace(own, times=load.groups.all_reduces(gpus, 1))
        for name, split in all_splits(own).items():
            # One stream takes one replica, which is a split over fewer cards.
            if split.replicas > 1 or split.obstacle:
                continue
            of_fewer = f"one card of {n}" if gpus == 1 else f"{name} on {gpus} of {n} cards"
            fitting[of_fewer if gpus < n else name] = split
    return fitting
