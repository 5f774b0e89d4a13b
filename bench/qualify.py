"""Accepts or rejects this machine: doctor, link, all-reduces, bits, PCIe errors, within minutes.

It prints a JSON line for each GPU by its serial number, or one for a host without GPUs. Figures are
held against published ones of equal machines, against those of a machine that you trust, and to
your limits; without a machine or a limit of yours nothing is accepted."""

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from bench.campaigns.campaign_options import Stop
from bench.campaigns.ending import run_command
from bench.harness.console import CANNOT, FINE, USAGE, WRONG, print_out, say
from bench.harness.parser import Parser
from bench.machine.gpu_state import intel_gpus, serial
from bench.survey import find_gpus, make_parser, open_survey, run_steps
from bench.surveys import criteria
from bench.surveys.criteria import Findings
from bench.surveys.steps import NO_TIME, PLANS, SurveyStep
from reports.advice.candidates import Requirement
from reports.advice.nearest import BAD, answer_to, beside, question_of_run, usual_us
from reports.tables.beside_published import own_calls
from reports.tables.sentences import number
from reports.verdicts.sides import add_allow
from wiretax.common.program import BENCH, RUN
from wiretax.record.case import size_of

EPILOG = f"""\
examples:
  {RUN}{BENCH}qualify --max-time 600 --min "32M >= 20 GB/s" > verdict.jsonl
  {RUN}{BENCH}qualify --max-time 600 --expect trusted > verdict.jsonl

exit status, also in each line:
  0 accepted; 1 rejected: a step failed, a result was wrong, PCIe errors came, a
  figure is beyond its limit, or a card is missing; 2 the command line, or files
  that cannot be written; 3 undecided: this machine cannot run it, time ran out,
  there is no criterion, or one could not be compared; 130 interrupted"""
NO_CRITERION = (
    "nothing says how fast this machine must be: give --expect FOLDER or --min '32M >= 20 GB/s'"
)


def make_qualify_parser() -> Parser:
    parser = make_parser("qualify", __doc__, EPILOG)
    parser.add_argument(
        "--expect",
        type=Path,
        metavar="FOLDER",
        help="the --out of a machine that you trust, or a folder of several: no time may be above "
        f"{criteria.SLOW} times its median over their runs",
    )
    parser.add_argument(
        "--min",
        type=criteria.limit,
        metavar="LIMIT",
        action="append",
        default=[],
        dest="limits",
        help="the least busbw of an all-reduce ('32M >= 20 GB/s') or its longest time ('16K <= 50 "
        "us'), as its table prints them, or a percentile of its calls ('16K p99 <= 90 us'); may be "
        "repeated",
    )
    add_allow(parser)
    return parser


def run_qualify(argv: Sequence[str] | None) -> int:
    """Measures, prints the lines, and returns the status. Raises Stop, ResultError, OSError."""
    arguments = make_qualify_parser().parse_args(argv)
    if arguments.ranks == 1:
        raise Stop(USAGE, "one rank has no link and adds nothing: give -n 2 or more")
    check_sizes(arguments.limits)
    trusted = criteria.read_trusted(arguments.expect) if arguments.expect else []
    _, bus_ids, left_out = find_gpus(arguments.device, arguments.mixed_gpus)
    findings = Findings()
    if arguments.device != "cpu":
        findings.faults += criteria.missing_cards(trusted, len(bus_ids))
        is_meant = bus_ids or findings.faults or trusted
        if not is_meant:
            refusal = "no GPU can be used here; to qualify the CPU add --device cpu"
            raise Stop(CANNOT, "; ".join([refusal, *intel_gpus()]).removesuffix("."))
    survey = open_survey(arguments, "qualify")
    if bus_ids or not findings.faults:
        run_steps(survey)

    own = [step.result for step in survey.steps if step.result]
    for step in survey.steps:
        findings.faults += faults_of(step)
    criteria.hold_against(findings, trusted, own, arguments.allow)
    criteria.hold_to(findings, arguments.limits, own)
    undecided = findings.undecided
    if trusted and not findings.compared:
        undecided.insert(
            0,
            f"nothing of the trusted machine could be compared: {arguments.expect} has no case "
            "that was measured alike here; another device, or too little time?",
        )
    elif not findings.compared:
        undecided.insert(0, NO_CRITERION)
    undecided += [f"{step.name} {step.status}" for step in survey.steps if step.status != "done"]
    status = FINE
    if findings.faults:
        status = WRONG
    elif undecided:
        status = CANNOT
        say(f"{BENCH}qualify", "; ".join(undecided[:2]))

    facts = {
        "schema": 1,
        "status": status,
        "faults": findings.faults,
        "undecided": undecided,
        "compared": findings.compared,
        "left_out": [*map(str, left_out)],
        "steps": {step.name: f"{step.status}: {step.sentence}" for step in survey.steps},
    }
    for bus_id in bus_ids or [""]:
        print_out(f"{json.dumps(facts | {'serial': serial(bus_id), 'bus_id': bus_id})}\n")
    return status


def check_sizes(limits: Sequence[Requirement]) -> None:
    """Raises Stop for a limit of a size that the all-reduces leave out."""
    [line] = [row["line"] for row in PLANS["qualify"] if row["name"] == "allreduce"]
    names: list[str] = line.partition("--sizes ")[2].split()[0].split(",")
    for requirement in limits:
        if requirement.figure[1] not in [size_of(name) for name in names]:
            raise Stop(USAGE, f"--min {requirement.text!r}: all-reduces are of {', '.join(names)}")


def faults_of(step: SurveyStep) -> Iterator[str]:
    """Sentences on a step that failed or found wrong results, on PCIe errors while it ran, and on
    times beyond BAD times the median of what is published."""
    lacks_time = NO_TIME in step.sentence or "took longer" in step.sentence  # as `run_to_end` says
    if step.status == "wrong" or (step.status == "failed" and not lacks_time):
        yield f"{step.name} {step.status}: {step.sentence}"
    if not step.result:
        return
    if step.result.end and step.result.end.note:
        yield f"{step.name}: {step.result.end.note}"
    if not own_calls(step.result):  # of GPUs of one model, one a rank
        return
    question = question_of_run(step.result)
    for call in question.own:
        size_bytes = call.size_bytes or 0
        answer = answer_to(question, size_bytes, call.kind)
        alike = beside(answer, call)
        if alike and not answer.differs and call.us > BAD * usual_us(alike):
            yield (
                f"{call.kind} at {size_bytes} B: {number(call.us)} us, published for equal "
                f"machines are {number(usual_us(alike))} us"
            )


main = partial(run_command, f"{BENCH}qualify", run_qualify)

if __name__ == "__main__":
    sys.exit(main())
