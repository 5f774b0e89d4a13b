"""The command `accept` makes runs the stored baseline of their machine; `baseline_side` reads it
back.

FOLDER/<machine_id>/ stores the runs, and each line of FOLDER/accepted.jsonl one move of a baseline:
the last line of a machine names its runs. An interruption at any time leaves the old baseline whole
or the new one. A record of bench.bits goes into FOLDER/bits/, in place of the one of the same kind,
with the reason as a note."""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec

from reports.tables.sentences import counted
from reports.verdicts.gate_rule import UNUSABLE
from reports.verdicts.judge import Incomparable, differing
from reports.verdicts.sides import ACCEPTED, Side, add_allow, faults_of, side_of
from reports.verdicts.verdict import MIN_PAIRS
from wiretax.common.program import BENCH, answer, complain
from wiretax.common.untrusted import printable, read_bytes
from wiretax.record.bits_record import ACCEPTED_BITS, ACCEPTED_NOTE, SUFFIX, Name, read_bits
from wiretax.record.result import NOT_JSON, ResultError, content_of
from wiretax.record.writing import locked, write_whole

MOST_BYTES = 20_000_000  # of some 30,000 moves of baselines


class Acceptance(msgspec.Struct):
    """A move of a machine's baseline to these runs. Lines of older versions also have `effects`,
    how much each case changed, which nobody reads."""

    when: str
    machine_id: Name  # of a folder
    run_ids: list[Name]
    reason: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "--baseline",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="the folder that keeps each machine's baseline",
    )
    option(
        "--current",
        metavar="Y",
        required=True,
        help="the new baseline of its machine: FOLDER/VARIANT of a campaign, a folder or quoted "
        f"glob of runs, or a record of {BENCH}bits",
    )
    option(
        "--reason", metavar="TEXT", required=True, help="why the baseline changes; this is stored"
    )
    add_allow(parser)


def accept(arguments: argparse.Namespace) -> int:
    """Makes the current's runs its machine's baseline; returns 0, or 5 if they are wrong or
    incomplete. Raises ResultError for other faults, Incomparable for a difference not allowed."""
    folder = arguments.baseline
    if not arguments.reason.strip():
        raise ResultError("--reason is empty: say why the baseline moves")
    if arguments.current.endswith(SUFFIX):
        return _accept_bits(arguments)

    current = side_of(arguments.current)
    if faults := faults_of(current):
        complain(faults[0])
        return UNUSABLE

    runs = [launch.run for launch in current.launches]
    if len(runs) < MIN_PAIRS:
        raise ResultError(
            f"{current.name} has {counted(len(runs), 'launch')}; a verdict takes {MIN_PAIRS}"
        )

    machine_id = runs[0].machine_id
    try:
        entry = msgspec.convert(
            {
                "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "machine_id": machine_id,
                "run_ids": [run.run_id for run in runs],
                "reason": arguments.reason,
            },
            Acceptance,
        )
    except msgspec.ValidationError as error:
        raise ResultError(f"an id of {current.name} cannot name a file: {error}") from error

    differing([*_former_baseline(folder, current), current], arguments.allow)
    _store(folder, entry, current)

    said = f"{len(runs)} launches of {current.name} are now the baseline of machine {machine_id}"
    answer(arguments, f"{said} in {folder}", folder=folder, **msgspec.to_builtins(entry))
    return 0


def _former_baseline(folder: Path, current: Side) -> list[Side]:
    """The baseline that the current side replaces, if its machine has one."""
    if not folder.is_dir():
        return []
    with locked(folder):
        if current.launches[0].run.machine_id not in _accepted_runs(folder):
            return []
        return [baseline_side(str(folder), current)]


def _accept_bits(arguments: argparse.Namespace) -> int:
    """Makes a record of bits the baseline of its machine, collective, layers, ranks and seed;
    returns 0, or 5 if one of its rows failed. Raises ResultError."""
    record, folder = read_bits(Path(arguments.current)), arguments.baseline / ACCEPTED_BITS
    if record.failed:
        complain(f"{record.failed[0].name} failed: {record.failed[0].failure}")
        return UNUSABLE

    record.notes.append(f"{ACCEPTED_NOTE}{printable(arguments.reason)}")
    kind = record.machine_id, record.collective, record.ranks, record.hosts, record.seed
    layers = [sha256(repr(sorted(record.shapes)).encode()).hexdigest()[:8]] if record.layers else []
    name = "-".join(map(str, [*kind, *layers])) + SUFFIX
    with _own_folder(folder) as inside:
        write_whole(inside / name, msgspec.json.encode(record))

    said = f"the bits of {record.run_id} are now the baseline in {folder / name}"
    answer(arguments, said, folder=folder, run_id=record.run_id, reason=arguments.reason)
    return 0


@contextmanager
def _own_folder(folder: Path) -> Iterator[Path]:
    """The folder, made if it is missing, by a path that stays the same whatever takes its name
    meanwhile. Raises ResultError, also for a link in its place: it may come with a store and lead
    out of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise ResultError(f"{folder} is no folder of its own: {error.strerror}") from error

    try:
        yield Path(f"/proc/self/fd/{inside}")
    finally:
        os.close(inside)


def _store(folder: Path, entry: Acceptance, current: Side) -> None:
    """Writes the runs, then the entry, and then removes the previous runs. An entry that the newest
    line has already adds none: every rank of a launch accepts. Raises ResultError."""
    log = folder / ACCEPTED
    with _own_folder(folder / entry.machine_id) as machine, locked(folder):
        for launch in current.launches:
            file = machine / f"{launch.run.run_id}.jsonl"
            write_whole(file, content_of(launch.path))

        former = read_bytes(log, follow=False, most_bytes=MOST_BYTES) if log.exists() else b""
        lines = former.splitlines()
        if not lines or not _is_same(lines[-1], entry):
            write_whole(log, b"\n".join([*lines, msgspec.json.encode(entry), b""]))

        for file in machine.glob("*.jsonl*"):
            if file.stem not in entry.run_ids:
                file.unlink()


def _is_same(line: bytes, entry: Acceptance) -> bool:
    """Whether a line is this move, made at another time."""
    stored = msgspec.json.decode(line, type=Acceptance)
    return msgspec.structs.replace(stored, when=entry.when) == entry


def baseline_side(argument: str, current: Side) -> Side:
    """The side that `argument` names; in a folder of `accept`, the baseline of the current's
    machine. Raises Incomparable without one, ResultError without runs and for a damaged one."""
    folder, machine_id = Path(argument), current.launches[0].run.machine_id
    run_ids = _accepted_runs(folder)

    if not run_ids:
        return side_of(argument)

    if machine_id not in run_ids:
        raise Incomparable(
            f"not comparable: machine: {folder} has a baseline for "
            f"{', '.join(run_ids)}, none for {machine_id}; `accept` one"
        )

    side, accepted = side_of(str(folder / machine_id)), run_ids[machine_id]
    whole = {launch.run.run_id: launch for launch in side.launches if launch.complete}

    if lost := accepted - whole.keys():
        raise ResultError(
            f"{folder / machine_id}: the accepted run {min(lost)} is not whole any more"
        )

    launches = [launch for run_id, launch in whole.items() if run_id in accepted]
    return msgspec.structs.replace(side, launches=launches)


def _accepted_runs(folder: Path) -> dict[str, set[str]]:
    """The ids of the runs of each machine's baseline, by the machine's id; {} without a store of
    `accept`. Raises ResultError for a damaged one."""
    path = folder / ACCEPTED
    lines = content_of(path, MOST_BYTES).splitlines() if path.exists() else []
    run_ids = dict[str, set[str]]()
    for number, line in enumerate(lines, 1):
        try:
            move = msgspec.json.decode(line, type=Acceptance)
        except NOT_JSON as error:
            raise ResultError(f"{path}, line {number}: not by `accept` ({error})") from error
        run_ids[move.machine_id] = {*move.run_ids}

    return run_ids
