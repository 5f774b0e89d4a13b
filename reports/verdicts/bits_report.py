"""The command `bits`: a record of bench.bits, beside a baseline, and whether its rows have what
`--require` names; as text, JUnit, Markdown and HTML."""

import argparse
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from reports.tables.bits_table import MOST_LINES, headline, said_of, table_of, text
from reports.tables.layer_bits_table import tps_of
from reports.tables.sentences import counted, some, that_fit, wrapped
from reports.tables.show import NEWEST, without_future
from reports.verdicts.bits_checks import Check, compared, required_of
from reports.verdicts.bits_page import page_of
from reports.verdicts.judge import Incomparable
from reports.verdicts.layer_checks import findings_of, layer_compared, required_of_layer
from reports.verdicts.regress import JunitCase, add_files, as_junit, to_markdown, write_page
from wiretax.common.arguments import unknown
from wiretax.common.grouped import grouped
from wiretax.common.program import BENCH, answer, on_ranks
from wiretax.record.bits_record import (
    ACCEPTED_BITS,
    ACCEPTED_NOTE,
    INVARIANCES,
    SUFFIX,
    TPS,
    Bits,
    read_bits,
    unequal,
)
from wiretax.record.result import ResultError, is_future
from wiretax.record.writing import write_named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "records",
        metavar="RECORD",
        type=Path,
        nargs="*",
        default=[NEWEST],
        help=f"records of {BENCH}bits, in one table, such as those of other libraries "
        "and settings; of a folder the newest (results)",
    )
    option(
        "--baseline",
        metavar="FILE",
        type=Path,
        help="an earlier record, a folder of records, or a folder of `accept`",
    )
    option(
        "--require",
        metavar="A,B",
        type=required,
        default=[],
        help=f"fail where one of these changes bits: {', '.join(INVARIANCES)}",
    )
    add_files(parser)
    parser.epilog = (
        f"{parser.epilog}; exit status: 0 the same bits, 1 other or fewer bits, or something "
        "required is missing, 2 the command line or a file, 4 not comparable"
    )


def required(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in INVARIANCES:
            raise argparse.ArgumentTypeError(unknown("change", name, [*INVARIANCES]))
    return names


def bits(arguments: argparse.Namespace) -> int:
    """Prints the record or its verdict, and returns the exit status. Raises ResultError for files,
    Incomparable for a baseline of something else."""
    records = [read_bits(newest(path)) for path in arguments.records]
    record, notes = with_all_rows(records), list[str]()
    checks = [
        Check(row.name, "failure", True, f"{row.name} ({row.datatype}) failed: {row.failure}")
        for row in record.failed
    ]
    for name in arguments.require:
        checks += required_in(record, name)
    baseline = baseline_for(records, arguments.baseline) if arguments.baseline else None
    if baseline:
        found, notes = against(record, baseline)
        checks += found

    failed = [check for check in checks if check.failed]
    line = headline(record)
    if failed:
        line = f"CHANGED: {len(failed)} of {counted(len(checks), 'check')} failed"
    elif checks:
        line = f"SAME: {counted(len(checks), 'check')} passed"

    findings = findings_of(failed)
    if arguments.junit:
        cases = [
            JunitCase(
                name=each.row,
                group=f"bits.{each.against}",
                word="changed" if each.failed else "",
                text=each.text,
            )
            for each in checks
        ]
        write_named(arguments.junit, as_junit("bits", cases, [line, *notes]).encode())
    if arguments.markdown:
        said = [*findings, *notes, headline(record)]
        title = f"{'✗' if failed else '✓'} {line}"
        content = to_markdown(title, said, said_of(record), table_of(record))
        write_named(arguments.markdown, content.encode())
    if arguments.html:
        write_page(page_of(record, line, checks, notes, baseline), arguments.html)

    printed = text(record)
    if arguments.require or arguments.baseline:
        # A note may say why something was not measured.
        said = [line, *findings, *notes, *(record.notes if failed else [])]
        printed = "\n".join(wrapped(that_fit(said, MOST_LINES)))
    answer(arguments, printed, headline=line, checks=checks, notes=notes, record=record)
    return 1 if failed else 0


def required_in(record: Bits, name: str) -> list[Check]:
    """Whether each row keeps its bits under the change of this name; other numbers of ranks and
    tokens are those of layers, if there are any."""
    asked = [tp for tp in TPS if tp <= record.ranks]
    checks, tps = list[Check](), sorted({*asked, *tps_of(record.layers)})
    if not (record.layers and name in ("tp", "batch")):
        checks += [required_of(row, name) for row in record.rows]
    for layer in record.layers:
        checks += required_of_layer(layer, name, tps)
    return checks


def newest(path: Path) -> Path:
    """The record, or the newest one in a folder. Raises ResultError without one."""
    if not path.is_dir() and path != NEWEST:
        return path
    if not (files := sorted(path.glob(f"*{SUFFIX}"))):
        raise ResultError(f"{path} holds no record yet: type {on_ranks(4, 'bits')}")
    return without_future(files)[-1]


def with_all_rows(records: Sequence[Bits]) -> Bits:
    """The first record, with the rows of the others that differ in anything. Raises
    Incomparable."""
    first, *others = records
    for record in others:
        check_comparable(first, record, f"in {first.run_id}", f"in {record.run_id}")

    rows = {msgspec.json.encode(row): row for record in records for row in record.rows}
    layers = {msgspec.json.encode(each): each for record in records for each in record.layers}
    notes = [*first.notes, *(f"Also the rows of {record.run_id}." for record in others)]
    return msgspec.structs.replace(
        first, rows=[*rows.values()], layers=[*layers.values()], notes=notes
    )


def check_comparable(one: Bits, other: Bits, place: str, other_place: str) -> None:
    """Raises Incomparable, which names the `place` of each, if they measured different things."""
    for name in unequal(one, other)[:1]:
        here, there = getattr(one, name), getattr(other, name)
        raise Incomparable(f"not comparable: {name}: {here} {place}, {there} {other_place}")


def baseline_for(records: Sequence[Bits], path: Path) -> Bits:
    """The record to compare with: the file, or of a folder the best record without a failed row.
    In this order: one that measured the same, on the same machine, that `accept` stored, that is
    none of these records, that is not dated in the future, at as many ranks, and the newest. Raises
    ResultError, Incomparable if even the best measured something else."""
    record, own = records[0], {each.run_id: each.every_row for each in records}
    files = [path]
    if path.is_dir():
        files = [*path.glob(f"*{SUFFIX}"), *path.glob(f"{ACCEPTED_BITS}/*{SUFFIX}")]
    if not (found := [each for each in map(read_bits, files) if not each.failed]):
        raise ResultError(f"{path} holds no record of {BENCH}bits without a failed row")
    baseline = max(
        found,
        key=lambda each: (
            not unequal(each, record),
            each.shapes == record.shapes,
            each.machine_id == record.machine_id,
            bool(reasons_of(each)),
            each.run_id not in own,
            not is_future(each.run_id),
            each.ranks == record.ranks,
            each.run_id,
        ),
    )

    check_comparable(baseline, record, f"in {path}", "in this record")
    if record.shapes and baseline.shapes and not record.shapes & baseline.shapes:
        here, there = (some(sorted(each.shapes)) for each in (baseline, record))
        raise Incomparable(f"not comparable: layers: {here} in {path}, {there} in this record")
    if baseline.every_row == own.get(baseline.run_id):
        raise ResultError(f"{baseline.run_id} is the record and the baseline: keep another")

    return baseline


def reasons_of(record: Bits) -> list[str]:
    """What `accept` was told when the record became a baseline."""
    return [note for note in record.notes if note.startswith(ACCEPTED_NOTE)]


def against(record: Bits, baseline: Bits) -> tuple[list[Check], list[str]]:
    """Each row of the baseline, of several records against several, and notes on what it lacks."""
    checks, rows = list[Check](), grouped(record.every_row, attrgetter("key"))
    for row in baseline.measured:
        none: list[Any] = [msgspec.structs.replace(row, sizes=[])]
        checks += [compared(row, now) for now in rows.get(row.key, none)]
    for layer in baseline.measured_layers:
        none = [msgspec.structs.replace(layer, tps=[])]
        checks += [each for now in rows.get(layer.key, none) for each in layer_compared(layer, now)]

    known, new, at_one, notes = baseline.results, list[str](), set[int](), list[str]()
    for own in record.every_row:
        for place in own.results:
            if (own.key, place) in known:
                continue
            if isinstance(place, tuple) and (own.key, (1, place[1])) in known:
                at_one.add(place[0])
            else:
                new.append(own.name)
    if at_one:
        tps = ", ".join(map(str, sorted(at_one)))
        notes.append(f"the baseline lacks TP {tps}: compared with its TP 1")
    if new:
        notes.append(f"the baseline lacks rows or sizes of {some([*dict.fromkeys(new)])}")
    if baseline.machine_id != record.machine_id:
        notes.append(f"the baseline is of machine {baseline.machine_id}")
    notes += [f"the baseline was {reason}" for reason in reasons_of(baseline)[-1:]]
    if baseline.version != record.version:
        notes.append(f"the baseline is of Wiretax {baseline.version}, this of {record.version}")
    return checks, notes
