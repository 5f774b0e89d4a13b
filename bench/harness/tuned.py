"""The table of `bench.tune` for `auto`: a JSON file, used only on the machine that it names, and by
the code that made it unless --tuned names it."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from bench.harness.head import Machine
from bench.harness.session import MEASURED, Session, program_digest
from bench.harness.timing import round_trip_ns
from collectives.algorithm import ALGORITHMS, BETWEEN_HOSTS, EXACT, named, same_state
from collectives.operation import TunedChoice
from reports.store.result import ResultError, content_of
from reports.store.writing import write_named

MODES = "isolated", "chained", "any"


@dataclass(frozen=True)
class Table:
    """The choices (`picks` in the file) that the run `run_id` measured as best with `program`, such
    as `0.1.0 (1a2b3c4)`; "" in tables of older versions, whose choices are for both modes."""

    machine_id: str
    software_id: str
    run_id: str
    picks: list[TunedChoice]
    program: str = ""


def default_folder() -> Path:
    """The folder of all tables. Raises ResultError if the user has no home."""
    try:
        home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError as error:  # neither HOME nor an entry for this user
        raise ResultError(
            "there is no home folder for bench.tune's table: set HOME, or XDG_DATA_HOME"
        ) from error
    return home / "wiretax"


def default_path(machine: Machine) -> Path:
    """This machine's table. Raises ResultError."""
    return default_folder() / f"tuned-{machine.machine_id}-{machine.software_id}.json"


def decoded(path: Path, machine: Machine) -> Table:
    """The table in a file. Raises ResultError, also for another machine's or other software's."""
    content = content_of(path)
    try:
        table = msgspec.json.decode(content, type=Table)
    except (ValueError, msgspec.DecodeError) as error:
        raise ResultError(f"{path} is not a table of bench.tune: {error}") from error
    table_ids, own_ids = (f"{owner.machine_id}, {owner.software_id}" for owner in (table, machine))
    if table_ids != own_ids:
        raise ResultError(
            f"{path} was made on another machine or with other software "
            f"({table_ids}; this is {own_ids}): run bench.tune here"
        )
    return table


def load(path: Path, machine: Machine) -> Table:
    """The same with the algorithms that `auto` can choose. Raises ResultError for unknown ones."""
    table = decoded(path, machine)
    try:
        for choice in table.picks:
            named(ALGORITHMS[choice.collective], choice.algorithm)
            if not 0 < choice.size_bytes < 1 << 63 or choice.link_rtt_ns <= 0:
                raise ValueError(
                    f"a size of {choice.size_bytes} B, a round trip of {choice.link_rtt_ns} ns"
                )
            if choice.mode not in MODES:
                raise ValueError(f"{choice.mode!r} is not one of {', '.join(MODES)}")
    except (KeyError, ValueError) as error:
        message = f"{error.args[0]} does not exist" if isinstance(error, KeyError) else error
        raise ResultError(f"{path} is not a table of bench.tune: {message}") from error
    # Tables of older versions may hold algorithms that `auto` no longer chooses.
    names = {
        algorithm.name
        for group in (EXACT, BETWEEN_HOSTS)
        for algorithms in group.values()
        for algorithm in algorithms
    }
    picks = [choice for choice in table.picks if choice.algorithm.partition("+")[0] in names]
    return replace(table, picks=picks)


def add(
    path: Path,
    machine: Machine,
    run_id: str,
    choices: Sequence[TunedChoice],
    program: str,
    unsettled: Sequence[TunedChoice] = (),
) -> None:
    """Adds the choices of a run of `program` to the table at `path`, atomically. Older ones of this
    program for other sizes, modes or states of the link stay, and replace `unsettled` ones. A file
    that is no table of this machine is replaced. Raises OSError, ResultError."""
    older: list[TunedChoice] = []
    with suppress(ResultError):
        table = load(path, machine)
        older = [
            choice
            for choice in table.picks
            if table.program == program and not any(same_key(choice, new) for new in choices)
        ]
    new = [choice for choice in unsettled if not any(same_key(choice, other) for other in older)]
    picks = [*choices, *new, *older]
    table = Table(machine.machine_id, machine.software_id, run_id, picks, program)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_named(path, msgspec.json.format(msgspec.json.encode(table)))


def same_key(a: TunedChoice, b: TunedChoice) -> bool:
    """Whether both are for one size, variant and mode in one state of the link."""
    return replace(a, link_rtt_ns=0.0, algorithm="") == replace(
        b, link_rtt_ns=0.0, algorithm=""
    ) and same_state(a.link_rtt_ns, b.link_rtt_ns)


def find(name: str | None, machine: Machine) -> tuple[Table | None, str]:
    """The named table, or this machine's if this code made it, and a sentence on its origin, or on
    why it is not used: a choice can be wrong for changed kernels. Raises ResultError."""
    path = Path(name) if name else default_path(machine)
    if not name and not os.path.exists(path):
        return None, ""
    table, code = decoded(path, machine), program_digest(*MEASURED)
    maker = f"Wiretax {table.program}" if table.program else "an older Wiretax"
    origin = f"the table that bench.tune made in {table.run_id} with {maker}"
    if table.program == code:
        return load(path, machine), f"auto uses {origin}."
    if name:
        return load(path, machine), f"auto uses {origin}; this code is {code}."
    return None, (
        f"auto uses its defaults: this code is {code}, and {origin}. Run python -m "
        "bench.tune for a new one."
    )


def use_table(session: Session, machine: Machine) -> None:
    """Gives the session's world the table of `find`. Raises Refusal."""
    name, communicator = session.options.tuned, session.communicator
    table, sentence = None, ""
    with communicator.all_or_none(ResultError):
        if communicator.rank == 0 and name != "none":
            table, sentence = find(name, machine)
    table, sentence = communicator.broadcast((table, sentence))
    if table is None:
        session.notes += [sentence] * bool(sentence)
        return
    session.world = replace(session.world, choices=table.picks)
    memory, hosts, ranks = session.world.memory, communicator.hosts, communicator.size
    over = [choice for choice in table.picks if choice.memory == memory and choice.hosts == hosts]
    picks = [choice for choice in over if choice.ranks == ranks]
    if not picks:
        option = "--ranks-share-gpus" if memory == "same_device" else f"--memory {memory}"
        missing, remedy = (
            (f"with {ranks} ranks", "bench.tune with these ranks")
            if over
            else (f"between {hosts} hosts", "bench.tune with these ranks")
            if hosts > 1
            else (f"over {memory} memory", f"python -m bench.tune {option}")
        )
        session.notes.append(f"auto uses its defaults: nothing was tuned {missing}; run {remedy}.")
        return
    session.notes.append(sentence)
    trip_ns = communicator.broadcast(round_trip_ns(session))
    tuned_ns = sorted({round(choice.link_rtt_ns) for choice in picks})
    if trip_ns and tuned_ns and not any(same_state(trip_ns, state_ns) for state_ns in tuned_ns):
        session.notes.append(
            f"The link's flag takes {trip_ns:.0f} ns now, and bench.tune only measured "
            f"{', '.join(map(str, tuned_ns))} ns: run it again in this state for a better choice."
        )
