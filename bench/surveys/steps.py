"""The steps of a survey, and the launch of one: command line, time limit, logs, outcome."""

import os
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from bench import __name__ as BENCH
from bench.campaigns.launches import run_to_end
from bench.harness.console import CANNOT, FINE, WRONG
from bench.harness.progress import QUIET, Progress
from reports.interpreter import module_command
from reports.store.result import ResultError, read
from reports.store.schema import Result
from reports.store.untrusted import printable, read_bytes
from reports.tables.show import headline_of

MEASURING_SHARE = 0.9  # of a step's time; in the rest it starts, and prints
LEAST_STEP_S = 1.0
GRACE_S = 15.0  # for a step that starts slowly
TABLE, RESULTS, LOGS = "tuned.toml", "results", "logs"
SYSTEM_FOLDERS = "dev|etc|lib|lib64|opt|proc|sys|usr"
# A folder that could name a user or a project; the system's own folders tell nobody anything.
PRIVATE_FOLDER = re.compile(rf"(?<![\w/.>])~?/(?!(?:{SYSTEM_FOLDERS})/)(?:[^\s/'\":,;()]+/)+")
PLANS = msgspec.toml.decode(Path(__file__).with_name("steps.toml").read_bytes())
Status = Literal["done", "incomplete", "wrong", "failed", "interrupted", "not run"]


@dataclass
class Step:
    """A launch as in steps.toml, and how it ended: its status, a sentence, its stored run."""

    name: str
    title: str
    line: str
    share: float = 1.0
    quick: str | None = None
    gpus_only: bool = False
    folded: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    status: Status = "not run"
    sentence: str = "the time ran out before"
    elapsed_s: float = 0.0
    result: Result | None = None

    @property
    def command(self) -> str:
        return self.line.split()[0]

    @property
    def arguments(self) -> list[str]:
        return self.line.split()[1:]


@dataclass(frozen=True)
class Survey:
    """`steps` are all steps in their order."""

    folder: Path
    archive: Path
    ranks: int
    mpirun: str
    on_gpus: bool
    device: str
    is_quick: bool
    deadline_s: float
    steps: list[Step]
    progress: Progress
    shares_gpus: bool = False
    remarks: list[str] = field(default_factory=list)  # for the page


def plan(on_gpus: bool, is_quick: bool, shares_gpus: bool = False) -> list[Step]:
    """The steps in their order."""
    steps = [Step(**row) for row in PLANS["shared" if shares_gpus else "separate"]]
    if is_quick:
        steps = [
            replace(step, line=f"{step.line} {step.quick}")
            for step in steps
            if step.quick is not None
        ]
    return [step for step in steps if on_gpus or not step.gpus_only]


def launcher(survey: Survey, step: Step, mpirun: str = "mpirun") -> list[str]:
    """`mpirun` with the number of ranks. The doctor runs without it where there are no GPUs, and as
    one rank where ranks share one."""
    ranks = survey.ranks
    if step.command == "doctor":
        if not survey.on_gpus:
            return []
        ranks = 1 if survey.shares_gpus else ranks
    return [mpirun, "-n", str(ranks)]


def command_line(survey: Survey, step: Step, time_s: float) -> list[str]:
    """`mpirun`, this interpreter and the step's module with its options."""
    folder, table = survey.folder.resolve(), survey.folder.resolve() / TABLE
    words = [*launcher(survey, step, survey.mpirun), *module_command(f"{BENCH}.{step.command}")]
    words += step.arguments
    if step.command == "doctor":
        return words
    words += [
        f"--soak={time_s:.1f}s" if step.command == "soak" else f"--max-time={time_s:.1f}",
        f"--device={survey.device}",
        "--lean",
        f"--out={folder / RESULTS / step.name}",
        *["--ranks-share-gpus"] * survey.shares_gpus,
    ]
    if step.command == "tune":
        words.append(f"--table={table}")
    elif step.command == "allreduce" and "--tuned" not in step.arguments and table.exists():
        words.append(f"--tuned={table}")
    return words


def to_type(survey: Survey, step: Step) -> str:
    """The command that runs the step again."""
    command = step.command
    variables = [f"{name}={value}" for name, value in step.environment.items()]
    words = [*variables, *launcher(survey, step), f"python -m bench.{command}", *step.arguments]
    if command != "doctor":
        words += ["--device", survey.device] if survey.device != "auto" else []
        words += ["--ranks-share-gpus"] * survey.shares_gpus
    return " ".join(words)


def perform(survey: Survey, step: Step, share_s: float, left_s: float) -> None:
    """Launches the step for about `share_s` seconds, and ends it when it takes far longer."""
    limit_s = min(1.5 * share_s + GRACE_S, left_s)
    step.status, step.sentence = "interrupted", "interrupted"
    command = command_line(survey, step, MEASURING_SHARE * share_s)
    log, started_s = survey.folder / LOGS / step.name, time.monotonic()
    environment = os.environ | {QUIET: "1"} | step.environment
    try:
        exit_status, last_line = run_to_end(command, None, environment, limit_s, log)
    finally:
        step.elapsed_s = time.monotonic() - started_s
        with suppress(ResultError):
            for path in (survey.folder / RESULTS / step.name).glob("*.jsonl"):
                step.result = read(path)
    complaint = sentence_of(log) or last_line
    if step.elapsed_s >= limit_s:
        complaint = f"{last_line}; {sentence_of(log)}".removesuffix("; ")
    judge(survey, step, exit_status, without_names(printable(complaint)))


def judge(survey: Survey, step: Step, exit_status: int, complaint: str) -> None:
    """Sets the status and the sentence of a step that has ended."""
    result = step.result
    is_wrong = bool(result and any(case.status == "wrong" for case in result.cases))
    step.status, step.sentence = "failed", complaint
    if exit_status == FINE:
        step.status = "done"
        step.sentence = headline_of(result) if result else last_words(survey, step)
        if step.sentence.endswith("nothing was measured"):
            step.status, step.sentence = "failed", f"{step.sentence}: time ran out"
        elif result and not result.complete:
            step.status = "incomplete"
            step.sentence += f"; {result.end.reason if result.end else 'the run was cut off'}"
    elif is_wrong or (exit_status == WRONG and "wrong" in complaint.lower()):
        step.status = "wrong"
    elif exit_status == CANNOT and step.command == "doctor" and not survey.on_gpus:
        step.status, step.sentence = "done", "the survey is of the CPU"


def last_words(survey: Survey, step: Step) -> str:
    """The worst problem that the doctor names, or the last line of a soak."""
    text = log_text(survey.folder / LOGS / step.name, "out")
    if step.command != "doctor":
        return "".join(text.splitlines()[-1:])
    problems = text.partition("\nProblems:")[2].partition("\n\n")[0].split("\n- ")[1:]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return " ".join(problems[0].split()) + more if problems else "no problem between the GPUs"


def sentence_of(log: Path) -> str:
    """The sentence that a benchmark printed before it ended; MPI may print lines of its own."""
    lines = log_text(log, "err").splitlines()
    spoken = (re.fullmatch(r"(?:bench\.|wiretax\b)[^:]*: (.*)", line) for line in lines)
    return next((match[1] for match in spoken if match), "")


def log_text(log: Path, stream: str) -> str:
    """What a step wrote to `out` or `err`; empty if the file is missing."""
    try:
        return read_bytes(log.with_suffix(f".{stream}.txt")).decode(errors="replace")
    except OSError:
        return ""


def without_names(text: str) -> str:
    """The text with `<home>`, with `<path>/` for folders other than the system's, and `<host>`."""
    if len(home := os.path.expanduser("~")) > 1:
        text = text.replace(home, "<home>")
    text = PRIVATE_FOLDER.sub("<path>/", text)
    return re.sub(rf"\b{re.escape(socket.gethostname())}\b", "<host>", text)
