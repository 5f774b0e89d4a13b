"""What a step of a survey printed, in a sentence: what it found, or why it failed."""

import os
import re
import socket
from pathlib import Path

from wiretax.common.untrusted import read_bytes
from wiretax.record.schema import Result

LEAST_COMPILE_S = 1.0  # that a sentence tells
SYSTEM_FOLDERS = "dev|etc|lib|lib64|opt|proc|sys|usr"
# A folder that could name a user or a project; the system's own folders tell nobody anything.
PRIVATE_FOLDER = re.compile(rf"(?<![\w/.>])~?/(?!(?:{SYSTEM_FOLDERS})/)(?:[^\s/'\":,;()]+/)+")


def log_text(log: Path, stream: str) -> str:
    """What a step wrote to `out` or `err`; empty if the file is missing."""
    try:
        return read_bytes(log.with_suffix(f".{stream}.txt")).decode(errors="replace")
    except OSError:
        return ""


def last_words(log: Path, command: str) -> str:
    """The worst problem that the doctor names, or the headline of a report, which may take several
    lines."""
    text = log_text(log, "out")
    if command != "doctor":
        return " ".join(re.split(r"\.\n|\ncells: ", text, maxsplit=1)[0].split())
    problems = text.partition("\nProblems:")[2].partition("\n\n")[0].split("\n- ")[1:]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return " ".join(problems[0].split()) + more if problems else "no problem between the GPUs"


def sentence_of(log: Path) -> str:
    """The sentence that a command printed before it ended, after those on what it left out; MPI may
    print lines of its own."""
    form = r"^(?:bench\.|reports\b|wiretax\b)[^:\n]*: (?!\S+ is not measured: )(.*)$"
    match = re.search(form, log_text(log, "err"), re.MULTILINE)
    return match[1] if match else ""


def shortage_of(log: Path) -> str:
    """What a table says that it lacks, the last such line, and that tuning made no table."""
    text = log_text(log, "out")
    lacks = re.findall(r"^INCOMPLETE: (.*)$", text, re.MULTILINE)[-1:]
    lacks += ["no table was made"] if re.search(r"^table: none$", text, re.MULTILINE) else []
    return "; ".join(each.removesuffix(".") for each in lacks)


def table_made(log: Path) -> str:
    """What tuning says of its table, without the file's name: `1 candidate (?): ...`."""
    match = re.search(r"^table: [^,\n]*, (.*?)(: run .*)?$", log_text(log, "out"), re.MULTILINE)
    return f"{match[1]} that a second launch must confirm" if match else ""


def compile_share(result: Result | None) -> str:
    """`29 of 33 s went into compiling`; empty if it took no time."""
    end = result.end if result else None
    if not end or end.compile_s < LEAST_COMPILE_S:
        return ""
    return f"{end.compile_s:.0f} of {end.elapsed_s or 0.0:.0f} s went into compiling"


def without_names(text: str, folder: Path | None = None) -> str:
    """The text with `<home>`, with `<path>/` for folders other than the system's, and `<host>`. Of
    this `folder` also the parts with spaces go, where a line may break."""
    if folder:
        text = re.sub(r"\s+".join(map(re.escape, str(folder).split())), "<path>", text)
    if len(home := os.path.expanduser("~")) > 1:
        text = text.replace(home, "<home>")
    text = PRIVATE_FOLDER.sub("<path>/", text)
    return re.sub(rf"\b{re.escape(socket.gethostname())}\b", "<host>", text)
