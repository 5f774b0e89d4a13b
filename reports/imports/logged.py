"""Shared by the parsers: lines without the text around them, numbers, and a test of a log."""

import re
from dataclasses import dataclass, field
from typing import Any

from reports.imports.imported import ImportedCase

MEAN, CPU_TIME = "mean over iterations", "CPU time, mean over iterations"
MEAN_OVER_RANKS = "mean over iterations and ranks"
ENDED_EARLY = "the run was ended before its time"
TWO_RUNS, WRONG_RESULTS = "two runs wrote into each other's lines", "the run found wrong results"
MOST_GB_S = 10_000  # bus bandwidth; several times more than any link between GPUs
LONGEST_LINE = 2000
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
# The prefixes of people, launchers, pods and schedulers, with at most one blank after them.
# Overlapping repetitions have limits, otherwise a hostile line takes quadratic time.
LABELS = re.compile(
    r"\s*(?:(?:>|&gt;) ?"
    r"|\[[^\[\]\s]{0,200}\d, ?\d+\](?:\[[^\]]*\])?<std(?:out|err|diag)>: ?"  # mpirun --tag-output
    r"|\d{1,6}: |\[\d{1,6}(?:@[^\]\s]+)?\]:? (?!NCCL|RCCL)"  # srun -l, mpiexec -l
    r"|\[(?:pod/[^\]]*|(?:default|rank)\d+)\]:? ?|\([\w.-]+ pid=\d+[^)]*\) "  # kubectl, torchrun
    r"|[A-Za-z][\w.-]{0,200}[_-]\d{1,6} +\| "  # docker compose
    r"|[A-Za-z](?=[\w.-]{0,200}\d)[\w.-]{1,200}: (?=[# \d])"  # pdsh
    r"|\[?(?:\d{4}(?:-\d\d-|/\d\d/)\d\d[T ])?\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"
    r"(?:\]:? ?|[ \t:]|(?=\[\d+,))"
    r"|\[?[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d(?: [A-Z]+)? \d{4}\]?(?: |(?=\[\d+,))"
    r"|[A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \S+ [^\s:\[]+(?:\[\d+\])?: "  # journalctl
    r"|[A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d(?:\.\d+)? )"
)  # ts
# Seconds since 1970 or the start. A row may begin with such a figure, a comment may not.
SECONDS = re.compile(r"^ {0,20}(?:\[ {0,20})?(?:1\d{9}|\d{1,10}\.\d{1,9})\]?:?(?: |\r?$)", re.M)
IN_SECONDS = re.compile(SECONDS.pattern + " {0,20}#", re.M)
# host:pid:thread [device] NCCL INFO ...: other ranks may write it into the middle of a line.
MESSAGE = re.compile(
    r"(?:\[[^\]]{1,40}\] )?(?<![A-Za-z_])[A-Za-z_][\w.-]{0,80}:\d{1,9}:\d{1,9} \[-?\d{1,4}\] |"
    r"\bNCCL (?:INFO|WARN|version) "
)
NUMBER = re.compile(r"\+?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
# A figure that may be negative, cut off or European.
LIKE_A_FIGURE = re.compile(r"[+-]?(?:\.?\d[\w.,+-]*|nan|inf)")
CUT = re.compile(
    r"BAD TERMINATION|exited on signal|MPI_ABORT was invoked|CANCELLED AT|Bus error|"
    r"DUE TO TIME LIMIT|Segmentation fault|[Rr]eceived signal|Caught signal|Killed$|"
    r"\(core dumped\)|terminate called after|Out Of Memory|oom[-_]kill event|"
    r"srun: error: \S+: tasks? \S+: |\bAbort\(-?\d+\) on node|MPI_ERRORS_ARE_FATAL|"
    r"Fatal error in (?:internal_)?P?MPI_|Primary job +terminated normally, but|"
    r"\b(?:mpi|prte|orte)(?:run|exec) (?:detected|noticed) that "
)
LAUNCHER = re.compile(r"\b(?:mpirun|mpiexec(?:\.hydra)?|srun|orterun|prun)\b")
RANKS_FLAG = re.compile(r"\s(?:-np|-n|--n|--np|--ntasks)(?:=|\s*)(\d{1,8})(?=\s)")
COLLECTIVES = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "alltoall": "alltoall",
    "reducescatter": "reduce_scatter",
    "bcast": "broadcast",
}


@dataclass
class LoggedTest:
    """`gpus` has a model by rank, `unread` the lines that look like data and could not be read."""

    format: str
    first_line: int
    statistic: str = MEAN
    collective: str | None = None
    last_line: int = 0
    world_size: int | None = None
    hosts: int | None = None
    status: str = "complete"
    reason: str | None = None
    gpus: dict[int, str] = field(default_factory=dict)
    library: str | None = None
    cases: list[ImportedCase] = field(default_factory=list)
    footer_avg_bus_bw: float | None = None
    out_of_bounds: str | None = None
    unread: list[int] = field(default_factory=list)

    def add(self, case: ImportedCase) -> None:
        """Adds a case, a wrong one without bandwidth, and marks impossible ones as suspect."""
        case.case, case.library = len(self.cases), self.library
        case.suspect = self.world_size == 1 or (case.bus_bw_gb_s or 0) > MOST_GB_S
        if case.n_wrong or case.status == "wrong":
            case.status = "wrong"
            case.reason = case.reason or f"{case.n_wrong} elements are wrong"
            case.reported_alg_bw_gb_s = case.reported_alg_bw_gb_s or case.alg_bw_gb_s
            case.reported_bus_bw_gb_s = case.bus_bw_gb_s
            case.alg_bw_gb_s = case.bus_bw_gb_s = None
        self.cases.append(case)

    def end(self, status: str, reason: str | None = None) -> None:
        self.status, self.reason = status, reason


def clean_line(text: str) -> str:
    """A line without escapes, prefixes, messages and control characters, in the same columns."""
    text = ESCAPES.sub("", text[:LONGEST_LINE]).rstrip("\r").rpartition("\r")[2].expandtabs()
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " * char.isspace() for char in text)
    start = 0
    while (label := LABELS.match(text, start)) is not None:
        start = label.end()
    text = text[start:]
    nccl = text.find("NCCL ")
    message = MESSAGE.search(text, max(0, nccl - 200)) if nccl >= 0 else None
    return text[: message.start()] if message else text


def cells(text: str) -> list[tuple[str, int]]:
    """The words of a line, each with the column of its end."""
    words = re.finditer(r"[^\s#]\S*", text.replace("#", " ", 1))
    return [(word.group(), word.end()) for word in words]


def number(text: str) -> float | None:
    """A finite figure that is not negative, else None."""
    value = float(text) if NUMBER.fullmatch(text) else 1e15
    return value if value < 1e15 else None


def whole_number(text: str, decimals: bool = False) -> int | None:
    """A size or a count, also as `1.04858e+06`; with `decimals` also as `8.00`; otherwise None."""
    value = number(text) if decimals or text.isdecimal() or "e" in text else None
    return int(value) if value is not None and value == int(value) else None


def only(items: set[Any]) -> Any:
    """The item of a set with one item, otherwise None."""
    return next(iter(items)) if len(items) == 1 else None


def ranks_of(command: str) -> int | None:
    """The number of processes that a launcher's command line starts, if it is certain."""
    launched = LAUNCHER.split(command + " ", maxsplit=1)
    counts = RANKS_FLAG.findall(launched[-1]) if len(launched) > 1 else []
    return int(counts[0]) if len(counts) == 1 else None


def nccl_version(code: str) -> str | None:
    """`NCCL 2.29.2` for 22902; None for other text."""
    n = whole_number(code)
    return None if n is None else f"NCCL {n // 10000}.{n % 10000 // 100}.{n % 100}"


def collective_of(name: str) -> str | None:
    """The store's name of an operation, otherwise the benchmark's own; None for other text."""
    name = name.lower()
    is_name = re.fullmatch(r"[a-z][a-z0-9_-]{1,40}", name)
    return COLLECTIVES.get(name.replace("_", ""), name) if is_name else None
