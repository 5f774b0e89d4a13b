"""The command `bits`: a record of bench.bits, beside a baseline, and whether its rows have what
`--require` names; as text, JUnit, Markdown and HTML."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import msgspec

from reports.kit.chart import heat
from reports.kit.page import Banner, Page, Row, Section
from reports.tables.bits_table import (
    HEAD,
    MOST_LINES,
    groups_of,
    headline,
    moved_in,
    sentences_of,
    share_of,
    share_text,
    steady_in,
    text,
    texts_of,
)
from reports.tables.sentences import counted, size_text, some, that_fit, wrapped
from reports.tables.show import NEWEST
from reports.verdicts.judge import Incomparable
from reports.verdicts.regress import JunitCase, add_files, as_junit, to_markdown, write_page
from wiretax.common.arguments import unknown
from wiretax.common.grouped import grouped
from wiretax.common.program import BENCH, REPORTS, RUN, answer, on_ranks
from wiretax.record.bits_record import (
    ACCEPTED_BITS,
    ACCEPTED_NOTE,
    INVARIANCES,
    SUFFIX,
    Bits,
    RowBits,
    read_bits,
    unequal,
)
from wiretax.record.result import ResultError
from wiretax.record.writing import write_named

ACCEPT = f'{RUN}{REPORTS} accept --baseline BASELINES --current RECORD --reason "..."'

# Comparisons of one size with another. The sizes at which they are made depend on the record's
# other sizes, so only whether they are made must stay the same, not at which sizes.
OVER_SIZES = "size", "history"


@dataclass
class Check:
    """A row against the baseline, or against something required, which `failed` or not."""

    row: str
    against: str
    failed: bool
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "records",
        metavar="RECORD",
        type=Path,
        nargs="*",
        default=[NEWEST],
        help=f"records of {BENCH}bits, whose rows stand together, such as those of other libraries "
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
        Check(row.name, "failure", True, f"{row.name} ({row.datatype}) failed: {row.reason}")
        for row in record.failed
    ]
    for name in arguments.require:
        checks += [required_of(row, name) for row in record.rows]
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

    findings = [check.text for check in failed]
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
        groups, title = groups_of(record.measured), f"{'✗' if failed else '✓'} {line}"
        said = [*findings, *notes, headline(record)]
        content = to_markdown(title, said, sentences_of(groups), texts_of(groups))
        write_named(arguments.markdown, content.encode())
    if arguments.html:
        write_page(page_of(record, line, checks, notes, baseline), arguments.html)

    printed = text(record)
    if arguments.require or arguments.baseline:
        printed = "\n".join(wrapped(that_fit([line, *findings, *notes], MOST_LINES)))
    answer(arguments, printed, headline=line, checks=checks, notes=notes, record=record)
    return 1 if failed else 0


def newest(path: Path) -> Path:
    """The record, or the newest one in a folder. Raises ResultError without one."""
    if not path.is_dir() and path != NEWEST:
        return path
    if not (files := sorted(path.glob(f"*{SUFFIX}"))):
        raise ResultError(f"{path} holds no record yet: type {on_ranks(4, 'bits')}")
    return files[-1]


def with_all_rows(records: Sequence[Bits]) -> Bits:
    """The first record, with the rows of the others that differ in anything. Raises
    Incomparable."""
    first, *others = records
    for record in others:
        check_comparable(first, record, f"in {first.run_id}", f"in {record.run_id}")

    rows = {msgspec.json.encode(row): row for record in records for row in record.rows}
    notes = [*first.notes, *(f"Also the rows of {record.run_id}." for record in others)]
    return msgspec.structs.replace(first, rows=[*rows.values()], notes=notes)


def check_comparable(one: Bits, other: Bits, place: str, other_place: str) -> None:
    """Raises Incomparable, which names the `place` of each, if they measured different things."""
    for name in unequal(one, other)[:1]:
        here, there = getattr(one, name), getattr(other, name)
        raise Incomparable(f"not comparable: {name}: {here} {place}, {there} {other_place}")


def baseline_for(records: Sequence[Bits], path: Path) -> Bits:
    """The record to compare with: the file, or of a folder the best record without a failed row.
    In this order: one that measured the same, on the same machine, that `accept` stored, that is
    none of these records, and the newest. Raises ResultError, Incomparable if even the best
    measured something else."""
    record, own = records[0], {each.run_id: each.rows for each in records}
    files = [path]
    if path.is_dir():
        files = [*path.glob(f"*{SUFFIX}"), *path.glob(f"{ACCEPTED_BITS}/*{SUFFIX}")]
    if not (found := [each for each in map(read_bits, files) if not each.failed]):
        raise ResultError(f"{path} holds no record of {BENCH}bits without a failed row")
    baseline = max(
        found,
        key=lambda each: (
            not unequal(each, record),
            each.machine_id == record.machine_id,
            bool(reasons_of(each)),
            each.run_id not in own,
            each.run_id,
        ),
    )

    check_comparable(baseline, record, f"in {path}", "in this record")
    if baseline.rows == own.get(baseline.run_id):
        raise ResultError(f"{baseline.run_id} is the record and the baseline: keep another")

    return baseline


def reasons_of(record: Bits) -> list[str]:
    """What `accept` was told when the record became a baseline."""
    return [note for note in record.notes if note.startswith(ACCEPTED_NOTE)]


def required_of(row: RowBits, name: str) -> Check:
    """Whether the row keeps its bits under the change of this name. A row that was not compared
    under it fails, as does one without another `launch` of each size."""
    found = row.differences.get(name, [])
    lacks = len(found) < (len(row.sizes) if name == "launch" else 1)
    said = f" keeps its bits {INVARIANCES[name]}"
    sizes = [
        size_text(size.size_bytes)
        for size in row.sizes
        if name in size.compared and size.compared[name].differ
    ]
    if sizes:
        share = ", ".join(share_text(name, found).splitlines())
        said = f" changes its bits {INVARIANCES[name]}: {share}, at {some(sizes)}"
    elif lacks:
        said = f" was not compared {INVARIANCES[name]}"
        said += f": {row.reason}" if row.reason else ""

    return Check(row.name, name, lacks or bool(sizes), f"{row.name} ({row.datatype}){said}")


def against(record: Bits, baseline: Bits) -> tuple[list[Check], list[str]]:
    """Each row of the baseline, of several records against several, and notes on what it lacks."""
    known = baseline.sizes
    rows = grouped(record.rows, attrgetter("key"))
    new = [
        row.name
        for row in record.rows
        if any((row.key, size.size_bytes) not in known for size in row.sizes)
    ]
    checks = [
        compared(before, row)
        for before in baseline.measured
        for row in rows.get(before.key, [msgspec.structs.replace(before, sizes=[])])
    ]
    notes = [f"the baseline lacks rows or sizes of {some(new)}"] if new else []
    if baseline.machine_id != record.machine_id:
        notes.append(f"the baseline is of machine {baseline.machine_id}")
    notes += [f"the baseline was {reason}" for reason in reasons_of(baseline)[-1:]]
    if baseline.version != record.version:
        notes.append(f"the baseline is of Wiretax {baseline.version}, this of {record.version}")
    return checks, notes


def compared(before: RowBits, row: RowBits) -> Check:
    """A row against the same one of the baseline: whether it has all that this one has."""
    sizes, said = {size.size_bytes: size for size in row.sizes}, list[str]()
    pairs = [(was, sizes.get(was.size_bytes)) for was in before.sizes]
    if changed := [(was, now) for was, now in pairs if now and was.digest != now.digest]:
        was, now = changed[0]
        orders = [
            " and ".join(dict.fromkeys(part.order for part in each.parts)) for each in (was, now)
        ]
        place = size_text(was.size_bytes)
        if all(orders):
            place += f", {' -> '.join(orders)}"
        all_sizes = counted(len(pairs), "size")
        said.append(f"the bits of {len(changed)} of {all_sizes} changed, first at {place}")
    if lost := [size_text(was.size_bytes) for was, now in pairs if not now]:
        said.append(f"only the baseline has {some(lost)}")
    elif other := unlike_facts(facts_of(before), facts_of(row)):
        said.append(f"not compared, or with another outcome: {', '.join(sorted(other))}")

    same = f"the bits of {counted(len(pairs), 'size')} are the same"
    name = f"{row.name} ({row.datatype})"
    if before.name != row.name:
        name += f", {before.name} in the baseline"
    text = f"{name}: {'; '.join(said) or same}"
    return Check(row.name, "baseline", bool(said), text)


@dataclass(frozen=True)
class Facts:
    """What must be the same of a row in another launch, beside its digests, which tell the outcome
    of `launch` and `size`: which of OVER_SIZES were compared, the sizes in bytes at which the order
    of the sum changes, and whether what was compared at a size, by name and bytes, changed its
    bits."""

    over_sizes: set[str]
    thresholds_bytes: set[int]
    changed: dict[tuple[str, int], bool]


def facts_of(row: RowBits) -> Facts:
    return Facts(
        over_sizes={*OVER_SIZES} & row.differences.keys(),
        thresholds_bytes={each.size_bytes for each in row.thresholds},
        changed={
            (name, size.size_bytes): each.differ > 0
            for size in row.sizes
            for name, each in size.compared.items()
            if each.elements and name not in ("launch", *OVER_SIZES)
        },
    )


def unlike_facts(before: Facts, now: Facts) -> set[str]:
    """The names of what is not compared any more, or has another outcome."""
    names = before.over_sizes - now.over_sizes
    if before.thresholds_bytes - now.thresholds_bytes:
        names.add("threshold")
    for (name, size_bytes), has_changed in before.changed.items():
        if now.changed.get((name, size_bytes)) != has_changed:
            names.add(name)
    return names


def page_of(
    record: Bits,
    line: str,
    checks: Sequence[Check],
    notes: Sequence[str],
    baseline: Bits | None,
) -> Page:
    """The verdict; what to do next, which is to keep these bits, or after a failure to repeat the
    record, also if another version is why; what failed; and the rows in groups."""
    failed = [check.text for check in checks if check.failed]
    command = f"{on_ranks(record.ranks, 'bits')} {shlex.join(record.argv)}".rstrip()
    todo, to_type = "Keep these bits, to tell when they change:", ACCEPT
    if failed:
        todo, to_type = "Repeat the record, to see if it is chance:", command
        if baseline and baseline.version != record.version:
            todo = f"Wiretax changed from {baseline.version} to {record.version}. {todo}"

    rows = record.measured
    groups, moved = groups_of(rows), moved_in(rows)
    word, _, sentence = line.partition(": ")
    if not checks and moved:
        word = f"{len(moved)} of {len(rows)} rows change their bits"
    elif not checks:
        word = "The same bits"
    role = "steady"
    if failed:
        role = "worse"
    elif checks:
        role = "better"
    said = [f"Same in every row: {', '.join(steady_in(rows))}.", f"{HEAD[0].upper()}{HEAD[1:]}."]
    compared_in = {name for row in rows for name in row.differences}
    pictures: list[Row] = [
        texts
        | {
            name: heat(share_of(sizes), texts[name], 1)
            for name, sizes in row.differences.items()
            if name in texts
        }
        for texts, (row, *_) in zip(texts_of(groups), groups, strict=True)
    ]
    sections = [
        Section("What to do next", [todo], text=to_type),
        Section("What failed", failed),
        Section(
            "What changes the bits: rows of equal bits together",
            [*said, *sentences_of(groups), *notes, *record.notes],
            rows=pictures,
        ),
        Section(
            "What was compared",
            [
                *(
                    f"{name}: {text}{'' if name in compared_in else ' (not compared)'}"
                    for name, text in INVARIANCES.items()
                ),
                *record.reasons,
            ],
        ),
    ]
    facts = [f"{headline(record)}."] if checks else []
    if baseline:
        facts.append(f"Baseline: {baseline.run_id}, Wiretax {baseline.version}.")
    if moved:  # of which the headline names the first
        facts.append(f"Changed: {', '.join(dict.fromkeys(row.name for row in moved))}.")
    facts.append(f"{record.run_id}, Wiretax {record.version}, machine {record.machine_id}.")
    banner = Banner(word, f"{sentence}.", facts, role)
    return Page(line, banner, sections, {"command": command})
