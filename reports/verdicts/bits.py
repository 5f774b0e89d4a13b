"""The command `bits`: a record of bench.bits, beside a baseline, and whether its rows have what
`--require` names; as text, JUnit, Markdown and HTML."""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reports.site.page import Banner, Page, Row, Section
from reports.store.bits import INVARIANCES, SUFFIX, Bits, RowBits, SizeBits, read_bits
from reports.store.report_json import write_json
from reports.store.result import ResultError
from reports.store.untrusted import markdown_text
from reports.store.writing import write_named
from reports.tables.bits import (
    HEAD,
    cells_of,
    changes,
    changing_in,
    groups_of,
    headline,
    moved_in,
    share_text,
    steady_in,
    text,
    threshold_sentence,
)
from reports.tables.sentences import counted, size_text, some, wrapped
from reports.verdicts.accept import BITS
from reports.verdicts.judge import Incomparable
from reports.verdicts.regress import as_junit, write_page

SAME, CHANGED = 0, 1  # exit statuses
COMPARABLE = "collective", "ranks", "hosts", "seed", "data"
MOST_FINDINGS = 12
NEWEST = Path("results")
NO_BREAK = "\u00a0"


class Check(NamedTuple):
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
        help="records of bench.bits, whose rows stand together, such as those of other libraries "
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
    option("--junit", metavar="FILE", type=Path, help="also write JUnit XML")
    option("--markdown", metavar="FILE", type=Path, help="also write GitHub's Markdown")
    option("--html", metavar="FILE", type=Path, help="also write one page with every row and size")
    parser.epilog = (
        f"{parser.epilog}; exit status: 0 the same bits, 1 other bits or something required is "
        "missing, 2 the command line or a file, 4 not comparable"
    )


def required(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in INVARIANCES:
            raise argparse.ArgumentTypeError(
                f"unknown {name!r}: choose from {', '.join(INVARIANCES)}"
            )
    return names


def bits(arguments: argparse.Namespace) -> int:
    """Prints the record or its verdict, and returns the exit status. Raises ResultError for files,
    Incomparable for a baseline of something else."""
    record = joined([read_bits(newest(path)) for path in arguments.records])
    checks, notes = list[Check](), list[str]()
    for name in arguments.require:
        checks += require(record, name)
    if arguments.baseline:
        baseline = baseline_for(record, arguments.baseline)
        found, notes = against(record, baseline)
        checks += found

    failed = [check for check in checks if check.failed]
    line = verdict(record, checks)
    if arguments.junit:
        rows = [
            (check.row, f"bits.{check.against}", "changed" * check.failed, check.text)
            for check in checks
        ]
        write_named(arguments.junit, as_junit(line, rows, notes).encode())
    if arguments.markdown:
        write_named(arguments.markdown, markdown(record, line, checks, notes).encode())
    if arguments.html:
        write_page(page_of(record, line, checks, notes), arguments.html)

    if arguments.json:
        write_json("bits", headline=line, checks=[each._asdict() for each in checks], record=record)
    elif checks:
        findings = [check.text for check in failed[:MOST_FINDINGS]]
        more = [f"{len(failed) - MOST_FINDINGS} more"] * (len(failed) > MOST_FINDINGS)
        print("\n".join(wrapped([line, *findings, *more, *notes])))
    else:
        sys.stdout.write(text(record))

    return CHANGED if failed else SAME


def newest(path: Path) -> Path:
    """The record, or the newest one in a folder. Raises ResultError without one."""
    if not path.is_dir() and path != NEWEST:
        return path
    if not (files := sorted(path.glob(f"*{SUFFIX}"))):
        raise ResultError(f"{path} holds no record yet: type mpirun -n 4 python -m bench.bits")
    return files[-1]


def joined(records: Sequence[Bits]) -> Bits:
    """The first record, with the rows of the others that have another name, other bits, or bits
    that something else changes. Raises Incomparable."""
    first, *others = records
    rows = dict[tuple[Any, ...], RowBits]()
    for record in records:
        if names := differing(first, record):
            here, there = getattr(first, names[0]), getattr(record, names[0])
            raise Incomparable(
                f"not comparable: {names[0]}: {here} in {first.run_id}, {there} in {record.run_id}"
            )
        for row in record.rows:
            bits_of = [(size.size_bytes, size.digest) for size in row.sizes]
            rows.setdefault((row.name, row.datatype, changes(row), *bits_of), row)

    first.rows = [*rows.values()]
    first.notes += [f"Also the rows of {record.run_id}." for record in others]
    return first


def baseline_for(record: Bits, path: Path) -> Bits:
    """The baseline in a file, or in a folder the newest one of the same that is, if possible, of
    the same machine. Raises ResultError and Incomparable."""
    if not path.is_dir():
        baseline = read_bits(path)
    else:
        kept = path / BITS  # of `accept`; elsewhere a record is no baseline of itself
        folder, but = (kept, "") if kept.is_dir() else (path, record.run_id)
        found = [read_bits(file) for file in sorted(folder.glob(f"*{SUFFIX}"))]
        found = [each for each in found if each.run_id != but]
        if not found:
            raise ResultError(f"{path} holds no other record of bench.bits: `accept` one")
        baseline = max(
            found,
            key=lambda each: (not differing(each, record), each.machine_id == record.machine_id),
        )

    if names := differing(baseline, record):
        was, now = getattr(baseline, names[0]), getattr(record, names[0])
        raise Incomparable(f"not comparable: {names[0]}: {was} in {path}, {now} in this record")

    return baseline


def differing(one: Bits, other: Bits) -> list[str]:
    """The facts that must be equal and differ."""
    return [name for name in COMPARABLE if getattr(one, name) != getattr(other, name)]


def require(record: Bits, name: str) -> Iterator[Check]:
    """Whether something changes the bits of each row. Raises ResultError if no row has compared
    it."""
    compared = [row for row in record.rows if name in row.totals]
    if not compared:
        again = ": run bench.bits again into the same folder" if name == "launch" else ""
        raise ResultError(f"--require {name}: {record.run_id} has not compared it{again}")

    for row in compared:
        total = row.totals[name]
        share = share_text(name, total)
        sizes = [
            size_text(size.size_bytes)
            for size in row.sizes
            if name in size.compared and size.compared[name].differ
        ]
        said = f"{row.name} ({row.datatype}) keeps its bits {INVARIANCES[name]}"
        if total.differ:
            said = f"{row.name} ({row.datatype}): {share} {INVARIANCES[name]}, at {some(sizes)}"
        yield Check(row.name, name, bool(total.differ), said)


def against(record: Bits, baseline: Bits) -> tuple[list[Check], list[str]]:
    """Each row that both have, of joined records several of one name, and a note on those that only
    the baseline has. Raises Incomparable without a common size."""
    former, checks = {row.key: row for row in baseline.rows if row.sizes}, list[Check]()
    for row in record.rows:
        if not (before := former.get(row.key)):
            continue
        pairs = common_sizes(before, row)
        changed = [pair for pair in pairs if pair[0].digest != pair[1].digest]
        if pairs:
            said = change_text(before, row, changed, len(pairs))
            checks.append(Check(row.name, "baseline", bool(changed), said))

    if not checks:
        raise Incomparable("not comparable: no row and size is in both records")

    found = {row.key for row in record.rows if row.sizes}
    lacking = [row.name for key, row in former.items() if key not in found]
    notes = [f"only in the baseline: {some(lacking)}"] * bool(lacking)
    return checks, notes


def common_sizes(before: RowBits, row: RowBits) -> list[tuple[SizeBits, SizeBits]]:
    former = {size.size_bytes: size for size in before.sizes}
    return [(former[size.size_bytes], size) for size in row.sizes if size.size_bytes in former]


def change_text(
    before: RowBits, row: RowBits, changed: Sequence[tuple[SizeBits, SizeBits]], sizes: int
) -> str:
    """Of how many sizes a row changed the bits, and from which order to which at the first."""
    named = f"{row.name} ({row.datatype})"
    named += f", {before.name} in the baseline" * (before.name != row.name)
    if not changed:
        return f"{named}: the bits of {counted(sizes, 'size')} are the same"

    was, now = changed[0]
    orders = [" and ".join(dict.fromkeys(part.order for part in each.parts)) for each in (was, now)]
    way = f", {orders[0]} -> {orders[1]}" * all(orders)
    return (
        f"{named}: the bits of {len(changed)} of {counted(sizes, 'size')} changed, first at "
        f"{size_text(now.size_bytes)}{way}"
    )


def verdict(record: Bits, checks: Sequence[Check]) -> str:
    """One sentence; without checks the record's own."""
    failed = [check for check in checks if check.failed]
    if not checks:
        return headline(record)
    if failed:
        return f"CHANGED: {len(failed)} of {counted(len(checks), 'check')} failed"
    return f"SAME: {counted(len(checks), 'check')} passed"


def rows_of(record: Bits) -> list[Row]:
    """Every row with everything that was compared."""
    rows = [row for row in record.rows if row.sizes]
    names = [name for name in INVARIANCES if any(name in row.totals for row in rows)]
    cells = cells_of(rows, names)
    return [
        {"row": row.name, "type": row.datatype, **of_row}
        for row, of_row in zip(rows, cells, strict=True)
    ]


def ulp_below(cell: str) -> str:
    """The share of a cell, and in small print the difference, whose words stay together."""
    share, percent, ulp = cell.partition(" % ")
    return f"{share} %\n{ulp.replace(' ', NO_BREAK)}" if percent else cell


def groups_in(record: Bits) -> list[Row]:
    """Rows of equal bits together, as the command prints them, with the differences in ULP and the
    further names in small print."""
    rows = [row for row in record.rows if row.sizes]
    names, found = changing_in(rows), list[Row]()
    types = dict.fromkeys(row.datatype for row in rows)
    for datatype in types:
        for letter, own in groups_of([row for row in rows if row.datatype == datatype]):
            [cells] = cells_of(own[:1], names)
            found.append(
                {
                    "row": f"{letter} {own[0].name}\n{', '.join(row.name for row in own[1:])}",
                    "type": datatype if len(types) > 1 else "-",
                    "sum": cells.pop("sum", "-"),
                    **{name: ulp_below(cell) for name, cell in cells.items()},
                }
            )
    return found


def sizes_of(record: Bits) -> list[Row]:
    """Every size of every row, with its digest and the parts of the message by their orders."""
    return [
        {
            "row": row.name,
            "type": row.datatype,
            "size": size_text(size.size_bytes),
            "digest": size.digest,
            "chosen": size.chosen or "-",
            "orders, each from its first element on": "; ".join(
                f"{part.first}: {part.order}" for part in size.parts[:8]
            ),
        }
        for row in record.rows
        for size in row.sizes
    ]


def markdown(record: Bits, line: str, checks: Sequence[Check], notes: Sequence[str]) -> str:
    """The verdict, what failed, and the whole table folded."""
    rows = rows_of(record)
    findings = [check.text for check in checks if check.failed][:MOST_FINDINGS]
    cells = [[*rows[0]], *([str(cell) for cell in row.values()] for row in rows)]
    table = [f"| {' | '.join(map(markdown_text, own))} |" for own in cells]
    table.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(
        [
            f"## {markdown_text(line)}",
            "",
            *(f"- {markdown_text(each)}" for each in [*findings, *notes, headline(record)]),
            "",
            "<details><summary>all rows</summary>",
            "",
            *table,
            "",
            "</details>",
            "",
        ]
    )


def page_of(record: Bits, line: str, checks: Sequence[Check], notes: Sequence[str]) -> Page:
    """The verdict, what failed, the rows in groups, and folded all rows and sizes."""
    failed = [check for check in checks if check.failed]
    rows = [row for row in record.rows if row.sizes]
    moved = moved_in(rows)
    word = f"{len(moved)} of {len(rows)} rows change their bits" if moved else "The same bits"
    if checks:
        word = "CHANGED" if failed else "SAME"
    role = "worse" if failed else "better" if checks else "steady"
    said = [f"Same in every row: {', '.join(steady_in(rows))}.", f"{HEAD[0].upper()}{HEAD[1:]}."]
    said += filter(None, map(threshold_sentence, rows))
    meanings: list[Row] = [{"column": name, "compared": text} for name, text in INVARIANCES.items()]
    sections = [
        Section("What failed", [check.text for check in failed]),
        Section("What changes the bits", [*said, *notes], rows=groups_in(record)),
        Section("What was compared", rows=meanings, folded=True),
        Section("Every row", record.notes, rows=rows_of(record), folded=True),
        Section("Every size", rows=sizes_of(record), folded=True),
    ]
    facts = [f"{headline(record).removeprefix('bits: ')}."] * bool(checks)
    facts.append(f"Machine {record.machine_id}, Wiretax {record.version}.")
    ids = {
        name: getattr(record, name) for name in ("version", "run_id", "machine_id", "software_id")
    }
    command = ["mpirun", "-n", str(record.ranks), "python", "-m", "bench.bits", *record.argv]
    return Page(
        line,
        Banner(word, f"{line.partition(': ')[2] or line}.", facts, role),
        sections,
        {"command": shlex.join(command), **ids},
    )
