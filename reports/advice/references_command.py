"""`references`: the archives that owners send, as rows of the tables of published figures."""

import argparse
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from reports.advice.archive_checks import MOST_LETTERS, reasons_against
from reports.advice.archive_rows import DamagedArchive, read_sent, rows_of
from reports.references import published
from reports.references.published import PublishedCall, cells_of, read_table
from reports.tables.sentences import counted, lay_out, number, plain_table, size_text
from wiretax.common.program import IS_CHECKOUT, REPOSITORY, SEND_ARCHIVE, answer
from wiretax.common.untrusted import printable, spreadsheet_cell
from wiretax.record.result import ResultError
from wiretax.record.writing import locked, write_errors, write_whole

REFUSED = 1
ACTIONS = "check", "add", "withdraw"
NAME = r"(?!-)[A-Za-z0-9-]{1,39}(?<!-)"  # of a GitHub account
PREFIX = "[0-9a-f]{8,64}"  # of a SHA-256: no two of a table begin with the same eight digits
MOST_REASON = 200  # characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"{parser.epilog}; exit status: 1 if something speaks against the archive"
    add = parser.add_argument
    add(
        "action",
        choices=ACTIONS,
        help="check: prints an archive's rows, and what speaks against it; add: also writes them, "
        "if nothing does; withdraw: no report uses its rows any more",
    )
    add(
        "archive",
        metavar="ARCHIVE",
        help="a survey's .tar.gz; to withdraw its SHA-256, or its first digits",
    )
    add("--name", help="add: who sent it, as the pages will say: a GitHub account (nobody)")
    add("--reason", metavar="TEXT", help="withdraw: why")


def references(arguments: argparse.Namespace) -> int:
    """Raises ResultError."""
    action, name, reason = arguments.action, arguments.name, arguments.reason
    if name is not None and (action != "add" or not re.fullmatch(NAME, name)):
        raise ResultError(
            "--name goes with add, and is a GitHub account: letters, digits and single -, at most "
            "39"
        )
    if (reason is not None) != (action == "withdraw"):
        raise ResultError("--reason goes with withdraw, which wants one")
    if action != "check" and not IS_CHECKOUT:
        raise ResultError(
            f"references {action} writes the tables of a checkout, and this is an installed "
            f"package: git clone {REPOSITORY}"
        )
    if action == "withdraw":
        return withdraw(arguments, arguments.archive, reason)
    return check(arguments, Path(arguments.archive), name or "")


def check(arguments: argparse.Namespace, path: Path, name: str) -> int:
    """Checks an archive, and writes its rows if asked to; returns the exit status. Raises
    ResultError."""
    is_to_add = arguments.action == "add"
    with write_errors(published.CONTRIBUTED), locked(published.CONTRIBUTED.parent):
        known = read_rows()
        sha256, rows, notes = "", list[PublishedCall](), list[str]()
        try:
            sent = read_sent(path)
        except DamagedArchive as error:
            reasons = [printable(str(error))[:MOST_LETTERS]]
        else:
            found, notes = rows_of(sent)
            sha256, rows = sent.sha256, [replace(row, contributor=name) for row in found]
            reasons = reasons_against(sent, rows, known)
        is_written = is_to_add and not reasons
        if is_written:
            write_rows([*known, *rows])

    sentences = [f"- {reason}" for reason in reasons]
    if reasons:
        sentences.insert(0, f"Refused, nothing is written: {counted(len(reasons), 'reason')}.")
    elif is_written:
        sentences.append(
            f"{counted(len(rows), 'row')} of archive {sha256[:12]} written to "
            f"{published.CONTRIBUTED.name}. Next: make figures, which renews the pages from the "
            "tables."
        )
    else:
        sentences.append(
            f"Nothing speaks against it: references add writes these rows. To send it: "
            f"{SEND_ARCHIVE}"
        )
    head = [f"{row.machine}; {row.date}, {row.note}" for row in rows[:1]]
    tables = [("", table_shown(rows))] if rows else []
    answer(
        arguments,
        lay_out([], head, tables, [*notes, *sentences]),
        archive=sha256,
        is_accepted=not reasons,
        is_written=is_written,
        rows=rows,
        notes=notes,
        reasons=reasons,
    )
    return REFUSED if reasons else 0


def withdraw(arguments: argparse.Namespace, prefix: str, reason: str) -> int:
    """Says in an archive's rows why they count no more. Raises ResultError."""
    is_line = printable(reason) == reason == spreadsheet_cell(reason)
    if not 0 < len(reason.strip()) <= MOST_REASON or not is_line:
        raise ResultError(
            f"--reason is one line of at most {MOST_REASON} characters, and no formula of a "
            "spreadsheet"
        )
    with write_errors(published.CONTRIBUTED), locked(published.CONTRIBUTED.parent):
        rows = read_rows()
        archives = {row.archive for row in rows if row.archive.startswith(prefix)}
        if not re.fullmatch(PREFIX, prefix) or len(archives) != 1:
            raise ResultError(
                f"{printable(prefix[:80])!r} is not the SHA-256 of one archive of the table, or "
                "its first eight digits or more"
            )
        [sha256] = archives
        own = [row for row in rows if row.archive == sha256]
        if former := own[0].withdrawn:
            raise ResultError(f"it is withdrawn already: {former}")
        write_rows(
            [replace(row, withdrawn=reason) if row.archive == sha256 else row for row in rows]
        )
    said = (
        f"{counted(len(own), 'row')} of archive {sha256[:12]} withdrawn. Next: make figures, "
        "which renews the pages from the tables."
    )
    answer(arguments, said, archive=sha256, n_withdrawn=len(own))
    return 0


def read_rows() -> list[PublishedCall]:
    """The contributed rows. Raises ResultError, also for a table with other columns than they
    have."""
    columns, _ = cells_of(published.CONTRIBUTED)
    if unlike := {*columns} ^ {*PublishedCall.__struct_fields__}:
        column = printable(min(unlike))
        raise ResultError(f"{published.CONTRIBUTED} is no table of rows: the column {column!r}")
    return read_table(published.CONTRIBUTED, list[PublishedCall], least_rows=0)


def write_rows(rows: Sequence[PublishedCall]) -> None:
    """Writes the table of contributed rows; what a row does not say is empty. Raises OSError."""
    columns, _ = cells_of(published.CONTRIBUTED)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    write_whole(published.CONTRIBUTED, text.getvalue().encode())


def table_shown(rows: Sequence[PublishedCall]) -> Any:
    """The rows for a terminal."""
    cells = [
        [
            size_text(row.size_bytes or 0),
            row.mode,
            f"{row.library} {row.version}",
            row.variant,
            row.transport,
            number(row.time_us),
            f"{number(row.time_low_us)} to {number(row.time_high_us)}",
            number(row.busbw_gb_s),
        ]
        for row in rows
    ]
    headings = ["size", "mode", "library", "variant", "transport", "us", "95 %", "GB/s"]
    return plain_table(headings, cells)
