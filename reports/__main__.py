"""`python -m reports COMMAND`: what can be done with stored runs.

Exit status: 0 fine, 2 for a command line or a file that cannot be used, 4 for runs that cannot be compared, with one
sentence on standard error; `regress` has more.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from typing import NoReturn

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing here is worth a traceback

from reports.store.foreign import printable
from reports.store.result import ResultError

# Of each command the module, its function, what it does, and an example.
COMMANDS = {
    "show": ("tables.show", "show", "shows a stored run", "results/RUN.jsonl --plot run.svg"),
    "import": ("imports.command", "import_logs", "imports logs of nccl-tests, rccl-tests, mscclpp-test, OSU and IMB",
               "slurm-1234.out"),
    "compare": ("verdicts.compare", "compare", "compares runs or campaigns: ratios, intervals, verdicts",
                "results/campaign-1a2b3c4d --plot ratios.svg"),
    "regress": ("verdicts.regress", "regress", "tells whether the current is slower than the baseline: the gate",
                "--baseline CAMPAIGN/main --current CAMPAIGN/new --junit junit.xml"),
    "accept": ("verdicts.accept", "accept", "makes the current runs the baseline that is kept",
               '--baseline baselines --current CAMPAIGN/new --reason "fewer copies"'),
    "history": ("trends.history_command", "history", "tells which cases changed over a folder of runs, since which run",
                "results/ --plot history.svg"),
    "advise": ("advice.advise", "advise", "advises how to split a model over GPUs, from a run's all-reduces",
               "--model llama-3.1-70b --weights q4 --gpu r9700 --gpus 2 --run results/RUN.jsonl"),
    "peers": ("verdicts.peers", "peers", "shows ours beside several MPI libraries", "peers"),
    "procure": ("advice.procure", "procure", "holds candidate machines against each other and what is required",
                "SPEC.toml --html procure.html"),
    "card": ("site.card", "card", "draws one picture of a run to be shared", "results/RUN.jsonl card.png"),
    "dashboard": ("site.dashboard", "dashboard", "makes static pages of a folder of runs", "results/ -o site/"),
    "fit": ("trends.fit_command", "fit", "fits time = alpha + size / beta to runs, and says who overtakes whom",
            "results/campaign-1a2b3c4d/main --plot fit.svg"),
    "selfcheck": ("calibration.selfcheck", "selfcheck", "checks the verdicts' error rates by simulation", "--seed 1"),
}


class OneLineParser(argparse.ArgumentParser):
    """Refuses a command line in one sentence, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)}\n")


def open_closed_streams() -> None:
    """What a closed standard stream is told, nobody hears; Python has None there, which cannot be told anything."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - to the end of the process


def main(argv: list[str] | None = None) -> int:
    """Runs the command; its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    open_closed_streams()
    parser = OneLineParser(prog="python -m reports", description="Reads stored runs.",
                           epilog="example: python -m reports show results/RUN.jsonl --plot run.svg")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, function, about, example) in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.",
                                      epilog=f"example: python -m reports {name} {example}")
        if argv[:1] == [name]:
            # What the other commands import is not waited for.
            imported = importlib.import_module(f"reports.{module}")
            imported.add_arguments(command)
            command.set_defaults(run_command=getattr(imported, function))
    arguments = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(write_through=False)  # else, unbuffered, a reader that leaves takes the status along
    status: int = 0
    try:
        status = arguments.run_command(arguments)
        sys.stdout.flush()
        return status
    except ResultError as error:
        print(f"reports: {printable(str(error))}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # The reader, a pager or `head`, has what it wanted; Python would complain once more while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status
    except OSError as error:
        print(f"reports: {printable(str(error.filename or 'cannot write'))}: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2


if __name__ == "__main__":
    sys.exit(main())
