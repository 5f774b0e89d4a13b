"""`python -m bench.gate` tells whether a command is slower than another one: it launches both in
turn, as `bench.campaign` does, judges as `reports regress` does, and writes what a pipeline keeps.

However it ends, its folder has the status and the reason: only a folder that it refuses stays as it
is. The status is 130 until there is another one, for a gate that is killed."""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from msgspec.structs import replace

from bench.campaign import run_launches
from bench.campaigns.campaign_options import (
    CampaignOptions,
    Stop,
    Variant,
    launching_parser,
    parse,
    parse_variant,
)
from bench.campaigns.ending import FAILURES, ending_of, run_command, signals_wait
from bench.campaigns.open_campaign import OpenCampaign, check_new
from bench.campaigns.sources import source_of
from bench.harness.console import INTERRUPTED, USAGE, print_out, say
from reports.tables.sentences import counted
from reports.verdicts.gate_rule import (
    INCONCLUSIVE,
    PASS,
    REGRESSION,
    STATUSES,
    UNUSABLE,
    Outcome,
    within_margin,
)
from reports.verdicts.judge import OPEN_CELL, SLOWER_CELL
from reports.verdicts.match import NothingInCommon
from reports.verdicts.regress import add_rule, as_text, judge, write_files
from reports.verdicts.verdict import FASTER, MIN_PAIRS, SLOWER
from wiretax.common.owners import opened
from wiretax.common.program import BENCH, RUN
from wiretax.record.manifest import VariantRecord
from wiretax.record.result import ResultError
from wiretax.record.writing import write_whole

STATUS = "status"
FILES = {"markdown": "summary.md", "junit": "junit.xml", "html": "index.html"}
ANSWER = STATUS, *FILES.values(), "index.html.png"
EPILOG = f"""\
further options, such as --pairs, --quantile or --revision base=REV, are those of {BENCH}campaign

example:
  {RUN}{BENCH}gate --budget 10m --min-effect 5 \\
    --base "old/all_reduce_perf -b 16K -e 32M -f 2" \\
    --head "new/all_reduce_perf -b 16K -e 32M -f 2"

exit status, also in the file status of the folder:
"""


def run_gate(argv: Sequence[str] | None) -> int:
    """Launches, judges, writes and prints the answer, and returns the exit status. Raises one of
    FAILURES, after it wrote that answer, or if the folder is not new."""
    # The folder for the answer, whatever else the command line says.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out", nargs="?")
    folder, mistake = Path(parser.parse_known_args(argv)[0].out or "gate"), None
    try:
        campaign_options, values = read_options(argv)
    except (Stop, OSError) as error:
        mistake = error
    launched = [] if mistake else campaign_options.head.variants
    with answered(folder, launched) as (inside, status_file):
        if mistake:
            raise mistake
        campaign = OpenCampaign(campaign_options, "gate")
        if alike := same_commit(campaign_options.variants):
            say(f"{BENCH}gate", alike)
        try:
            run_launches(campaign, values.allow, values.min_effect)
        except NothingInCommon as error:
            raise Stop(UNUSABLE, str(error)) from error
        except Stop as stop:
            # A side is why the launches cannot be finished, but for a first launch that refuses its
            # command line.
            is_refused = stop.exit_status == USAGE and not campaign.finished("pilot")
            if stop.is_of_variant and not is_refused:
                raise Stop(UNUSABLE, str(stop)) from stop
            raise
        sides = str(folder / "base"), str(folder / "head")
        outcome = judge(*sides, values.allow, values.min_effect)
        if values.control:
            outcome = beside_control(outcome, judge(sides[0], str(folder / "control")))
        if alike:
            outcome = replace(outcome, findings=[alike, *outcome.findings])
        write_answer(inside, status_file, outcome)
        page = folder / FILES["html"]
        print_out(f"{as_text(outcome)}\nthe page: {page}\n{annotation(outcome)}")
        return outcome.status


def read_options(argv: Sequence[str] | None) -> tuple[CampaignOptions, argparse.Namespace]:
    """The campaign, and what the verdict takes. Raises Stop."""
    meanings = "".join(f"  {status} {meaning}\n" for status, meaning in enumerate(STATUSES))
    parser = launching_parser(
        "gate",
        '--base "COMMAND" --head "COMMAND" [OPTION ...]',
        "Launches two commands in turn and tells whether the second has become slower.",
        EPILOG + meanings + "  130 interrupted",
    )
    option = parser.add_argument
    for name, when in ("base", "was"), ("head", "is now"):
        option(
            f"--{name}",
            metavar="COMMAND",
            required=True,
            type=partial(check_command, name),
            help=f"the command as it {when}",
        )
    option("--budget", metavar="TIME", default="10m", help="time for all launches (10m)")
    option("--out", metavar="DIR", default="gate", help="a new folder for runs and pages (gate)")
    for name in ("base", "head"):
        about = f"what {name} is, such as `COMMIT BRANCH` (git's and the pipeline's words)"
        option(f"--{name}-name", metavar="TEXT", default="", help=about)
    option(
        "--wall",
        action="store_true",
        help="time whole processes, which need print nothing: in each launch one to warm up, then "
        "3 to 10; --prepare LINE runs before each, and is not timed",
    )
    option(
        "--control",
        action="store_true",
        help="also launch a copy of the base in turn: if it differs from the base, so does the "
        "machine, and the verdict is status 3",
    )
    add_rule(parser)
    values, rest = parser.parse_known_args(argv)
    variants = [f"--variant={name}={getattr(values, name)}" for name in ("base", "head")]
    if values.control:
        variants.append(f"--variant=control={values.base}")
        found = (re.fullmatch("(?:--revision=)?base=(.+)", word) for word in rest)
        variants += [f"--revision=control={revision[1]}" for revision in found if revision]
    words = [*variants, *["--wall"] * values.wall, "--budget", values.budget]
    words += ["--out", values.out, *rest]
    campaign_options = parse(words)
    sources = {
        name: source_of(campaign_options.variants[name], said, os.environ)
        for name, said in (("base", values.base_name), ("head", values.head_name))
    }
    named = {
        name: dataclasses.replace(side, source=sources["base" if name == "control" else name])
        for name, side in campaign_options.variants.items()
    }
    campaign_options = dataclasses.replace(campaign_options, variants=named)
    if campaign_options.head.pairs < MIN_PAIRS:
        raise Stop(USAGE, f"--pairs: a verdict takes at least {MIN_PAIRS} pairs")
    margin = campaign_options.head.margin
    if sentence := within_margin(values.min_effect or margin, margin):
        raise Stop(USAGE, sentence)
    return campaign_options, values


def check_command(name: str, text: str) -> str:
    """The command of a side, whose own option refuses it, as --variant would."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it has no command")
    variant = parse_variant(f"{name}={text}")
    if program := variant.missing_program():
        raise argparse.ArgumentTypeError(f"{program} was not found")
    return text


def same_commit(variants: Mapping[str, Variant]) -> str:
    """A sentence on two sides of one commit, such as a branch and its tag; "" for others."""
    commit, other = (variants[name].source.commit for name in ("base", "head"))
    if not commit or commit != other:
        return ""
    return f"base and head are the same commit, {commit[:12]}: only their commands can differ"


def beside_control(outcome: Outcome, control: Outcome) -> Outcome:
    """The outcome with what the base beside its own copy says of it: if they differ, the machine
    does, and no verdict on the code is to be trusted."""
    if outcome.status not in (PASS, REGRESSION, INCONCLUSIVE):
        return outcome
    found = control.sentence
    if control.status != UNUSABLE:
        differ = control.cells[control.cells.verdict.isin([SLOWER, FASTER])]
        if differ.empty:
            findings = ["control: the base does not differ from its own copy", *outcome.findings]
            return replace(outcome, findings=findings)
        first = differ.iloc[0]
        found = f"the base differs from its own copy in {counted(len(differ), 'cell')}, such as "
        found += f"{first.title}: {first.text}"
    cells = outcome.cells.assign(
        outcome=outcome.cells.outcome.replace({SLOWER_CELL: OPEN_CELL})  # which JUnit skips
    )
    return replace(
        outcome,
        status=INCONCLUSIVE,
        sentence=f"not to be trusted, for {found}",
        findings=[f"without the control: {outcome.headline}", *outcome.findings],
        cells=cells,
    )


@contextmanager
def answered(path: Path, launched: list[VariantRecord]) -> Iterator[tuple[Path, BinaryIO]]:
    """The open folder, which is new or has the answer of a gate that launched nothing, and the open
    status file. Writes the answer of what is raised within. Raises Stop for another folder."""
    check_new(path, ANSWER)
    with opened(path) as folder:
        remove_files(folder)
        (folder / STATUS).unlink(missing_ok=True)
        with (folder / STATUS).open("xb", buffering=0) as status_file:
            set_status(folder, status_file, INTERRUPTED)
            try:
                yield folder, status_file
            except FAILURES as error:
                status, sentence = ending_of(error)
                set_status(folder, status_file, status)
                outcome = Outcome(status, sentence, launched=launched)
                with suppress(ResultError):  # the disk may be full
                    write_answer(folder, status_file, outcome)
                print_out(annotation(outcome))
                raise


def write_answer(folder: Path, status_file: BinaryIO, outcome: Outcome) -> None:
    """Writes the files, and the status last. Raises ResultError after removing the files: those
    that fitted onto a full disk could tell of another outcome."""
    # Signals wait: once its import is interrupted, the library that draws cannot be loaded again.
    with signals_wait():
        remove_files(folder)  # a side may have put links or pipes in their places
        try:
            write_files(outcome, **{form: folder / name for form, name in FILES.items()})
        except ResultError:
            remove_files(folder)
            raise
        set_status(folder, status_file, outcome.status)


def annotation(outcome: Outcome) -> str:
    """On GitHub the line that marks the job with a failure and its worst cell, escaped as its
    "Workflow commands" page says (2026-11): % and ends of lines. Otherwise ""."""
    failed = outcome.status not in (PASS, INCONCLUSIVE)
    if not failed or os.environ.get("GITHUB_ACTIONS") != "true":
        return ""
    text, cells = outcome.headline, outcome.cells
    if outcome.status == REGRESSION:
        worst = cells[cells.outcome == SLOWER_CELL].iloc[0]
        text += f"; the worst: {worst['title']}: {worst['text']}"
    for letter, code in ("%", "%25"), ("\r", "%0D"), ("\n", "%0A"):
        text = text.replace(letter, code)
    return f"::error title=wiretax gate::{text}\n"


def remove_files(folder: Path) -> None:
    for name in ANSWER[1:]:
        (folder / name).unlink(missing_ok=True)


def set_status(folder: Path, status_file: BinaryIO, status: int) -> None:
    """Overwrites the status in its place, which a full disk permits, and what may have taken its
    name: a new file in place of our own could not be written later."""
    line = f"{status}\n".encode()
    os.pwrite(status_file.fileno(), line, 0)
    status_file.truncate(len(line))
    with suppress(OSError, ResultError):
        path = folder / STATUS
        if not path.exists() or not os.path.samestat(os.fstat(status_file.fileno()), path.lstat()):
            write_whole(path, line)


main = partial(run_command, f"{BENCH}gate", run_gate)

if __name__ == "__main__":
    sys.exit(main())
