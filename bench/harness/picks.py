"""What `bench.tune` found best on this machine, kept for `auto`: a JSON file that names the machine it is of.

It is never applied to another machine, nor to other software: the best way there is another.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from bench.harness.head import Machine
from collectives.algorithm import ALGORITHMS, is_lossy, named
from collectives.auto import same_state
from collectives.operation import Pick
from reports.result import write_named


class NotOurs(Exception):
    """A table that cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Table:
    """`run_id` is the run that it was found in."""

    machine_id: str
    software_id: str
    run_id: str
    picks: list[Pick]


def default_folder() -> Path:
    """Where tables lie unless the user says otherwise. Raises NotOurs where he has no home."""
    try:
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "wiretax"
    except RuntimeError as error:  # neither HOME nor an entry for this user
        raise NotOurs("there is no home folder for what bench.tune finds: set HOME, or XDG_DATA_HOME") from error


def default_path(machine: Machine) -> Path:
    """This machine's table there. Raises NotOurs likewise."""
    return default_folder() / f"tuned-{machine.machine_id}-{machine.software_id}.json"


def load(path: Path, machine: Machine) -> Table:
    """The table of this file. Raises NotOurs for one that cannot be read, or is of another machine or software."""
    try:
        table = msgspec.json.decode(path.read_bytes(), type=Table)
        for pick in table.picks:
            named(ALGORITHMS[pick.collective], pick.algorithm)
            if min(pick.size_bytes, pick.link_rtt_ns) <= 0:
                raise ValueError(f"a size of {pick.size_bytes} B, a round trip of {pick.link_rtt_ns} ns")
    except OSError as error:
        raise NotOurs(f"{path}: {error.strerror}") from error
    except KeyError as error:
        raise NotOurs(f"{path} is no table of bench.tune: there is no {error.args[0]}") from error
    except (ValueError, msgspec.DecodeError) as error:
        raise NotOurs(f"{path} is no table of bench.tune: {error}") from error
    for what, theirs, ours in (("machine", table.machine_id, machine.machine_id),
                               ("software", table.software_id, machine.software_id)):
        if theirs != ours:
            raise NotOurs(f"{path} was made on another {what} ({theirs}, and this is {ours}): run bench.tune here")
    return table


def add(path: Path, machine: Machine, run_id: str, found: Sequence[Pick],
        lossy: bool = False) -> None:
    """Puts what was found into the table there, whole or not at all; what it held of other sizes, and of states of the
    link that this run has not seen, stays, and without `lossy` what it held of lossy algorithms. A file that is no
    table of this machine is replaced. Raises OSError, ResultError."""
    table = Table(machine.machine_id, machine.software_id, run_id, list(found))
    with suppress(NotOurs):
        known = load(path, machine).picks
        table = replace(table, picks=[*found, *(old for old in known if (is_lossy(old) and not lossy)
                                                 or not any(same(old, new) for new in found))])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_named(path, msgspec.json.format(msgspec.json.encode(table)))


def same(one: Pick, other: Pick) -> bool:
    """Whether both are of one size and variant in one state of the link."""
    sizes = [(pick.collective, pick.ranks, pick.size_bytes, pick.variant) for pick in (one, other)]
    return sizes[0] == sizes[1] and same_state(one.link_rtt_ns, other.link_rtt_ns)
