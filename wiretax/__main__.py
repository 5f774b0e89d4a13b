"""The command `wiretax`: every benchmark and every report command by its name.

A benchmark starts its own ranks with mpirun, or is a rank itself if a launcher has started it.
`-n` is the number of ranks, so that the number of iterations is `--iters` alone."""

import argparse
import os
import re
import runpy
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from bench import __name__ as BENCH_PACKAGE
from bench.harness.console import CANNOT, FINE, USAGE, print_out, say
from collectives.communicator import find_mpirun, name_library
from reports.__main__ import ABOUT as REPORTS
from reports.__main__ import FORMER_NAMES, lines_of
from reports.__main__ import main_of_rank as run_report
from wiretax import __version__
from wiretax.common.arguments import unknown, whole_number
from wiretax.common.launched import RANK_VARIABLES, TORCHRUN_VARIABLES, in_slurm_step
from wiretax.common.program import speaks

# They start mpirun themselves, several times.
STARTERS = "campaign", "gate", "bisect", "survey", "qualify"
GROUPS = {
    "Collectives": {
        "allreduce": "times all-reduce beside the library's",
        "allgather": "times all-gather beside the library's",
        "reduce_scatter": "times reduce-scatter beside the library's",
        "alltoall": "times all-to-all, also of a mixture of experts",
        "sendrecv": "times a message to the next rank",
        "bits": "tells what changes the bits of a sum, and in which order it adds",
    },
    "Compute and communication together": {
        "allreduce_rmsnorm": "times all-reduce and RMSNorm in one launch",
        "gemv_allreduce": "times a matrix-vector product and its all-reduce",
        "gemm_reduce_scatter": "times a matmul and its reduce-scatter",
        "allgather_gemm": "times an all-gather and its matmul",
        "decode": "times a whole decode step of a model",
        "prefill": "times a whole prefill of a model",
    },
    "The machine": {
        "doctor": "shows the GPUs, their links and the obstacles between them",
        "link": "measures the link between ranks",
        "tune": "finds the fastest algorithm of this machine for auto",
        "soak": "launches random mixtures for hours, and checks every result",
        "survey": "runs doctor, link, tune, allreduce and decode, into an archive to send",
        "qualify": "accepts or rejects this machine: one status, JSON by serial number",
    },
    "Several launches": {
        "campaign": "launches two commands in turn, and compares them",
        "gate": "tells whether a command has become slower than another: for pipelines",
        "bisect": "finds the commit that made a command slower",
    },
}
BENCHMARKS = [name for commands in GROUPS.values() for name in commands]
COMMANDS = [*BENCHMARKS, *REPORTS]
HELP = """\
usage: wiretax COMMAND [-n RANKS] [OPTION ...]
       wiretax COMMAND --help | --version | --help

Benchmarks collectives between GPUs or CPU cores, and reads the stored runs.
A benchmark starts its own ranks: one for each usable GPU, or two without GPUs.
-n RANKS chooses their number; --iters N is the number of iterations.
Under mpirun or srun each process is one rank. Under torchrun the first process
starts them all. -n is refused there."""
ENDING = """
completion: eval "$(register-python-argcomplete wiretax)"
exit status: 0 fine; 1 a wrong result or a lost rank; 2 the command line;
3 this machine cannot run that, or measured nothing in time; 4 runs that cannot
be compared"""


def help_text() -> str:
    lines = [HELP]
    for title, commands in {**GROUPS, "Stored runs": REPORTS}.items():
        lines += ["", f"{title}:", *lines_of(commands)]
    return "\n".join([*lines, ENDING])


def put(text: str) -> int:
    """Prints a text. Returns the exit status."""
    try:
        print_out(f"{text}\n")
    except OSError as error:
        say("wiretax", f"cannot write: {error.strerror}")
        return USAGE
    return FINE


def refuse(command: str, sentence: str) -> NoReturn:
    """Ends the process with status 2 and one sentence, which only rank 0 prints."""
    from bench.harness.parser import Parser  # not at the top: --help needs no numpy

    Parser(prog=f"wiretax {command}".strip()).error(sentence)


def is_rank() -> bool:
    """Whether a launcher has started this process."""
    launchers = [variable for variable in RANK_VARIABLES if variable in os.environ]
    return in_slurm_step() if launchers == ["SLURM_PROCID"] else bool(launchers)


def torchrun_ranks(command: str) -> int | None:
    """How many ranks torchrun, or whatever sets its variables, asks for; None without it. Refuses
    variables that are not all there or contradict each other."""
    given = {name: os.environ.get(name, "") for name in TORCHRUN_VARIABLES}
    launchers = os.environ.keys() & {*RANK_VARIABLES} - {"SLURM_PROCID"}
    if not any(given.values()) or launchers:
        return None

    given["LOCAL_WORLD_SIZE"] = os.environ.get("LOCAL_WORLD_SIZE", "")
    numbers = [int(word) if re.fullmatch("[0-9]{1,30}", word) else -1 for word in given.values()]
    rank, ranks, local_rank, local_ranks = numbers
    is_possible = 0 <= local_rank <= rank < ranks and local_rank < local_ranks <= ranks
    if not is_possible or (local_ranks == ranks and local_rank != rank):
        refuse(
            command,
            f"torchrun's variables cannot be {' '.join(map('='.join, given.items()))}: start this "
            f"with torchrun, or unset {' '.join(given)}",
        )
    if local_ranks < ranks:
        refuse(
            command,
            f"torchrun has {local_ranks} of {ranks} ranks on this host, and can start those of one "
            "host alone: start several hosts with mpirun or srun",
        )
    os.environ["HYDRA_LAUNCHER"] = "fork"  # in a step of Slurm MPICH's would wait for another step
    return ranks


def complete() -> list[str]:
    """Completes the command's name for the shell and exits, or returns the command line so far:
    then the parser of its command completes in place of parsing."""
    import argcomplete

    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    command, *rest = line.split()[1:] or [""]
    if not rest and not line[-1:].isspace():
        command = ""
    parser = argparse.ArgumentParser(prog="wiretax")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("command", choices=COMMANDS)
    if command not in COMMANDS:
        argcomplete.autocomplete(parser)
    os.environ["_ARGCOMPLETE"] = "2"  # the line of its parser begins with the second word
    if command in BENCHMARKS:
        from bench.harness.parser import Parser

        setattr(Parser, "error", argparse.ArgumentParser.error)  # noqa: B010 - which only raises
    setattr(  # noqa: B010
        argparse.ArgumentParser,
        "parse_args",
        lambda parser, *_: argcomplete.autocomplete(parser),
    )
    return [command, *rest]


def take_ranks(command: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """What `-n` or `--ranks` says, None without, and the other arguments."""
    from bench.harness.parser import Parser

    parser = Parser(prog=f"wiretax {command}", add_help=False)
    parser.add_argument("-n", "--ranks")
    options, rest = parser.parse_known_args(arguments)
    return options.ranks, rest


def gpu_count(arguments: list[str]) -> int:
    """How many GPUs a benchmark with these arguments can use; 0 if it uses the CPU."""
    from kernels.devices.device import DeviceError
    from kernels.devices.gpu_driver import visible_gpus

    if "--device=cpu" in arguments or ("--device", "cpu") in pairwise(arguments):
        return 0
    try:
        return len(visible_gpus("--mixed-gpus" in arguments).bus_ids)
    except DeviceError:
        return 0


def start_ranks(command: str, ranks: int, arguments: list[str]) -> NoReturn:
    """Becomes mpirun, so that signals, output and the exit status are mpirun's own."""
    mpirun = find_mpirun()
    if not mpirun:
        say(f"wiretax {command}", "there is no mpirun, which starts the ranks: pip install mpich")
        sys.exit(CANNOT)
    name_library(mpirun)
    main_file = Path(sys.argv[0])
    program = ["-m", "wiretax"] if main_file.name == "__main__.py" else [str(main_file.resolve())]
    os.execv(mpirun, [mpirun, "-n", str(ranks), sys.executable, *program, command, *arguments])


def end_after_options(command: str) -> None:
    """Has the benchmark end once it has read its options, with the status of bad ones: torchrun's
    first process starts all ranks. A shell may have kept the variables, so it says so where no
    torchrun is above."""
    from bench.harness import session
    from bench.harness.parser import Parser

    def end(*_: object) -> NoReturn:
        if speaks():
            names = " ".join((*TORCHRUN_VARIABLES, "LOCAL_WORLD_SIZE"))
            say(
                f"wiretax {command}",
                f"nothing was run here: LOCAL_RANK is {os.environ['LOCAL_RANK']}, and the process "
                f"with LOCAL_RANK 0 starts all ranks; without torchrun, unset {names}",
            )
        sys.exit(FINE)

    def end_doctor(parser: Parser) -> NoReturn:
        argparse.ArgumentParser.parse_args(parser)
        end()

    for place, name in ((Parser, "require_ranks"), (session, "start")):  # of --list no ranks
        setattr(place, name, end)
    if command == "doctor":
        setattr(Parser, "parse_args", end_doctor)  # noqa: B010 - it needs no ranks


def run_benchmark(command: str, arguments: list[str]) -> None:
    """Runs the benchmark here, or starts ranks that do."""
    asked, rest = (None, arguments) if command in STARTERS else take_ranks(command, arguments)
    runs_nothing = {"-h", "--help"}.intersection(rest) or "_ARGCOMPLETE" in os.environ
    alone = command in STARTERS or runs_nothing
    started = None if alone else torchrun_ranks(command)
    if asked is not None and (started or is_rank()):
        refuse(
            command,
            f"the launcher has chosen the number of ranks: leave out -n {asked}; "
            f"--iters {asked} is the number of iterations",
        )
    if not alone and (started or not is_rank()):
        from kernels.devices.device import MOST_RANKS

        ranks, number = 0, started if asked is None else asked
        if number is not None:
            try:
                ranks = whole_number(1, str(number), MOST_RANKS)
            except argparse.ArgumentTypeError as error:
                refuse(command, f"ranks: {error}; --iters is the number of iterations")
        gpus = 0 if ranks else gpu_count(rest)
        if gpus > MOST_RANKS:
            more = f"{MOST_RANKS} ranks for {gpus} GPUs: more are not supported"
            say(f"wiretax {command}", more)
        if started and os.environ["LOCAL_RANK"].strip("0"):
            end_after_options(command)
        elif ranks or gpus or command != "doctor":
            if gpus == 1:
                told = "one GPU, so one rank and no link: wiretax survey has two ranks share it"
                say(f"wiretax {command}", told)
            start_ranks(command, ranks or min(gpus, MOST_RANKS) or 2, rest)
    sys.argv[1:] = rest
    runpy.run_module(f"{BENCH_PACKAGE}.{command}", run_name="__main__", alter_sys=True)


def main() -> int:
    """Runs the command that the command line names; returns its exit status."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until a benchmark has more to keep
    line = complete() if {"_ARGCOMPLETE", "COMP_LINE"} <= os.environ.keys() else sys.argv[1:]
    # As mpirun has them, options of the ranks may stand before the command.
    words = (place for place, word in enumerate(line) if not re.match(r"-n|--ranks|\d", word))
    place = next(words, None)
    command = "" if place is None else line.pop(place)
    if not command:  # a script whose variable is empty must not pass
        if speaks():
            print(help_text(), file=sys.stderr)
        return USAGE
    if command in ("-h", "--help"):
        return put(help_text())
    elif command in ("-V", "--version"):
        return put(f"wiretax {__version__}")
    elif command in (*REPORTS, *FORMER_NAMES) and (
        command not in BENCHMARKS or (line and not line[0].startswith("-"))
    ):  # a benchmark of the same name takes options alone
        return run_report([command, *line])
    elif command in BENCHMARKS:
        run_benchmark(command, line)
    else:
        refuse("", unknown("command", command, COMMANDS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
