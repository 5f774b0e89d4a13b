"""`python -m reports COMMAND` works with stored runs.

Exit status: 0 fine, 2 for a command line or a file that cannot be used, 4 for runs that cannot be
compared, with one sentence on standard error; `regress` has more."""

import argparse
import importlib
import io
import os
import signal
import sys
from typing import NamedTuple, NoReturn

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback: nothing is lost here

from reports.store.foreign import printable
from reports.store.result import ResultError


class Command(NamedTuple):
    """A module with `add_arguments` and the function that runs the command, named after the command
    unless `function` names it; help and an example."""

    module: str
    about: str
    example: str
    function: str = ""


COMMANDS = {
    "show": Command("tables.show", "shows a stored run", "results/RUN.jsonl --plot run.svg"),
    "import": Command("imports.command",
                      "imports logs of nccl-tests, rccl-tests, mscclpp-test, OSU and IMB",
                      "slurm-1234.out", "import_logs"),
    "compare": Command("verdicts.compare",
                       "compares runs or campaigns: ratios, intervals, verdicts",
                       "results/campaign-1a2b3c4d --plot ratios.svg"),
    "regress": Command("verdicts.regress",
                       "tells whether the current is slower than the baseline: the gate",
                       "--baseline CAMPAIGN/main --current CAMPAIGN/new --junit junit.xml"),
    "accept": Command("verdicts.accept", "stores the current runs as the new baseline",
                      '--baseline baselines --current CAMPAIGN/new --reason "fewer copies"'),
    "history": Command("trends.history",
                       "tells which cases changed over a folder of runs, since which run",
                       "results/ --plot history.svg"),
    "advise": Command("advice.advise",
                      "advises how to split a model over GPUs, from a run's all-reduces",
                      "--model llama-3.1-70b --weights q4 --gpu r9700 --gpus 2 "
                      "--run results/RUN.jsonl"),
    "peers": Command("verdicts.peers", "shows Wiretax beside several MPI libraries", "peers"),
    "procure": Command("advice.procurement",
                       "compares candidate machines with each other and with requirements",
                       "SPEC.toml --html procure.html"),
    "card": Command("site.card", "draws one picture of a run to share",
                    "results/RUN.jsonl card.png"),
    "dashboard": Command("site.dashboard", "makes static pages of a folder of runs",
                         "results/ -o site/"),
    "fit": Command("trends.fit",
                   "fits time = alpha + size / beta to runs, and finds crossovers",
                   "results/campaign-1a2b3c4d/main --plot fit.svg"),
    "selfcheck": Command("calibration.selfcheck",
                         "checks the verdicts' error rates by simulation", "--seed 1"),
}


class OneLineParser(argparse.ArgumentParser):
    """Refuses a command line in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)}\n")


def open_closed_streams() -> None:
    """Opens /dev/null for a closed standard stream, where Python has None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - to the end of the process


def make_parser(chosen: str | None) -> OneLineParser:
    """The parser; it imports the module of the chosen command alone."""
    parser = OneLineParser(
        prog="python -m reports", description="Reads stored runs.",
        epilog="example: python -m reports show results/RUN.jsonl --plot run.svg")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        about = command.about
        subparser = commands.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"example: python -m reports {name} {command.example}")
        if name == chosen:
            module = importlib.import_module(f"reports.{command.module}")
            module.add_arguments(subparser)
            subparser.set_defaults(run_command=getattr(module, command.function or name))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    open_closed_streams()
    arguments = make_parser(argv[0] if argv else None).parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Otherwise, unbuffered, a reader that leaves would change the status.
        sys.stdout.reconfigure(write_through=False)
    status: int = 0
    try:
        status = arguments.run_command(arguments)
        sys.stdout.flush()
    except ResultError as error:
        print(f"reports: {printable(str(error))}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # The reader, a pager or `head`, has left; Python would complain again while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        subject = printable(str(error.filename or "cannot write"))
        print(f"reports: {subject}: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
