"""`accept`: the only way that a kept baseline moves; and how it is found again.

FOLDER/<machine_id>/ keeps the runs. FOLDER/accepted.jsonl gains a line with the reason and the effects against the
former ones, and a machine's last line says which runs are its baseline. It is written after the new runs are on disk
and before the former ones are removed, so that whoever is interrupted leaves one of the two whole.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from reports.store.result import ResultError, read
from reports.store.writing import write_whole
from reports.tables.sentences import describe
from reports.verdicts.compare import add_allow
from reports.verdicts.comparison import Incomparable, compare, differing
from reports.verdicts.sides import Side, side_of
from reports.verdicts.verdict import MIN_PAIRS
from reports.verdicts.verdict_table import named

UNUSABLE = 5
ACCEPTED = "accepted.jsonl"
FILE_NAME = re.compile(r"\w[\w.-]*")


class Entry(msgspec.Struct):
    """A line of `accepted.jsonl`: when the baseline of a machine moved, to which runs, why, and each cell's effect
    against the former one."""

    when: str
    machine_id: str
    run_ids: list[str]
    reason: str
    effects: list[dict[str, Any]] | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `accept` takes."""
    parser.add_argument("--baseline", metavar="FOLDER", type=Path, required=True, help="keeps the machines' baselines")
    parser.add_argument("--current", metavar="Y", required=True, help="what becomes its machine's: FOLDER/VARIANT of a "
                        "campaign, a folder or quoted glob of runs")
    parser.add_argument("--reason", metavar="TEXT", required=True, help="why the baseline moves; it is kept")
    add_allow(parser)


def accept(arguments: argparse.Namespace) -> int:
    """Keeps the current's runs as its machine's baseline; the exit status, 0, or 5 where they are wrong or incomplete.
    Raises Incomparable where they differ from the former ones in what --allow does not name, ResultError for an empty
    reason, too few launches, and what cannot be read or written."""
    folder, notes = arguments.baseline, list[str]()
    if not arguments.reason.strip():
        raise ResultError("--reason is empty: say why the baseline moves")
    current = side_of(arguments.current, notes)
    if faults := faults_of(current):
        print(f"reports: {faults[0][1]}", file=sys.stderr)
        return UNUSABLE
    # The fresh launches of a campaign are of its suspects' sizes alone.
    current.launches = [launch for launch in current.launches if launch.stage == "first"]
    if any(launch.result.run.world.get("slowed_percent") for launch in current.launches):
        raise ResultError(f"{current.name} was slowed on purpose: no baseline")
    runs = {launch.result.run.run_id: launch.result.path for launch in current.launches}
    if odd := next((name for name in runs if not FILE_NAME.fullmatch(name)), None):
        raise ResultError(f"{runs[odd]}: the run_id {odd!r} cannot be a file's name")
    if len(runs) < MIN_PAIRS:
        raise ResultError(f"{current.name} has {len(runs)} launches; fewer than {MIN_PAIRS} never give a verdict")
    differing([current], arguments.allow)
    machine_id = current.launches[0].result.run.machine_id
    if not FILE_NAME.fullmatch(machine_id):
        raise ResultError(f"the machine_id {machine_id!r} cannot be a folder's name")
    has_former = any(entry.machine_id == machine_id for entry in _entries(folder))
    against = compare([baseline_side(str(folder), current, notes), current], arguments.allow) if has_former else []
    effects = [{"case": name, "verdict": cell.verdict.value, "ratio": cell.ratio, "low": cell.low, "high": cell.high}
               for comparison in against for name, cell in named(comparison)]
    entry = Entry(f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}", machine_id, list(runs), arguments.reason,
                  effects or None)
    kept, log = folder / machine_id, folder / ACCEPTED
    try:
        kept.mkdir(parents=True, exist_ok=True)
        for run_id, path in runs.items():
            write_whole(kept / f"{run_id}.jsonl", path.read_bytes())
        write_whole(log, (log.read_bytes() if log.exists() else b"") + msgspec.json.encode(entry) + b"\n")
        for former in {*kept.glob("*.jsonl*")} - {kept / f"{run_id}.jsonl" for run_id in runs}:
            former.unlink()
    except OSError as error:
        raise ResultError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
    print(f"{len(runs)} launches of {current.name} are now the baseline of machine {machine_id} in {folder}")
    return 0


def baseline_side(argument: str, current: Side, notes: list[str]) -> Side:
    """The baseline that `argument` names; in a folder kept by `accept`, that of the current's machine. Raises
    Incomparable where there is none for it, ResultError where the argument names no run."""
    folder, machine_id = Path(argument), current.launches[0].result.run.machine_id
    if not (entries := _entries(folder)):
        return side_of(argument, notes)
    by_machine = {entry.machine_id: entry.run_ids for entry in entries}
    if machine_id not in by_machine:
        raise Incomparable(f"not comparable: machine: {folder} has a baseline for {', '.join(by_machine)}, none for "
                           f"{machine_id}; `accept` one")
    side = side_of(str(folder / machine_id), [])  # its runs were whole; their single iterations are not kept
    side.launches = [launch for launch in side.launches if launch.result.run.run_id in by_machine[machine_id]]
    for launch in side.launches:
        if not launch.result.complete:
            raise ResultError(f"{launch.result.path} was whole when it was accepted, and is not now")
    if missing := {*by_machine[machine_id]} - {launch.result.run.run_id for launch in side.launches}:
        raise ResultError(f"{folder / machine_id} lacks the run {min(missing)}, which {folder / ACCEPTED} names")
    return side


def _entries(folder: Path) -> list[Entry]:
    path, entries = folder / ACCEPTED, []
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise ResultError(f"{error.filename} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        try:
            entries.append(msgspec.json.decode(line, type=Entry))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ResultError(f"{path}, line {number}: not what `accept` wrote ({error})") from error
        if not FILE_NAME.fullmatch(entries[-1].machine_id):
            raise ResultError(f"{path}, line {number}: {entries[-1].machine_id!r} is no machine_id")
    return entries


def faults_of(side: Side) -> list[tuple[str, str]]:
    """What makes a side unusable: a name and a sentence for each wrong case, each run or campaign that is not whole."""
    faults = []
    results = [launch.result for launch in side.launches]
    if side.campaign:
        if not side.campaign.end:
            faults.append((side.name, f"the campaign of {side.name} is incomplete: its command, given again, goes on"))
        of_side = [launch for launch in side.campaign.launches if launch.variant == side.variant]
        finished = {(launch.stage, launch.pair) for launch in of_side if launch.status == "finished"}
        if lost := sorted({(launch.stage, launch.pair) for launch in of_side if launch.status == "died"} - finished):
            faults.append((side.name, f"no launch of {side.name} finished in {len(lost)} of its pairs, the first pair "
                           f"{lost[0][1]}"))
        results += [read(side.campaign.folder / str(launch.run)) for launch in of_side
                    if (launch.stage, launch.status) == ("pilot", "finished")]
    for result in results:
        if not result.complete:
            faults.append((result.run.run_id, f"{result.path} is incomplete"))
        faults += [(describe(case), f"{describe(case)} is wrong in {result.path}: {case.reason}")
                   for case in result.cases if case.status == "wrong"]
    return faults
