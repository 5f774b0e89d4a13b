"""`python -m bench.gate` tells whether a command is slower than another one: it launches both in
turn, as `bench.campaign` does, and writes what a pipeline keeps of `reports regress`."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.campaign import main as campaign
from bench.campaigns.launches import run_command
from bench.campaigns.options import launching_parser
from bench.harness import options
from bench.harness.console import FINE, WRONG
from reports.__main__ import main as reports
from reports.store.owners import opened
from reports.store.writing import write_whole
from reports.verdicts.gate import STATUSES

EPILOG = """\
further options, such as --pairs, --ranks or --revision base=REV, are those of bench.campaign

example:
  python -m bench.gate --budget 10m --base "old/all_reduce_perf -b 16K -e 32M -f 2" \\
    --head "new/all_reduce_perf -b 16K -e 32M -f 2"

exit status, also in the file status of the folder:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.gate` and returns the exit status: that of `regress`, or that of the
    campaign if it could not be finished."""
    meanings = "".join(f"  {status} {meaning}\n" for status, meaning in enumerate(STATUSES))
    parser = launching_parser(
        "gate",
        '--base "COMMAND" --head "COMMAND" [OPTION ...]',
        "Launches two commands in turn and tells whether the second has become slower.",
        EPILOG + meanings + "  130 interrupted",
    )
    option = parser.add_argument
    option("--base", metavar="COMMAND", required=True, help="the command as it was")
    option("--head", metavar="COMMAND", required=True, help="the command as it is now")
    option("--budget", metavar="TIME", default="10m", help="time for all launches (10m)")
    option("--out", metavar="DIR", default="gate", help="a new folder for runs and pages (gate)")
    option(
        "--min-effect",
        type=partial(options.positive_number, "percent", 100),
        metavar="PERCENT",
        help="a slowdown below this passes",
    )
    values, rest = parser.parse_known_args(argv)
    folder = Path(values.out)
    variants = [f"--variant={name}={getattr(values, name)}" for name in ("base", "head")]
    status = campaign(
        [*variants, "--budget", values.budget, "--out", values.out, *rest], parser.prog
    )
    if status not in (FINE, WRONG) or not (folder / "head").is_dir():
        return status

    judge = partial(write_verdict, folder, values.min_effect)
    return run_command(parser.prog, judge, "the gate cannot be written", "interrupted")


def write_verdict(folder: Path, min_effect: float | None) -> int:
    """Writes the files of `regress` on both sides and its status, which it returns. Raises OSError,
    ResultError."""
    files = {"--markdown": "summary.md", "--junit": "junit.xml", "--html": "index.html"}
    with opened(folder) as inside:
        words = [word for flag, name in files.items() for word in (flag, str(inside / name))]
        words += [f"--min-effect={min_effect}"] if min_effect else []
        status = reports(
            [
                "regress",
                f"--baseline={folder / 'base'}",
                f"--current={folder / 'head'}",
                *words,
            ]
        )
        write_whole(inside / "status", f"{status}\n".encode())
    return status


if __name__ == "__main__":
    sys.exit(main())
