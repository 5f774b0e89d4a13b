"""Examines and measures this machine for somebody who decides about it.

The steps are doctor, link, tuning, all-reduce and decode step, each a launch with a time limit; on
a single GPU a last one predicts what two would do. The all-reduces have five launches, and more
while time is left. On several GPUs it says whether they meet the thresholds of docs/answer.md. A
folder receives the runs, what each step printed, and one page; an archive holds it all, to send. If
a step fails, the survey says so and goes on."""

import argparse
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from bench import STARTED_S
from bench.campaigns.campaign_options import Stop, launching_parser, time_text
from bench.campaigns.ending import run_command
from bench.campaigns.open_campaign import check_new
from bench.harness.console import CANNOT, FINE, INTERRUPTED, SIGNALS, USAGE, WRONG, print_out
from bench.harness.options import RunOptions, seconds
from bench.harness.parser import Parser, whole
from bench.harness.progress import Progress
from bench.machine.gpu_state import in_use, intel_gpus
from bench.surveys import mps, preflight, steps
from bench.surveys.steps import RESULTS, Survey, SurveyStep, perform
from bench.surveys.survey_archive import NAMED
from collectives.communicator import find_mpirun
from collectives.library.nccl import BLOCKS
from kernels.devices import gpu_access, gpu_driver
from kernels.devices.device import MOST_RANKS, DeviceError
from kernels.devices.gpu_driver import VisibleGpus
from wiretax.common.program import BENCH, RUN
from wiretax.common.untrusted import printable
from wiretax.record.writing import check_named

FULL_S, SHARED_S, QUICK_S = 900.0, 600.0, 180.0
CLOSING_SHARE, MOST_CLOSING_S = 0.1, 30.0  # to end a step that hangs, for reports and the page
EPILOG = f"""\
example:
  {RUN}{BENCH}survey --quick

exit status:
  0 all steps are done; 1 a result was wrong; 2 the command line, or files that
  cannot be written; 3 a step failed, or this machine cannot run it;
  130 interrupted. Page and archive are there with 0, 1, 3 and 130, once a step
  has begun."""


def make_parser(
    command: str = "survey", about: str | None = __doc__, epilog: str = EPILOG
) -> Parser:
    """The parser of a command that performs steps within a time."""
    parser = launching_parser(command, "[OPTION ...]", about, epilog)
    option = parser.add_argument
    option(
        "-n",
        "--ranks",
        **whole(1, most=MOST_RANKS),
        help="ranks of each launch (one per usable GPU, at least two; ranks above the "
        "GPUs' number share them, through MPS)",
    )
    option(
        "--quick",
        action="store_true",
        help="three minutes: fewer sizes, no tuning, and on GPUs calls from a graph",
    )
    option(
        "--max-time",
        type=seconds,
        metavar="S",
        dest="max_time_s",
        help="seconds for all steps (900; 600 where ranks share a GPU; 180 with --quick)",
    )
    parser.add(RunOptions, "device", "mixed_gpus")
    option(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="a new folder; the archive is FOLDER.tar.gz (results/survey-TIME)",
    )
    parser.add(RunOptions, "quiet")
    return parser


def open_survey(arguments: argparse.Namespace, command: str = "survey") -> Survey:
    """The survey in its new folder, of the plan with the command's name or that fits the GPUs.
    Raises Stop if it cannot begin, OSError."""
    vendor, gpus, left_out = find_gpus(arguments.device, arguments.mixed_gpus)
    if vendor and (set_here := [name for name in BLOCKS if name in os.environ]):
        # Otherwise the step of the all-reduces would end so, minutes later.
        raise Stop(
            USAGE,
            f"{set_here[0]} is set, and outweighs the numbers of blocks among which a survey looks "
            "for the library's best: unset it",
        )
    ranks = arguments.ranks or max(2, min(len(gpus), MOST_RANKS))
    shares_gpus = 0 < len(gpus) < ranks
    mpirun = find_mpirun()
    if not mpirun:
        raise Stop(CANNOT, "there is no mpirun, which starts the ranks: pip install mpich")
    if why := preflight.why_no_start(mpirun, ranks):
        raise Stop(CANNOT, f"mpirun starts no ranks: {printable(why)}; another: pip install mpich")
    folder = arguments.out or Path("results", time.strftime(NAMED, time.gmtime()))
    check_new(folder)
    named = folder.resolve()
    archive = named.with_name(f"{named.name}.tar.gz")
    check_new(archive, folder=folder)
    max_time_s = SHARED_S if shares_gpus else FULL_S
    if arguments.quick:
        max_time_s = QUICK_S
    if arguments.max_time_s:
        max_time_s = arguments.max_time_s
    plan = "shared" if shares_gpus else "separate"
    survey = Survey(
        folder,
        archive,
        ranks,
        mpirun,
        vendor,
        arguments.quick,
        STARTED_S + max_time_s,
        steps.plan(command if command in steps.PLANS else plan, vendor, arguments.quick),
        Progress(command, arguments.quiet),
        shares_gpus,
        arguments.mixed_gpus,
        [sentence for bus_id in gpus if (sentence := in_use(bus_id))],
    )
    if arguments.device == "auto" and not vendor:
        survey.remarks.extend(f"The CPU is measured: {each}." for each in gpu_access.obstacles())
        survey.remarks.extend(intel_gpus())
    seen = [*gpus, *(gpu.bus_id for gpu in left_out)]
    survey.remarks.extend(preflight.remarks(seen))
    survey.remarks.extend(f"Left out, not of the commonest kind: {gpu}." for gpu in left_out)
    (survey.inside / RESULTS).mkdir()
    check_named(archive)
    return survey


def find_gpus(device: str, mixed: bool) -> VisibleGpus:
    """The GPUs to measure, unlike ones if they may be `mixed`; of the vendor "" without. Raises
    Stop if GPUs are here and cannot be used: a survey of the CPU would surprise their owner."""
    if device == "cpu":
        return VisibleGpus("", [])
    try:
        gpus = gpu_driver.visible_gpus(mixed)
        if device not in ("auto", gpus.vendor):
            raise DeviceError(f"there is no {device} device here, CuPy is built for {gpus.vendor}")
    except DeviceError as error:
        if device == "auto" and not gpu_access.gpu_here() and not preflight.hides_gpus():
            return VisibleGpus("", [])
        sentence = f"{gpu_access.with_remedy(error)}; to measure the CPU add --device cpu"
        raise Stop(CANNOT, sentence) from error
    return gpus


def run_survey(survey: Survey) -> int:
    """Runs the steps, writes page and archive, and returns the exit status. Raises OSError,
    ResultError if page or archive cannot be written."""
    # Not at the top: scipy and its kin take a second.
    from bench.surveys import survey_page, table_taken, thresholds

    is_interrupted = False
    try:
        is_for_mps = survey.shares_gpus and survey.vendor == "cuda"
        with mps.service() if is_for_mps else nullcontext("") as sentence:
            survey.remarks.extend(filter(None, [sentence]))
            for remark in survey.remarks:
                survey.progress.write(remark)
            run_steps(survey)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:  # `interrupt` ignores later signals
        is_interrupted = True
        survey.progress.write("interrupted; the page and the archive will hold what was measured")
    status = exit_status(survey, is_interrupted)
    table_taken.keep_table(survey)
    thresholds.write_picture(survey)
    made = survey_page.write(survey, status)
    failed = [
        f"{step.title}, {step.status}: {step.sentence}"
        for step in survey.steps
        if step.status != "done"
    ]
    lines = [
        made.title,
        *failed,
        *thresholds.sentences(survey),
        f"next: {survey_page.next_command(survey, survey.folder)[1]}",
        f"page: {survey.folder / survey_page.PAGE}",
        f"archive: {survey.archive}",
        *([survey_page.TO_SEND] if survey_page.asks_for_archive(survey) else []),
        "",
    ]
    print_out("\n".join(lines))
    return status


def exit_status(survey: Survey, is_interrupted: bool) -> int:
    statuses = {step.status for step in survey.steps}
    if is_interrupted:
        return INTERRUPTED
    if "wrong" in statuses:
        return WRONG
    return CANNOT if statuses - {"done", "incomplete"} else FINE


def run_steps(survey: Survey) -> None:
    """Gives each first launch its share of the time that is left, keeps theirs for the planned
    further ones, makes these and then as many more as fit, and lets the reports read what was
    measured. The steps that are `last` wait for the planned launches: they may take long."""
    total_s = survey.deadline_s - STARTED_S
    closing_s = min(CLOSING_SHARE * total_s, MOST_CLOSING_S)
    end_s = survey.deadline_s - closing_s
    firsts = [step for step in survey.steps if not step.reads]
    for is_last in (False, True):
        for step in firsts:
            if step.last == is_last:
                run_first(survey, step, end_s, closing_s)
        run_launches(survey, firsts, end_s, planned_only=not is_last)
    run_readers(survey)


def run_readers(survey: Survey) -> None:
    """Lets the reports read what was measured, if the GPU has a data sheet, which they need."""
    for step in [step for step in survey.steps if step.reads]:
        name, sheet = steps.gpu_of(survey)
        if name and not sheet:
            survey.steps.remove(step)
            said = f"{step.title}: left out, there is no data sheet of {printable(name)}."
            survey.remarks.append(said)
            survey.progress.write(said)
        else:
            perform(survey, step, steps.LEAST_STEP_S, steps.GRACE_S)


def run_first(survey: Survey, step: SurveyStep, end_s: float, closing_s: float) -> None:
    """Runs the first launch of a step, unless it has no place here or too little time."""
    left_s = end_s - time.monotonic()
    share_s = left_s * step.share / shares_ahead(survey)
    reason = ""
    if step.peers_only and not survey.maps_peers:
        reason = "no peers' memory"
    elif step.after and not survey.launches(step.after):
        reason = f"the step {step.after} has nothing that it could confirm"
    elif share_s < step.least_s:
        reason = f"{time_text(share_s)} settle nothing, {time_text(step.least_s)} do"
    if reason:
        survey.steps.remove(step)
        survey.remarks.append(f"{step.title} was left out: {reason}.")
        survey.progress.write(f"{step.log.replace('_', ' ')}: left out, {reason}")
        return
    if step.last:  # nothing behind it gives way to its compilers, which took others so long
        compile_s = max((each.elapsed_s - each.measuring_s for each in survey.steps), default=0.0)
        share_s = max(share_s / 2, min(share_s, left_s - compile_s))
    if share_s >= steps.LEAST_STEP_S:
        perform(survey, step, share_s, left_s + closing_s / 3)  # the last one prints, too
    else:
        survey.progress.write(f"{step.log.replace('_', ' ')}: not run, the time is up")


def run_launches(
    survey: Survey, firsts: Sequence[SurveyStep], end_s: float, planned_only: bool
) -> None:
    """Further launches of the steps in turn, as long as one fits the time, or `planned_only`."""
    turns = deque(step for step in firsts if step.again)
    while turns:
        first = turns.popleft()
        last, planned = survey.last_launch(first), survey.planned_launches(first)
        if not last.can_go_on or (planned_only and not planned):
            continue
        further, left_s = first.next_launch(last.launch + 1), end_s - time.monotonic()
        # The first launch may have more cases than the further ones.
        time_s = max(last.measuring_s * further.share / last.share, steps.LEAST_STEP_S)
        if planned:
            time_s = min(time_s, left_s * further.share / shares_ahead(survey))
        if time_s < steps.LEAST_STEP_S or left_s < steps.MEASURING_SHARE * time_s:
            continue
        survey.steps.append(further)
        perform(survey, further, time_s, left_s)
        turns.append(first)


def shares_ahead(survey: Survey) -> float:
    """Of the first launches that are to come, and of the planned further ones."""
    shares = 0.0
    for step in survey.steps:
        if step.launch == 1 and not step.reads:
            shares += step.share if step.status == "not run" else 0.0
            shares += survey.planned_launches(step) * step.again.get("share", 0.0)
    return shares


main = partial(
    run_command,
    f"{BENCH}survey",
    lambda argv: run_survey(open_survey(make_parser().parse_args(argv))),
)

if __name__ == "__main__":
    sys.exit(main())
