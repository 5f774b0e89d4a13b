"""The steps of a survey, and the launch of one: command line, time limit, logs, outcome."""

import os
import re
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench import __name__ as BENCH
from bench.campaigns.launches import run_to_end
from bench.harness.console import CANNOT, FINE, WRONG
from bench.harness.progress import QUIET, Progress
from reports.store.result import ResultError, read
from reports.store.schema import Result
from reports.store.untrusted import printable, read_bytes
from reports.tables.show import headline_of

MEASURING_SHARE = 0.9  # of a step's time; in the rest it starts, and prints
LEAST_STEP_S = 1.0
GRACE_S = 15.0  # for a step that starts slowly
TABLE, RESULTS, LOGS = "tuned.json", "results", "logs"
QUICK_SIZES, LARGE = "--sizes 16K,64K,256K,1M,4M,32M", "-b 1M -e 256M -f 4"
QUICK_MODEL = "--model llama-3.1-8b --slots 1"
SYSTEM_FOLDERS = "dev|etc|lib|lib64|opt|proc|sys|usr"
# A folder that could name a user or a project; the system's own folders tell nobody anything.
PRIVATE_FOLDER = re.compile(rf"(?<![\w/.>])~?/(?!(?:{SYSTEM_FOLDERS})/)(?:[^\s/'\":,;()]+/)+")
Status = Literal["done", "incomplete", "wrong", "failed", "interrupted", "not run"]


@dataclass(frozen=True)
class Step:
    """A launch: `line` is its benchmark with arguments. `share` is its part of the time, beside the
    shares of the other steps; `title` is its heading, or the question that it answers. `variable`
    is NAME=VALUE, for its environment."""

    name: str
    line: str
    title: str
    share: float = 1.0
    variable: str = ""

    @property
    def command(self) -> str:
        return self.line.split()[0]

    @property
    def arguments(self) -> list[str]:
        return self.line.split()[1:]


@dataclass
class Outcome:
    """How a step ended, in one sentence, and its stored run."""

    step: Step
    status: Status = "not run"
    sentence: str = "the time ran out before"
    elapsed_s: float = 0.0
    result: Result | None = None


@dataclass(frozen=True)
class Survey:
    """`outcomes` has all steps in their order. The doctor runs as one process without GPUs, and if
    ranks share one."""

    folder: Path
    archive: Path
    ranks: int
    mpirun: str
    on_gpus: bool
    device: str
    is_quick: bool
    deadline_s: float
    outcomes: list[Outcome]
    progress: Progress
    shares_gpus: bool = False
    remarks: list[str] = field(default_factory=list)  # for the page


# Also on GPUs, unless it must be quick.
GPU_STEPS = (
    Step(
        "slabs",
        "allreduce --algorithm two_shot_push,two_shot_push+2M -b 32M",
        "Are slabs of 8 MiB better than of 2 MiB?",
        0.4,
    ),
    Step(
        "copy_engines",
        f"allreduce {LARGE} --algorithm two_shot,two_shot_copy_engine",
        "Do copy engines beat the kernels' stores, and from which size?",
        0.6,
    ),
    Step(
        "copy_engines_graph",
        f"allreduce {LARGE} -G 1 --algorithm two_shot,two_shot_copy_engine",
        "Do copy engines also beat them from a graph?",
        0.6,
    ),
    Step(
        "multimem",
        "allreduce -b 4K -e 256M -f 4 "
        "--algorithm one_shot_multimem,two_shot_multimem,one_shot_push",
        "Does NVLS sum right, and faster? What does its fence between aliases cost?",
        0.6,
    ),
    Step(
        "library",
        "allreduce --algorithm library -f 4",
        "Does NCCL accept our `ncclConfig_t` and symmetric windows?",
        0.6,
    ),
    Step(
        "host_staged",
        "allreduce --memory host_staged -f 8 --tuned none",
        "What does memory through the host cost?",
        0.6,
    ),
    Step(
        "packets",
        "soak --algorithm one_shot_ll,one_shot_sentinel",
        "Do 16-byte stores arrive in whole packets on AMD?",
        0.4,
    ),
)
# Where ranks share GPUs: all that one card tells of a wire is the way through the host. NCCL is
# last, since it may hang: two ranks on a GPU are not its case. A graph is how a model decodes.
OURS = (
    "--tuned none --algorithm auto,one_shot_ll,one_shot_sentinel,one_shot_push,one_shot_pull,"
    "two_shot,two_shot_push,two_shot_direct"
)
ON_CARD = f"allreduce --memory mapped --sizes 16K,64K,256K,1M,4M,32M {OURS}"
ON_HOST = f"allreduce --memory host_staged --sizes 16K,64K,128K,256K,1M,4M {OURS}"
BESIDE_LIBRARY = "allreduce --tuned none --sizes 16K,64K,256K,1M,32M --algorithm auto,library"
TWO_ON_ONE = "NCCL_MULTI_RANK_GPU_ENABLE=1"  # NCCL reads it from 2.30 on
SHARED_STEPS = (
    Step("doctor", "doctor", "Doctor", 0.3),
    Step("link", "link -e 64M", "Link"),
    Step("link_host", "link --memory host_staged -e 16M", "Link through the host"),
    Step("allreduce", ON_CARD, "All-reduce in the GPU's memory", 1.5),
    Step("host_staged", ON_HOST, "All-reduce through the host", 1.5),
    Step("host_graph", f"{ON_HOST} -G 1", "All-reduce through the host, from a graph", 1.5),
    Step("graph", f"{ON_CARD} -G 1", "All-reduce in the GPU's memory, from a graph", 1.5),
)
LONGER_SHARED_STEPS = (
    Step("decode", "decode --memory mapped", "Decode step of a 70B model"),
    Step("decode_host", "decode --memory host_staged", "Decode step through the host"),
    Step("library", BESIDE_LIBRARY, "NCCL with two ranks on the GPU", 1.0, TWO_ON_ONE),
    Step("library_graph", f"{BESIDE_LIBRARY} -G 1", "NCCL from a graph", 1.0, TWO_ON_ONE),
)
# What a survey leaves to its user: a question, and the command that answers it.
LEFT_TO_DO = {
    "Does the real hipRTC accept all kernels? Does the card run them right?": (
        "make test-gpu GPU=cuda13, or cuda12, or rocm"
    ),
    "Do vLLM, mscclpp and FlashInfer run on our buffers and stream?": (
        "mpirun -n 2 python -m bench.allreduce --peer vllm,mscclpp,flashinfer -d half"
    ),
}


def plan(on_gpus: bool, is_quick: bool, shares_gpus: bool = False) -> list[Step]:
    """The steps in their order: `auto` uses what the tuning finds, where each rank has a GPU."""
    if shares_gpus:
        return [*SHARED_STEPS, *(() if is_quick else LONGER_SHARED_STEPS)]
    return [
        Step("doctor", "doctor", "Doctor"),
        Step("link", "link", "Link", 1.5),
        Step("tune", "tune" + " -f 4" * is_quick, "Tuning", 4.0),
        Step("allreduce", "allreduce" + f" {QUICK_SIZES}" * is_quick, "All-reduce", 4.0),
        Step("decode", "decode" + f" {QUICK_MODEL}" * is_quick, "Decode step", 2.0),
        *(GPU_STEPS if on_gpus and not is_quick else ()),
    ]


def command_line(survey: Survey, step: Step, time_s: float) -> list[str]:
    """`mpirun`, this interpreter and the step's module with its options."""
    folder, command = survey.folder.resolve(), [sys.executable, "-m", f"{BENCH}.{step.command}"]
    if step.command == "doctor":
        ranks = 1 if survey.shares_gpus else survey.ranks
        return [survey.mpirun, "-n", str(ranks), *command] if survey.on_gpus else command
    time_option = f"--soak={time_s:.1f}s" if step.command == "soak" else f"--max-time={time_s:.1f}"
    options = [
        time_option,
        f"--device={survey.device}",
        "--lean",
        f"--out={folder / RESULTS / step.name}",
        *["--ranks-share-gpus"] * survey.shares_gpus,
    ]
    table = folder / TABLE
    if step.command == "tune":
        options.append(f"--table={table}")
    elif step.command == "allreduce" and "--tuned" not in step.arguments and table.exists():
        options.append(f"--tuned={table}")
    return [survey.mpirun, "-n", str(survey.ranks), *command, *step.arguments, *options]


def to_type(survey: Survey, step: Step) -> str:
    """The command that runs the step again."""
    command, start = step.command, f"mpirun -n {survey.ranks} "
    if command == "doctor":
        is_parallel = survey.on_gpus and not survey.shares_gpus
        return start * is_parallel + "python -m bench.doctor"
    device = [] if survey.device == "auto" else ["--device", survey.device]
    device += ["--ranks-share-gpus"] * survey.shares_gpus
    variable = f"{step.variable} " if step.variable else ""
    return " ".join([f"{variable}{start}python -m bench.{command}", *step.arguments, *device])


def perform(survey: Survey, outcome: Outcome, share_s: float, left_s: float) -> None:
    """Launches the step for about `share_s` seconds, and ends it when it takes far longer."""
    step, limit_s = outcome.step, min(1.5 * share_s + GRACE_S, left_s)
    outcome.status, outcome.sentence = "interrupted", "interrupted"
    command = command_line(survey, step, MEASURING_SHARE * share_s)
    log, started_s = survey.folder / LOGS / step.name, time.monotonic()
    environment, exit_status, last_line = os.environ | {QUIET: "1"}, WRONG, ""
    if step.variable:
        name, _, value = step.variable.partition("=")
        environment[name] = value
    try:
        exit_status, last_line = run_to_end(command, None, environment, limit_s, log)
    finally:
        outcome.elapsed_s = time.monotonic() - started_s
        with suppress(ResultError):
            for path in (survey.folder / RESULTS / step.name).glob("*.jsonl"):
                outcome.result = read(path)
    complaint = sentence_of(log) or last_line
    if outcome.elapsed_s >= limit_s:
        complaint = f"{last_line}; {sentence_of(log)}".removesuffix("; ")
    judge(survey, outcome, exit_status, without_names(printable(complaint)))


def judge(survey: Survey, outcome: Outcome, exit_status: int, complaint: str) -> None:
    """Sets the status and the sentence of a step that has ended."""
    result = outcome.result
    is_wrong = bool(result and any(case.status == "wrong" for case in result.cases))
    if exit_status == FINE:
        outcome.status = "done"
        outcome.sentence = headline_of(result) if result else last_words(survey, outcome.step)
        if outcome.sentence.endswith("nothing was measured"):
            outcome.status, outcome.sentence = "failed", f"{outcome.sentence}: time ran out"
        elif result and not result.complete:
            outcome.status = "incomplete"
            outcome.sentence += f"; {result.end.reason if result.end else 'the run was cut off'}"
    elif is_wrong or (exit_status == WRONG and "wrong" in complaint.lower()):
        outcome.status, outcome.sentence = "wrong", complaint
    elif exit_status == CANNOT and outcome.step.command == "doctor" and not survey.on_gpus:
        outcome.status, outcome.sentence = "done", "the survey is of the CPU"
    else:
        outcome.status, outcome.sentence = "failed", complaint


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
