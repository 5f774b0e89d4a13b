"""Which split wins, by the likely ratio of each two: a winner is named only where its range
excludes 1. Otherwise the range is printed, and the all-reduce that decides."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from reports.advice import likely
from reports.advice.likely import Conditions, Pass, decode_pass, prompt_pass
from reports.advice.serving import Deployment
from reports.advice.spans import Span, gain_of
from reports.advice.specs import CardLink
from reports.tables.sentences import counted, number, size_text, some

LEAST_RANKED_RATIO = 1.1  # upper limits are too coarse to rank two splits that are closer
MOST_COMPARED = 2  # splits that no winner beats whose ranges are printed


def conditions_of(load: Deployment, engine: str, link: CardLink) -> Conditions:
    """An engine of this class and a link; slots join peers only if the card's driver does."""
    way = likely.way_of(link.fabric, load.gpu.peer_access)
    # One card has no peers, to which a mesh has its links, and sends nothing.
    return Conditions(engine, way, link.total_gb_s(max(2, load.gpus // load.nodes)))


@dataclass(frozen=True)
class Likely:
    """The likely figures of a split under these conditions."""

    split: Deployment
    conditions: Conditions

    @cached_property
    def unknown(self) -> str | None:
        """Why nothing is known of such a split; None if it is."""
        if self.split.experts:
            return "experts on a card each"
        if self.split.nodes > 1:
            return "several nodes"
        return None

    @cached_property
    def passes(self) -> dict[str, Pass]:
        """A pass for each goal."""
        split, conditions = self.split, self.conditions
        passes = {
            "token_us": decode_pass(split, split.batch, conditions),
            "tokens_per_s": decode_pass(split, split.slots, conditions),
            "prompt_us": prompt_pass(split, conditions),
            "prompt_tokens_per_s": prompt_pass(split, conditions, many=True),
        }
        return {goal: self._timed(one) for goal, one in passes.items()}

    def _timed(self, one: Pass) -> Pass:
        """With the time of its calls, if they were measured or are predicted of these cards."""
        if one.ranks == 1:
            return one
        times = self.split.tensor_times
        if not times.are_of_these_cards:
            return one
        call_us = times(one.call_bytes).value
        return replace(one, conditions=replace(one.conditions, call_us=call_us))

    @cached_property
    def rates(self) -> dict[str, Span]:
        """Tokens/s by goal: of one of `batch` streams, of all `slots`, and of the tokens of one
        prompt and of many; none above what `serving` gives at most."""
        split, formula = self.split, likely.published()
        rates = {goal: formula.rate(one) for goal, one in self.passes.items()}
        for goal in ("token_us", "tokens_per_s"):
            rates[goal] = split.accepted * rates[goal]
        rates["token_us"] = rates["token_us"] / split.batch  # of one of the streams
        most = {
            goal: _rate(split.figures[goal], goal)
            for goal in ("token_us", "tokens_per_s", "prompt_tokens_per_s")
        }
        most["prompt_us"] = split.prompt * _rate(split.figures["prompt_us"], "prompt_us")
        # The likely value is no more than the typical limit, and its range goes to the limit's end.
        most = {goal: Span(each.value, each.value, each.high) for goal, each in most.items()}
        return {goal: rate.at_most(most[goal]) for goal, rate in rates.items()}


def by_rate(candidates: Mapping[str, Likely], goal: str) -> list[str]:
    """The names of those of which something is known, the likely fastest first."""
    known = {name: each for name, each in candidates.items() if not each.unknown}
    rates = {
        name: likely.published().log_rate(each.passes[goal])[0] for name, each in known.items()
    }
    return sorted(rates, key=lambda name: -rates[name])


def fastest(candidates: Mapping[str, Likely], goal: str) -> str | None:
    """The name of the likely fastest; None if nothing is known of any."""
    return next(iter(by_rate(candidates, goal)), None)


def winner(candidates: Mapping[str, Likely], goal: str) -> str:
    """The fastest, what it likely reaches, and how it compares with the others; where no winner can
    be named the ranges, and the call below which a split by tensor wins."""
    known = {name: each for name, each in candidates.items() if not each.unknown}
    if not candidates:
        return "nothing fits."
    if not known:
        splits = {name: each.split for name, each in candidates.items()}
        return f"by upper limits alone {by_limits(splits, goal)}"

    formula = likely.published()
    first, *others = by_rate(known, goal)
    leading = known[first].passes[goal]
    ratios = {name: formula.ratio(known[name].passes[goal], leading) for name in others}

    def limits(one: str, other: str) -> str:
        gain = gain_of(*(_speed(known[name].split, goal) for name in (one, other)))
        return f"of upper limits {gain.text('x')}"

    # As it is printed: a winner by `[1.00 1.85]` is none.
    open_ones = [name for name in others if round(ratios[name].low, 2) <= 1]
    beaten = [name for name in others if name not in open_ones]
    answer = f"{first}, {reached(known[first], goal)}"
    if open_ones:
        ranges = [
            f"from {ratios[name].low:.2f}x to {ratios[name].high:.2f}x of {name} "
            f"({limits(first, name)}){decider(known, first, name, goal)}"
            for name in open_ones[:MOST_COMPARED]
        ]
        answer = f"no winner. {answer}, is {'; '.join(ranges)}"
        if more := open_ones[MOST_COMPARED:]:
            answer += f"; nor does it clearly beat {some(more)}"
    if beaten:
        gain = f"{ratios[beaten[0]].value:.2f}x"
        ends = f" [{ratios[beaten[0]].low:.2f} {ratios[beaten[0]].high:.2f}]"
        answer += f"{'; it is' if open_ones else ','} {gain}{ends} {beaten[0]}"
        answer += f" ({limits(first, beaten[0])})"
    return f"{answer}."


def by_limits(splits: Mapping[str, Deployment], figure: str) -> str:
    """The best split by its upper limit, those that do not clearly differ from it, and its gain
    over the next one: of splits of which no likely figures are known."""
    speeds = {name: _speed(split, figure) for name, split in splits.items()}
    is_rate = figure.endswith("per_s")
    ordered = sorted(speeds, key=lambda name: -speeds[name].value)
    fastest = speeds[ordered[0]]
    close = [name for name in ordered if gain_of(fastest, speeds[name]).low < LEAST_RANKED_RATIO]
    # Replicas come first, since they need no link.
    replicas = [name for name in close if splits[name].replicas == splits[name].gpus > 1]
    first = replicas[0] if replicas else ordered[0]
    if is_rate:
        bound = f"at most {number(speeds[first].value)} tokens/s"
    else:
        bound = f"at least {number(1e-3 / speeds[first].value)} ms"
    answer = f"{first}, {bound}"
    others = [name for name in close if name != first]
    equals = " and ".join(others) if len(others) < 3 else some(others)
    if equals:
        answer += f" (no clear difference from {equals}: perhaps less than 10 %)"
    after = next(
        (
            name
            for name in ordered
            if name not in close and gain_of(speeds[first], speeds[name]).low >= 1
        ),
        None,
    )

    if after is not None:
        answer += f", {gain_of(speeds[first], speeds[after]).text('x')} {after}"

    return f"{answer}."


def _speed(split: Deployment, figure: str) -> Span:
    """A rate by upper limits, of a latency its inverse."""
    value = split.figures[figure]
    return value if figure.endswith("per_s") else 1 / value


def reached(each: Likely, goal: str) -> str:
    """`likely 24.1 tokens/s [16.0 36.3], at most 45.4`; of one prompt its time."""
    rate, most = each.rates[goal], each.split.figures[goal]
    if goal == "prompt_us":
        prompt_ms = each.split.prompt / rate * 1e3
        return f"likely {prompt_ms.text(' ms')}, at least {(most / 1e3).text()}"
    return f"likely {rate.text(' tokens/s')}, at most {_rate(most, goal).text()}"


def _rate(most: Span, goal: str) -> Span:
    """A second of a time in us; a rate as it is."""
    return 1e6 / most if goal.endswith("_us") else most


def decider(known: Mapping[str, Likely], first: str, second: str, goal: str) -> str:
    """`: measure an all-reduce of 4.0 KiB; below 21.7 us TP 2 wins`; empty if both splits make
    all-reduces, or none."""
    pair = {name: known[name] for name in (first, second)}
    tensor = [name for name, each in pair.items() if each.split.tensor > 1]
    if len(tensor) != 1:
        return ""
    (name,) = tensor
    (other,) = pair.keys() - tensor
    one, call = pair[name].passes[goal], size_text(round(pair[name].passes[goal].call_bytes))
    even_us = likely.published().break_even_us(one, pair[other].passes[goal])
    if even_us <= 0:
        return f": no all-reduce is fast enough for {name} to be likely the faster"
    return f": measure an all-reduce of {call}; below {number(even_us)} us {name} wins"


def goals_of(load: Deployment) -> dict[str, str]:
    """The figures of `Deployment` by which splits are ranked, in words."""
    return {
        "token_us": f"Decode, latency of {counted(load.batch, 'stream')}",
        "tokens_per_s": f"Decode, throughput of {counted(load.slots, 'stream')}",
        "prompt_us": f"Prefill, latency of one prompt of {load.prompt}",
        "prompt_tokens_per_s": "Prefill, throughput of many",
    }


def answers(load: Deployment, candidates: Mapping[str, Likely]) -> list[str]:
    """A sentence for each goal, and which splits are not ranked."""
    sentences = []
    for goal, title in goals_of(load).items():
        able = {
            name: each
            for name, each in candidates.items()
            if goal != "tokens_per_s" or not each.split.lack(load.slots)
        }
        sentences.append(f"{title}: {winner(able, goal)}")
    reasons: dict[str, list[str]] = {}
    for name, each in candidates.items():
        if each.unknown:
            reasons.setdefault(each.unknown, []).append(name)
    for reason, names in reasons.items():
        sentences.append(f"Not ranked, too few published rows of {reason}: {some(names)}.")
    return sentences
