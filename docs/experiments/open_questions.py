"""Questions of research that only GPUs can answer, each a launch:

    PYTHONPATH=. python docs/experiments/open_questions.py --vendor cuda   # or hip
    PYTHONPATH=. python docs/experiments/open_questions.py --vendor cuda --one-card

With `--one-card` MPS runs meanwhile, if it can.
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
# NCCL reads MULTI_RANK_GPU_ENABLE from 2.30 on; its variants for symmetric memory take one GPU for
# NVLink. Nothing limits its channels: an H100 held the 64 of each rank at once, and a limit would
# outweigh the search of `tuned`.
TWO_RANKS = {
    "NCCL_MULTI_RANK_GPU_ENABLE": "1",
    "NCCL_NVLS_ENABLE": "0",
}
TORCH = {"TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES": "1"}


@dataclass(frozen=True)
class Question:
    """`line` begins with a module of bench, or with a script beside this one. `vendor`: cuda or
    hip, "" for both. `needs`: a package. `environment`: of the ranks. `seconds`: of its launch."""

    name: str
    title: str
    line: str
    vendor: str = ""
    needs: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float = USUAL_S


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
HOST = (
    "allreduce --memory host_staged -b 1M -e 32M -f 2 --tuned none --mode chained "
    f"--algorithm {','.join(OVER_HOST)},two_shot_push+1024K,library"
)
# Each of torch's rows has its pair: a copy or a kernel's copy first, or the input in mapped memory.
PAIRS = (
    "allreduce --sizes 16K,1M,32M --tuned none --mode chained "
    "--algorithm one_shot_push,two_shot,two_shot_direct --contender torch_symmetric"
)
# In the order of their worth: a card is often lent for a quarter of an hour.
ONE_CARD = (
    Question("survey", "The survey of one card", "survey", seconds=280),
    Question(
        "host_chain",
        "1 to 32 MiB over host memory, in a chain; NCCL stays in the memory of the card",
        HOST,
        environment=TWO_RANKS,
    ),
    Question(
        "host_graph",
        "The same from a graph",
        f"{HOST} -G 1",
        environment=TWO_RANKS,
    ),
    Question(
        "host_soak",
        "Are packets and flags right over PCIe?",
        "soak --memory host_staged --algorithm "
        "one_shot_ll,one_shot_sentinel,one_shot_push,two_shot_push",
        seconds=120,
    ),
    Question(
        "torch_graph",
        "PyTorch's symmetric memory in the same chain, from a graph",
        f"{PAIRS} -G 1",
        vendor="cuda",
        needs="torch",
        environment=TORCH,
        seconds=40,
    ),
    Question(
        "torch_in_place",
        "The same in place",
        f"{PAIRS} -G 1 --in-place",
        vendor="cuda",
        needs="torch",
        environment=TORCH,
        seconds=30,
    ),
    Question(
        "torch",
        "The same launched one by one",
        PAIRS,
        vendor="cuda",
        needs="torch",
        environment=TORCH,
        seconds=40,
    ),
    Question(
        "estimator",
        "How well does the slowest rank's interval stand for a collective's time?",
        "estimator",
        environment=TWO_RANKS,
        seconds=30,
    ),
    Question(
        "estimator_graph",
        "The same from a graph",
        "estimator -G 1",
        environment=TWO_RANKS,
        seconds=30,
    ),
    Question(
        "library",
        "NCCL with two ranks on the GPU",
        f"allreduce {FIVE} --algorithm auto,library",
        environment=TWO_RANKS,
    ),
    Question(
        "library_graph",
        "NCCL from a graph",
        f"allreduce {FIVE} --algorithm auto,library -G 1",
        environment=TWO_RANKS,
    ),
    Question("decode_host", "Decode step through the host", "decode --memory host_staged"),
)


def arguments_of(question: Question, vendor: str, is_one_card: bool, limit_s: float) -> list[str]:
    """What follows the command's name."""
    command, *words = question.line.split()
    return [
        *words,
        f"--soak={limit_s:.0f}s" if command == "soak" else f"--max-time={limit_s:.0f}",
        f"--device={vendor}",
        f"--out=results/questions/{question.name}",
        *(["--ranks-share-gpus"] if is_one_card and command != "survey" else []),
    ]


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
    environment = {**os.environ, "WIRETAX_QUIET": "1", **question.environment}
    command = command_of(question, mpirun, words)
    longest_s = LONGEST * limit_s + GRACE_S
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
