"""What the importers share: the lines of a log without what surrounds them, and a test as it is found in them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import isfinite

from reports.imported import ImportedCase, plain

MOST_GB_S = 10_000  # of bus bandwidth: several times the fastest link of any GPU, so a machine cannot have it
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
# What launchers, schedulers, pods and people put before each line, with at most one blank of what follows.
LABELS = re.compile(
    r"\s*(?:>|&gt;) ?"  # a quotation
    r"|\s*\[[^\[\]\s]*\d+, ?\d+\](?:\[[^\]]*\])?<std(?:out|err|diag)>: ?"  # mpirun --tag-output: [1,0]<stdout>:
    r"|\s*\d{1,6}: "  # srun -l
    r"|\[\d{1,6}(?:@[^\]\s]+)?\]:? (?!NCCL|RCCL)"  # mpiexec -l
    r"|\[(?:pod/[^\]]*|(?:default|rank)\d+)\]:? ?|\([\w.-]+ pid=\d+[^)]*\) "  # kubectl, torchrun, ray
    r"|\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?(?:\]:? ?|[ \t:]|(?=\[\d+,))"
    r"|\[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?[ \t]"
    r"|\[?[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d(?: [A-Z]+)? \d{4}\]?(?: |(?=\[\d+,))"
    r"|[A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \S+ [^\s:\[]+(?:\[\d+\])?: "  # journalctl
    r"|[A-Za-z][\w.-]*[_-]\d+ +\| "  # docker compose
)
# A message of NCCL's, which other ranks may write into the middle of a line: host:pid:thread [device] NCCL INFO.
MESSAGE = re.compile(r"(?:\[[^\]]{1,40}\] )?[A-Za-z_][\w.-]{0,80}:\d{1,9}:\d{1,9} \[-?\d{1,4}\] |\bNCCL (?:INFO|WARN|version) ")
LONGEST_LINE = 2000
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
INTEGER = re.compile(r"[+-]?\d+")
LEAST_SEPARATORS = 5
LAUNCHER = re.compile(r"\b(?:mpirun|mpiexec(?:\.hydra)?|srun|orterun|prun)\b")
RANKS_FLAG = re.compile(r"\s(?:-np|-n|--n|--np|--ntasks)(?:=|\s*)(\d+)(?=\s)")
# The operation of a benchmark's own name in the names of the store; other benchmarks keep their own.
COLLECTIVES = {"allreduce": "all_reduce", "allgather": "all_gather", "reducescatter": "reduce_scatter",
               "alltoall": "alltoall", "sendrecv": "sendrecv", "broadcast": "broadcast", "bcast": "broadcast",
               "reduce": "reduce"}


@dataclass
class LoggedTest:
    """One test of a log; `gpus` has a model by rank, `unread` the lines that look like data and could not be read."""

    format: str
    first_line: int
    last_line: int
    benchmark: str
    statistic: str
    collective: str | None = None
    world_size: int | None = None
    gpus: dict[int, str] = field(default_factory=dict)
    library: str | None = None
    cases: list[ImportedCase] = field(default_factory=list)
    footer_avg_bus_bw: float | None = None
    out_of_bounds: str | None = None
    status: str = "complete"
    reason: str | None = None
    unread: list[int] = field(default_factory=list)

    def add(self, case: ImportedCase) -> None:
        """Adds a case, what is wrong with it stripped of its bandwidth and what cannot be marked suspect."""
        case.case, case.library = len(self.cases), self.library
        if (case.n_wrong or 0) > 0 or case.status == "wrong":
            case.status, case.reason = "wrong", case.reason or f"{case.n_wrong} elements are wrong"
            case.reported_alg_bw_gb_s = case.reported_alg_bw_gb_s or case.alg_bw_gb_s
            case.reported_bus_bw_gb_s, case.alg_bw_gb_s, case.bus_bw_gb_s = case.bus_bw_gb_s, None, None
        case.suspect = self.world_size == 1 or (case.bus_bw_gb_s or case.reported_bus_bw_gb_s or 0) > MOST_GB_S
        self.cases.append(case)


def cleaned(text: str) -> str:
    """A line without escapes, the labels before it, NCCL's messages after it and other control characters. Columns
    keep their distances."""
    text = text[:LONGEST_LINE]
    if "\x1b" in text:
        text = ESCAPES.sub("", text)
    text = text.rstrip("\r").rpartition("\r")[2].expandtabs()
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " * letter.isspace() for letter in text)
    while (label := LABELS.match(text)) is not None:
        text = text[label.end():]
    if "NCCL " in text and (message := MESSAGE.search(text)) is not None:
        text = text[: message.start()]
    return text


def cells(text: str) -> list[tuple[str, int]]:
    """The words of a line, each with where it ends; of one with commas, semicolons or bars, with its column instead."""
    separator = next((mark for mark in ",;|" if text.count(mark) >= LEAST_SEPARATORS), None)
    if separator:
        parts = text.strip().strip("|").split(separator)
        return [(part.strip(" #"), column) for column, part in enumerate(parts) if part.strip(" #")]
    return [(found.group(), found.end()) for found in re.finditer(r"[^\s#]\S*", text.replace("#", " ", 1))]


def number(text: str) -> float | None:
    """A finite figure that is not negative, else None."""
    value = float(text) if NUMBER.fullmatch(text) else -1.0
    return value if 0 <= value < 1e15 and isfinite(value) else None


def whole(text: str) -> int | None:
    """A size or a count, also as `1.04858e+06`; None for anything else, `0.00` too."""
    value = number(text) if INTEGER.fullmatch(text) or "e" in text else None
    return int(value) if value is not None and value == int(value) else None


def ranks_of(command: str) -> int | None:
    """How many processes a command line starts, where it says so for certain."""
    launched = LAUNCHER.split(command + " ", maxsplit=1)
    said = RANKS_FLAG.findall(launched[-1]) if len(launched) > 1 else []
    return int(said[0]) if len(said) == 1 else None


def collective_of(name: str) -> str | None:
    """The operation in the store's names; None for a name that is none of the benchmarks'."""
    name = name.lower()
    if not re.fullmatch(r"[a-z][a-z0-9_-]{1,40}", name):
        return None
    return COLLECTIVES.get(name.replace("_", ""), name)


def gpu_name(text: str) -> str:
    """The model as the log has it, fit to be stored and printed."""
    return plain(" ".join(text.split()))
