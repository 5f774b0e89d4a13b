"""The user's table for `auto`, which bench.tune makes: used only on the machine that it names, and
by the code that made it unless --tuned names it."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from bench.harness.head import Machine
from bench.harness.session import MEASURED, Session, program_digest
from collectives.auto_table import Tables, case_of, check, lines_of, written
from collectives.choice import kinds_of
from collectives.communicator import Mistake, Refusal
from collectives.operation import ChoiceRow
from collectives.registry import ALGORITHMS
from reports.tables.sentences import counted
from wiretax.common.program import BENCH, on_ranks
from wiretax.common.untrusted import printable_in
from wiretax.record.blocks import same_state
from wiretax.record.result import ResultError, content_of
from wiretax.record.schema import Run
from wiretax.record.writing import write_named


@dataclass(frozen=True)
class Head:
    """Whose table it is, and the run that made it with `program`, such as `0.1.0 (1a2b3c4)`."""

    machine_id: str
    software_id: str
    run_id: str
    program: str


def default_folder() -> Path:
    """The folder of all tables. Raises ResultError if the user has no home."""
    try:
        home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError as error:  # neither HOME nor an entry for this user
        raise ResultError(
            f"there is no home folder for {BENCH}tune's table: set HOME, or XDG_DATA_HOME"
        ) from error
    return home / "wiretax"


def path_of(name: str | None, machine: Machine | Run) -> Path:
    """The named table, or this machine's. Raises ResultError."""
    if name:
        return Path(name)
    return default_folder() / f"tuned-{machine.machine_id}-{machine.software_id}.toml"


def read(path: Path, machine: Machine | Head | Run | None = None) -> tuple[Head, dict[str, Any]]:
    """The head of a table, and what its file has. Raises ResultError, also for the table of another
    machine than this one or of other software."""
    try:
        content = printable_in(msgspec.toml.decode(content_of(path, most_bytes=1 << 20)))
        head = msgspec.convert(content, Head)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ResultError(f"{path} is not a table of {BENCH}tune: {error}") from error
    named, here = (each and f"{each.machine_id}, {each.software_id}" for each in (head, machine))
    if here and named != here:
        raise ResultError(
            f"{path} was made on another machine or with other software "
            f"({named}; this is {here}): run {BENCH}tune here"
        )
    return head, content


def load(path: Path, content: dict[str, Any]) -> list[ChoiceRow]:
    """The rows in what `read` found in a file. Raises ResultError."""
    try:
        rows = msgspec.convert(content, Tables).rows
        check(rows, ALGORITHMS)
    except (ValueError, msgspec.MsgspecError) as error:
        raise ResultError(f"{path} is not a table of {BENCH}tune: {error}") from error
    return rows


def add(path: Path, head: Head, found: Sequence[ChoiceRow]) -> None:
    """Adds the rows of a run to the table at `path`, atomically. Older rows of this program for
    other sizes, modes or states of the link stay. Another machine's table is replaced. Raises
    OSError, ResultError."""
    older = own_rows(path, head, head.program)
    rows = [*found, *(row for row in older if not any(is_for_same_cases(row, a) for a in found))]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_named(path, "\n".join([*lines_of(vars(head)), "", written(rows)]).encode())


def own_rows(path: Path, machine: Head | Run, program: str) -> list[ChoiceRow]:
    """The rows of this machine's table in a file by this program; none of another one."""
    with suppress(ResultError):
        head, content = read(path, machine)
        if head.program == program:
            return load(path, content)
    return []


def is_for_same_cases(a: ChoiceRow, b: ChoiceRow) -> bool:
    """Whether both are for one size, variant and mode in one state of the link."""
    trips_ns = [row.where.get("round_trip_ns", [1.0])[0] for row in (a, b)]
    return case_of(a) == case_of(b) and bool(same_state(*trips_ns))


def find(name: str | None, machine: Machine) -> tuple[list[ChoiceRow], str]:
    """The rows of the named table, or of this machine's if this code made it, and a sentence on
    their origin, or on why they are not used: a choice can be wrong for changed kernels. Raises
    ResultError."""
    path = path_of(name, machine)
    if not name and not os.path.exists(path):
        return [], ""
    (head, content), code = read(path, machine), program_digest(*MEASURED)
    origin = f"the table that {BENCH}tune made in {head.run_id} with Wiretax {head.program}"
    here = "" if head.program == code else f"; this code is {code}"
    if name or not here:
        return load(path, content), f"auto uses {origin}{here}."
    return [], (
        f"auto uses its defaults, not {origin}{here}. For a new one: "
        f"{on_ranks(len(machine.ranks), 'tune')}"
    )


def use_table(session: Session, machine: Machine) -> None:
    """Gives the session's world those rows of `find` that are for these ranks and their memory.
    Raises Refusal, Mistake for a named table."""
    name, communicator = session.options.tuned, session.communicator
    memory, ranks, hosts = kinds_of(session.world), communicator.size, communicator.hosts
    found = list[ChoiceRow](), ""
    try:
        with communicator.all_or_none(ResultError):
            if communicator.rank == 0 and name != "none":
                found = find(name, machine)
    except Refusal as refusal:
        if not name:
            raise
        raise Mistake(f"--tuned: {refusal}") from refusal
    rows, sentence = communicator.broadcast(found)
    here = {"memory": memory, "ranks": ranks, "hosts": hosts}
    own = [row for row in rows if here.items() <= row.where.items()]
    session.world = replace(session.world, rows=own)
    if rows and not own:
        sentence = (
            f"auto uses its defaults: nothing was tuned over {memory} memory with {ranks} ranks on "
            f"{counted(hosts, 'host')}: {on_ranks(ranks, 'tune')}"
        )
    session.notes += filter(None, [sentence])
