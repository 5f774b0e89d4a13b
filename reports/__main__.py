"""`python -m reports COMMAND`. Exit status: 0 fine, 2 for an unusable command line or file, 4 for
runs that cannot be compared, with one sentence on standard error; `regress` has more."""

import argparse
import importlib
import io
import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import fill

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback: nothing is lost here

from wiretax.common.arguments import OneLineParser, unknown
from wiretax.common.program import BENCH, REPORTS, RUN, complain, speaks

# For each command: the module with its arguments and its function, help, and an example.
COMMANDS = {
    "show": ("tables.show", "shows a stored run", "results/RUN.jsonl --plot run.svg"),
    "export": (
        "tables.export",
        "writes the cases of runs as CSV or OpenMetrics",
        "results/ --openmetrics",
    ),
    "import": (
        "imports.import_command",
        "imports logs of other benchmarks, such as nccl-tests, as runs",
        "slurm-1234.out",
    ),
    "compare": (
        "verdicts.compare",
        "compares runs or campaigns: ratios, intervals, verdicts",
        "results/campaign-1a2b3c4d",
    ),
    "regress": (
        "verdicts.regress",
        "tells whether the current runs are slower than the baseline",
        "--baseline CAMPAIGN/main --current CAMPAIGN/new --junit junit.xml",
    ),
    "bits": (
        "verdicts.bits_report",
        f"shows a record of {BENCH}bits, and whether a baseline has the same bits",
        "results/ --baseline baselines --require run,size",
    ),
    "accept": (
        "verdicts.accept",
        "stores the current runs as the new baseline",
        '--baseline baselines --current CAMPAIGN/new --reason "fewer copies"',
    ),
    "history": (
        "trends.history",
        "tells which cases changed in a folder of runs, and when",
        "results/ --plot history.svg",
    ),
    "fleet": (
        "trends.fleet",
        "names the nodes that are slower than equal ones, wrong or failed",
        "results/",
    ),
    "advise": (
        "advice.advise",
        "advises how to split a model over GPUs, from a run's all-reduces",
        "--model llama-3.1-70b --weights q4 --gpu r9700 --gpus 2 --run results/RUN.jsonl",
    ),
    "expect": (
        "advice.expect",
        "shows what is published for these GPUs, and the place of a run among it",
        "--gpu r9700 --gpus 2 --size 16K",
    ),
    "breakdown": (
        "breakdown.breakdown",
        "splits a step into compute, transport, waiting and idle: from engines' traces, two served "
        "figures, or a run of bench.decode",
        "rank0.json.gz rank1.json.gz --run results",
    ),
    "references": (
        "advice.references_command",
        "checks an archive that an owner sent, and adds its rows to the published figures",
        "check survey.tar.gz",
    ),
    "predict": (
        "advice.predict",
        "predicts what two cards would do, from runs of one",
        "results/RUN.jsonl",
    ),
    "libraries": (
        "verdicts.libraries",
        "shows Wiretax beside several MPI libraries",
        "libraries",
    ),
    "tuner": (
        "verdicts.tuner",
        "writes the settings that beat a library's default, for its tuner",
        "CAMPAIGN --format rccl > table.csv",
    ),
    "procure": (
        "advice.procurement",
        "compares candidate machines by figures and requirements",
        "SPEC.toml --html procure.html",
    ),
    "dashboard": ("site.dashboard", "makes static pages of a folder of runs", "results/ -o site/"),
    "fit": (
        "trends.fit",
        "fits time = alpha + size / beta to runs, and finds where one algorithm overtakes another",
        "results/campaign-1a2b3c4d/main --plot fit.svg",
    ),
}
FORMER_NAMES = {"peers": "libraries"}


def open_closed_streams() -> None:
    """Opens /dev/null for a closed standard stream, where Python has None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - to the end of the process


ABOUT = {name: about for name, (_, about, _) in COMMANDS.items()}


def lines_of(commands: Mapping[str, str]) -> list[str]:
    """The commands and what each does, for a help text of 80 columns."""
    return [
        fill(about, 80, initial_indent=f"  {name:20} ", subsequent_indent=" " * 23)
        for name, about in commands.items()
    ]


def run(argv: Sequence[str]) -> int:
    """Runs the command that the words name; returns its exit status. Raises what it raises."""
    name, prog = argv[0] if argv else "", f"{RUN}{REPORTS}"
    if name in ("-h", "--help"):
        usage = f"usage: {prog} COMMAND [OPTION ...]\n\nReads stored runs.\n"
        print("\n".join([usage, *lines_of(ABOUT)]))
        return 0
    typed, name = name, FORMER_NAMES.get(name, name)
    if name not in COMMANDS:
        OneLineParser(prog=prog).error(unknown("command", name, [*COMMANDS]))

    module_name, about, example = COMMANDS[name]
    parser = OneLineParser(
        prog=f"{prog} {name}",
        description=f"{about[0].upper()}{about[1:]}.",
        epilog=f"example: {prog} {name} {example}",
    )
    parser.set_defaults(command=typed)  # programs read it in the JSON
    module = importlib.import_module(f"{__package__}.{module_name}")
    module.add_arguments(parser)
    if name not in ("export", "tuner"):
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object (docs/results.md)"
        )
    function = "import_logs" if name == "import" else name  # `import` is no name in Python
    arguments = parser.parse_args(argv[1:])
    given = Counter(word.partition("=")[0] for word in argv)
    for option, action in parser._option_string_actions.items():
        if given[option] > 1 and type(action) is argparse._StoreAction:
            parser.error(f"{option} is given {given[option]} times, and takes one value")
    return int(getattr(module, function)(arguments))


def main_of_rank(argv: list[str] | None = None) -> int:
    """As `main`. Under a launcher every rank judges, so that each has the true exit status, and one
    prints."""
    open_closed_streams()
    if not speaks():
        nobody = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nobody, stream)
    return main(argv)


def main(argv: list[str] | None = None) -> int:
    from wiretax.record.result import ResultError  # not at the top: --help needs no numpy

    open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Otherwise, unbuffered, a reader that leaves would change the status; and a name that the
        # terminal's encoding lacks would end the report.
        sys.stdout.reconfigure(write_through=False, errors="replace")

    status = 0
    try:
        status = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except ResultError as error:
        complain(str(error))
        return error.exit_status
    except MemoryError:
        complain("the memory is full")
        return 2
    except OSError as error:
        # Python would complain again while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # otherwise the reader, such as `head`, has left
            complain(f"{error.filename or 'cannot write'}: {error.strerror}")
            return 2

    return status


if __name__ == "__main__":
    sys.exit(main_of_rank())
