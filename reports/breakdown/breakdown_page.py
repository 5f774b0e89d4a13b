"""The page of a bill, which is also its text, and its picture: a step's parts as a bar, beside the
step of one card and half of it, and what calls take in the engine beside the same calls alone."""

import argparse
from collections.abc import Sequence
from functools import partial
from operator import attrgetter

from markupsafe import Markup

from reports.advice.expect_chart import Spread
from reports.breakdown.bars import ROLES, Bar, bars_html, draw_bars
from reports.breakdown.bill import Bill, CallBill
from reports.breakdown.halves import half_rows
from reports.breakdown.text import (
    call_rows,
    command_at_end,
    cost_us,
    costliest,
    facts,
    finding,
    names_of,
    next_steps,
    noticed,
    part_rows,
)
from reports.kit.chart import chart_of
from reports.kit.page import Banner, Cell, Page, Section, command_cell
from reports.tables.figure import DrawnLine, figure
from reports.tables.plot import PANEL_IN, Quantity, draw_against_size, span_of
from reports.tables.sentences import counted, lay_out, plain_table
from reports.verdicts.regress import write_page
from wiretax.common.grouped import grouped
from wiretax.common.untrusted import printable
from wiretax.record.stats import Interval

NEAR = 8  # times the size of a call: further off its curve is no neighbour
MOST_ROWS = 10  # of a table in the text; the page and the JSON have all
MOST_LINES = 4  # of a chart, of calls in the engine
VERDICT_ROLES = {"transfer": "steady", "mixed": "unsure", "inconclusive": "unsure"}
QUANTITY = Quantity("Transport of a call, and the call alone", "us", attrgetter("figures"), {})


def bars_of(bill: Bill) -> list[Bar]:
    """The step of the bill, below that of one card and its ideal share."""
    parts = {part: bill.parts.mean(part)[0] / 1e3 for part in bill.parts.us}
    if not bill.one:
        return [Bar(bill.title, parts)]
    one = {part: bill.one.mean(part)[0] / 1e3 for part in bill.one.us}
    ideal = {part: ms / bill.gpus for part, ms in one.items()}
    names = "one card", f"the ideal, 1/{bill.gpus} of it", f"{bill.gpus} cards"
    return [*map(Bar, names, (one, ideal, parts))]


def page_of(bill: Bill, bars: Sequence[Bar], others: Sequence[Bill] = ()) -> Page:
    """With the tables of `others`, other splits of the same run, below."""
    costly = costliest(bill)
    word = costly[0].verdict if costly else "no collective"
    role = VERDICT_ROLES.get(word, "worse" if costly else "steady")
    sentence = f"{finding(bill)}."
    sections = sections_of(bill, bars)
    for each in others:
        own = sections_of(each, bars_of(each))
        own[0].sentences = [f"{finding(each)}.", *own[0].sentences]
        for section in own:
            section.heading += f": {each.title}"
        sections += own
    banner = Banner(word.capitalize(), sentence, facts(bill), role)
    return Page(f"Wiretax: {finding(bill)}", banner, sections)


def sections_of(bill: Bill, bars: Sequence[Bar]) -> list[Section]:
    lines, notes = lines_of(bill)
    charts = [chart_of(QUANTITY, lines)] if lines else []
    return [
        Section("A step", [bars_html(bars)], rows=part_rows(bill)),
        Section("The calls", notes, charts=charts, rows=call_rows(bill)),
        Section(
            "Half is not half: a step's kernels on one card and on a rank",
            rows=half_rows(bill.halves) if bill.halves else [],
        ),
        Section("What to do next", [*map(cell, next_steps(bill))]),
        Section("Noticed", [*map(cell, noticed(bill))]),
    ]


def cell(sentence: str) -> Cell:
    """The command at its end as it is typed."""
    words, command = command_at_end(sentence)
    return [words, command_cell(command)] if command else words


def text_of(page: Page, more: Sequence[str] = ()) -> str:
    """The page without its pictures, with the first rows of each table, and `more` sentences."""
    tables, sentences = [], list[str]()
    for section in page.sections:
        if section.rows:
            # The first column, which names the rows, needs no heading.
            table = plain_table(
                ["", *[*section.rows[0]][1:]],
                ([*map(str, row.values())] for row in section.rows[:MOST_ROWS]),
            )
            tables.append((section.heading[0].lower() + section.heading[1:], table))
        else:
            sentences += map(told, section.sentences)
    banner = page.banner
    told_facts = map(str, banner.facts)
    return lay_out([banner.sentence.removesuffix(".")], told_facts, tables, [*sentences, *more])


def told(cell: Cell) -> str:
    """A sentence; the command after it on a line of its own, to be copied whole."""
    if isinstance(cell, str):
        return printable(cell)
    words, command = map(str, cell)
    return f"{printable(words)}\n  {printable(Markup(command).striptags())}"


def bill_text(bill: Bill) -> str:
    calls, more = costliest(bill), []
    if hidden := calls[MOST_ROWS:]:
        share = 100 * sum(map(cost_us, hidden)) / sum(map(cost_us, calls))
        kinds = f"{len(hidden)} more kinds of calls, {share:.1f} % of the time of all calls"
        more = [f"{kinds}, are in --json and on the page of --html."]
    return text_of(page_of(bill, bars_of(bill)), more)


def lines_of(bill: Bill) -> tuple[list[DrawnLine], list[str]]:
    """The transport of the kinds of known size, a line for those that differ in nothing but size,
    and the same calls alone; and sentences on the kinds that are not drawn. None for one point."""
    sized = [call for call in costliest(bill) if call.size_bytes]
    names = names_of(sized, has_size=False)
    by_name = grouped(sized, lambda call: names[id(call)])
    lines, notes, n_drawn = list[DrawnLine](), list[str](), 0
    for name, own in [*by_name.items()][:MOST_LINES]:
        n_drawn += len(own)
        calls = sorted(own, key=attrgetter("size_bytes"))
        inside = [Spread(call.size_bytes, span_of(call.transport_us)) for call in calls]
        bound = "<= " if any(call.is_bound for call in calls) else ""
        lines.append(DrawnLine(bound + name, ROLES["transport"], inside, True))
        if alone := spreads_alone(calls):
            what = f"{name} alone" if len(by_name) > 1 else "alone"
            lines.append(DrawnLine(what, "library", alone, True))
    if sum(len(line.cases) for line in lines) < 2:
        return [], []
    if n_cheap := len(sized) - n_drawn:
        notes.append(f"In the table alone: {counted(n_cheap, 'kind')} of calls of less cost.")
    if n_unsized := len(bill.calls) - len(sized):
        notes.append(f"In the table alone: {counted(n_unsized, 'kind')} of calls of unknown size.")
    return lines, notes


def spreads_alone(calls: Sequence[CallBill]) -> list[Spread]:
    """The calls alone, smallest first, and what the same run measured at sizes near them."""
    times_us = dict[int, Interval]()
    for call in calls:
        if call.alone:
            for size, us in call.alone.curve:
                if call.size_bytes / NEAR <= size <= call.size_bytes * NEAR:
                    times_us[size] = us
            times_us[call.size_bytes] = call.alone.us
    return [Spread(size, span_of(us)) for size, us in sorted(times_us.items())]


def show(
    page: Page, bars: Sequence[Bar], lines: Sequence[DrawnLine], arguments: argparse.Namespace
) -> None:
    """Draws --plot, as narrow as a telephone shows it, and writes the page to --html, with the
    picture that chats show beside it. Raises ResultError for another suffix than .svg or .png and
    for a file that cannot be written."""
    if arguments.plot:
        title, footer = page.banner.sentence, "; ".join(map(str, page.banner.facts))
        panels = 1 + bool(lines)
        with figure(arguments.plot, panels, PANEL_IN, title, footer, most_columns=1) as axes:
            draw_bars(axes[0], bars)
            if lines:
                draw_against_size(axes[1], lines, QUANTITY, letters=15)
    if arguments.html:
        page.draw = partial(draw_bars, bars=bars)
        write_page(page, arguments.html)
