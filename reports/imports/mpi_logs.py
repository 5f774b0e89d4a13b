"""Parses logs of the OSU micro-benchmarks and of the Intel MPI Benchmarks (IMB): a title, column
names and rows. Times are means, of the slowest rank where that is printed, one way
in ping-pong tests, and include the computation that a non-blocking test overlaps."""

import re
from dataclasses import dataclass, field
from typing import Any

from reports.imports.logged import (
    LIKE_A_FIGURE,
    MEAN_OVER_RANKS,
    SLOWEST,
    TWO_RUNS,
    LoggedTest,
    check,
    collective_of,
    number,
    unit_us,
    whole_number,
)
from wiretax.record.result import ResultError

OSU_TITLE = re.compile(
    r"OSU (?:(?:MPI|[NRX]CCL)(?:-\w+)? )?"
    r"([\w/ -]{1,60}) Test \(?(?:v|Version )([\w.]{1,12})\)?"
)
COLLECTIVE = re.compile(
    r"all(?:reduce|gatherv?|toall[vw]?)|reduce(?:_scatter)?|broadcast|barrier|"
    r"(?:gather|scatter)v?"
)
# Collectives whose printed size is of the part that a rank sends to each other one, or to all.
PER_RANK = re.compile(
    r"(?:osu_non_blocking_|i)?"  # also of IMB-NBC
    r"(?:all_?gatherv?|all_?to_?all[vw]?|gatherv?|scatterv?|reduce_scatter_block)"
)
OSU_COLUMN = re.compile(
    r"(?:Message )?Size|(?<!\w)[A-Z]\w*\.?(?: [A-Z]\w*\.?){0,3} ?\([^()]*\)|"
    r"MB/s|Messages/s|Iterations|Validation"
)
IMB_TEST = re.compile(r"Benchmarking ([\w-]{1,40})")
# The line that a test begins with.
TITLE = re.compile(rf"(?:{OSU_TITLE.pattern}|{IMB_TEST.pattern})\s*$")
IMB_TITLE = re.compile(r"Intel ?\(R\) MPI Benchmark(?:s| Suite) V?([\d.]+)")
TAIL = re.compile(r"P(\d{1,2}) Tail Lat")  # OSU's option -z: of the mean over ranks
# The figure in a column, by its name in lower case. IMB's bandwidth is not read: it repeats the
# time, and its megabyte had 2^20 bytes until 2018.
FIGURE = re.compile(
    r"(?P<ignored>mbytes|tail bw)|(?P<size>size|bytes)|(?P<n>iterations|repetitions)|(?P<min>min)|"
    r"(?P<max>max)|(?P<mb_s>mb/s)|(?P<wrong>validation|defects)|"
    r"(?P<mean>latency|[(\[][mu]?s(?:ec)?[)\]])"
)
# How a figure is read; others are a `number`. How many elements are wrong is not printed.
READ: dict[str, Any] = {
    "size": whole_number,
    "n": whole_number,
    "wrong": lambda word: int(word == "Fail" or (word != "Pass" and number(word) > 0)),
}
# A message of a launcher or the system: the run was ended. OSU prints no footer that would lack.
ENDED = re.compile(
    r"BAD TERMINATION|exited on signal|MPI_ABORT was invoked|CANCELLED AT|Bus error|"
    r"DUE TO TIME LIMIT|Segmentation fault|[Rr]eceived signal|Caught signal|Killed$|"
    r"\(core dumped\)|terminate called after|Out Of Memory|oom[-_]kill event|"
    r"srun: error: \S+: tasks? \S+: |\bAbort\(-?\d+\) on node|MPI_ERRORS_ARE_FATAL|"
    r"Fatal error in (?:internal_)?P?MPI_|Primary job +terminated normally, but|"
    r"\b(?:mpi|prte|orte)(?:run|exec) (?:detected|noticed) that "
)


class NoTimings(ResultError):
    """All that a log has of OSU and IMB is what is not read; it may have tests of others."""


@dataclass
class MpiTest(LoggedTest):
    """`figures` names the figure in each column and, of a time, the microseconds of its unit."""

    statistic: str = MEAN_OVER_RANKS
    figures: list[tuple[str, float]] = field(default_factory=list)

    @property
    def is_osu(self) -> bool:
        return self.format.startswith("OSU")

    def read_line(self, text: str, line_number: int) -> None:
        """Reads a line after a title, also with `,` or `;` between its cells."""
        cells = text.replace(",", ".") if ";" in text else text.replace(",", " ")
        words = cells.replace("#", " ").replace(";", " ").split()
        names = [word.lower() for word in words]
        is_osu_heading = text.startswith(("Size", "Message Size", "Avg Latency"))

        if processes := re.match(r"processes = (\d{1,8})", text):
            self.world_size = int(processes[1])
        elif is_osu_heading or "repetitions" in names[:2]:
            columns = OSU_COLUMN.findall(text) if is_osu_heading else names
            self.figures = []
            for column in columns:
                match = FIGURE.search(column.lower())
                name = (match and match.lastgroup) or "ignored"
                scale = unit_us(column) if name in ("max", "mean") else 1
                tail = TAIL.match(column)
                self.figures.append((f"p{tail[1]}_us" if tail else name, scale))
        elif text == "All processes entering MPI_Finalize":
            self.has_ended = True
        elif ENDED.search(text):
            self.lack = "the run was ended before its time"
        elif (
            self.figures
            and words
            and all(word in ("Pass", "Fail") or LIKE_A_FIGURE.fullmatch(word) for word in words[:2])
        ):
            with self.reading(line_number):
                self._read_row(words, line_number)

    def _read_row(self, words: list[str], line_number: int) -> None:
        """Adds the row. Raises ValueError if a figure cannot be read."""
        if len(words) != len(self.figures):
            raise ValueError(f"it has {len(words)} cells, and its heading {len(self.figures)}")
        pairs = list(zip(self.figures, words, strict=True))
        # The first column of each figure counts.
        values: dict[str, Any] = {
            figure: READ[figure](word) if figure in READ else number(word) * scale
            for (figure, scale), word in reversed(pairs)
        }
        size_bytes, mean_us = values.get("size", 0), values.get("mean")
        time_us = values.get("max", mean_us)

        if "max" in values:
            self.statistic = SLOWEST
        elif values.get("mb_s"):  # a megabyte has 10^6 bytes: bytes per microsecond
            time_us = size_bytes / values["mb_s"]
        if time_us is None:
            raise ValueError("its heading names no time")

        self.add(
            line_number,
            {"size_bytes": size_bytes},
            values.get("n", 1),
            {name: us for name, us in values.items() if name.startswith("p")},
            time_us=time_us,
            mean_us=mean_us,
            n_wrong=values.get("wrong"),
        )

    def finish(self) -> None:
        """Sets whether two runs wrote the table, and whether the sizes are of one rank."""
        sizes = {row.case["size_bytes"] for row in self.rows}
        if self.is_osu and len(self.rows) > len(sizes):
            self.lack = self.lack or TWO_RUNS
        self.is_per_rank = PER_RANK.fullmatch(self.collective or "") is not None


def parse_mpi(lines: list[str]) -> list[MpiTest]:
    """The OSU and IMB tests in cleaned lines. Skips the tables of several groups that IMB's option
    `-multi` prints, and OSU's tests without a table; a note of the first test names them. Raises
    NoTimings if there are such alone."""
    tests: list[MpiTest] = []
    version, skipped, is_multi = "IMB", list[str](), False

    for line_number, line in enumerate(lines, 1):
        check("tests", len(tests))  # before they fill the memory
        text = line.strip(" #")
        if is_multi and not (IMB_TEST.fullmatch(text) or OSU_TITLE.fullmatch(text)):
            continue
        is_multi = False
        if "OSU" in text and (osu := OSU_TITLE.fullmatch(" ".join(text.split()))):
            tests.append(MpiTest(f"OSU {osu[2]}", line_number, collective=_osu_name(osu[1])))
        elif imb := IMB_TEST.fullmatch(text):
            if tests:
                tests[-1].has_ended = True
            if is_multi := imb[1].startswith("Multi-"):
                skipped.append(f"IMB {imb[1]} in line {line_number}")
                continue
            name = collective_of(imb[1])
            tests.append(MpiTest(version, line_number, collective=name, has_footer=True))
        elif title := IMB_TITLE.match(text):
            version = f"IMB {title[1]}"
        elif tests:
            tests[-1].read_line(text, line_number)

    for test in tests:
        test.finish()

    # A line of IMB's list of its benchmarks is no test, nor is a title in a script's comment.
    read = [
        test for test in tests if test.rows or (test.figures if test.is_osu else test.world_size)
    ]
    skipped += [
        f"{test.format} {test.collective} in line {test.first_line}"
        for test in tests
        if test.is_osu and test not in read
    ]
    if skipped and read:
        read[0].notes.append(f"skipped, as no table of one group: {', '.join(skipped[:20])}")
    elif any(name.startswith("IMB") for name in skipped):
        raise NoTimings(f"its tables are of several groups of ranks: {', '.join(skipped[:20])}")
    elif skipped:
        raise NoTimings(f"it has no timings beside the titles of {', '.join(skipped[:20])}")
    return read


def _osu_name(words: str) -> str:
    """The store's name of the operation, otherwise the title's words: `osu_latency`."""
    base = re.sub(r"all-to-all([vw]?)(?: personalized exchange)?", r"alltoall\1", words.lower())
    name = re.sub("[^a-z]+", "_", base.removesuffix(" latency").removeprefix("mpi_"))
    if COLLECTIVE.fullmatch(name):
        return collective_of(name) or name
    return f"osu_{name}"
