"""The table of `bench.tune` for `auto`: a JSON file that names the machine that it was made on.

It is never applied to another machine or other software, where another algorithm may be best.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from bench.harness.head import Machine
from bench.harness.session import Session
from bench.harness.timing import round_trip_ns
from collectives.algorithm import ALGORITHMS, EXACT, named
from collectives.auto import same_state
from collectives.operation import TunedChoice
from reports.result import write_named


class UnusableTable(Exception):
    """A table that cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Table:
    """The choices (`picks` in the file) that the run `run_id` measured as best."""

    machine_id: str
    software_id: str
    run_id: str
    picks: list[TunedChoice]


def default_folder() -> Path:
    """The folder of all tables. Raises UnusableTable if the user has no home."""
    try:
        home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError as error:  # neither HOME nor an entry for this user
        raise UnusableTable("there is no home folder for bench.tune's table: set HOME, or "
                            "XDG_DATA_HOME") from error
    return home / "wiretax"


def default_path(machine: Machine) -> Path:
    """This machine's table. Raises UnusableTable."""
    return default_folder() / f"tuned-{machine.machine_id}-{machine.software_id}.json"


def load(path: Path, machine: Machine) -> Table:
    """Reads a table. Raises UnusableTable if it cannot be read, or belongs to another machine or
    other software."""
    try:
        table = msgspec.json.decode(path.read_bytes(), type=Table)
        for choice in table.picks:
            named(ALGORITHMS[choice.collective], choice.algorithm)
            if min(choice.size_bytes, choice.link_rtt_ns) <= 0:
                raise ValueError(f"a size of {choice.size_bytes} B, a round trip of "
                                 f"{choice.link_rtt_ns} ns")
    except OSError as error:
        raise UnusableTable(f"{path}: {error.strerror}") from error
    except KeyError as error:
        message = f"{path} is not a table of bench.tune: {error.args[0]} does not exist"
        raise UnusableTable(message) from error
    except (ValueError, msgspec.DecodeError) as error:
        raise UnusableTable(f"{path} is not a table of bench.tune: {error}") from error
    for kind, table_id, own_id in (("machine", table.machine_id, machine.machine_id),
                                   ("software", table.software_id, machine.software_id)):
        if table_id != own_id:
            raise UnusableTable(f"{path} was made on another {kind} ({table_id}, and this is "
                                f"{own_id}): run bench.tune here")
    return table


def add(path: Path, machine: Machine, run_id: str, choices: Sequence[TunedChoice]) -> None:
    """Adds choices to the table at `path`, atomically. Older choices for other sizes, or for states
    of the link that this run did not see, stay. A file that is no table of this machine is
    replaced. Raises OSError, ResultError."""
    table = Table(machine.machine_id, machine.software_id, run_id, list(choices))
    with suppress(UnusableTable):
        kept_choices = [old for old in load(path, machine).picks
                        if not any(same_key(old, new) for new in choices)]
        table = replace(table, picks=[*choices, *kept_choices])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_named(path, msgspec.json.format(msgspec.json.encode(table)))


def same_key(a: TunedChoice, b: TunedChoice) -> bool:
    """Whether both are for one size and variant in one state of the link."""
    keys = [(choice.collective, choice.ranks, choice.size_bytes, choice.variant)
            for choice in (a, b)]
    return keys[0] == keys[1] and same_state(a.link_rtt_ns, b.link_rtt_ns)


def use_table(session: Session, machine: Machine) -> None:
    """Gives the session's world the choices of the named table, or of this machine's, and notes it.
    Raises Disagreement for a table that cannot be used."""
    tuned, communicator = session.options.tuned, session.communicator
    table = None
    with communicator.together(UnusableTable):
        if communicator.rank == 0 and tuned != "none":
            path = Path(tuned) if tuned else default_path(machine)
            table = load(path, machine) if tuned or os.path.exists(path) else None
    table = communicator.broadcast(table)
    if table is None:
        return
    # Tables of older versions may hold algorithms that `auto` no longer chooses.
    names = {algorithm.name for algorithms in EXACT.values() for algorithm in algorithms}
    choices = [choice for choice in table.picks if choice.algorithm.partition("+")[0] in names]
    session.world = replace(session.world, choices=choices)
    session.notes.append(f"auto uses the table that bench.tune made in {table.run_id}.")
    session.notes += unseen_state(session)


def unseen_state(session: Session) -> list[str]:
    """A sentence if the link is in a state that bench.tune has never measured."""
    trip_ns = session.communicator.broadcast(round_trip_ns(session))
    choices = session.world.choices
    tuned_ns = sorted({round(choice.link_rtt_ns) for choice in choices})
    if not trip_ns or not tuned_ns:
        return []
    if any(same_state(trip_ns, choice.link_rtt_ns) for choice in choices):
        return []
    span = f"{tuned_ns[0]} to {tuned_ns[-1]}" if tuned_ns[1:] else f"{tuned_ns[0]}"
    return [f"The link's flag takes {trip_ns:.0f} ns now, and bench.tune only measured {span} ns: "
            "run it again in this state for a better choice."]
