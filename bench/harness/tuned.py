"""The user's table for `auto`, which bench.tune makes: used only on the machine that it names, and
by the code that made it unless --tuned names it."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bench.harness.head import Machine
from bench.harness.session import MEASURED, Session, program_digest
from bench.harness.timing import round_trip_ns
from collectives.choice import same_state
from collectives.operation import Row
from collectives.registry import ALGORITHMS
from collectives.table import Written, as_text, rows_of, written
from reports.store.result import ResultError, content_of
from reports.store.writing import write_named


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
            "there is no home folder for bench.tune's table: set HOME, or XDG_DATA_HOME"
        ) from error
    return home / "wiretax"


class Owner(Protocol):
    """A machine with its software: a table's head names them, too."""

    @property
    def machine_id(self) -> str: ...
    @property
    def software_id(self) -> str: ...


def default_path(machine: Machine) -> Path:
    """This machine's table. Raises ResultError."""
    return default_folder() / f"tuned-{machine.machine_id}-{machine.software_id}.toml"


def read(path: Path, machine: Owner) -> tuple[Head, dict[str, Any]]:
    """The head of the table in a file, and its rows unread. Raises ResultError, also for another
    machine's or other software's."""
    try:
        tables = msgspec.toml.decode(content_of(path))
        head = msgspec.convert(
            {each.name: tables.pop(each.name, None) for each in fields(Head)}, Head
        )
    except (ValueError, msgspec.MsgspecError) as error:
        raise ResultError(f"{path} is not a table of bench.tune: {error}") from error
    named, here = (f"{each.machine_id}, {each.software_id}" for each in (head, machine))
    if named != here:
        raise ResultError(
            f"{path} was made on another machine or with other software "
            f"({named}; this is {here}): run bench.tune here"
        )
    return head, tables


def load(path: Path, machine: Owner) -> tuple[Head, list[Row]]:
    """The head and the rows of the table in a file. Raises ResultError."""
    head, tables = read(path, machine)
    try:
        return head, rows_of(msgspec.convert(tables, dict[str, list[Written]]), ALGORITHMS)
    except (ValueError, msgspec.MsgspecError) as error:
        raise ResultError(f"{path} is not a table of bench.tune: {error}") from error


def add(path: Path, head: Head, settled: Sequence[Row], unsettled: Sequence[Row]) -> None:
    """Adds the rows of a run to the table at `path`, atomically. Older rows of this program for
    other sizes, modes or states of the link stay, and replace `unsettled` ones. A file that is no
    table of this machine is replaced. Raises OSError, ResultError."""
    older = list[Row]()
    with suppress(ResultError):
        other, rows = load(path, head)
        if other.program == head.program:
            older = without(rows, settled)
    lines = [f"{name} = {as_text(value)}" for name, value in vars(head).items()]
    rows = [*settled, *without(unsettled, older), *older]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_named(path, "\n".join([*lines, "", written(rows)]).encode())


def without(rows: Iterable[Row], others: Sequence[Row]) -> list[Row]:
    """The rows for other cases than these."""
    return [row for row in rows if not any(is_for_same_cases(row, other) for other in others)]


def is_for_same_cases(a: Row, b: Row) -> bool:
    """Whether both are for one size, variant and mode in one state of the link."""
    trips_ns = [row.where.get("round_trip_ns", [1.0])[0] for row in (a, b)]

    def key(row: Row) -> tuple[Any, ...]:
        where = {name: value for name, value in row.where.items() if name != "round_trip_ns"}
        return row.collective, row.size_bytes, where

    return key(a) == key(b) and same_state(*trips_ns)


def find(name: str | None, machine: Machine) -> tuple[list[Row], str]:
    """The rows of the named table, or of this machine's if this code made it, and a sentence on its
    origin, or on why it is not used: a choice can be wrong for changed kernels. Raises
    ResultError."""
    path = Path(name) if name else default_path(machine)
    if not name and not os.path.exists(path):
        return [], ""
    (head, _), code = read(path, machine), program_digest(*MEASURED)
    origin = f"the table that bench.tune made in {head.run_id} with Wiretax {head.program}"
    if not name and head.program != code:
        return [], (
            f"auto uses its defaults: this code is {code}, and {origin}. Run python -m "
            "bench.tune for a new one."
        )
    other = "" if head.program == code else f"; this code is {code}"
    return load(path, machine)[1], f"auto uses {origin}{other}."


def use_table(session: Session, machine: Machine) -> None:
    """Gives the session's world the table of `find`. Raises Refusal."""
    name, communicator = session.options.tuned, session.communicator
    text, sentence = "", ""
    with communicator.all_or_none(ResultError):
        if communicator.rank == 0 and name != "none":
            found, sentence = find(name, machine)
            text = written(found)
    text, sentence = communicator.broadcast((text, sentence))
    if not text:
        session.notes += [sentence] * bool(sentence)
        return
    rows = rows_of(msgspec.toml.decode(text, type=dict[str, list[Written]]), ALGORITHMS)
    session.world = replace(session.world, rows=rows)
    if missing := nothing_tuned(session, rows):
        session.notes.append(missing)
        return
    session.notes.append(sentence)
    trip_ns = communicator.broadcast(round_trip_ns(session))
    tuned = [row.where["round_trip_ns"] for row in rows if "round_trip_ns" in row.where]
    if trip_ns and tuned and not any(least <= trip_ns <= most for least, most in tuned):
        states = sorted({f"{least:.0f} to {most:.0f} ns" for least, most in tuned})
        session.notes.append(
            f"The link's flag takes {trip_ns:.0f} ns now, and bench.tune only measured "
            f"{', '.join(states)}: run it again in this state for a better choice."
        )


def nothing_tuned(session: Session, rows: Sequence[Row]) -> str | None:
    """A sentence if no row is for these ranks, hosts and memory."""
    communicator, memory = session.communicator, session.world.memory
    hosts, ranks = communicator.hosts, communicator.size
    over = [row for row in rows if row.where["memory"] == memory and row.where["hosts"] == hosts]
    if any(row.where["ranks"] == ranks for row in over):
        return None
    option = "--ranks-share-gpus" if memory == "same_device" else f"--memory {memory}"
    missing, remedy = f"over {memory} memory", f"python -m bench.tune {option}"
    if over or hosts > 1:
        missing = f"with {ranks} ranks" if over else f"between {hosts} hosts"
        remedy = "bench.tune with these ranks"
    return f"auto uses its defaults: nothing was tuned {missing}; run {remedy}."
