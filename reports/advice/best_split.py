"""The best split of a model over a candidate's cards for one stream, and what no split exceeds."""

from dataclasses import dataclass, replace

from reports.advice.reduce_times import ReduceTimes
from reports.advice.serving import Deployment, all_splits
from reports.advice.spans import Span


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one stream on `gpus` cards. No split exceeds `most`, the best one if
    communication took no time. `one_card` is the speed of one of the cards, None if the model does
    not fit it; both are by the data sheet. `span` has the fastest split, end by end, None if that
    is unknown; `split` names the one that is typically fastest, `at_best` the one at its high
    end."""

    gpus: int
    most: float
    one_card: float | None
    span: Span | None = None
    split: str = ""
    at_best: str = ""

    @property
    def is_one_card(self) -> bool:
        return self.span is not None and self.one_card == self.span.value


def best_speed(load: Deployment, has_times: bool) -> Speed | None:
    """The speed of this load, by one card alone unless it `has_times`; None if no split fits."""
    n, free = load.gpus, ReduceTimes(load.gpus, "", {1: Span(0.0, low=0.0, high=0.0)})
    fitting = _splits_that_fit(load)
    if not fitting:
        return None

    def speeds(splits: dict[str, Deployment]) -> dict[str, Span]:
        return {name: split.figures["tokens_per_s"] for name, split in splits.items()}

    without_calls = {name: replace(split, times=free) for name, split in fitting.items()}
    alone = {name: split for name, split in fitting.items() if split.gpus == 1}
    most = max(span.value for span in speeds(without_calls).values())
    one_card = max((span.value for span in speeds(alone).values()), default=None)
    known = speeds(fitting if has_times else alone)
    if not known:
        return Speed(n, most, one_card)

    split = max(known, key=lambda name: known[name].value)
    at_best = max(known, key=lambda name: known[name].high)
    if known[at_best].high == known[split].high:
        at_best = split
    fastest = known[split]
    for span in known.values():
        fastest = fastest.at_least(span)
    return Speed(n, most, one_card, fastest, split, at_best)


def _splits_that_fit(load: Deployment) -> dict[str, Deployment]:
    """The splits of one stream over all cards, over fewer and over one, by what a buyer reads.
    Fewer may be faster: where heads do not go into three, three cards serve as two do."""
    n, fitting = load.gpus, dict[str, Deployment]()
    for gpus in range(n, 0, -1):
        for name, split in all_splits(replace(load, tensor=gpus)).items():
            # One stream takes one replica, which is a split over fewer cards.
            if split.replicas > 1 or split.obstacle:
                continue
            of_fewer = f"one card of {n}" if gpus == 1 else f"{name} on {gpus} of {n} cards"
            fitting[of_fewer if gpus < n else name] = split
    return fitting
