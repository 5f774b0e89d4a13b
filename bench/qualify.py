"""Accepts or rejects this machine: doctor, link, all-reduces, bits, PCIe errors, within minutes.

It prints a JSON line for each GPU by its serial number, or one for a host without GPUs. Figures are
held against published ones of equal machines, against those of a machine that you trust, and to
your limits; without a machine or a limit of yours nothing is accepted."""

import json
import sys
import time
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
from bench.surveys.survey_archive import TIME, clean_logs, folder_inside, write_archive
from reports.advice.candidates import Requirement
from reports.advice.nearest import BAD
from reports.tables.sentences import fact
from reports.verdicts.sides import add_allow
from wiretax import __version__
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
        help="the --out of a machine that you trust, its archive, or a folder of several: no time "
        f"may be above {criteria.SLOW} times its median over their runs",
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
        if step.result:
            criteria.hold_to_published(findings, step.result)
    criteria.hold_against(findings, trusted, own, arguments.allow)
    criteria.hold_to(findings, arguments.limits, own)
    undecided = findings.undecided
    if trusted and not findings.compared:
        undecided.insert(
            0,
            f"nothing of the trusted machine could be compared: {arguments.expect} has no case "
            "that was measured alike here; another device, or too little time?",
        )
    elif not findings.compared and not arguments.limits:
        undecided.insert(0, NO_CRITERION)
    undecided += [f"{step.name} {step.status}" for step in survey.steps if step.status != "done"]
    status = FINE
    if findings.faults:
        status = WRONG
    elif undecided:
        status = CANNOT
        say(f"{BENCH}qualify", "; ".join(undecided[:2]))

    clean_logs(survey)
    limits = [requirement.text for requirement in arguments.limits]
    run = own[0].run if own else None
    facts = {
        "schema": 1,
        "date": time.strftime(TIME, time.gmtime()),
        "version": __version__,
        "status": status,
        "faults": findings.faults,
        "undecided": undecided,
        "compared": findings.compared,
        "compared_with_published": findings.with_published,
        "compared_with_trusted": findings.with_trusted,
        "compared_with_limits": findings.with_limits,
        "margin": {"published": BAD, "trusted": criteria.SLOW, "limits": limits},
        "left_out": [*map(str, left_out)],
        "steps": {step.name: f"{step.status}: {step.sentence}" for step in survey.steps},
        "machine": run and {"id": run.machine_id, "cpu": fact(run, "cpu.model")},
        "archive": write_archive(survey, "qualify", status, folder_inside(survey)),
    }
    cards = {rank.get("pci_bus_id"): rank.get("gpu") for rank in (run.ranks if run else ())}
    for bus_id in bus_ids or [""]:
        card = {"serial": serial(bus_id), "bus_id": bus_id, "gpu": cards.get(bus_id)}
        print_out(f"{json.dumps(facts | card)}\n")
    return status


def check_sizes(limits: Sequence[Requirement]) -> None:
    """Raises Stop for a limit of a size that the all-reduces leave out."""
    [line] = [row["line"] for row in PLANS["qualify"] if row["name"] == "allreduce"]
    names: list[str] = line.partition("--sizes ")[2].split()[0].split(",")
    for requirement in limits:
        if requirement.figure[1] not in [size_of(name) for name in names]:
            raise Stop(USAGE, f"--min {requirement.text!r}: all-reduces are of {', '.join(names)}")


def faults_of(step: SurveyStep) -> Iterator[str]:
    """Sentences on a step that failed or found wrong results, and on PCIe errors while it ran."""
    lacks_time = NO_TIME in step.sentence or "took longer" in step.sentence  # as `run_to_end` says
    if step.status == "wrong" or (step.status == "failed" and not lacks_time):
        yield f"{step.name} {step.status}: {step.sentence}"
    if step.result and step.result.end and step.result.end.note:
        yield f"{step.name}: {step.result.end.note}"


main = partial(run_command, f"{BENCH}qualify", run_qualify)

if __name__ == "__main__":
    sys.exit(main())
