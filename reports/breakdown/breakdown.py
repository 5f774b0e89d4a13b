"""`breakdown`: where the time of a step goes, from profilers' traces, from served figures, or from
a run of bench.decode."""

import argparse
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from reports.advice.expect import count
from reports.breakdown import served
from reports.breakdown.bill import Bill
from reports.breakdown.breakdown_page import bars_of, lines_of, page_of, show
from reports.breakdown.from_traces import read_traces
from reports.breakdown.own_steps import is_run, read_own_steps
from reports.breakdown.served_page import served_bars, served_page
from reports.breakdown.served_text import served_fields, served_text
from reports.breakdown.text import bill_fields, bill_text
from reports.tables.sentences import counted
from wiretax.common.program import answer
from wiretax.record.lateness_file import write_lateness
from wiretax.record.result import ResultError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    traces = "a trace of each rank, or a run of bench.decode or bench.prefill"
    add("traces", metavar="TRACE", type=Path, nargs="*", help=traces)
    alone = "a run of the calls alone, a folder, a glob or a survey's archive, on this machine"
    add("--run", metavar="RUN", type=Path, help=alone)
    card = "or a card, whose published calls stand for it (the traces' own)"
    add("--gpu", metavar="NAME", help=card)
    size = "of all-reduces whose size the traces do not tell"
    add("--size", metavar="BYTES", type=count, help=size)
    collective = "kernels that are collectives too, beside those that are known by name"
    add("--collective", metavar="REGEX", type=pattern, action="append", default=[], help=collective)
    add("--one", metavar="FILE", type=Path, nargs="+", help="the same of one card")
    served.add_arguments(parser)
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
        found = served.read_served(arguments)
        bars = served_bars(found)
        show(served_page(found, bars), bars, [], arguments)
        answer(arguments, served_text(found), **served_fields(found))
        return 0
    if not arguments.traces:
        raise ResultError("breakdown needs a TRACE of each rank, or --one and --two with --model")
    if is_run(arguments.traces):
        bill, *others = read_own_steps(arguments.traces, arguments)
    else:
        bill, *others = [read_traces(arguments.traces, arguments, arguments.one or ())]
    if arguments.save_lateness:
        save_lateness(bill, arguments.save_lateness)
    one = read_traces(arguments.one, arguments) if arguments.one else None
    bars = [*bars_of(bill, one), *chain(*map(bars_of, others))]
    show(page_of(bill, bars), bars, lines_of(bill)[0], arguments)
    bills = [bill, *others]
    answer(arguments, "\n".join(map(bill_text, bills)), **fields_of(bills))
    return 0


def save_lateness(bill: Bill, path: Path) -> None:
    """Writes how late the ranks came. Raises ResultError without traces of all of them."""
    if bill.late_us is None:
        raise ResultError("--save-lateness needs traces, with calls of all their ranks")
    if n_cut := write_lateness(path, bill.late_us):
        bill.notes.append(f"At {counted(n_cut, 'call')} a rank was later than {path} may say.")


def fields_of(bills: Sequence[Bill]) -> dict[str, Any]:
    """Those of the first bill; of a run with several, `splits` has them all."""
    fields = [{"title": bill.title, **bill_fields(bill)} for bill in bills]
    return fields[0] | ({"splits": fields} if len(fields) > 1 else {})
