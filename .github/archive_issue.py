"""The two jobs of workflows/archive.yml, which answers an issue with the rows of its archive.

    archive_issue.py check     # prints `answer=JSON`, the rows and the reasons against the archive
    archive_issue.py answer    # prints the comment that $ANSWER, such JSON, makes

`check` opens what a stranger sent: it runs without network, as nobody. `answer` may comment, and
believes nothing of what `check` gives it. The second runs on Python alone, without packages."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from wiretax.common.untrusted import printable  # noqa: E402

# As GitHub writes the link of an attachment: other characters of its name become dots.
ATTACHED = re.compile(
    r"https://github\.com/user-attachments/files/[0-9]{1,15}/[A-Za-z0-9._-]{1,200}\.(?:tar\.gz|tgz)"
    r"(?![A-Za-z0-9._/?#%-])"
)
CONSENT = re.compile(r"^- \[[xX]\] ", re.MULTILINE)
ARCHIVE = "archive.tar.gz"  # a name of ours: that of the attachment goes no further than its link
DOWNLOAD = (
    *("curl", "--fail", "--silent", "--show-error", "--location", "--max-redirs", "3"),
    *("--proto", "=https", "--proto-redir", "=https"),
    *("--max-time", "120", "--max-filesize", "25000000"),  # what wiretax/record/archive.py takes
    *("--output", ARCHIVE),
)
# No network, and no right of sudo or of the runner's user is left; no variable, 300 s and 4 GB.
SANDBOX = (
    *("sudo", "unshare", "--net", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"),
    *("prlimit", "--as=4000000000", "--fsize=300000000", "--nofile=256", "--core=0"),
    *("env", "-i", "PATH=/usr/bin:/bin", "LANG=C.UTF-8", "OPENBLAS_NUM_THREADS=1"),
    *(f"PYTHONPATH={ROOT}", "timeout", "--kill-after=5", "300"),
)
CHECK = "-m", "reports", "references", "check", "--json", ARCHIVE
# The columns of a row, and what may stand in a cell: neither markup nor a mention or an address.
[COLUMNS] = csv.reader([(ROOT / "reports/references/contributed.csv").read_text().splitlines()[0]])
CELL = re.compile(r"(?![=+-])[A-Za-z0-9 .,:;+()/%=_-]{0,200}")  # nor a spreadsheet's formula
MOST_ANSWER, MOST_COMMENT = 100_000, 60_000  # letters; GitHub takes 65,536 of a comment
MOST_REASONS, MOST_REASON = 20, 300

Row = dict[str, Any]
Answer = tuple[list[Row], list[str]]  # rows, and reasons in sentences
UNKNOWN: Answer = [], ["The check did not end as it should: a maintainer will look at the archive."]


def check(body: str, folder: Path) -> Answer:
    """Downloads the archive that an issue's text names to a folder, and checks it there."""
    links = set(ATTACHED.findall(body))
    if len(links) != 1:
        return [], [
            f"{len(links)} archives are attached: attach one .tar.gz as wiretax survey wrote it, "
            "and wait until its link appears in the field."
        ]
    if not CONSENT.search(body):
        return [], ["The box of the consent is not ticked."]
    if status := subprocess.run([*DOWNLOAD, *links], cwd=folder).returncode:
        return [], [f"The attachment cannot be downloaded: curl ends with status {status}."]
    done = subprocess.run(
        [*SANDBOX, sys.executable, *CHECK],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    for line in done.stderr.splitlines():
        print(f"| {printable(line)}", file=sys.stderr)  # a line that begins with :: is an order
    if done.returncode == 2:
        return [], done.stderr.splitlines()[-1:] or UNKNOWN[1]
    return read_answer(done.stdout) if done.returncode in (0, 1) else UNKNOWN


def read_answer(text: str) -> Answer:
    """The rows and reasons of `references check --json`, or UNKNOWN if the text is anything else:
    a row has known columns, and plain words or numbers in them."""
    try:
        answer = json.loads(text)
        rows, reasons = answer["rows"], answer["reasons"][:MOST_REASONS]
        rows = [
            {name: cell for name, cell in row.items() if cell not in (None, "")} for row in rows
        ]
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return UNKNOWN
    cells = [(name, str(cell)) for row in rows for name, cell in row.items()]
    if not all(name in COLUMNS and CELL.fullmatch(cell) for name, cell in cells):
        return UNKNOWN
    return rows, [str(reason)[:MOST_REASON] for reason in reasons]


def comment(rows: Sequence[Row], reasons: Sequence[str]) -> str:
    """The comment. What the archive says stands in a block of code, which nothing in it can end."""
    if rows and not reasons:
        head = f"Rows of this archive: {len(rows)}. A maintainer takes them in (CONTRIBUTING.md)."
        lines = table(rows)
    else:
        head = "No rows from this archive. This comment changes if you edit the issue."
        lines = list(reasons) or ["It has no figure of an all-reduce."]
    block = "\n".join(printable(line).replace("`", "'") for line in lines)
    return f"{head}\n\n```text\n{block[:MOST_COMMENT]}\n```\n"


def table(rows: Sequence[Row]) -> list[str]:
    """A line for each column that is alike in all rows, and a line for each row with the others."""
    columns = {name: [str(row.get(name, "")) for row in rows] for name in COLUMNS}
    alike = [f"{name}: {of[0]}" for name, of in columns.items() if of[0] and len(set(of)) == 1]
    others = [[name, *of] for name, of in columns.items() if len(set(of)) > 1]
    padded = [[word.ljust(max(map(len, column))) for word in column] for column in others]
    return [*alike, "", *("  ".join(words).rstrip() for words in zip(*padded, strict=True))]


def main() -> None:
    if sys.argv[1:] == ["answer"]:
        print(comment(*read_answer(os.environ["ANSWER"])), end="")
        return
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text())
    rows, reasons = check(event["issue"]["body"], Path(os.environ["RUNNER_TEMP"]))
    answer = json.dumps({"rows": rows, "reasons": reasons})  # in ASCII, on one line
    if len(answer) > MOST_ANSWER:
        answer = json.dumps(dict(zip(("rows", "reasons"), UNKNOWN, strict=True)))
    print(f"answer={answer}")


if __name__ == "__main__":
    main()
