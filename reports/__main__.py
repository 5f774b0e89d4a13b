"""`python -m reports COMMAND`. Exit status: 0 fine, 2 for an unusable command line or file, 4 for
runs that cannot be compared, with one sentence on standard error; `regress` has more."""

import argparse
import importlib
import io
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import NoReturn

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback: nothing is lost here

from reports.store.program import BENCH, REPORTS, RUN, complain, misspelt
from reports.store.untrusted import printable

# For each command: the module with its arguments and its function, help, and an example.
COMMANDS = {
    "show": ("tables.show", "shows a stored run", "results/RUN.jsonl --plot run.svg"),
    "export": (
        "tables.export",
        "writes the cases of runs as CSV or OpenMetrics",
        "results/ --openmetrics",
    ),
    "import": (
        "imports.command",
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
        "verdicts.bits",
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
        "names the nodes that are slower than their peers, wrong or failed",
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
    "predict": (
        "advice.predict",
        "predicts what two cards would do, from runs of one",
        "results/RUN.jsonl",
    ),
    "peers": ("verdicts.libraries", "shows Wiretax beside several MPI libraries", "peers"),
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
        "fits time = alpha + size / beta to runs",
        "results/campaign-1a2b3c4d/main",
    ),
}


class OneLineParser(argparse.ArgumentParser):
    """Refuses a command line in one sentence, without the usage. `words` are the command line's,
    and `options` those of the command, which an unknown word may mean."""

    words: Sequence[str] = ()
    options: Mapping[str, argparse.Action] = {}

    def error(self, message: str) -> NoReturn:
        sentence = misspelt(self.words, self.options) or message
        self.exit(2, f"{self.prog}: {printable(sentence)}\n")


def unknown_command(name: str, commands: Iterable[str]) -> str:
    """A sentence that suggests the command that the name may mean."""
    near = get_close_matches(name, commands, 1)
    hint = f"did you mean {near[0]}?" if near else "--help lists the commands"
    return f"unknown command {name!r}: {hint}"


def open_closed_streams() -> None:
    """Opens /dev/null for a closed standard stream, where Python has None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - to the end of the process


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    from reports.store.result import ResultError  # not at the top: --help needs no numpy

    open_closed_streams()
    parser = OneLineParser(
        prog=f"{RUN}{REPORTS}",
        description="Reads stored runs.",
        epilog=f"example: {RUN}{REPORTS} show results/RUN.jsonl --plot run.svg",
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        parser.error(unknown_command(argv[0], COMMANDS))

    for name, (module_name, about, example) in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"example: {RUN}{REPORTS} {name} {example}",
        )
        if argv[:1] == [name]:  # the modules of other commands are not imported
            module = importlib.import_module(f"{__package__}.{module_name}")
            module.add_arguments(subparser)
            if name not in ("export", "tuner"):
                subparser.add_argument(
                    "--json", action="store_true", help="print one JSON object (docs/results.md)"
                )
            function = "import_logs" if name == "import" else name  # `import` is no name in Python
            subparser.set_defaults(run_command=getattr(module, function))
            for each in (parser, subparser):
                each.words, each.options = argv, subparser._option_string_actions

    arguments = parser.parse_args(argv)
    given = Counter(word.partition("=")[0] for word in argv)
    for option, action in parser.options.items():
        if given[option] > 1 and type(action) is argparse._StoreAction:
            parser.error(f"{option} stands there {given[option]} times, and takes one value")

    if isinstance(sys.stdout, io.TextIOWrapper):
        # Otherwise, unbuffered, a reader that leaves would change the status; and a name that the
        # terminal's encoding lacks would end the report.
        sys.stdout.reconfigure(write_through=False, errors="replace")

    status: int = 0
    try:
        status = arguments.run_command(arguments)
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
    sys.exit(main())
