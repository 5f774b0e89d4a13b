"""The calls that were measured between two R9700s over PCIe, and what they decide: sentences of
docs/answer.md and README.md that change when the first row of such cards arrives."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Literal

from answer_calls import PEERS, board_order, chunk_us, even_chunk_us, sizes_text
from answer_cases import r9700_pairs
from answer_pairs import dense_70b
from answer_rows import served_text
from answer_text import sources
from answer_thresholds import bandwidth_share, limits, shares
from figures_answer import even_us, is_setting

from reports.advice.even_calls import CHUNK_BYTES, TOKEN_BYTES
from reports.references.published import PublishedCall, calls, near_size, select, votes
from reports.tables.sentences import counted, number
from tests.references_page import span
from wiretax.common.grouped import grouped
from wiretax.common.untrusted import markdown_text

# Of the intervals of some calls beside the break-even; `both`: of some machines below, of others
# above.
Place = Literal["below", "above", "both", "at"]

WAYS = {
    "p2p": "with peer access",
    "host memory": "through host memory",
    "unknown": "on a path that is not printed",
}
MODES = {"graph": "from a graph", "eager": "eager", "unknown": "in a mode that is not printed"}
LIBRARIES = {"rccl": "RCCL", "wiretax": "Wiretax's kernel"}
BESIDE: dict[Place, str] = {
    "below": "below {}",
    "above": "above {}",
    "both": "below and above {}",
    "at": "not to be told from {}",
}
# What a call of one token decides, as far as the wire does: of all libraries, or of some.
CHAT: dict[Place, str] = {
    "below": "one chat by tensor**, if the engine adds little to a call.",
    "above": "one chat by layer.**",
    "both": "the machine decides between by tensor and by layer.**",
    "at": "no difference between by tensor and by layer can be told.**",
}
CHAT_WITH: dict[Place, str] = {
    "below": "by tensor with",
    "above": "by layer with",
    "both": "by machine with",
    "at": "no difference with",
}
PROMPT: dict[Place, str] = {
    "below": "by tensor shows the first token of one chunk earlier",
    "above": "by layer shows the first token earlier",
    "both": "the machine decides which split shows the first token earlier",
    "at": "no split shows the first token earlier by more than chance",
}

HEADLINE = "**Two R9700s and a dense 70B: "
INFERENCE = """If its calls cost what R9700s paid inside engines with smaller models ({r9700_us}), a
chat by tensor decodes at {r9700_times}, at the data sheet's bandwidth. By the bandwidths that
engines reach on all cards, [`advise`](advise.md#likely) finds {r9700_likely} likely."""


@dataclass(frozen=True)
class Measured:
    """Calls of two R9700s in slots of one kind, on one path, near one size: by who made them the
    fastest of each machine and archive. `even_us`: the break-even of the 70B."""

    fabric: str
    transport: str
    size_bytes: int
    calls: Mapping[str, Sequence[PublishedCall]]
    even_us: float

    @property
    def rows(self) -> list[PublishedCall]:
        return [call for own in self.calls.values() for call in own]

    @property
    def board(self) -> str:
        """`PCIe 5 x16 with peer access`."""
        return f"{self.fabric} {WAYS[self.transport]}"

    @property
    def modes(self) -> str:
        """`from a graph`, or `from a graph or eager`."""
        return " or ".join(dict.fromkeys(MODES[call.mode] for call in self.rows))

    def us(self, call: PublishedCall) -> float:
        return chunk_us(call) if self.size_bytes == CHUNK_BYTES else call.us

    def ends(self, call: PublishedCall) -> tuple[float, float]:
        """The interval over launches in us; without one the time twice."""
        low, high = call.time_low_us or call.us, call.time_high_us or call.us
        return low * self.us(call) / call.us, high * self.us(call) / call.us

    def side(self, call: PublishedCall) -> Place:
        low, high = self.ends(call)
        return "below" if high < self.even_us else "above" if low > self.even_us else "at"

    @cached_property
    def places(self) -> dict[Place, list[str]]:
        """Who made the calls, by their place beside the break-even."""

        def place(who: str) -> Place:
            sides = {self.side(call) for call in self.calls[who]}
            if sides == {"below", "above"}:
                return "both"
            return sides.pop() if len(sides) == 1 else "at"

        return grouped(self.calls, place)

    def took(self, own: Sequence[PublishedCall]) -> str:
        """`12.3 us [11.9 12.8]`, or `11.0 to 14.1 us on 2 machines`."""
        unit, scale = ("ms", 1e3) if self.size_bytes == CHUNK_BYTES else ("us", 1.0)
        text = span([self.us(call) / scale for call in own], unit)
        if len(own) > 1:
            return f"{text} on {counted(len(votes(own, self.us)), 'machine')}"
        ends = [number(end / scale) for end in self.ends(own[0])]
        return f"{text} [{' '.join(ends)}]" if own[0].time_low_us else text

    @property
    def times(self) -> str:
        """`27.1 us [26.3 27.9] by RCCL and 12.3 us by Wiretax's kernel`."""
        return " and ".join(f"{self.took(own)} by {who}" for who, own in self.calls.items())

    def beside(self, even: str) -> str:
        """`below the break-even of 202 us`; where they differ, of each who made the calls."""
        if len(self.places) == 1:
            return BESIDE[next(iter(self.places))].format(even)
        texts = []
        for place, who in self.places.items():
            texts.append(f"{' and '.join(who)} {BESIDE[place].format('it' if texts else even)}")
        return ", ".join(texts)


def of_r9700s(**values: Iterable[object]) -> list[PublishedCall]:
    """All-reduces of two R9700s over PCIe whose size is printed."""
    rows = select(calls(), gpu={"R9700"}, gpus={2}, hosts={1}, collective={"all_reduce"}, **values)
    return [
        row
        for row in rows
        if row.fabric.startswith("PCIe") and row.grade != "hearsay" and row.size_bytes
    ]


def boards(size_bytes: int) -> list[Measured]:
    """What exact all-reduces of this size, or else near it, took at default settings on each kind
    of board, the widest slots first. A call of a token is one from a graph, if there are such."""
    mode, even = {
        TOKEN_BYTES: ("graph", even_us()),
        CHUNK_BYTES: ("eager", even_chunk_us()),
    }[size_bytes]
    exact = of_r9700s(kind={"library", "tuned"}, is_history={False})
    near = near_size([call for call in exact if not is_setting(call)], size_bytes)
    found = []
    for (fabric, transport), own in grouped(near, attrgetter("fabric", "transport")).items():
        named = {
            who: fastest_of_each(select(rows, mode={mode}) or rows)
            for who, rows in sorted(grouped(own, who_made).items())
        }
        found.append(Measured(fabric, transport, size_bytes, named, even))
    return sorted(found, key=lambda each: board_order((each.fabric, PEERS[each.transport])))


def who_made(call: PublishedCall) -> str:
    return markdown_text(LIBRARIES.get(call.library, call.library))


def fastest_of_each(rows: Sequence[PublishedCall]) -> list[PublishedCall]:
    """Of each machine and archive the fastest form, which a library or a tuner would choose."""
    runs = grouped(rows, attrgetter("machine", "archive", "source")).values()
    return [min(own, key=attrgetter("us")) for own in runs]


def verdict(token: Measured) -> str:
    """`one chat by layer.**`: what the calls of a token decide."""
    if len(token.places) == 1:
        return CHAT[next(iter(token.places))]
    texts = [f"{CHAT_WITH[place]} {' and '.join(who)}" for place, who in token.places.items()]
    return f"{', '.join(texts)}.**"


def call_sentence(token: Measured, source: str = "") -> str:
    return (
        f"Over {token.board} a call of {sizes_text(token.rows)} takes {token.times}, {token.modes}"
        f"{source}: {token.beside(f'the break-even of {number(token.even_us)} us')}."
    )


def pair_text(texts: Mapping[str, str]) -> str:
    """The paragraphs of the first screen on two R9700s: what their calls decide, if they were
    measured, and what engines imply. `texts`: the figures of answer_cases."""
    served = dense_70b()
    because = "for nobody has published the pair."
    if served:
        because = f"beside what is published of the pair: {served_text(served)}."
    inference = f"an inference**, {because} {INFERENCE.format(**texts)}"
    if not (measured := boards(TOKEN_BYTES)):
        return HEADLINE + inference

    token, *others = measured
    sentences = [HEADLINE + verdict(token), call_sentence(token, f" ({sources(token.rows)})")]
    if {*token.places} & {"below", "both"}:
        sentences.append("To pass is necessary, not sufficient: an engine adds to a call.")
    if {*token.places} - {"below"}:
        more = span(limits(token.even_us, shares(bandwidth_share))[:2], "us")
        sentences.append(
            f"Engines that reach less than the data sheet's bandwidth leave a call {more}."
        )
        inside = [pair.implied_us or 0 for pair in r9700_pairs()]
        if min(token.ends(call)[0] for call in token.rows) > max(inside):
            sentences.append("R9700s of others paid less, even inside engines.")
    for chunk in boards(CHUNK_BYTES):
        if chunk.board == token.board:
            sentences.append(chunk_sentence(chunk))
    if others:
        took = span([call.us for each in others for call in each.rows], "us")
        sentences.append(f"On [other boards](#which-board) a call takes {took}.")
    return f"{' '.join(sentences)}\n\n**What an engine makes of it: {inference}"


def chunk_sentence(chunk: Measured) -> str:
    even = f"prefill's break-even of {number(chunk.even_us / 1e3)} ms"
    text = f"{sizes_text(chunk.rows)} take {chunk.times}: {chunk.beside(even)}"
    if len(chunk.places) > 1:
        return f"{text}."
    return f"{text}, so {PROMPT[next(iter(chunk.places))]}."
