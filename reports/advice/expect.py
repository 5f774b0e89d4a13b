"""`expect`: what others have published for these GPUs, and the place of a run among it."""

import argparse
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any

from reports.advice.expect_chart import charts_of, draw, panels
from reports.advice.expect_model import expect_model
from reports.advice.specs import GPUS, find, link_between, sheet_of
from reports.kit.page import Banner, Page, Section, to_html
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
    WAYS,
    amounts,
    by_way,
    counts,
    fabric_at,
    is_alike,
    own_calls,
    spans_sockets,
    summary,
    way_of,
)
from reports.tables.headline import ends
from reports.tables.sentences import (
    TOKEN_CALL_SIZE_BYTES,
    lay_out,
    number,
    plain_table,
    size_text,
    without_version,
)
from reports.tables.show import read_newest
from wiretax.common.grouped import grouped
from wiretax.common.program import BENCH, REPORTS, RUN, answer, on_ranks
from wiretax.common.untrusted import printable
from wiretax.record.case import size_of
from wiretax.record.result import ResultError
from wiretax.record.schema import Result
from wiretax.record.writing import write_named

SIZES = TOKEN_CALL_SIZE_BYTES, 32 << 20  # decode of one token, a chunk of prefill
KINDS = "library", "tuned", "lossy"
BAD = 1.1  # times the median of the published times
SLOT_CAUSES = (
    "no peer access between the cards, a slot of eight lanes or of an older generation, or ACS, "
    "which sends peers' traffic through the root complex"
)
STAGED_CAUSES = (
    "a slot of fewer lanes or of an older generation, cards on different sockets, or few channels "
    "of memory"
)
SMALL_CAUSES = (
    "no peer access, LL switched off or taken for too large messages by this version of the "
    "library, fine-grained memory, or calls that are not replayed from a graph"
)
# What is noted of a source, in words.
NOTED = {
    "machine": "machine",
    "date": "date",
    "version": "version",
    "power_w": "power in W",
    "grade": "grade",
    "valid_until": "history since",
}


@dataclass
class Question:
    """`name` is the card as the user or the driver calls it, `cards` are its names in the table;
    over `fabrics` other cards count as near. Of a run: `fabric` and `sockets` as far as it tells
    them, `own` its figures, `notices` what must be known before them."""

    name: str
    cards: set[str]
    gpus: int
    hosts: int | None
    fabrics: set[str]
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
        yield "", self.equal(size_bytes, is_history={False}, **values)
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, nargs="?", help="a run of GPUs, or a folder: its newest")
    add("--gpu", metavar="NAME", help="or a card, such as r9700, h100, rtx5090")
    add("--gpus", metavar="N", type=count, help="number of GPUs (2)")
    add("--hosts", metavar="N", type=count, help="number of hosts (1)")
    sizes = "16K and 32M, or a run's smallest and largest"
    add("--size", metavar="BYTES", type=count, nargs="+", help=sizes)
    serving = "or tokens per second of engines with this model, such as qwen3.8-27b"
    add("--model", metavar="NAME", help=serving)
    add("--plot", metavar="OUT", type=Path, help="draw all published sizes; .svg or .png")
    add("--html", metavar="FILE", type=Path, help="also write a page")


def count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,11}[KMGkmg]?", text):
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is no number such as 2, 16K or 32M")
    return size_of(text.upper())


def expect(arguments: argparse.Namespace) -> int:
    """Prints the published figures and returns 0. Raises ResultError for an unknown card or model
    and for a run that cannot stand beside others."""
    if arguments.model is not None:
        return expect_model(arguments)
    machine = arguments.gpus or arguments.hosts
    if bool(arguments.run) == bool(arguments.gpu) or (arguments.run and machine):
        raise ResultError("expect needs either a RUN, or --gpu with --gpus, or --model")

    sizes = arguments.size or SIZES
    if arguments.run:
        question = question_of_run(read_newest(arguments.run))
        if not arguments.size:
            sizes = ends(call.size_bytes or 0 for call in question.own)
    else:
        question = question_of(arguments.gpu, arguments.gpus or 2, arguments.hosts or 1)

    answers = [answer_to(question, size, kind) for size in sizes for kind in KINDS]
    if select(question.own, transport={"host memory"}):
        question.notices += peers_reach(question, sizes)
    sentences = [line for told in (places, known, past) for one in answers for line in told(one)]
    texts = sources(answers)
    rows, listed = rows_of(answers, texts), [*texts.values()]
    title = f"{question}, published {question.collective}"
    banner = banner_of(question, answers)
    if arguments.plot:
        draw(arguments.plot, panels(question, sizes), f"{banner.word}: {banner.sentence}")
    if arguments.html:
        said, command = "Find out what limits this machine:", on_ranks(question.gpus, "link")
        if not question.own:
            said = "Measure such a machine, and put its figures beside these:"
            measure = f"{on_ranks(question.gpus, 'allreduce')} --out results"
            command = f"{measure}\n{RUN}{REPORTS} expect results"
        sections = [
            Section("What to do next", [said], text=command),
            Section("By size", charts=charts_of(panels(question, sizes))),
            Section("Figures", sentences, rows=rows),
            Section("Sources", listed),
        ]
        write_named(arguments.html, to_html(Page(title, banner, sections)).encode())

    tables = [("", plain_table(rows[0], rows))] if rows else []
    text = lay_out([*question.notices, title], sentences, tables, listed)
    facts = {name: getattr(question, name) for name in ("name", "gpus", "hosts", "own")}
    sentences = [*question.notices, *sentences]
    answer(arguments, text, **facts, answers=answers, sentences=sentences)
    return 0


def question_of(name: str, gpus: int, hosts: int | None) -> Question:
    """The question about cards of this name. Raises ResultError for an unknown one."""
    if "," in name:
        raise ResultError(f"--gpu takes one card, not {printable(name)}")
    named, notices = meant_cards(name)
    fabrics = {row.generation for row in select(calls(), gpu=named, hosts={hosts})}
    if not named:
        known = [*cards(), *(row.card for row in same_chips())]
        names = {card.lower().replace(" ", ""): None for card in known} | GPUS
        sheet = sheet_of(name) or find("GPU", names, name)
        assert sheet, "a published card has figures"
        fabrics = {link_between(sheet, gpus).fabric.partition(" x")[0]}
    fabrics -= {"unknown", "none"}
    return Question(printable(name), named, gpus, hosts, fabrics, notices=notices)


def question_of_run(result: Result) -> Question:
    """The question about a run's cards and its first collective. Raises ResultError for a run that
    has no figure to stand beside others."""
    if any(case.status == "wrong" for case in result.cases):
        raise ResultError(f"{result.path} has wrong results: its times stand beside no others")
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


def peers_reach(question: Question, sizes: Sequence[int]) -> Iterator[str]:
    """What such cards reach with peer access, which this run lacked."""
    for size in sizes:
        rows = question.equal(size, kind={"library"}, transport={"p2p"}, is_history={False})
        if rows := select(rows, size_bytes={size}):
            yield (
                f"With peer access a library is published at {size_text(size)} with "
                f"{summary(rows)}."
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


def named(answer: Answer) -> str:
    return f"{answer.kind.capitalize()} at {size_text(answer.size_bytes)}"


def in_groups(answer: Answer, rows: Sequence[PublishedCall]) -> dict[str, list[PublishedCall]]:
    """The rows that may be compared, by what they share: `eager, through peer access over PCIe 4
    x8`; of another number of cards than was asked for with that."""

    def shared(row: PublishedCall) -> str:
        mode = "mode not printed" if row.mode == "unknown" else row.mode
        cards = f"{row.gpus} cards" if row.gpus != answer.gpus else ""
        return ", ".join(filter(None, (cards, mode, way_of(row))))

    return grouped(rows, shared)


def known(answer: Answer) -> Iterator[str]:
    """What is known in each mode and on each way, what is not, and what stands in its place."""
    size = answer.size_bytes
    if not answer.figures and answer.kind != "lossy":
        ways = {WAYS[call.transport] for call in answer.own if call.transport != "unknown"}
        way = f" {' or '.join(sorted(ways))}" if ways else ""
        yield (
            f"{named(answer)}{way}: none is known, nor of the nearest cards, from half to twice "
            "of that size."
        )
    for shared, rows in in_groups(answer, answer.figures).items():
        differs = f": none is known; {answer.differs}" if answer.differs else ""
        line = f"{named(answer)}{differs}, {shared}: {summary(rows)}"
        sizes = sorted({row.size_bytes or 0 for row in rows})
        if sizes != [size]:
            line += f"; nobody measured that size, this is at {', '.join(map(size_text, sizes))}"
        yield f"{line}."


def past(answer: Answer) -> Iterator[str]:
    """What such machines once reached, before a change of the library."""
    for change, rows in grouped(answer.history, attrgetter("valid_until")).items():
        for shared, alike in in_groups(answer, rows).items():
            yield (
                f"History: {named(answer)}, {shared}: {amounts(alike)} until {change} "
                f"({counts(alike)}); it is not counted."
            )


def places(answer: Answer) -> Iterator[str]:
    """The place of each of the run's figures among the machines of its kind, mode, transport and
    number of cards, and what usually explains a bad one."""
    size = answer.size_bytes
    for call in answer.own:
        alike = beside(answer, call)
        for way, rows in by_way(alike).items():
            machines = votes(rows, attrgetter("us"))
            faster = sum(us < call.us for us in machines.values())
            others = f"{len(machines)} {'machines' if len(machines) > 1 else 'machine'}"
            whose = f" ({answer.differs})" if answer.differs else ""
            yield (
                f"This run's {call.kind} at {size_text(size)}, {call.mode}: {amounts([call])}, "
                f"slower than {faster} of {others} of {call.gpus} cards{whose} {way} "
                f"({amounts(rows)}, {len(rows)} rows)."
            )
        if alike and call.us > BAD * usual_us(alike):
            causes = SMALL_CAUSES
            if size >= LARGE_BYTES:
                is_slot = alike[0].fabric.startswith("PCIe")
                causes = SLOT_CAUSES if is_slot else "a link between the GPUs that is down"
            if call.transport == "host memory":
                causes = STAGED_CAUSES
            yield f"What usually explains that: {causes}. {BENCH}doctor shows the links."


def beside(answer: Answer, call: PublishedCall) -> list[PublishedCall]:
    """The published figures that a run's may be compared with."""
    rows = select(answer.figures, size_bytes={answer.size_bytes}, gpus={call.gpus})
    return select(rows, mode={call.mode, "unknown"})


def usual_us(rows: Sequence[PublishedCall]) -> float:
    """The median over machines; of several ways the slowest, as any may be the run's."""
    return max(median(votes(own, attrgetter("us")).values()) for own in by_way(rows).values())


def banner_of(question: Question, answers: Sequence[Answer]) -> Banner:
    """One figure and one clause: the run's largest message, or else what a library reaches. What
    must be known before is below it; a run without peer access begins with that."""
    facts = question.notices
    by_size = sorted(answers, key=lambda one: (-one.size_bytes, KINDS.index(one.kind)))
    for one in by_size:
        for call in one.own:
            if rows := beside(one, call):
                machines = votes(rows, attrgetter("us"))
                faster = sum(us < call.us for us in machines.values())
                way = WAYS[call.transport].replace("transport not printed", "on any transport")
                sentence = (
                    f"{question}, {one.kind} at {size_text(one.size_bytes)}: slower than {faster} "
                    f"of {len(machines)} published {way}"
                )
                if call.transport == "host memory" and facts:
                    sentence = sentence.replace(": ", f": {amounts([call])}, ")
                    return Banner("No peer access", sentence, facts, "worse")
                return Banner(amounts([call]), sentence, facts)
    for one in by_size:
        for shared, rows in in_groups(one, one.figures).items():
            whose = one.differs or str(question)
            sentence = f"{whose}, {one.kind} at {size_text(one.size_bytes)}, {shared}"
            return Banner(amounts(rows), sentence, facts)
    return Banner(str(question), "nothing is published near it", facts)


def sources(answers: Sequence[Answer]) -> dict[str, str]:
    """What to know of each source, behind its number."""
    texts = dict[str, str]()
    figures = [row for answer in answers for row in (*answer.figures, *answer.history)]
    for source, rows in grouped(figures, lambda row: row.source).items():
        facts = dict.fromkeys((name, getattr(row, name)) for name in NOTED for row in rows)
        words = [f"{NOTED[name]} {value}" for name, value in facts if value]
        texts[source] = f"[{len(texts) + 1}] {source}: {'; '.join(words)}"
    return texts


def place_of(row: PublishedCall) -> str:
    """`8x RTX PRO 6000, PCIe 5, p2p, 2 sockets`, without what is unknown."""
    words = [f"{row.gpus}x {row.gpu}", row.fabric, row.transport]
    if row.sockets:
        words.append(f"{row.sockets} socket{'s' if row.sockets > 1 else ''}")
    if row.is_history:
        words.append("history")
    return ", ".join(word for word in words if word != "unknown")


def rows_of(answers: Sequence[Answer], texts: Mapping[str, str]) -> list[dict[str, str]]:
    """A row of a table for each figure, the run's first, with the number of its source."""
    return [
        {
            "size": size_text(row.size_bytes or 0),
            "us": number(row.us),
            "busbw\nGB/s": number(row.gb_s),
            "mode": row.mode,
            "algorithm": f"{row.library} {row.variant}".rstrip(),
            "place": place_of(row),
            "source": texts[row.source].split()[0] if row.source in texts else "run",
        }
        for answer in answers
        for row in (*answer.own, *answer.figures, *answer.history)
    ]
