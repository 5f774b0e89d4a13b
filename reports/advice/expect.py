"""`expect`: what others have published for these GPUs, and the place of a run among it."""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path

from reports.advice.expect_chart import charts_of, draw, panels
from reports.advice.expect_model import expect_model, sources
from reports.advice.nearest import (
    BAD,
    KINDS,
    Answer,
    Question,
    answer_to,
    beside,
    question_of,
    question_of_run,
    usual_us,
)
from reports.kit.page import Banner, Page, Section, to_html
from reports.references.published import PublishedCall, calls, select, votes
from reports.tables.beside_published import (
    LARGE_BYTES,
    WAYS,
    amounts,
    by_way,
    counts,
    own_calls,
    summary,
    way_of,
)
from reports.tables.headline import ends
from reports.tables.sentences import (
    TOKEN_CALL_SIZE_BYTES,
    counted,
    lay_out,
    number,
    plain_table,
    size_text,
)
from reports.tables.show import read_newest
from wiretax.common.grouped import grouped
from wiretax.common.program import BENCH, REPORTS, RUN, answer, on_ranks
from wiretax.common.untrusted import printable
from wiretax.record.case import size_of
from wiretax.record.result import ResultError
from wiretax.record.writing import write_named

A_RUN = "a run of GPUs, or a folder or a survey's archive: its newest with a collective"
SIZES = TOKEN_CALL_SIZE_BYTES, 32 << 20  # decode of one token, a chunk of prefill
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
    "sender": "sent by",
    "machine": "machine",
    "date": "date",
    "version": "version",
    "power_w": "power in W",
    "grade": "grade",
    "valid_until": "history since",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, nargs="?", help=A_RUN)
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
        question = question_of_run(read_newest(arguments.run, own_calls))
        if not arguments.size:
            sizes = ends(call.size_bytes or 0 for call in question.own)
    else:
        question = question_of(arguments.gpu, arguments.gpus or 2, arguments.hosts or 1)

    answers = [answer_to(question, size, kind) for size in sizes for kind in KINDS]
    if not any(one.figures or one.history or one.own for one in answers):
        raise ResultError(nothing_at(question, sizes))
    if select(question.own, transport={"host memory"}):
        question.notices += peers_reach(question, sizes)
    sentences = [line for told in (places, known, past) for one in answers for line in told(one)]
    figures = [row for one in answers for row in (*one.figures, *one.history)]
    texts = sources(figures, NOTED)
    rows, listed = rows_of(answers, texts), [*texts.values()]
    title = f"{question}, published {question.collective}"
    banner = banner_of(question, answers)
    if arguments.plot:
        draw(arguments.plot, panels(question, sizes), f"{banner.word}: {banner.sentence}")
    said, command = "Find out what limits this machine:", on_ranks(question.gpus, "link")
    if not question.own:
        said = "Measure such a machine, and put its figures beside these:"
        measure = f"{on_ranks(question.gpus, 'allreduce')} --out results"
        command = f"{measure}\n{RUN}{REPORTS} expect results"
    if arguments.html:
        sections = [
            Section("What to do next", [said], text=command),
            Section("By size", charts=charts_of(panels(question, sizes))),
            Section("Figures", sentences, rows=rows),
            Section("Sources", listed),
        ]
        write_named(arguments.html, to_html(Page(title, banner, sections)).encode())

    tables = [("", plain_table(rows[0], rows))] if rows else []
    text = lay_out(
        [*question.notices, title], sentences, tables, [*listed, "", said, *command.splitlines()]
    )
    facts = {name: getattr(question, name) for name in ("name", "gpus", "hosts", "own")}
    sentences = [*question.notices, *sentences]
    answer(arguments, text, **facts, answers=answers, sentences=sentences)
    return 0


def peers_reach(question: Question, sizes: Sequence[int]) -> Iterator[str]:
    """What such cards reach with peer access, which this run lacked."""
    for size in sizes:
        rows = question.equal(size, kind={"library"}, transport={"p2p"}, is_history={False})
        if rows := select(rows, size_bytes={size}):
            yield (
                f"With peer access a library is published at {size_text(size)} with "
                f"{summary(rows)}."
            )


def nothing_at(question: Question, sizes: Sequence[int]) -> str:
    """A sentence for sizes that nobody measured near such a machine."""
    rows = select(calls(), gpu=question.cards, collective={question.collective})
    known = sorted(row.size_bytes for row in rows if row.size_bytes)
    text = (
        f"nobody has published {question.collective} of {question}, or of cards near them, from "
        f"half to twice of {' or '.join(map(size_text, sizes))}"
    )
    if known:
        text += f"; of these cards from {size_text(known[0])} to {size_text(known[-1])}"
    return text


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
                f"({counts(alike)}); it is in no median."
            )


def places(answer: Answer) -> Iterator[str]:
    """The place of each of the run's figures among the machines of its kind, mode, transport and
    number of cards, and what usually explains a bad one."""
    size = answer.size_bytes
    for call in answer.own:
        alike = beside(answer, call)
        for way, rows in by_way(alike).items():
            faster, machines = faster_than(call, rows)
            others = counted(machines, "machine")
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


def faster_than(call: PublishedCall, rows: Sequence[PublishedCall]) -> tuple[int, int]:
    """How many machines are faster, and of how many."""
    machines = votes(rows, attrgetter("us"))
    return sum(us < call.us for us in machines.values()), len(machines)


def banner_of(question: Question, answers: Sequence[Answer]) -> Banner:
    """One figure and one clause: the run's largest message, or else what a library reaches. What
    must be known before is below it; a run without peer access begins with that."""
    facts = question.notices
    by_size = sorted(answers, key=lambda one: (-one.size_bytes, KINDS.index(one.kind)))
    for one in by_size:
        what = f"{one.kind} at {size_text(one.size_bytes)}"
        for call in one.own:
            if rows := beside(one, call):
                faster, machines = faster_than(call, rows)
                way = "on any transport" if call.transport == "unknown" else WAYS[call.transport]
                place = f"slower than {faster} of {machines} published {way}"
                if call.transport == "host memory" and facts:
                    sentence = f"{question}, {what}: {amounts([call])}, {place}"
                    return Banner("No peer access", sentence, facts, "worse")
                return Banner(amounts([call]), f"{question}, {what}: {place}", facts)
    for one in by_size:
        what = f"{one.kind} at {size_text(one.size_bytes)}"
        for shared, rows in in_groups(one, one.figures).items():
            return Banner(amounts(rows), f"{one.differs or question}, {what}, {shared}", facts)
    return Banner(str(question), "nothing is published near it", facts)


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
