"""Shared by the parsers: lines without the text around them, numbers, and a test of a log."""

import re
from dataclasses import dataclass, field

from reports.imports.imported import ImportedCase

MEAN = "mean over iterations"
MEAN_OVER_RANKS = "mean over iterations and ranks"
NO_ROWS, ENDED_EARLY = "it has no rows", "the run was ended before its time"
CUT_OFF = "the log ends before the test does"
NO_HEAD = "the log begins in the middle of the test"
TWO_RUNS, WRONG_RESULTS = "two runs wrote into each other's lines", "the run found wrong results"
MOST_GB_S = 10_000  # bus bandwidth; several times more than any link between GPUs
LONGEST_LINE = 2000
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
# What people, launchers and schedulers put before a line, with at most one blank after it.
# Repetitions have limits, otherwise a hostile line takes quadratic time.
LABELS = re.compile(
    r"\s*(?:(?:>|&gt;) ?"
    r"|\[[^\[\]]{1,200}\](?:<std\w{3,4}>)?:? ?"  # mpirun --tag-output, kubectl, torchrun
    r"|[\w.-]{1,200}: (?=[# \d])"  # srun -l, pdsh
    r"|(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?[ \t])"
)
# host:pid:thread [device] NCCL INFO ...: other ranks may write it into the middle of a line.
MESSAGE = re.compile(
    r"(?:\[[^\]]{1,40}\] )?(?<![A-Za-z_])[A-Za-z_][\w.-]{0,80}:\d{1,9}:\d{1,9} \[-?\d{1,4}\] |"
    r"\bNCCL (?:INFO|WARN|version) "
)
NUMBER = re.compile(r"\+?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
# A figure that may be negative, cut off or European.
LIKE_A_FIGURE = re.compile(r"[+-]?(?:\.?\d[\w.,+-]*|nan|inf)")
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
    """A line without escapes, labels, messages and control characters, in the same columns."""
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


def whole_number(text: str) -> int | None:
    """A size or a count, also as `1.04858e+06` or `8.00`, else None."""
    value = number(text)
    return int(value) if value is not None and value == int(value) else None


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
