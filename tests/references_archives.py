"""The section of docs/references.md on the rows that owners' archives gave, and on those that were
withdrawn."""

from collections.abc import Sequence

from reports.references.published import PublishedCall, contributed, near_size, select
from reports.tables.beside_published import amounts
from reports.tables.sentences import counted
from wiretax.common.grouped import grouped
from wiretax.common.program import SEND_ARCHIVE
from wiretax.common.untrusted import markdown_text

HEADING = "## From owners' archives"
TEXT = f"""{HEADING}

Who owns cards [sends the archive]({SEND_ARCHIVE})
of `wiretax survey`, and `reports references add` makes rows of it in
`reports/references/contributed.csv`: the mean over launches, with its 95 % interval. They count
like all others. The name is the sender's own choice; an archive is called by the beginning of its
SHA-256.

"""
NONE = "Nobody has sent one yet.\n"
ANCHOR = "#from-owners-archives"
COLUMNS = "archive", "sent by", "machine", "date", "figures", "16 KiB", "32 MiB"


def of_archives() -> str:
    """The section: a row for each archive, and the withdrawn ones with the reason."""
    own = grouped(contributed(), lambda call: call.archive)
    if not own:
        return TEXT + NONE
    found = {True: list[Sequence[str]](), False: list[Sequence[str]]()}
    for rows in own.values():
        for reason, alike in grouped(rows, lambda call: call.withdrawn).items():
            found[bool(reason)].append([*cells_of(alike), reason])
    counting = select(contributed(), withdrawn={""})
    machines = {call.machine for call in counting}
    parts = [f"{counted(len(counting), 'figure')} on {counted(len(machines), 'machine')} count:\n"]
    if found[False]:
        parts.append(markdown([row[:-1] for row in found[False]], COLUMNS))
    if found[True]:
        parts.append("These were withdrawn, and are used nowhere:\n")
        parts.append(markdown(found[True], (*COLUMNS, "withdrawn")))
    return TEXT + "\n".join(parts)


def cells_of(rows: Sequence[PublishedCall]) -> list[str]:
    one = rows[0]
    reduces = select(rows, collective={"all_reduce"})
    small, large = (near_size(reduces, size) for size in (16 << 10, 32 << 20))
    return [
        one.archive[:12],
        one.sender,
        one.machine,
        one.date,
        str(len(rows)),
        amounts(small) if small else "",
        amounts(large) if large else "",
    ]


def markdown(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(map(markdown_text, row))} |" for row in rows]
    return "\n".join([*lines, ""])
