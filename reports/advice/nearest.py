"""The published figures that are nearest to some cards or to a run: within one transport and one
fabric, of the same cards, or of others in a fixed order. `expect` shows them, `qualify` judges by
them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from statistics import median
from typing import Any

from reports.advice.specs import GPUS, find, link_between, sheet_of
from reports.references.published import (
    PublishedCall,
    Transport,
    calls,
    cards,
    meant_cards,
    near_size,
    same_chips,
    select,
    votes,
)
from reports.tables.beside_published import (
    LARGE_BYTES,
    by_way,
    fabric_at,
    is_alike,
    own_calls,
    spans_sockets,
)
from reports.tables.sentences import without_version
from wiretax.common.program import BENCH
from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError
from wiretax.record.schema import Result

KINDS = "library", "tuned", "lossy"
BAD = 1.1  # times the median of the published times


@dataclass
class Question:
    """`name` is the card as the user or the driver calls it, `cards` are its names in the table, or
    with `is_twin` those with the same chip; over `fabrics` other cards count as near. Of a run:
    `fabric` and `sockets` as far as it tells them, `own` its figures. `notices` are what a reader
    must know first."""

    name: str
    cards: set[str]
    gpus: int
    hosts: int | None
    fabrics: set[str]
    is_twin: bool = False
    fabric: str = "unknown"
    sockets: int | None = None
    own: list[PublishedCall] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    collective: str = "all_reduce"

    def __str__(self) -> str:
        return f"{self.gpus}x {self.name}"

    def is_fabric(self, row: PublishedCall, size_bytes: int) -> bool:
        """Whether a row is of the run's fabric at this size; any is, where the run tells none."""
        own, at = self.fabric, fabric_at(row, size_bytes)
        if size_bytes < LARGE_BYTES:
            own = own.partition(" x")[0]
        return own == "unknown" or is_alike(at, own)

    def transports(self, kind: str) -> set[Transport]:
        """Those of the run's figures of this kind, or else of any; without `unknown`."""
        own = select(self.own, kind={kind}) or self.own
        ways: set[Transport] = {call.transport for call in own}
        return ways - {"unknown"}

    def has_sockets(self, row: PublishedCall) -> bool:
        return None in (row.sockets, self.sockets) or row.sockets == self.sockets

    def equal(self, size_bytes: int, **values: Collection[Any]) -> list[PublishedCall]:
        """The figures of such a machine, and of no other."""
        rows = select(
            calls(),
            gpu=self.cards,
            gpus={self.gpus},
            hosts={self.hosts},
            collective={self.collective},
            **values,
        )
        return [row for row in rows if self.is_fabric(row, size_bytes) and self.has_sockets(row)]

    def levels(
        self, size_bytes: int, **values: Collection[Any]
    ) -> Iterator[tuple[str, list[PublishedCall]]]:
        """The figures of such a machine that still hold, then those of the nearest, after what
        differs. Twice as many cards are near, unless they are on more sockets: there calls are
        known to collapse."""
        rows = select(
            calls(),
            hosts={self.hosts},
            collective={self.collective},
            is_history={False},
            **values,
        )
        own = select(rows, gpu=self.cards)
        same = [row for row in own if self.is_fabric(row, size_bytes)]
        sockets = self.sockets or 1
        equal = self.equal(size_bytes, is_history={False}, **values)
        yield "cards with the same chip" if self.is_twin else "", equal
        yield "these cards on another number of sockets", select(same, gpus={self.gpus})
        yield "these cards over another fabric", select(own, gpus={self.gpus})
        near = [row for row in own if self.gpus <= 2 * row.gpus <= 4 * self.gpus]
        yield (
            "half to twice as many of these cards",
            [row for row in near if row.sockets in (None, sockets)],
        )
        yield "another number of these cards", own
        others = [
            row
            for row in select(rows, gpus={self.gpus})
            if any(is_alike(fabric_at(row, size_bytes), fabric) for fabric in self.fabrics)
        ]
        yield "other cards over the same fabric", others


@dataclass
class Answer:
    """What is published of one kind of algorithm at or near one size, the fastest first; `differs`
    says in what its machines are others. Without `figures` nothing is known. `own` are the run's
    of this size; `history` are those of such a machine that hold no more."""

    size_bytes: int
    kind: str
    gpus: int
    own: Sequence[PublishedCall]
    differs: str = ""
    figures: Sequence[PublishedCall] = ()
    history: Sequence[PublishedCall] = ()


def question_of(name: str, gpus: int, hosts: int | None) -> Question:
    """The question about cards of this name. Raises ResultError for an unknown one."""
    if "," in name:
        hint = "; advise takes a card by its figures" if name[:1].isdigit() else ""
        raise ResultError(f"--gpu takes one card, not {printable(name[:80])}{hint}")
    named, notices = meant_cards(name)
    fabrics = {row.generation for row in select(calls(), gpu=named, hosts={hosts})}
    if not named:
        known = [*cards(), *(row.card for row in same_chips())]
        names = {card.lower().replace(" ", ""): None for card in known} | GPUS
        sheet = sheet_of(name) or find("GPU", names, name)
        assert sheet, "a published card has figures"
        fabrics = {link_between(sheet, gpus).fabric.partition(" x")[0]}
    fabrics -= {"unknown", "none"}
    return Question(printable(name), named, gpus, hosts, fabrics, bool(notices), notices=notices)


def question_of_run(result: Result) -> Question:
    """The question about a run's cards and its first collective. Raises ResultError for a run that
    has no figure to stand beside others."""
    if any(case.status == "wrong" for case in result.cases):
        raise ResultError(f"{result.path} has wrong results: its times are compared with no others")
    if not (own := own_calls(result)):
        raise ResultError(
            f"{result.path} has no time of a collective of GPUs of one model, one a rank; if its "
            "log names none: expect --gpu NAME --gpus N"
        )

    first = own[0]
    question = question_of(first.gpu, first.gpus, first.hosts)
    question.fabric, question.sockets = first.fabric, spans_sockets(result.run)
    question.fabrics = {first.fabric} - {"unknown"} or question.fabrics
    question.collective = first.collective
    question.own = select(own, collective={first.collective})
    question.notices = [*without_peers(result, question.own), *question.notices]
    return question


def without_peers(result: Result, own: Sequence[PublishedCall]) -> Iterator[str]:
    """What a reader must know first of a run without peer access. Who asked our kernels to use host
    memory knows it of them."""
    kernels = select(own, kind={"tuned", "lossy"})
    was_asked = result.run.memory.get("requested") == "host_staged"
    was_asked |= bool(select(kernels, transport={"p2p"}))
    staged = select(own, transport={"host memory"})
    who = dict.fromkeys(
        without_version(call.library) if call.kind == "library" else "Wiretax's kernels"
        for call in staged
        if call.kind == "library" or not was_asked
    )
    if who:
        yield (
            f"NO PEER ACCESS: {' and '.join(who)} went through host memory in this run, which is "
            f"compared with published runs through host memory only. {BENCH}doctor says what "
            "keeps the cards apart."
        )


def answer_to(question: Question, size: int, kind: str) -> Answer:
    """What is published at or near a size within the transports of the run's figures, as far as
    both are known; without a run, of any."""
    mine = select(question.own, kind={kind})
    transports = question.transports(kind)
    asked: list[dict[str, Collection[Any]]] = [{}]
    if transports:
        asked = [{"transport": transports}, {"transport": {"unknown"}}]
    found = Answer(size, kind, question.gpus, select(mine, size_bytes={size}))
    former = question.equal(size, kind={kind}, is_history={True}, **asked[0])
    found.history = sorted(near_size(former, size), key=attrgetter("us"))
    of_transports = [question.levels(size, kind={kind}, **each) for each in asked]
    for level in zip(*of_transports, strict=True):
        for differs, rows in level:
            if near := near_size(rows, size):
                found.differs, found.figures = differs, sorted(near, key=attrgetter("us"))
                return found
    return found


def beside(answer: Answer, call: PublishedCall) -> list[PublishedCall]:
    """The published figures that a run's may be compared with."""
    rows = select(answer.figures, size_bytes={answer.size_bytes}, gpus={call.gpus})
    return select(rows, mode={call.mode, "unknown"})


def usual_us(rows: Sequence[PublishedCall]) -> float:
    """The median over machines; of several ways the slowest, as any may be the run's."""
    return max(median(votes(own, attrgetter("us")).values()) for own in by_way(rows).values())
