"""`python -m bench.survey` examines and measures this machine for somebody who decides about it.

Doctor, link, tuning, all-reduce and decode step, each a launch with a time limit; on GPUs also what
only a card can tell. A folder receives the runs, what each step printed, and one page; an archive
holds it all, to send. The survey goes on past a step that fails, and says so."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from bench import STARTED_S
from bench.campaigns.launches import SIGNALS, Stop, check_new, run_command
from bench.campaigns.options import add_quiet, launching_parser, parse_alone, time_text
from bench.harness import options
from bench.harness.console import CANNOT, FINE, INTERRUPTED, USAGE, WRONG, print_out
from bench.harness.options import Parser
from bench.harness.progress import Progress
from bench.surveys import mps, steps
from bench.surveys.steps import LOGS, RESULTS, Survey
from collectives.communicator import find_mpirun
from kernels.devices.device import MOST_RANKS, DeviceError
from reports.store.writing import check_named

FULL_S, QUICK_S = 900.0, 180.0
CLOSING_SHARE, MOST_CLOSING_S = 0.2, 30.0  # to end a step that hangs, and for the page
EPILOG = """\
example:
  python -m bench.survey --quick

exit status:
  0 all steps are done; 1 a result was wrong; 2 the command line, or files that
  cannot be written; 3 a step failed, or this machine cannot run it;
  130 interrupted. Page and archive are there with 0, 1, 3 and 130."""


def make_parser() -> Parser:
    parser = launching_parser("survey", "[OPTION ...]", __doc__, EPILOG)
    option = parser.add_argument
    option(
        "-n",
        "--ranks",
        type=partial(options.whole_number, 1, most=MOST_RANKS),
        metavar="N",
        help="ranks of each launch (one per GPU that CuPy can use, at least two; ranks above the "
        "GPUs' number share them, through MPS)",
    )
    option(
        "--quick", action="store_true", help="three minutes: fewer sizes, and only the main steps"
    )
    option(
        "--max-time",
        type=partial(options.positive_number, "seconds", options.MOST_S),
        metavar="S",
        dest="max_time_s",
        help="seconds for the whole survey (900; 180 with --quick)",
    )
    option(
        "--device",
        choices=("auto", "cuda", "hip", "cpu"),
        default="auto",
        metavar="DEVICE",
        help="auto, cuda, hip or cpu (auto)",
    )
    option(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="a new folder; the archive is FOLDER.tar.gz (results/survey-TIME)",
    )
    add_quiet(option)
    return parser


def open_survey(arguments: argparse.Namespace) -> Survey:
    """The survey in its new folder. Raises Stop if it cannot begin, OSError."""
    gpus = count_gpus(arguments.device)
    ranks = arguments.ranks or max(2, min(gpus, MOST_RANKS))
    shares_gpus = 0 < gpus < ranks
    mpirun = find_mpirun()
    if not mpirun:
        raise Stop(CANNOT, "there is no mpirun, which starts the ranks: pip install mpich")
    started = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    folder = arguments.out or Path(f"results/survey-{started}")
    named = folder if folder.name not in ("", "..") else folder.resolve()
    if not named.name:
        raise Stop(
            USAGE, f"{folder} has no place for an archive beside it: name a new folder with --out"
        )
    archive = named.with_name(f"{named.name}.tar.gz")
    check_new(archive)
    check_new(folder)
    for name in (LOGS, RESULTS):
        (folder / name).mkdir(parents=True)
    check_named(archive)
    max_time_s = arguments.max_time_s or (QUICK_S if arguments.quick else FULL_S)
    return Survey(
        folder,
        archive,
        ranks,
        mpirun,
        gpus > 0,
        arguments.device,
        arguments.quick,
        STARTED_S + max_time_s,
        steps.plan(gpus > 0, arguments.quick, shares_gpus),
        Progress("survey", arguments.quiet),
        shares_gpus,
    )


def count_gpus(device: str) -> int:
    """The number of GPUs to measure. Raises Stop if GPUs are here and cannot be used: a survey of
    the CPU would surprise their owner."""
    from kernels.devices import gpu_driver  # not at the top: --help needs no GPU

    if device == "cpu":
        return 0
    try:
        vendor, bus_ids = gpu_driver.visible_gpus()
        if device not in ("auto", vendor):
            raise DeviceError(f"there is no {device} device here, CuPy is built for {vendor}")
    except DeviceError as error:
        if device == "auto" and not gpu_driver.gpu_node():
            return 0
        raise Stop(CANNOT, f"{error}; to measure the CPU add --device cpu") from error
    return len(bus_ids)


def run_survey(survey: Survey) -> int:
    """Runs the steps, writes page and archive, and returns the exit status. Raises OSError,
    ResultError if page or archive cannot be written."""
    from bench.surveys import page  # not at the top: scipy and its kin take a second

    is_interrupted = False
    try:
        with mps.service() if survey.shares_gpus else nullcontext("") as sentence:
            if sentence:
                survey.remarks.append(sentence)
                survey.progress.write(sentence)
            run_steps(survey)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:  # `interrupt` ignores later signals
        is_interrupted = True
        for step in survey.steps:
            if step.status == "not run":
                step.sentence = "the survey was interrupted before"
        survey.progress.write("interrupted; the page and the archive will hold what was measured")
    made = page.write(survey, is_interrupted)
    failed = [
        f"{step.title}, {step.status}: {step.sentence}"
        for step in survey.steps
        if step.status != "done"
    ]
    ends = f"page: {survey.folder / page.PAGE}", f"archive: {survey.archive}\n"
    print_out("\n".join([made.title, *failed, *ends]))
    statuses = {step.status for step in survey.steps}
    if is_interrupted:
        return INTERRUPTED
    return WRONG if "wrong" in statuses else CANNOT if statuses - {"done", "incomplete"} else FINE


def run_steps(survey: Survey) -> None:
    """Gives each step its share of the time that is left."""
    total_s = survey.deadline_s - STARTED_S
    end_s = survey.deadline_s - min(CLOSING_SHARE * total_s, MOST_CLOSING_S)
    for place, step in enumerate(survey.steps):
        left_s = end_s - time.monotonic()
        share_s = left_s * step.share / sum(each.share for each in survey.steps[place:])
        name = step.name.replace("_", " ")
        if share_s < steps.LEAST_STEP_S:
            survey.progress.write(f"{name}: not run, the time is up")
            continue
        survey.progress.write(f"{name}: starts, about {time_text(share_s)}; {left_text(survey)}")
        steps.perform(survey, step, share_s, left_s)
        took = time_text(step.elapsed_s)
        survey.progress.write(
            f"{name}: {step.status} after {took}, {step.sentence}; {left_text(survey)}"
        )


def left_text(survey: Survey) -> str:
    return f"{time_text(max(0.0, survey.deadline_s - time.monotonic()))} left"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.survey` and returns the exit status."""
    return run_command(
        "bench.survey",
        lambda: run_survey(open_survey(parse_alone(make_parser(), argv, "a survey"))),
        "the survey",
        "interrupted before the first step",
    )


if __name__ == "__main__":
    sys.exit(main())
