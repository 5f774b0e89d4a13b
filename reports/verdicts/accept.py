"""The command `accept` moves the stored baseline of a machine; `baseline_side` reads it back.

FOLDER/<machine_id>/ stores the runs. Each line of FOLDER/accepted.jsonl has the reason and the
effects against the previous baseline; a machine's last line names the runs of its baseline. New
runs are written first, then the line, and then the previous runs are removed, so that after an
interruption one of the two baselines is complete.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import msgspec

from reports.store.result import NOT_JSON, ResultError, content_of
from reports.store.writing import write_whole
from reports.verdicts.compare import add_allow
from reports.verdicts.comparison import Incomparable, compare, differing
from reports.verdicts.sides import Side, faults_of, side_of
from reports.verdicts.verdict import MIN_PAIRS

UNUSABLE = 5
ACCEPTED = "accepted.jsonl"
FILE_NAME = r"^\w[\w.-]*\Z"


class Entry(msgspec.Struct):
    """A line of `accepted.jsonl`: one move of a machine's baseline."""

    when: str
    machine_id: Annotated[str, msgspec.Meta(pattern=FILE_NAME)]  # names a folder
    run_ids: list[str]
    reason: str
    effects: list[dict[Any, Any]] | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--baseline", metavar="FOLDER", type=Path, required=True,
                        help="keeps the machines' baselines")
    parser.add_argument("--current", metavar="Y", required=True, help="what becomes its machine's: "
                        "FOLDER/VARIANT of a campaign, a folder or quoted glob of runs")
    parser.add_argument("--reason", metavar="TEXT", required=True,
                        help="why the baseline moves; it is kept")
    add_allow(parser)


def accept(arguments: argparse.Namespace) -> int:
    """Makes the current's runs its machine's baseline; returns exit status 0, or 5 if they are
    wrong or incomplete. Raises Incomparable if they differ from the previous ones in a fact that
    --allow does not name, ResultError for runs that cannot be a baseline, and for files."""
    folder = arguments.baseline
    if not arguments.reason.strip():
        raise ResultError("--reason is empty: say why the baseline moves")
    current = side_of(arguments.current)
    if faults := faults_of(current):
        print(f"reports: {faults[0][1]}", file=sys.stderr)
        return UNUSABLE
    # A campaign's fresh launches measured its suspects' sizes only.
    current.launches = [launch for launch in current.launches if launch.stage == "first"]
    runs = {launch.result.run.run_id: launch.result for launch in current.launches}
    if any(result.run.world.get("slowed_percent") for result in runs.values()):
        raise ResultError(f"{current.name} was slowed on purpose: no baseline")
    if len(runs) < MIN_PAIRS:
        raise ResultError(f"{current.name} has {len(runs)} launches; a verdict takes {MIN_PAIRS}")
    machine_id = current.launches[0].result.run.machine_id
    for name in (machine_id, *runs):
        if not re.search(FILE_NAME, name):
            raise ResultError(f"the id {name!r} cannot name a file")
    differing([current], arguments.allow)
    effects = None
    if machine_id in _run_ids(folder):
        baseline = baseline_side(str(folder), current)
        (comparison,) = compare([baseline, current], arguments.allow)
        cells = comparison.cells[["title", "verdict", "ratio", "low", "high"]]
        effects = cells.rename(columns={"title": "case"}).to_dict("records")
    when = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    entry = Entry(when, machine_id, list(runs), arguments.reason, effects)
    _store(folder, entry, [result.path for result in runs.values()])
    print(f"{len(runs)} launches of {current.name} are now the baseline of machine {machine_id} in "
          f"{folder}")
    return 0


def _store(folder: Path, entry: Entry, paths: Sequence[Path]) -> None:
    machine, log = folder / entry.machine_id, folder / ACCEPTED
    files = [machine / f"{run_id}.jsonl" for run_id in entry.run_ids]
    machine.mkdir(parents=True, exist_ok=True)
    for file, path in zip(files, paths, strict=True):
        write_whole(file, path.read_bytes())
    lines = log.read_bytes() if log.exists() else b""
    write_whole(log, lines + msgspec.json.encode(entry) + b"\n")
    for previous in {*machine.glob("*.jsonl*")} - {*files}:
        previous.unlink()


def baseline_side(argument: str, current: Side) -> Side:
    """The baseline that `argument` names; in a folder of `accept`, the one of the current's
    machine. Raises Incomparable if that machine has none, ResultError for an argument without runs
    and for a damaged baseline."""
    folder, machine_id = Path(argument), current.launches[0].result.run.machine_id
    run_ids = _run_ids(folder)
    if not run_ids:
        return side_of(argument)
    if machine_id not in run_ids:
        raise Incomparable(f"not comparable: machine: {folder} has a baseline for "
                           f"{', '.join(run_ids)}, none for {machine_id}; `accept` one")
    side = side_of(str(folder / machine_id))
    side.notes.clear()  # on samples, which are not stored
    side.launches = [launch for launch in side.launches
                     if launch.result.run.run_id in run_ids[machine_id]]
    for launch in side.launches:
        if not launch.result.complete:
            raise ResultError(f"{launch.result.path} was complete when accepted, but not now")
    if lost := run_ids[machine_id] - {launch.result.run.run_id for launch in side.launches}:
        raise ResultError(f"{folder / machine_id} lacks the accepted run {min(lost)}")
    return side


def _run_ids(folder: Path) -> dict[str, set[str]]:
    """The runs of each machine's baseline."""
    path, run_ids = folder / ACCEPTED, dict[str, set[str]]()
    lines = content_of(path).splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            entry = msgspec.json.decode(line, type=Entry)
        except NOT_JSON as error:
            message = f"{path}, line {number}: not written by `accept` ({error})"
            raise ResultError(message) from error
        run_ids[entry.machine_id] = {*entry.run_ids}
    return run_ids
