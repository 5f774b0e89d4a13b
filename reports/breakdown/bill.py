"""The bill of a step: what text, JSON and page show, wherever it was read from."""

from dataclasses import dataclass, field

from reports.breakdown.halves import Halves
from reports.breakdown.step_parts import StepParts
from wiretax.record.lateness_file import Lateness
from wiretax.record.stats import Interval


@dataclass
class Alone:
    """The same call without an engine around it: `us` with its range, and where that is from.
    `curve` are the sizes in bytes that a run measured, and their times in us."""

    us: Interval
    source: str
    curve: list[tuple[int, Interval]] = field(default_factory=list)


@dataclass
class CallBill:
    """Calls that may be compared, with figures of one call in us. `waiting_us` is by rank, and so
    is `last_share`, how often each came last. `is_bound`: transport is at most this, from one
    rank's trace. `size_bytes` is 0 and `group` empty where the trace does not say. `idle_us`, by
    rank, is how long its device has nothing to do directly beside a call; `is_graph` whether the
    engine launched the calls from a graph, None if that is unknown. `judge` fills in the last four;
    `late_ranks` are numbers of ranks."""

    collective: str
    by: str
    size_bytes: int
    n_calls: int
    transport_us: Interval
    group: str = ""
    stream: int = 0
    is_bound: bool = False
    waiting_us: list[Interval] = field(default_factory=list)
    last_share: list[float] = field(default_factory=list)
    idle_us: list[Interval] = field(default_factory=list)
    is_graph: bool | None = None
    alone: Alone | None = None
    verdict: str = "inconclusive"
    late_ranks: list[int] = field(default_factory=list)
    why: str = ""
    next_step: str = ""


@dataclass
class Bill:
    """Of a step: its parts, and its calls by kind. `ranks` are the numbers of the ranks whose
    figures these are; `notes` are what was noticed, each a sentence. `tokens` are those of a step,
    None if the traces do not say; `steps_by` is how they were found, in words. `one` are the parts
    of the same step on one card, of which each of `gpus` should take its share; `halves` compares
    the kernels. `late_us`, (calls, ranks), says how late each rank came at each call, None if that
    is unknown."""

    title: str
    parts: StepParts
    calls: list[CallBill]
    ranks: list[int]
    notes: list[str] = field(default_factory=list)
    tokens: int | None = None
    steps_by: str = ""
    one: StepParts | None = None
    gpus: int = 1
    halves: Halves | None = None
    late_us: Lateness | None = None
