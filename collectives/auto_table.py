"""Tables for `auto`: rows that say which algorithm runs measured as best, and under which facts.

A file has a table for each set of facts about ranks and their machine. The suite's own files, in
`tables/`, are from docs/experiments/suite_tables.py, a user's from bench.tune:

    [[table]]
    where = { device = "cpu", memory = "mapped", ranks = 2, round_trip_ns = [180.0,270.0] }

    [[table.rows]]
    collective = "all_reduce"
    algorithm = "two_shot+nt"
    size_bytes = [65536,1048576]
    where = { variant = "copied", mode = "isolated" }
    runs = ["2026-11-27T10-02-11Z-tune-0a1b2c"]
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace

from collectives.build import Build, BuildName
from collectives.operation import Algorithm, ChoiceRow, Number

# The least and the most.
Range = Annotated[list[Number], msgspec.Meta(min_length=2, max_length=2)]
CASE_FACTS = "variant", "mode", "in_place", "way", "stable"  # these vary over the cases of a run
MOST_EXTRAPOLATION = 8  # from a row's sizes to a case's


class Facts(msgspec.Struct, forbid_unknown_fields=True):
    """The facts that a row may require, and what each may be."""

    device: str = ""  # cpu or gpu
    memory: str = ""  # mapped, host_staged, same_device; "mapped,host_staged" if ranks have both
    ranks: float | Range = 0
    hosts: float | Range = 0
    variant: str = ""
    mode: str = ""
    in_place: bool = False
    way: str = ""
    round_trip_ns: Range = []  # of a flag between two CPU cores
    l1_bytes: float | Range = 0  # of a CPU core, for data
    l2_bytes: float | Range = 0
    oversubscribed: bool = False  # whether ranks outnumber cores and take turns
    stable: bool = False  # true in rows for `auto_stable` alone


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """Rows that require the same facts about the ranks and their machine."""

    where: dict[str, Any]
    rows: list[ChoiceRow]


class Tables(msgspec.Struct):
    """A file, which may say more."""

    table: list[Table] = []

    @property
    def rows(self) -> list[ChoiceRow]:
        return [
            replace(row, where=table.where | row.where)
            for table in self.table
            for row in table.rows
        ]


def parsed(text: str, known: Mapping[str, Algorithm]) -> Algorithm:
    """The algorithm that `two_shot+nt+128K` means. Raises ValueError for a wrong word."""
    name = BuildName.parse(text)
    if name.memory:
        raise ValueError(f"the name of an algorithm has no memory: {name.memory}")
    if name.algorithm not in known:
        raise ValueError(f"{name.algorithm!r} is not one of the algorithms {', '.join(known)}")
    return known[name.algorithm].built(Build.parse(name.words))


def check(rows: Iterable[ChoiceRow], known: Mapping[str, Mapping[str, Algorithm]]) -> None:
    """Raises ValueError, or msgspec.ValidationError, for a row without a meaning. `known`: the
    algorithms by collective and name."""
    for row in rows:
        if row.collective not in known:
            raise ValueError(f"{row.collective!r} is not one of {', '.join(known)}")
        check_algorithm(parsed(row.algorithm, known[row.collective]))
        least, most = row.size_bytes
        if not 0 < least <= most < 1 << 63:
            raise ValueError(f"sizes from {least} to {most} B")
        msgspec.convert(row.where, Facts)


def check_algorithm(algorithm: Algorithm) -> None:
    """Raises ValueError for an algorithm that `auto` never chooses. It skips one that is not
    feasible."""
    if algorithm.is_lossy or not (algorithm.needs_peers or algorithm.spans_hosts):
        raise ValueError(f"auto does not choose {algorithm.name}")


def written(rows: Iterable[ChoiceRow]) -> str:
    """The text of a file with these rows."""
    tables: dict[str, list[str]] = {}
    for row in rows:
        shared = {fact: row.where[fact] for fact in row.where if fact not in CASE_FACTS}
        own = {fact: row.where[fact] for fact in row.where if fact in CASE_FACTS}
        where = inline(shared)
        lines = tables.setdefault(where, ["[[table]]", f"where = {where}", ""])
        fields = msgspec.to_builtins(replace(row, where=own))
        lines += ["[[table.rows]]", *lines_of(fields), ""]
    return "\n".join(line for lines in tables.values() for line in lines)


def inline(fields: Mapping[str, Any]) -> str:
    return f"{{ {', '.join(lines_of(fields))} }}"


def lines_of(fields: Mapping[str, Any]) -> list[str]:
    """The fields as TOML. Values of JSON are values of TOML, but for tables."""
    return [
        f"{name} = {inline(value) if isinstance(value, dict) else as_text(value)}"
        for name, value in fields.items()
    ]


def as_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def case_of(row: ChoiceRow) -> str:
    """What a row is for, in any state of the link."""
    where = {fact: value for fact, value in row.where.items() if fact != "round_trip_ns"}
    return as_text((row.collective, row.size_bytes, sorted(where.items())))


def best_row(
    rows: Iterable[ChoiceRow], collective: str, size_bytes: int, facts: Mapping[str, Any]
) -> ChoiceRow | None:
    """The row for a case: of those whose facts hold and whose sizes are near, the one that names
    most facts, then the one with the nearest sizes."""
    near = [
        row
        for row in rows
        if row.collective == collective
        and distance(row, size_bytes) <= math.log(MOST_EXTRAPOLATION)
        and holds(row.where, facts)
    ]
    return min(near, key=lambda row: (-len(row.where), distance(row, size_bytes)), default=None)


def distance(row: ChoiceRow, size_bytes: int) -> float:
    """From a size to the sizes of a row: the logarithm of their ratio, 0 within them."""
    least, most = row.size_bytes
    size = max(size_bytes, 1)
    return max(0.0, math.log(least / size), math.log(size / most))


def holds(where: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether the facts are those that a row requires."""
    for fact, wanted in where.items():
        actual = facts.get(fact)
        least, most = wanted if isinstance(wanted, list) else (wanted, wanted)
        if actual is None or not least <= actual <= most:
            return False
    return True
