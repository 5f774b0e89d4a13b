"""The formats that `import` reads: one line for each parser. What the help names, what an error
lists, the order in which parsers are asked, and who owns a row follow from these lines."""

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from reports.imports.inspector import parse_inspector
from reports.imports.logged import LIKE_A_FIGURE, LoggedTest
from reports.imports.mpi_logs import TITLE as MPI_TITLE
from reports.imports.mpi_logs import NoTimings, parse_mpi
from reports.imports.nccl_tests import TITLE as NCCL_TITLE
from reports.imports.nccl_tests import parse_nccl, parse_reports
from reports.imports.serving_logs import parse_serving


class TextFormat(NamedTuple):
    """`parse` gets all lines of a log as `clean_line` leaves them, and returns its tests with the
    numbers of their lines, from 1; `logged.LoggedTest` says what a parser sets. It gets a blank
    line in place of a row that another format owns: a line that begins with a figure belongs to
    the format whose `title` matched last before it, at the first letter of a line, whose words are
    one blank apart. A row before every title is shown to all."""

    names: tuple[str, ...]
    title: re.Pattern[str]
    parse: Callable[[list[str]], Sequence[LoggedTest]]


class JsonFormat(NamedTuple):
    """`parse` gets the values of a file of JSON, and returns [] for those of another format. A
    damaged value may raise AttributeError, KeyError, OverflowError, TypeError or ValueError."""

    names: tuple[str, ...]
    parse: Callable[[Sequence[Any]], Sequence[LoggedTest]]


TEXT_FORMATS = (
    TextFormat(("nccl-tests", "rccl-tests", "NCCL 1.x", "mscclpp-test"), NCCL_TITLE, parse_nccl),
    TextFormat(("OSU", "IMB"), MPI_TITLE, parse_mpi),
)
JSON_FORMATS = (
    JsonFormat(("nccl-tests -J",), parse_reports),
    JsonFormat(
        ("vllm bench serve or latency", "SGLang's bench_serving", "llama-bench"), parse_serving
    ),
    JsonFormat(("NCCL's Inspector",), parse_inspector),
)
# A protocol rather than a format: its lines stand among those of any log, so it has no title.
TIMING_LINES = "timing lines"

*_firsts, _last = chain.from_iterable(json.names for json in JSON_FORMATS)
JSON_NAMES = f"{', '.join(_firsts)} and {_last}"
TEXT_NAMES = ", ".join([*chain.from_iterable(text.names for text in TEXT_FORMATS), TIMING_LINES])
NAMES = f"{TEXT_NAMES}; as JSON: {JSON_NAMES}"


def parse_text(lines: list[str]) -> list[LoggedTest]:
    """The tests that all text formats find in cleaned lines, each without rows of others. Raises
    NoTimings if a format finds only tests without timings, and no other finds one."""
    owners = owners_of(lines)
    has_several = len({*owners} - {None}) > 1
    is_row = [has_several and LIKE_A_FIGURE.match(line.lstrip(" #")) is not None for line in lines]
    tests, skipped = list[LoggedTest](), list[NoTimings]()
    for each in TEXT_FORMATS:
        shown = [
            "" if row and owner not in (None, each) else line
            for line, row, owner in zip(lines, is_row, owners, strict=True)
        ]
        try:
            tests += each.parse(shown)
        except NoTimings as error:
            skipped.append(error)

    if skipped and not tests:
        raise skipped[0]
    if tests:
        tests[0].notes += [f"skipped: {error}" for error in skipped]
    return tests


def owners_of(lines: Sequence[str]) -> list[TextFormat | None]:
    """For each line the format whose title was the last one up to it."""
    owner, owners = None, list[TextFormat | None]()
    for line in lines:
        text = line.strip(" #")
        if text[:1].isalpha():
            text = " ".join(text.split())
            owner = next((each for each in TEXT_FORMATS if each.title.match(text)), owner)
        owners.append(owner)
    return owners
