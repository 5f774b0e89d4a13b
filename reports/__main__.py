"""`python -m reports COMMAND`: what can be done with stored runs.

Exit status: 0 fine, 2 for a command line or a file that cannot be used, with one sentence on standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from reports import show
from reports.result import ResultError


class OneLineParser(argparse.ArgumentParser):
    """Refuses a command line in one sentence, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; its exit status."""
    parser = OneLineParser(prog="python -m reports", description="Reads stored runs.",
                           epilog="example: python -m reports show results/RUN.jsonl --plot run.svg")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser("show", help="a run's table once more", description="Shows a stored run.",
                                  epilog="example: python -m reports show results/RUN.jsonl --plot run.svg")
    show.add_arguments(command)
    command.set_defaults(run_command=show.show)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run_command(arguments)
        sys.stdout.flush()
        return status
    except ResultError as error:
        print(f"reports: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader, a pager or `head`, has what it wanted; Python would complain once more while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"reports: cannot write: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2


if __name__ == "__main__":
    sys.exit(main())
