"""Questions of research that only GPUs can answer, each a launch:

    PYTHONPATH=. python docs/experiments/open_questions.py --vendor cuda   # or hip
    PYTHONPATH=. python docs/experiments/open_questions.py --vendor cuda --one-card

With `--one-card` MPS runs meanwhile, if it can; `make test-gpu` goes before it.
The runs go to results/questions/NAME, what a launch prints goes beside them. A launch that hangs is
ended, and the next one begins; those that may hang, or be wrong, are last."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.campaigns.processes import run_to_end
from bench.surveys import mps
from collectives.communicator import find_mpirun
from collectives.registry import exact
from wiretax.common.interpreter import module_command

LONGEST = 1.5  # times its limit, until a launch is ended
GRACE_S = 15.0  # for a launch that starts slowly
USUAL_S = 60.0  # a launch
LARGEST_BYTES = 32 << 20
SHORT = "--sizes 16K,64K,256K -G 1"
FIVE = "--tuned none --sizes 16K,64K,256K,1M,32M"
# NCCL from 2.30 on wants it for two ranks on a GPU. A variable that limits it would outweigh the
# search of `tuned`, and NCCL with nothing else has not run yet.
UNTIED = {"NCCL_MULTI_RANK_GPU_ENABLE": "1"}
# Its variants for symmetric memory take one GPU for NVLink; so it ran on an H100.
WITHOUT_NVLS = {**UNTIED, "NCCL_NVLS_ENABLE": "0"}
TORCH = {"TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES": "1"}


@dataclass(frozen=True)
class Question:
    """`line` begins with a module of bench, or with a script beside this one. `vendor`: cuda or
    hip, "" for both. `needs`: a package. `with_torch`: words that follow where torch is installed.
    `environment`: of the ranks. `seconds`: of its launch. `is_first`: it finds an empty cache."""

    name: str
    title: str
    line: str
    vendor: str = ""
    needs: str = ""
    with_torch: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float = USUAL_S
    is_first: bool = False


TWO_CARDS = (
    # vLLM's pull request 55917 takes host memory for short messages between two R9700s.
    Question(
        "tune_memory",
        "Tuning over peer and host memory, from a graph",
        "tune --memory mapped,host_staged -G 1 -b 16K -e 128K -f 2 "
        "--table results/questions/tuned.toml",
    ),
    Question(
        "memory",
        "Which memory does auto take, from a graph?",
        "allreduce --memory mapped,host_staged --sizes 16K,32K,64K,128K -G 1 "
        "--tuned results/questions/tuned.toml",
    ),
    Question(
        "slabs",
        "Are slabs of 8 MiB better than of 2 MiB?",
        "allreduce --algorithm two_shot_push,two_shot_push+2048K -b 32M",
    ),
    Question(
        "copy_engines",
        "Do copy engines beat the kernels' stores, and from which size?",
        "allreduce -b 1M -e 256M -f 4 --algorithm two_shot,two_shot_copy_engine,"
        "two_shot_copy_engine_memops,one_shot_copy_engine",
    ),
    Question(
        "copy_engines_graph",
        "Do copy engines also beat them from a graph?",
        "allreduce -b 1M -e 256M -f 4 -G 1 --algorithm two_shot,two_shot_copy_engine,"
        "two_shot_copy_engine_memops,one_shot_copy_engine",
    ),
    Question(
        "multimem",
        "Does NVLS sum right, and faster? What does its fence between aliases cost?",
        "allreduce -b 4K -e 256M -f 4 "
        "--algorithm one_shot_multimem,two_shot_multimem,one_shot_push",
        vendor="cuda",
    ),
    Question(
        "library",
        "Does NCCL accept our symmetric windows?",
        "allreduce --algorithm library -f 4",
    ),
    Question(
        "host_staged",
        "What does memory through the host cost?",
        "allreduce --memory host_staged -f 8 --tuned none",
    ),
    Question(
        "packets",
        "Do 16-byte stores arrive in whole packets on AMD?",
        "soak --algorithm one_shot_ll,one_shot_sentinel",
    ),
    # vLLM's kernels for RDNA flush nothing.
    Question(
        "hdp",
        "What does the flush of the host data path cost?",
        f"allreduce --hdp-flush off {SHORT} --algorithm auto,one_shot_push,two_shot_push",
        vendor="hip",
    ),
    Question(
        "hdp_soak",
        "Are results right without that flush?",
        "soak --hdp-flush off",
        vendor="hip",
    ),
    # gfx12 has at most 100 kernels in a graph otherwise.
    Question(
        "graph_nodes",
        "Are graphs of 320 kernels right? (ROCm/hip issue 3887)",
        "allreduce --graph-nodes 1000 --sizes 16K,64K -G 1 --mode chained --algorithm "
        "auto,one_shot_push,two_shot_push",
        vendor="hip",
    ),
)
# Stores alone: over host memory a load waits for a whole trip.
OVER_HOST = [
    algorithm.name
    for algorithm in exact("all_reduce", hosts=1)
    if algorithm.pushes
    and "copied" in algorithm.variants
    and algorithm.limits.most(2) >= LARGEST_BYTES
]
# 12 blocks a cell. NCCL would stay in the memory of the card.
HOST = (
    "allreduce --memory host_staged -b 1M -e 32M -f 2 --tuned none --mode chained -n 12 "
    f"--algorithm {','.join(OVER_HOST)},two_shot_push+1024K"
)
# A hang ends the launch after 25 s, or NCCL's part in it after 20 s.
NCCL = (
    "allreduce --sizes 16K,1M,32M --tuned none --mode chained -G 1 -T 25 "
    "--algorithm one_shot_push,two_shot_direct,library"
)
# Each of torch's rows has its pair: a copy or a kernel's copy first, or the input in mapped memory.
PAIRS = (
    "allreduce --sizes 16K,1M,32M --tuned none --mode chained "
    "--algorithm one_shot_push,two_shot,two_shot_direct --contender torch_symmetric"
)
# In the order of their worth: a card is often lent for a quarter of an hour.
ONE_CARD = (
    Question(
        "nccl",
        "NCCL with two ranks on the GPU, from a graph: its windows, its numbers of blocks",
        NCCL,
        vendor="cuda",
        with_torch="--contender torch_symmetric",
        environment=UNTIED,
    ),
    Question(
        "nccl_without_nvls",
        "The same without NVLS",
        NCCL,
        vendor="cuda",
        with_torch="--contender torch_symmetric",
        environment=WITHOUT_NVLS,
    ),
    Question(
        "first",
        "Does the default command end complete with an empty cache?",
        "allreduce",
        is_first=True,
    ),
    Question(
        "host_graph",
        "1 to 32 MiB over host memory, in a chain from a graph",
        f"{HOST} -G 1",
        seconds=100,
    ),
    Question(
        "copy_engines",
        "Copy engines in the card's memory, whose chains are shorter",
        "allreduce -b 1M -e 32M -f 2 --tuned none --mode chained --algorithm two_shot,"
        "two_shot_copy_engine,two_shot_copy_engine_memops,one_shot_copy_engine",
    ),
    Question("decode", "Decode step", "decode"),
    Question(
        "host_soak",
        "Are packets and flags right over PCIe?",
        "soak --memory host_staged --algorithm "
        "one_shot_ll,one_shot_sentinel,one_shot_push,two_shot_push",
        seconds=120,
    ),
    Question(
        "host_chain",
        "1 to 32 MiB over host memory, in a chain",
        f"{HOST} -G 0",
        seconds=100,
    ),
    Question(
        "torch_in_place",
        "PyTorch's symmetric memory in place, from a graph",
        f"{PAIRS} -G 1 --in-place",
        vendor="cuda",
        needs="torch",
        environment=TORCH,
        seconds=30,
    ),
    Question(
        "torch",
        "The same out of place, launched one by one",
        PAIRS,
        vendor="cuda",
        needs="torch",
        environment=TORCH,
        seconds=40,
    ),
    Question(
        "estimator",
        "How close is the slowest rank's interval to a collective's time?",
        "estimator",
        environment=WITHOUT_NVLS,
        seconds=30,
    ),
    Question(
        "estimator_graph",
        "The same from a graph",
        "estimator -G 1",
        environment=WITHOUT_NVLS,
        seconds=30,
    ),
    Question(
        "library",
        "NCCL launched one by one",
        f"allreduce {FIVE} --algorithm auto,library",
        environment=WITHOUT_NVLS,
    ),
    Question("decode_host", "Decode step through the host", "decode --memory host_staged"),
    Question("survey", "The survey of one card", "survey", seconds=280),
)


def arguments_of(question: Question, vendor: str, is_one_card: bool, limit_s: float) -> list[str]:
    """What follows the command's name."""
    command, *words = question.line.split()
    return [
        *words,
        *(question.with_torch.split() if find_spec("torch") else []),
        f"--soak={limit_s:.0f}s" if command == "soak" else f"--max-time={limit_s:.0f}",
        f"--device={vendor}",
        f"--out=results/questions/{question.name}",
        *(["--ranks-share-gpus"] if is_one_card and command != "survey" else []),
    ]


def variables_of(question: Question) -> dict[str, str]:
    """What its launch has in the environment beside the user's."""
    torch = TORCH if question.with_torch and find_spec("torch") else {}
    return {"WIRETAX_QUIET": "1", **torch, **question.environment}


def command_of(question: Question, mpirun: str, arguments: Sequence[str]) -> list[str]:
    """Its launch: a survey starts its ranks itself."""
    command = question.line.split()[0]
    script = Path(__file__).with_name(f"{command}.py")
    if script.exists():
        return [mpirun, "-n", "2", sys.executable, str(script), *arguments]
    module = [*module_command(f"bench.{command}"), *arguments]
    return module if command == "survey" else [mpirun, "-n", "2", *module]


def ask(question: Question, options: argparse.Namespace, mpirun: str) -> None:
    """Launches a question, and says how it ended."""
    if question.needs and find_spec(question.needs) is None:
        print(f"{question.title}: left out, {question.needs} is not installed", flush=True)
        return
    limit_s = options.seconds or question.seconds
    words = arguments_of(question, options.vendor, options.one_card, limit_s)
    log = Path("results/questions/logs", question.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **variables_of(question)}
    command = command_of(question, mpirun, words)
    longest_s = LONGEST * limit_s + GRACE_S
    with TemporaryDirectory() as cache:
        if question.is_first:
            environment["XDG_CACHE_HOME"] = cache
        status, last = run_to_end(command, None, environment, longest_s, log)
    print(f"{question.title}: status {status}, {last}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--vendor", choices=("cuda", "hip"), required=True)
    parser.add_argument("--one-card", action="store_true", help="both ranks share one GPU")
    parser.add_argument("--only", metavar="A,B", help="the questions of these names")
    parser.add_argument("--seconds", type=float, metavar="S", help="each launch (60, or its own)")
    options = parser.parse_args()
    mpirun = find_mpirun() or sys.exit("there is no mpirun")
    questions = ONE_CARD if options.one_card else TWO_CARDS
    names = options.only.split(",") if options.only else [each.name for each in questions]
    if unknown := {*names} - {each.name for each in questions}:
        sys.exit(f"there is no question {min(unknown)}")
    is_shared = options.one_card and options.vendor == "cuda"
    with mps.service() if is_shared else nullcontext("") as sentence:
        print(sentence, flush=True)
        for question in questions:
            if question.name in names and question.vendor in ("", options.vendor):
                ask(question, options, mpirun)


if __name__ == "__main__":
    main()
