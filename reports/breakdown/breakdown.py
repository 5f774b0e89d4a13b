"""`breakdown`: where the time of a step goes, from profilers' traces, from served figures, or from
a run of bench.decode."""

import argparse
import re
from dataclasses import replace
from pathlib import Path

from reports.advice.expect import count
from reports.breakdown.bill import Bill
from reports.breakdown.breakdown_page import bars_of, bill_text, lines_of, page_of, show, text_of
from reports.breakdown.from_traces import read_traces
from reports.breakdown.own_steps import is_run, read_own_steps
from reports.breakdown.served import add_served_arguments, read_served
from reports.breakdown.served_page import served_bars, served_fields, served_page
from reports.breakdown.text import bill_fields
from reports.tables.sentences import counted
from wiretax.common.program import answer
from wiretax.record.lateness_file import write_lateness
from wiretax.record.result import ResultError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    traces = "a trace of each rank, or a run of bench.decode or bench.prefill, or its folder"
    add("traces", metavar="TRACE", type=Path, nargs="*", help=traces)
    alone = "the calls alone on this machine: a run, a folder, a glob or a survey's archive"
    add("--run", metavar="RUN", type=Path, help=alone)
    card = "or the calls alone as published of this card (the traces name it)"
    add("--gpu", metavar="NAME", help=card)
    size = "the size of all-reduces, if the traces do not have it"
    add("--size", metavar="BYTES", type=count, help=size)
    collective = "kernels that are collectives too, beside those that are known by name"
    add("--collective", metavar="REGEX", type=pattern, action="append", default=[], help=collective)
    one = "beside traces the trace of one card; or the served figures of one card"
    add("--one", metavar="FILE", type=Path, nargs="+", help=one)
    add_served_arguments(parser)
    lateness = "also write how late each rank comes at each call, for bench.decode --lateness"
    add("--save-lateness", metavar="FILE", type=Path, help=lateness)
    add("--html", metavar="FILE", type=Path, help="also write a page")
    add("--plot", metavar="OUT", type=Path, help="draw the step's parts; .svg or .png")


def pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None


def breakdown(arguments: argparse.Namespace) -> int:
    """Prints the bill of a step and returns 0. Raises ResultError."""
    if arguments.two or (arguments.one and not arguments.traces):
        if arguments.traces:
            raise ResultError("served figures (--one, --two) and traces are separate questions")
        served = read_served(arguments)
        bars = served_bars(served)
        page = served_page(served, bars)
        show(page, bars, [], arguments)
        answer(arguments, text_of(page), **served_fields(served))
        return 0
    if not arguments.traces:
        raise ResultError(
            "breakdown needs a TRACE of each rank, or served figures by --one and --two"
        )
    if is_run(arguments.traces):
        bills = read_own_steps(arguments.traces, arguments)
    else:
        bills = [read_traces(arguments.traces, arguments)]
    first, *others = bills
    if arguments.save_lateness:
        save_lateness(first, arguments.save_lateness)
    others = [
        replace(each, notes=[note for note in each.notes if note not in first.notes])
        for each in others
    ]
    bars = [bar for bill in bills for bar in bars_of(bill)]
    show(page_of(first, bars, others), bars, lines_of(first)[0], arguments)
    splits = [{"title": bill.title, **bill_fields(bill)} for bill in bills]
    fields = splits[0] | ({"splits": splits} if others else {})
    answer(arguments, "\n".join(map(bill_text, [first, *others])), **fields)
    return 0


def save_lateness(bill: Bill, path: Path) -> None:
    """Writes how late the ranks came. Raises ResultError without traces of all of them."""
    if bill.late_us is None:
        raise ResultError("--save-lateness needs traces, with calls of all their ranks")
    if n_cut := write_lateness(path, bill.late_us):
        bill.notes.append(f"At {counted(n_cut, 'call')} a rank was later than {path} may say.")
