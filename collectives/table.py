"""Tables for `auto`: rows that say which algorithm runs measured as best, and under which facts.

A TOML file has a table for each set of facts about ranks and their machine. The suite's own files,
in `tables/`, are from docs/experiments/suite_tables.py, a user's from bench.tune:

    [[table]]
    where = { device = "cpu", memory = "mapped", ranks = 2, round_trip_ns = [180, 270] }

    [[table.rows]]
    collective = "all_reduce"
    algorithm = "two_shot+nt"
    size_bytes = [65536, 1048576]
    where = { variant = "copied", mode = "isolated" }
    runs = ["2026-11-27T10-02-11Z-tune-0a1b2c"]
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec

from collectives.build import Build
from collectives.names import BuildName
from collectives.operation import Algorithm, ChoiceRow

Number = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
# The least and the most.
Range = Annotated[list[Number], msgspec.Meta(min_length=2, max_length=2)]
# The facts that a row may require, and what each may be.
FACTS: dict[str, Any] = {
    "device": str,  # cpu or gpu
    "memory": str,  # mapped, host_staged or same_device; "mapped,host_staged" if ranks have both
    "ranks": float | Range,
    "hosts": float | Range,
    "variant": str,
    "mode": str,
    "in_place": bool,
    "way": str,
    "round_trip_ns": Range,  # of a flag between two CPU cores
    "l1_bytes": float | Range,  # of a CPU core, for data
    "l2_bytes": float | Range,
    "oversubscribed": bool,  # whether ranks outnumber cores and take turns
    "stable": bool,  # true in rows for `auto_stable` alone
}
# Those that vary over the cases of a run.
CASE_FACTS = "variant", "mode", "in_place", "way", "stable"
RANK_FACTS = [fact for fact in FACTS if fact not in CASE_FACTS]
MOST_EXTRAPOLATION = 8  # from a row's sizes to a case's
Known = Mapping[str, Mapping[str, Algorithm]]  # by collective and name


Where = dict[str, str | bool | int | float | list[float]]


class WrittenRow(msgspec.Struct, forbid_unknown_fields=True):
    """A row as a file has it. `where`: the facts about the case that it requires."""

    collective: str
    algorithm: str
    size_bytes: tuple[int, int]
    runs: list[str]
    where: Where = {}
    memory: str | None = None
    candidate: tuple[str, Number] | None = None


class WrittenTable(msgspec.Struct, forbid_unknown_fields=True):
    """Rows that require the same facts about the ranks and their machine."""

    where: Where
    rows: list[WrittenRow]


class WrittenTables(msgspec.Struct, forbid_unknown_fields=True):
    """The tables of a file."""

    table: list[WrittenTable] = []


def parsed(text: str, known: Mapping[str, Algorithm]) -> Algorithm:
    """The algorithm that `two_shot+nt+128K` means. Raises ValueError for a wrong word, KeyError for
    an unknown name."""
    name = BuildName.parse(text)
    if name.memory:
        raise ValueError(f"the name of an algorithm has no memory: {name.memory}")
    return known[name.algorithm].built(Build.parse(name.words))


def rows_of(tables: WrittenTables, known: Known) -> list[ChoiceRow]:
    """The rows of a file. Raises ValueError, or msgspec.ValidationError, for one without a
    meaning."""
    return [row_of(row, table.where, known) for table in tables.table for row in table.rows]


def row_of(row: WrittenRow, shared: Where, known: Known) -> ChoiceRow:
    """A row of a table whose rows all require the facts `shared`. Raises as `rows_of`."""
    if row.collective not in known:
        raise ValueError(f"{row.collective!r} is not one of {', '.join(known)}")
    try:
        algorithm = parsed(row.algorithm, known[row.collective])
    except KeyError:
        names = ", ".join(known[row.collective])
        raise ValueError(
            f"{row.collective} has no algorithm {row.algorithm!r}: it has {names}"
        ) from None
    check_algorithm(algorithm)
    least, most = row.size_bytes
    if not 0 < least <= most < 1 << 63:
        raise ValueError(f"sizes from {least} to {most} B")
    where = shared | row.where
    if unknown := set(where) - set(FACTS):
        raise ValueError(f"{min(unknown)!r} is not one of the facts {', '.join(FACTS)}")
    for fact, value in where.items():
        msgspec.convert(value, FACTS[fact])
    return ChoiceRow(
        row.collective, algorithm, row.size_bytes, where, row.runs, row.memory, row.candidate
    )


def check_algorithm(algorithm: Algorithm) -> None:
    """Raises ValueError for an algorithm that `auto` never chooses. It skips one that is not
    feasible."""
    if algorithm.is_lossy or not (algorithm.needs_peers or algorithm.spans_hosts):
        raise ValueError(f"auto does not choose {algorithm.name}")


def written(rows: Iterable[ChoiceRow]) -> str:
    """The text of a file with these rows. Values of JSON are values of TOML."""
    tables: dict[str, list[str]] = {}
    for row in rows:
        lines = tables.setdefault(as_facts(row.where, RANK_FACTS), [])
        lines += [
            "[[table.rows]]",
            f"collective = {as_text(row.collective)}",
            f"algorithm = {as_text(row.algorithm.name)}",
            f"size_bytes = {as_text(row.size_bytes)}",
            f"where = {as_facts(row.where, CASE_FACTS)}",
            *([f"memory = {as_text(row.memory)}"] if row.memory else []),
            *([f"candidate = {as_text(row.candidate)}"] if row.candidate else []),
            f"runs = {as_text(row.runs)}",
            "",
        ]
    return "\n".join(
        line
        for where, lines in tables.items()
        for line in ("[[table]]", f"where = {where}", "", *lines)
    )


def as_facts(where: Mapping[str, Any], facts: Iterable[str]) -> str:
    """An inline table of those of the facts that `where` has."""
    texts = [f"{fact} = {as_text(where[fact])}" for fact in facts if fact in where]
    return f"{{ {', '.join(texts)} }}"


def as_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


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
