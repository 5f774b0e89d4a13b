"""The pairs that docs/answer.md rests on: a model and its weights, served by one engine on one
machine in two arrangements. Rows are from `serving.csv` and `pairs.csv` of reports/references."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from statistics import median
from typing import Literal

from reports.advice.implied import calls_of_step, implied_us, step_us
from reports.advice.specs import Transformer, model_called
from reports.references.comparisons import admitted
from reports.references.pairs import PairRow, pairs
from reports.references.published import PublishedServing, serving
from wiretax.common.grouped import grouped

Row = PublishedServing | PairRow
Arrangement = Literal["one card", "layer", "tensor", "copies", "other"]
Phase = Literal["decode", "prefill"]
MANY = 8  # streams and more
# Two rows of serving.csv are a pair if these are alike, as pairs.toml demands of the others.
ALIKE = "machine", "model", "weights", "engine", "drafter", "streams", "context_tokens", "date"
# Mixtures by their names, of models that collectives/models.toml lacks.
MIXTURES = r"A\d+B|MoE|gpt-oss|Flash|GLM-5|Kimi|MiniMax"
# How owners print the calls of a step: `129 oneCCL calls of 41.9 us a token`.
COUNTED = r"(\d+) (?:oneCCL calls|all-reduces|calls of)"


@dataclass(frozen=True)
class Pair:
    """The same load in an arrangement (`one`), and in that of interest."""

    one: Row
    other: Row

    @property
    def decode_gain(self) -> float | None:
        """How many times as fast a stream decodes, or all streams together; None if unknown."""
        before, after = step_of(self.one), step_of(self.other)
        return before / after if before and after else None

    @property
    def prefill_gain(self) -> float | None:
        before, after = self.one.prefill_tok_s, self.other.prefill_tok_s
        return after / before if before and after else None

    def gain(self, phase: Phase) -> float | None:
        return self.decode_gain if phase == "decode" else self.prefill_gain

    @property
    def total_gain(self) -> float | None:
        """As decode_gain, with the prompts' tokens counted; None if unknown."""
        before, after = (getattr(row, "total_tok_s", None) for row in (self.one, self.other))
        return after / before if before and after else None

    @property
    def first_token(self) -> float | None:
        """How many times as long the first token takes; None if unknown."""
        before, after = (getattr(row, "ttft_ms", None) for row in (self.one, self.other))
        return after / before if before and after else None

    @property
    def replay(self) -> str:
        """`graph`, `eager` or `unknown`; a row of one card may leave it open."""
        return self.other.replay if self.other.replay != "unknown" else self.one.replay

    @property
    def model(self) -> Transformer | None:
        return model_called(self.other.model)

    @property
    def calls(self) -> int | None:
        """The all-reduces of a step, as the source counted them or by the model and engine."""
        if counted := re.search(COUNTED, self.other.note):
            return int(counted[1])
        return calls_of_step(self.model, self.other.engine) if self.model else None

    @property
    def even_us(self) -> float | None:
        """The implied cost at which tensor decodes as fast as the cards by layer."""
        alone = step_of(self.one)
        if not (alone and self.calls and self.other.gpus):
            return None
        return alone * (1 - 1 / self.other.gpus) / self.calls

    @property
    def implied_us(self) -> float | None:
        """The implied cost of a call; of a token, if a drafter ran. None if it is not known."""
        alone, split = step_of(self.one), step_of(self.other)
        if not (alone and split and self.calls and self.other.gpus):
            return None
        return implied_us(split, alone, self.other.gpus, self.calls)


def is_mixture(row: Row) -> bool:
    model = model_called(row.model)
    return model.experts > 1 if model else bool(re.search(MIXTURES, row.model))


def arrangement(row: Row) -> Arrangement:
    """How the model lies on the cards; `other` if it is in several ways at once."""
    if isinstance(row, PublishedServing):
        names: dict[str, Arrangement] = {"single": "one card", "layer": "layer", "pp2": "layer"}
        return names.get(row.split, "tensor")

    split = row.split
    if split.replicas > 1:
        return "copies"
    if split.experts > 1 or split.contexts > 1:
        return "other"
    kinds: dict[str, Arrangement] = {
        "single": "one card",
        "layer": "layer",
        "pipeline": "layer",
        "tensor": "tensor",
        "graph": "tensor",  # the split by tensor of ik_llama.cpp
    }
    return kinds.get(row.kind, "other")


def step_of(row: Row) -> float | None:
    """The time of a decode step in us; of a token, if a drafter ran. None if it is not printed."""
    if isinstance(row, PublishedServing) and row.tpot_ms and not row.decode_tok_s:
        return 1e3 * row.tpot_ms
    streams = row.streams if isinstance(row.streams, int) else 1
    return step_us(row.decode_tok_s, streams) if row.decode_tok_s else None


def is_chat(row: Row) -> bool:
    """One stream; or a few that come one a second, whose time of a token is printed."""
    light_load = isinstance(row, PublishedServing) and row.streams is None and bool(row.tpot_ms)
    return row.streams == 1 or light_load


def has_many(row: Row) -> bool:
    return row.streams == "most" or (isinstance(row.streams, int) and row.streams >= MANY)


def drafts(row: Row) -> bool:
    """Whether a drafter ran that changed what a step makes, as far as the source says."""
    is_named = row.drafter not in ("", "none", "unknown")
    return is_named and not re.search("same without|says none", row.drafter)


def is_pcie(row: Row) -> bool:
    """Whether the cards are joined by PCIe, as far as the source says."""
    return row.fabric.startswith("PCIe") or row.fabric in ("unknown", "mixed")


@cache
def all_pairs() -> list[Pair]:
    """All two rows that may be compared, in both orders."""
    both = [(each.one, each.other) for each in admitted(pairs())]
    alike = grouped(serving(), lambda row: tuple(getattr(row, name) for name in ALIKE))
    for rows in alike.values():
        both += [two for two in combinations(rows, 2) if same_build(*two)]
    return [Pair(*rows) for two in both for rows in (two, two[::-1])]


def same_build(one: Row, other: Row) -> bool:
    """Whether one ran the other's version, perhaps with something more, on the other's card,
    perhaps with an unlike one, and both from a graph or both eager, as far as the source says."""
    cards = sorted((one.gpu, other.gpu), key=len)
    versions = sorted((one.version, other.version), key=len)
    replay = {one.replay, other.replay} - {"unknown"}
    same_cards = cards[0] == cards[1] or cards[1].startswith(f"{cards[0]} + ")
    return same_cards and versions[1].startswith(versions[0]) and len(replay) < 2


def between(one: Arrangement, other: Arrangement, cards: Collection[int] = (2,)) -> list[Pair]:
    """The pairs from one arrangement to another of as many cards, or of more than one card, by
    their gain in decode, the smallest first."""
    found = [
        pair
        for pair in all_pairs()
        if (arrangement(pair.one), arrangement(pair.other)) == (one, other)
        and pair.other.gpus in cards
        and pair.one.gpus == (1 if one == "one card" else pair.other.gpus)
    ]
    return sorted(found, key=lambda pair: (pair.decode_gain or 0, pair.prefill_gain or 0))


def dense_70b(split: Arrangement | None = None, gpus: int = 2) -> list[Row]:
    """What is published of a dense 70B on R9700s, in any arrangement or in this one."""
    return [
        row
        for row in [*serving(), *pairs()]
        if (row.gpu, row.gpus) == ("R9700", gpus)
        and "70B" in row.model
        and not is_mixture(row)
        and split in (None, arrangement(row))
    ]


def gains(found: Iterable[Pair], phase: Phase = "decode") -> list[float]:
    """How many times as fast, the smallest first; without those that print no such rate."""
    return sorted(gain for pair in found if (gain := pair.gain(phase)))


def machines(found: Iterable[Pair]) -> set[str]:
    return {pair.other.machine for pair in found}


def machine_votes(figures: Iterable[tuple[Row, float]]) -> list[float]:
    """A vote of each machine, the median of its figures, the smallest first: an owner who prints
    many rows counts once."""
    by_machine = grouped(figures, lambda figure: figure[0].machine).values()
    return sorted(median(value for _, value in own) for own in by_machine)
