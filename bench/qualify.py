"""Accepts or rejects this machine: doctor, link, all-reduces, bits, PCIe errors, within minutes.

It prints a JSON line for each GPU by its serial number, or one for a host without GPUs. Figures are
held against published ones of equal machines, and against those of a machine that you trust."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from statistics import median

from bench.campaigns.launches import run_command
from bench.campaigns.options import Stop
from bench.harness.console import CANNOT, FINE, USAGE, WRONG, print_out, say
from bench.machine.gpu_state import serial
from bench.survey import find_gpus, make_parser, open_survey, run_steps
from bench.surveys.steps import NO_TIME, SurveyStep
from reports.advice.expect import BAD, answer_to, question_of_run
from reports.references.published import select
from reports.store.case import Key, key_of
from reports.store.manifest import run_files
from reports.store.program import BENCH, RUN
from reports.store.result import read
from reports.store.schema import Case
from reports.tables.beside_published import own_calls
from reports.tables.sentences import describe, number

SLOW = 1.25  # times a trusted machine's: launches of one machine differ by less
EPILOG = f"""\
example:
  {RUN}{BENCH}qualify --max-time 600 --expect trusted > verdict.jsonl

exit status, also in each line:
  0 accepted; 1 rejected: a step failed, a result was wrong, PCIe errors came, or a
  time is too long; 2 the command line, or files that cannot be written; 3 this
  machine cannot run it, time ran out, or no time could be compared with the
  trusted machine's; 130 interrupted"""


def run_qualify(argv: Sequence[str] | None) -> int:
    """Measures, prints the lines, and returns the status. Raises Stop, ResultError, OSError."""
    parser = make_parser("qualify", __doc__, EPILOG)
    parser.add_argument(
        "--expect",
        type=Path,
        metavar="FOLDER",
        help=f"the --out of a machine that you trust: no time may be {SLOW} times its own",
    )
    arguments = parser.parse_args(argv)
    if arguments.ranks == 1:
        raise Stop(USAGE, "one rank has no link and adds nothing: give -n 2 or more")
    trusted = times_us(arguments.expect) if arguments.expect else {}
    survey = open_survey(arguments, "qualify")
    run_steps(survey)

    faults = [fault for step in survey.steps for fault in faults_of(step, trusted)]
    measured = [case for step in survey.steps if step.result for case in step.result.cases]
    compared = sum(key_of(case) in trusted for case in measured if least_us(case))
    is_incomparable = trusted and not compared
    if is_incomparable:
        say(
            f"{BENCH}qualify",
            f"nothing of the trusted machine could be compared: {arguments.expect} has no case "
            "that has an interval here too; another device, or too little time?",
        )
    ended = {step.status for step in survey.steps}
    status = WRONG if faults else CANNOT if is_incomparable or ended != {"done"} else FINE
    steps = {step.name: f"{step.status}: {step.sentence}" for step in survey.steps}
    facts = {"schema": 1, "status": status, "faults": faults, "compared": compared, "steps": steps}
    for bus_id in find_gpus(arguments.device)[1] or [""]:
        print_out(f"{json.dumps(facts | {'serial': serial(bus_id), 'bus_id': bus_id})}\n")
    return status


def faults_of(step: SurveyStep, trusted: Mapping[Key, float]) -> Iterator[str]:
    """Sentences on a step that failed or found wrong results, on PCIe errors while it ran, and on
    times whose interval is beyond SLOW times the trusted machine's, or beyond BAD times the median
    of what is published."""
    lacks_time = NO_TIME in step.sentence or "took longer" in step.sentence  # as `run_to_end` says
    if step.status == "wrong" or (step.status == "failed" and not lacks_time):
        yield f"{step.name} {step.status}: {step.sentence}"
    if not step.result:
        return
    if step.result.end and step.result.end.note:
        yield f"{step.name}: {step.result.end.note}"
    for case in step.result.cases:
        expected_us = trusted.get(key_of(case), inf)
        if least_us(case) > SLOW * expected_us:
            yield (
                f"{describe(case)}: at least {number(least_us(case))} us, on the trusted machine "
                f"{number(expected_us)} us"
            )
    if not own_calls(step.result):  # of GPUs of one model, one a rank
        return
    question = question_of_run(step.result)
    for call in question.own:
        size_bytes = call.size_bytes or 0
        answer = answer_to(question, size_bytes, call.kind)
        alike = select(answer.figures, size_bytes={size_bytes}, mode={call.mode, "unknown"})
        usual_us = median(row.us for row in alike) if alike else call.us
        if not answer.differs and call.us > BAD * usual_us:
            yield (
                f"{call.kind} at {size_bytes} B: {number(call.us)} us, published for equal "
                f"machines are {number(usual_us)} us"
            )


def least_us(case: Case) -> float:
    """The low end of the interval of a case's time; 0 without one."""
    return (case.time_us and case.time_us.ci_low) or 0.0


def times_us(folder: Path) -> dict[Key, float]:
    """The times with intervals of a folder's runs by case. Raises Stop without any, ResultError."""
    times = {
        key_of(case): case.time_us.median
        for path, _ in run_files(folder)
        for case in read(path).cases
        if case.time_us and least_us(case)
    }
    if not times:
        raise Stop(
            USAGE,
            f"{folder} has no run of a machine to compare with, or too few blocks for intervals",
        )
    return times


main = partial(run_command, f"{BENCH}qualify", run_qualify)

if __name__ == "__main__":
    sys.exit(main())
