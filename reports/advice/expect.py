"""`expect`: what others have published for these GPUs, and the place of a run among it."""

import argparse
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from statistics import median

from reports.advice.specs import GPUS, find, link_between, sheet_of
from reports.kit.chart import chart_of
from reports.kit.page import Banner, Page, Section, to_html
from reports.references.published import PublishedCall, calls, cards, cards_named, near_size, select
from reports.tables.beside_published import LARGE_BYTES, THIS_RUN, amounts, own_calls
from reports.tables.figure import WIDEST_IN, DrawnLine, figure
from reports.tables.headline import ends
from reports.tables.plot import Quantity, draw_against_size, span_of
from reports.tables.sentences import TOKEN_CALL_SIZE_BYTES, lay_out, number, plain_table, size_text
from reports.tables.show import read_newest
from wiretax.common.grouped import grouped
from wiretax.common.program import BENCH, REPORTS, RUN, answer, on_ranks
from wiretax.common.untrusted import printable
from wiretax.record.case import size_of
from wiretax.record.result import ResultError
from wiretax.record.schema import Result
from wiretax.record.writing import write_named

SIZES = TOKEN_CALL_SIZE_BYTES, 32 << 20  # decode of one token, a chunk of prefill
# Kinds of algorithms, with the role of their colour.
ROLE_OF_KIND = {"library": "library", "tuned": "line-3", "lossy": "line-1"}
FOOTER = "black: a library, amber: a tuned kernel, pink: a lossy one, blue: this run"
BAD = 1.1  # times the median of the published times
SLOT_CAUSES = (
    "no peer access between the cards, a slot of eight lanes or of an older generation, or ACS, "
    "which sends peers' traffic through the root complex"
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
    "valid_until": "valid until",
}


@dataclass
class Question:
    """`name` is the card as the user or the driver calls it, `cards` are its names in the table;
    `generations` are the fabrics that count as the same, `own` the figures of a run."""

    name: str
    cards: set[str]
    gpus: int
    hosts: int | None
    generations: set[str]
    own: list[PublishedCall] = field(default_factory=list)
    collective: str = "all_reduce"

    def __str__(self) -> str:
        return f"{self.gpus}x {self.name}"

    def levels(self, kinds: Collection[str]) -> Iterator[tuple[str, list[PublishedCall]]]:
        """The figures of such a machine, then those of the nearest, after what differs."""
        rows = select(calls(), collective={self.collective}, hosts={self.hosts}, kind=kinds)
        alike, own = select(rows, generation=self.generations), select(rows, gpu=self.cards)
        yield "", select(alike, gpu=self.cards, gpus={self.gpus})
        yield "these cards over another fabric", select(own, gpus={self.gpus})
        yield "another number of these cards", own
        yield "other cards over the same fabric", select(alike, gpus={self.gpus})


@dataclass
class Answer:
    """What is published of one kind of algorithm at or near one size, the fastest first; `differs`
    says in what its machines are others. Without `figures` nothing is known. `own` are the run's
    of this size."""

    size_bytes: int
    kind: str
    own: Sequence[PublishedCall]
    differs: str = ""
    figures: Sequence[PublishedCall] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, nargs="?", help="a run of GPUs, or a folder: its newest")
    add("--gpu", metavar="NAME", help="or a card, such as r9700, h100, rtx5090")
    add("--gpus", metavar="N", type=count, help="number of GPUs (2)")
    add("--hosts", metavar="N", type=count, help="number of hosts (1)")
    sizes = "16K and 32M, or a run's smallest and largest"
    add("--size", metavar="BYTES", type=count, nargs="+", default=SIZES, help=sizes)
    add("--plot", metavar="OUT", type=Path, help="draw all published sizes; .svg or .png")
    add("--html", metavar="FILE", type=Path, help="also write a page")


def count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,11}[KMGkmg]?", text):
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is no number such as 2, 16K or 32M")
    return size_of(text.upper())


def expect(arguments: argparse.Namespace) -> int:
    """Prints the published figures and returns 0. Raises ResultError for an unknown card and for a
    run that cannot stand beside others."""
    machine = arguments.gpus or arguments.hosts
    if bool(arguments.run) == bool(arguments.gpu) or (arguments.run and machine):
        raise ResultError("expect needs either a RUN, or --gpu with --gpus")

    sizes = arguments.size
    if arguments.run:
        question = question_of_run(read_newest(arguments.run))
        if sizes is SIZES:
            sizes = ends(call.size_bytes or 0 for call in question.own)
    else:
        question = question_of(arguments.gpu, arguments.gpus or 2, arguments.hosts or 1)

    answers = [answer_to(question, size, kind) for size in sizes for kind in ROLE_OF_KIND]
    sentences = [line for told in (places, known) for answer in answers for line in told(answer)]
    texts = sources(answers)
    rows, listed = rows_of(answers, texts), [*texts.values()]
    title = f"{question}, published {question.collective}"
    if arguments.plot:
        quantity, lines = drawn_of(question)
        size_in = WIDEST_IN, max(5.0, 0.3 * len(lines))  # two lines of letters for each name
        finding = f"{question}: {sentences[0]}"
        with figure(arguments.plot, 1, size_in, finding, FOOTER) as [axes]:
            draw_against_size(axes, lines, quantity, letters=50)
    if arguments.html:
        said, command = "Find out what limits this machine:", on_ranks(question.gpus, "link")
        if not question.own:
            said = "Measure such a machine, and put its figures beside these:"
            measure = f"{on_ranks(question.gpus, 'allreduce')} --out results"
            command = f"{measure}\n{RUN}{REPORTS} expect results"
        sections = [
            Section("What to do next", [said], text=command),
            Section("Published points", charts=[chart_of(*drawn_of(question))]),
            Section("Figures", sentences, rows=rows),
            Section("Sources", listed),
        ]
        page = Page(title, Banner(str(question), sentences[0]), sections)
        write_named(arguments.html, to_html(page).encode())

    tables = [("", plain_table(rows[0], rows))] if rows else []
    text = lay_out([title], sentences, tables, listed)
    facts = {name: getattr(question, name) for name in ("name", "gpus", "hosts", "own")}
    answer(arguments, text, **facts, answers=answers, sentences=sentences)
    return 0


def question_of(name: str, gpus: int, hosts: int | None) -> Question:
    """The question about cards of this name. Raises ResultError for an unknown one."""
    if "," in name:
        raise ResultError(f"--gpu takes one card, not {printable(name)}")
    named = cards_named(name)
    generations = {row.generation for row in select(calls(), gpu=named, hosts={hosts})}
    if not named:
        known = {card.lower().replace(" ", ""): None for card in cards()} | GPUS
        sheet = sheet_of(name) or find("GPU", known, name)
        assert sheet, "a published card has figures"
        generations = {link_between(sheet, gpus).fabric.partition(" x")[0]}
    return Question(printable(name), named, gpus, hosts, generations)


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
    question.generations = {first.generation} - {"unknown"} or question.generations
    question.collective = first.collective
    question.own = select(own, collective={first.collective})
    return question


def answer_to(question: Question, size: int, kind: str) -> Answer:
    own = select(question.own, kind={kind}, size_bytes={size})
    for differs, rows in question.levels({kind}):
        if found := near_size(rows, size):
            return Answer(size, kind, own, differs, sorted(found, key=lambda row: row.us))
    return Answer(size, kind, own)


def known(answer: Answer) -> Iterator[str]:
    """What is known in each mode, what is not, and what stands in its place."""
    name = f"{answer.kind.capitalize()} at {size_text(answer.size_bytes)}"
    if not answer.figures and answer.kind != "lossy":
        yield f"{name}: none is known, nor of the nearest cards, from half to twice of that size."
    for mode, rows in grouped(answer.figures, lambda row: row.mode).items():
        differs = f"none is known; {answer.differs}: " if answer.differs else ""
        line = f"{name}, {mode}: {differs}{amounts(rows)}"
        sizes = sorted({row.size_bytes or 0 for row in rows})
        if sizes != [answer.size_bytes]:
            line += f"; nobody measured that size, this is at {', '.join(map(size_text, sizes))}"
        yield f"{line} (figures: {len(rows)})."


def places(answer: Answer) -> Iterator[str]:
    """The place of each of the run's figures among those of its kind, mode and number of cards, and
    what usually explains a bad one."""
    size = answer.size_bytes
    for call in answer.own:
        modes = {call.mode, "unknown"}
        alike = select(answer.figures, size_bytes={size}, mode=modes, gpus={call.gpus})
        if not alike:
            continue
        faster = sum(row.us < call.us for row in alike)
        yield (
            f"This run's {call.kind} at {size_text(size)}, {call.mode}: {amounts([call])}, "
            f"slower than {faster} of {len(alike)} published figures of {call.gpus} cards "
            f"({amounts(alike)})."
        )
        if call.us > BAD * median(row.us for row in alike):
            causes = SMALL_CAUSES
            if size >= LARGE_BYTES:
                is_slot = alike[0].fabric.startswith("PCIe")
                causes = SLOT_CAUSES if is_slot else "a link between the GPUs that is down"
            yield f"What usually explains that: {causes}. {BENCH}doctor shows the links."


def sources(answers: Sequence[Answer]) -> dict[str, str]:
    """What to know of each source, behind its number."""
    texts = dict[str, str]()
    figures = [row for answer in answers for row in answer.figures]
    for source, rows in grouped(figures, lambda row: row.source).items():
        facts = dict.fromkeys((name, getattr(row, name)) for name in NOTED for row in rows)
        words = [f"{NOTED[name]} {value}" for name, value in facts if value]
        texts[source] = f"[{len(texts) + 1}] {source}: {'; '.join(words)}"
    return texts


def rows_of(answers: Sequence[Answer], texts: Mapping[str, str]) -> list[dict[str, str]]:
    """A row of a table for each figure, the run's first, with the number of its source."""
    return [
        {
            "size": size_text(row.size_bytes or 0),
            "us": number(row.us),
            "busbw\nGB/s": number(row.gb_s),
            "mode": row.mode,
            "algorithm": f"{row.library} {row.variant}".rstrip(),
            "place": f"{row.gpus}x {row.gpu}, {row.fabric}, {row.transport}".replace(
                ", unknown", ""
            ),
            "source": texts[row.source].split()[0] if row.source in texts else THIS_RUN,
        }
        for answer in answers
        for row in (*answer.own, *answer.figures)
    ]


def drawn_of(question: Question) -> tuple[Quantity, list[DrawnLine]]:
    """The published times of the same machine at all sizes, or of the nearest, and the run's.
    Raises ResultError without any."""
    figures = next((rows for _, rows in question.levels(ROLE_OF_KIND) if rows), [])
    shown = [row for row in (*figures, *question.own) if row.size_bytes]
    if not shown:
        raise ResultError(f"nothing is published near {question}: there is nothing to draw")

    shown.sort(key=attrgetter("size_bytes"))
    lines = []
    alike = attrgetter("source", "library", "version", "variant", "mode", "gpus", "gpu", "machine")
    for own in grouped(shown, alike).values():
        row = own[0]
        words = row.source.partition("/")[0] + ":", row.library, row.version, row.variant
        name = f"{' '.join(filter(None, words))}, {row.mode}, {row.gpus}x {row.gpu}"
        role = "ours" if row.source == THIS_RUN else ROLE_OF_KIND[row.kind]
        lines.append(DrawnLine(name, role, own, True))
    title = f"Time of a call of {question.collective}"
    return Quantity(title, "us", lambda row: span_of((row.us, None, None)), {}), lines
