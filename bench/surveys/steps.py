"""The steps of a survey, and the launch of one: command line, time limit, logs, outcome."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import msgspec

from bench import __name__ as BENCH_PACKAGE
from bench.campaigns.campaign_options import time_text
from bench.campaigns.processes import run_to_end, with_status
from bench.harness.console import FINE, WRONG
from bench.harness.progress import QUIET, Progress
from bench.surveys import printed
from reports import __name__ as REPORTS_PACKAGE
from reports.advice.given_card import FORM
from reports.advice.specs import Gpu, sheet_of
from reports.tables.show import headline_of
from wiretax.common.grouped import grouped
from wiretax.common.interpreter import module_command
from wiretax.common.owners import open_folder
from wiretax.common.program import BENCH, REPORTS, RUN
from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError, read
from wiretax.record.schema import Result

MEASURING_SHARE = 0.9  # of a step's time; in the rest it starts, and prints
LEAST_STEP_S = 1.0
GRACE_S = 15.0  # for a step that starts slowly; compilers may take as long as its --max-time
NO_TIME = "time ran out"  # as benchmarks say it
TABLE, RESULTS, LOGS = "tuned.toml", "results", "logs"
BOTH_MEMORIES = "tune_memory"  # the step whose rows `auto` takes over both kinds of memory alone
PLANS = msgspec.toml.decode(Path(__file__).with_name("steps.toml").read_bytes())
Status = Literal["done", "incomplete", "wrong", "failed", "interrupted", "not run"]


@dataclass
class SurveyStep:
    """A launch as in steps.toml, and how it ended: its status, a sentence, its stored run. The
    `launch` of a step counts from 1; the first one has its `name` in the folder `logs`."""

    name: str
    title: str
    line: str
    share: float = 1.0
    quick: str | None = None
    again: dict[str, Any] = field(default_factory=dict)
    reads: Sequence[str] = ()
    gpus_only: bool = False
    peers_only: bool = False
    quick_gpus: str = ""
    quick_share: float | None = None
    least_s: float = 0.0
    after: str = ""
    last: bool = False
    launch: int = 1
    status: Status = "not run"
    sentence: str = "its turn never came"
    elapsed_s: float = 0.0
    result: Result | None = None

    @property
    def command(self) -> str:
        return self.line.split()[0]

    @property
    def log(self) -> str:
        return self.name if self.launch == 1 else f"{self.name}-{self.launch}"

    @property
    def measuring_s(self) -> float:
        """Its time without that of compilers, which a further launch does not need again."""
        end = self.result.end if self.result else None
        return max(0.0, self.elapsed_s - (end.compile_s if end else 0.0))

    @property
    def is_measured(self) -> bool:
        return self.status in ("done", "incomplete")

    @property
    def can_go_on(self) -> bool:
        """Whether a further launch may help: what lacked only time has compiled its kernels."""
        return self.is_measured or (self.launch == 1 and NO_TIME in self.sentence)

    def next_launch(self, number: int) -> "SurveyStep":
        """The further launch with this number."""
        more = self.again.get("line", "")
        line = self.line if more in self.line else f"{self.line} {more}"
        title, share = f"{self.title}, launch {number}", self.again["share"]
        return SurveyStep(self.name, title, line, share, launch=number)


@dataclass(frozen=True)
class Survey:
    """`steps` are all launches in their order. `vendor`: of the GPUs, cuda or hip; "" on CPUs."""

    folder: Path
    archive: Path
    ranks: int
    mpirun: str
    vendor: str
    is_quick: bool
    deadline_s: float
    steps: list[SurveyStep]
    progress: Progress
    shares_gpus: bool = False
    mixed_gpus: bool = False
    remarks: list[str] = field(default_factory=list)  # for the page

    @cached_property
    def inside(self) -> Path:
        """The folder, by the name of `open_folder`."""
        return open_folder(self.folder)

    @cached_property
    def logs(self) -> Path:
        """The folder of what the steps print, by the name of `open_folder`."""
        return open_folder(self.inside / LOGS)

    def launches(self, name: str) -> list[SurveyStep]:
        """The launches of a step that measured something."""
        return [step for step in self.steps if step.name == name and step.is_measured]

    def last_launch(self, first: SurveyStep) -> SurveyStep:
        return [step for step in self.steps if step.name == first.name][-1]

    def planned_launches(self, first: SurveyStep) -> int:
        """The further launches of a step for which time is kept, and which are to come."""
        last, number = self.last_launch(first), int(first.again.get("number", 0))
        if last.status != "not run" and not last.can_go_on:
            return 0
        return max(0, number + 1 - last.launch)

    @property
    def maps_peers(self) -> bool:
        """Whether the step `link` measured GPUs that map each other's memory."""
        cases = (case for result in self.results("link") for case in result.cases)
        return bool(self.vendor) and any(case.memory == "mapped" for case in cases)

    def results(self, name: str) -> list[Result]:
        return [step.result for step in self.launches(name) if step.result]

    def runs(self, name: str) -> list[Path]:
        return [result.path for result in self.results(name)]


def plan(name: str, vendor: str, is_quick: bool) -> list[SurveyStep]:
    """The first launches of a plan in their order, and what reads their runs."""
    steps = [SurveyStep(**row) for row in PLANS[name] if vendor or not row.get("gpus_only")]
    if not is_quick:
        return steps
    return [quick_form(step, vendor) for step in steps if step.quick is not None]


def quick_form(step: SurveyStep, vendor: str) -> SurveyStep:
    line = " ".join(filter(None, [step.line, step.quick, step.quick_gpus if vendor else ""]))
    return replace(step, line=line, share=step.quick_share or step.share)


def launch_of(survey: Survey, step: SurveyStep, mpirun: str, program: Sequence[str]) -> list[str]:
    """The launch of a benchmark; of the doctor as one rank where ranks share a GPU."""
    words, ranks = [*program, *step.line.split()[1:]], survey.ranks
    if survey.mixed_gpus:
        words.append("--mixed-gpus")
    if step.command != "doctor":
        words.append(f"--device={survey.vendor or 'cpu'}")
        if survey.shares_gpus:
            words.append("--ranks-share-gpus")
    elif survey.shares_gpus:
        ranks = 1
    return [mpirun, "-n", str(ranks), *words]


def command_line(survey: Survey, step: SurveyStep, time_s: float) -> list[str]:
    """`mpirun`, this interpreter and the step's module with its options, or a report and the runs
    that it reads. Raises ResultError without a run, and for a GPU whose data sheet the advisor
    lacks."""
    folder = survey.folder.resolve()
    table = folder / TABLE
    if step.reads:
        if not survey.runs(step.reads[0]):
            raise ResultError(f"the step {step.reads[0]} has no run to read")
        name, gpu = gpu_of(survey)
        if gpu is None:
            raise ResultError(f"reports/advice/specs.toml has no data sheet of {name}")
        words = step.line.format(gpu=gpu.name, ranks=survey.ranks).split()
        runs = (str(path) for name in step.reads for path in survey.runs(name))
        return [*module_command(REPORTS_PACKAGE), *words, *runs]
    module = module_command(f"{BENCH_PACKAGE}.{step.command}")
    words = launch_of(survey, step, survey.mpirun, module)
    if step.command == "doctor":
        return words
    words.append(f"--out={folder / RESULTS / step.name}")
    if step.command == "bits":  # which takes the time that it takes
        return words
    words.append(f"--max-time={time_s:.1f}")
    if step.launch > 1:
        words.append(f"--seed={step.launch - 1}")
    if step.command == "tune":
        words.append(f"--table={table}")
    elif step.command == "allreduce" and "--tuned" not in step.line and table.exists():
        words.append(f"--tuned={table}")
        if survey.launches(BOTH_MEMORIES):
            words.append("--memory=mapped,host_staged")
    return words


def gpu_of(survey: Survey) -> tuple[str, Gpu | None]:
    """The GPUs' name in the first run, and their data sheet; "" on CPUs."""
    runs = [step.result.run for step in survey.steps if step.result]
    name = next((gpu for run in runs for gpu in run.gpus), "")
    return name, sheet_of(name)


def to_type(survey: Survey, step: SurveyStep, folder: Path) -> str:
    """The command that runs the step again; `folder` is the survey's as it is shown."""
    if step.reads:
        name, gpu = gpu_of(survey)
        card = gpu.name if gpu else quote(printable(name) or FORM)
        line = step.line.format(gpu=card, ranks=survey.ranks)
        runs = " ".join(f"{quote(str(folder / RESULTS / each))}/*.jsonl" for each in step.reads)
        return f"{RUN}{REPORTS} {line} {runs}"
    return " ".join(launch_of(survey, step, "mpirun", [f"{RUN}{BENCH}{step.command}"]))


def perform(survey: Survey, step: SurveyStep, share_s: float, left_s: float) -> None:
    """Launches the step for about `share_s` seconds, ends it when it takes far longer, sets its
    status and sentence, and tells how it began and ended."""
    name, limit_s = step.log.replace("_", " "), min(2 * share_s + GRACE_S, left_s)
    rest = time_text(max(0.0, survey.deadline_s - time.monotonic()))
    survey.progress.write(f"{name}: starts, about {time_text(share_s)}; {rest} left")
    try:
        command = command_line(survey, step, MEASURING_SHARE * share_s)
    except ResultError as error:
        step.status, step.sentence = "failed", str(error)
    else:
        run_step(survey, step, command, limit_s)
    if step.status != "done" and (share := printed.compile_share(step.result)):
        step.sentence += f"; {share}"
    took = time_text(step.elapsed_s)
    survey.progress.write(f"{name}: {step.status} after {took}, {step.sentence}")


def run_step(survey: Survey, step: SurveyStep, command: Sequence[str], limit_s: float) -> None:
    """Runs a step's command, and sets the step's time, run, status and sentence."""
    step.status, step.sentence = "interrupted", "interrupted"
    log, started_s = survey.logs / step.log, time.monotonic()
    environment = os.environ | {QUIET: "1"}
    runs = survey.folder / RESULTS / step.name
    before = set(runs.glob("*.jsonl"))
    try:
        exit_status, last_line = run_to_end(command, None, environment, limit_s, log)
    finally:
        step.elapsed_s = time.monotonic() - started_s
        with suppress(ResultError):
            for path in set(runs.glob("*.jsonl")) - before:
                step.result = read(path)
    if exit_status == FINE:
        note_finding(survey, step)
    else:
        said = printed.sentence_of(log)
        complaint = said or printed.shortage_of(log) or with_status(last_line, exit_status)
        if step.elapsed_s >= limit_s:
            complaint = f"{last_line}; {said}".removesuffix("; ")
        note_failure(survey, step, complaint, exit_status)


def note_failure(survey: Survey, step: SurveyStep, complaint: str, exit_status: int) -> None:
    """Sets the status and the sentence of a step whose command did not exit with 0."""
    step.sentence = printed.without_names(printable(complaint), survey.folder.resolve())
    says_wrong = exit_status == WRONG and "wrong" in step.sentence.lower()
    has_wrong = step.result and any(case.status == "wrong" for case in step.result.cases)
    step.status = "wrong" if says_wrong or has_wrong else "failed"


def note_finding(survey: Survey, step: SurveyStep) -> None:
    """Sets the status of a step whose command exited with 0, and what it found as its sentence."""
    result = step.result
    step.status = "done"
    log = survey.logs / step.log
    step.sentence = headline_of(result) if result else printed.last_words(log, step.command)
    if step.sentence.endswith("nothing was measured"):
        step.status, step.sentence = "failed", f"{step.sentence}: {NO_TIME}"
    elif result and not result.complete:
        step.status = "incomplete"
        step.sentence += f"; {result.end.reason if result.end else 'the run was cut off'}"
    if step.command == "tune" and (made := printed.table_made(log)):
        step.sentence += f"; {made}"
    cases = result.cases if result else []
    for library, own in grouped(cases, attrgetter("library")).items():
        # NCCL wants two GPUs.
        if library and all(case.status == "unsupported" for case in own):
            step.sentence += f"; {library} was not measured: {own[0].reason}"
