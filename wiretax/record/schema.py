"""The records of a run file, one a line: the `run`, a `block` or `link_block` after each
measurement, then each `case`, each `winner` of bench.tune, and the `end`. docs/results.md describes
the fields. Times are in microseconds, flag round trips in nanoseconds, sizes in bytes, bandwidths
in 1e9 bytes/s."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import msgspec

if TYPE_CHECKING:
    from wiretax.record.traced import TracedSteps

SCHEMA = 1
Bounded = Annotated[float, msgspec.Meta(gt=-1e15, lt=1e15)]  # so that no sum or ratio overflows
Measured = Bounded | None  # None where it was not
NotNegative = Annotated[float, msgspec.Meta(ge=0, lt=1e15)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=10**15)]
Positive = Annotated[int, msgspec.Meta(ge=1, lt=10**9)]
# Percentiles in us that another harness printed of its own iterations, as {"p99_us": 9.1}.
Theirs = Annotated[
    dict[
        Annotated[str, msgspec.Meta(pattern=r"\A(?:p\d{1,2}(?:\.\d{1,4})?|max)_us\Z")], NotNegative
    ],
    msgspec.Meta(max_length=50),
]
LEAST_US = 1e-6  # a picosecond; ratios of shorter times overflow
Rounds = Mapping[int, float]  # costs in microseconds by round
RoundCosts = Mapping[int, Rounds]  # by case


class Line(msgspec.Struct, tag_field="kind", tag=str.lower):
    """A record that is a line of a file, and says in `kind` which one: the name of its class."""


class Timed(msgspec.Struct):
    """A record with times. Decoding one refuses a time that is neither 0 nor at least LEAST_US."""

    def __post_init__(self) -> None:
        for name in ("time_us", "total_us"):
            figure = getattr(self, name, None)
            # A failed look-up of an attribute takes longer than the rest, in each of many blocks.
            time_us = figure if isinstance(figure, float) else getattr(figure, "median", figure)
            if time_us and time_us < LEAST_US:
                raise ValueError(f"`{name}` of {time_us:g} is neither 0 nor at least {LEAST_US:g}")


class Shown(NamedTuple):
    """How a figure of a case is shown, declared beside its field: the heading of its column in
    tables and pages; what it is, in docs/results.md and for Prometheus; its name there after
    `wiretax_`, if it is a gauge; and whether it stands in the title of a table all of whose cells
    are alike. CSV and JSON have the field's own name."""

    heading: str
    meaning: str
    gauge: str | None = None
    is_folded: bool = False


class CaseFields(Timed, kw_only=True):
    """The fields that a planned case and its results share."""

    collective: str
    algorithm: str
    library: str | None = None
    variant: str = "copied"
    memory: str = "mapped"
    size_bytes: Count
    count: Count
    datatype: str
    redop: str
    in_place: bool = False
    mode: str = "isolated"
    shape: Any = None
    status: str = "ok"
    reason: str | None = None
    chosen: Annotated[
        str | None,
        Shown("chosen", "what `auto` or a library ran", is_folded=True),
    ] = None
    calls: Positive = 1
    snr_db: Annotated[
        dict[str, Bounded] | None,
        Shown("SNR dB", "signal-to-noise ratio of a quantised case against fp64, by kind of data"),
    ] = None
    routing: dict[str, Any] | None = None
    sums_in_rank_order: bool | None = None  # so that bits depend on neither size nor place


class CaseHeader(CaseFields, kw_only=True):
    """A planned case; its index in `Run.cases` is its number. A stage of `bound_parts` is [bytes
    copied into peer memory or, if "pushes", across the link, bytes read from it] in one pass."""

    bound_parts: dict[str, Any] | None = None


UNDATED = "The log has no date: the run has that of its file."


class Run(Line, kw_only=True):
    """The head of a run: the world, the machine and the planned cases. Only a run of another
    harness has `imported_from`, the name of its log or variant; its `version` is the harness's. It
    may lack cases, and its world has size 0 where that is unknown."""

    schema: int = SCHEMA
    run_id: str
    benchmark: str
    version: str
    program: str = ""  # a digest of the sources that ran
    argv: list[str]
    seed: int
    machine_id: str
    software_id: str
    environment: dict[str, Any]
    world: dict[str, Any]
    method: dict[str, Any] = {}
    cases: list[CaseHeader]
    memory: dict[str, Any] = {}
    notes: Annotated[list[str], msgspec.Meta(max_length=100)] = []
    link: dict[str, Any] = {}
    clock_shared: bool = True
    imported_from: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def ranks(self) -> Any:
        """A dict of what it stores on each rank; [] if it stores none."""
        return self.world.get("ranks", [])

    @property
    def world_size(self) -> Any:
        """The number of ranks; 0 if it is unknown."""
        return self.world["size"]

    @property
    def hosts(self) -> Any:
        """The number of hosts; None if it is unknown."""
        return self.world.get("hosts", 1)

    @property
    def gpus(self) -> list[str]:
        """The model of each rank's GPU, without ranks on CPU cores."""
        return [rank["gpu"] for rank in self.ranks if rank.get("gpu")]

    @property
    def nodes(self) -> list[str]:
        """The labels of the run's hosts in the order of their ranks; [] if it stores none."""
        labels = [rank.get("node") for rank in self.ranks]
        return list(dict.fromkeys(filter(None, labels))) if all(labels) else []

    @property
    def node(self) -> str | None:
        """The label of its host, or of its hosts, joined by `+`; None if it stores none."""
        return "+".join(self.nodes) or None


class FirstWrong(msgspec.Struct, kw_only=True):
    """The first wrong element of a check; values as `13.0 (0x41500000)`. What the rank `did` begins
    the sentence on it."""

    rank: int
    iteration: int
    offset_bytes: int
    element: int
    expected: str
    got: str
    did: str = "got"


class Steps(msgspec.Struct, array_like=True):
    """The steps of a block, as `histogram` describes them: the shortest, the longest, and the
    counts in bins."""

    least_us: NotNegative
    most_us: NotNegative
    counts: str


class SlowStep(msgspec.Struct, array_like=True):
    """A step that took over twice what was usual: its iteration in the block, when it began, since
    the run's first block, and the rank that alone was slow, -1 if none was."""

    iteration: Count
    at_us: Count
    rank: Annotated[int, msgspec.Meta(ge=-1, lt=10**9)]


MOST_SLOW_STEPS = 4  # of a block: those of its case are many, and each takes 20 B in the file


class Block(Timed, Line, kw_only=True):
    """One block of one case: medians over its `n` iterations; for a chain over chains, per call."""

    case: int
    block: int
    round: int
    n: Count
    warmup: Count | None = None  # iterations before these
    time_us: NotNegative
    mean_us: Measured = None
    consume_us: Measured = None
    total_us: NotNegative | None = None
    steps: Steps | None = None
    theirs: Theirs | msgspec.UnsetType = msgspec.UNSET  # in imports only
    slow: (
        Annotated[list[SlowStep], msgspec.Meta(max_length=MOST_SLOW_STEPS)] | msgspec.UnsetType
    ) = msgspec.UNSET  # a few of them, unless it has none
    arrival_skew_us: Measured = None
    chain_only_us: Measured = None
    link_rtt_ns: tuple[Bounded, Bounded] | None = None
    n_wrong: Count | None = None
    n_checked: Count | None = None  # elements of results that were compared, of all ranks
    first_wrong: FirstWrong | None = None

    @property
    def cost_us(self) -> float:
        """The time until the result is consumed, if that was measured."""
        return self.time_us if self.total_us is None else self.total_us


class LinkBlock(Line, kw_only=True, tag="link_block"):
    """The machine's parts at one size, all ranks at once: times to copy or read `size_bytes`."""

    size_bytes: Count
    round: int
    copy_in_us: Measured = None  # into a slab
    push_us: Measured = None  # into the next rank's slab, on GPUs
    engine_us: Measured = None  # the same by copy engines
    peer_read_us: Measured = None  # of bytes that a peer has just written
    memory_us: Measured = None  # through the memory system
    memory_nt_us: Measured = None  # the same with non-temporal stores
    link_rtt_ns: tuple[Bounded, Bounded] | None = None


class Summary(msgspec.Struct, kw_only=True):
    """A quantity of a case: the median of the block medians, with its interval within this launch;
    the `mean` over iterations, None if unknown."""

    median: Bounded
    mean: Measured = None
    ci_low: Measured = None
    ci_high: Measured = None
    n_blocks: int | None = None


Summarised = Summary | None  # None where it was not measured


class Estimate(msgspec.Struct, kw_only=True):
    """A percentile of the steps of a case, in us, or a share of them, from 0 to 1, with the ends of
    its 95 % interval, None where there are too few steps or blocks for one."""

    value: NotNegative
    ci_low: Measured = None
    ci_high: Measured = None


Estimated = Estimate | None  # None where there are too few steps, or none were stored


class Case(CaseFields, Line, kw_only=True):
    """The results of a case, from its blocks that count: those in the run's state of the link. Its
    times are those of `Counted`; older runs lack `with_link_us`, and `read` builds such cases
    anew."""

    case: int
    time_us: Annotated[
        Summarised,
        Shown(
            "time us",
            "time of the collective alone, of the slowest rank; of a chain from a graph without "
            "its link",
            "collective_time",
        ),
    ] = None
    consume_us: Annotated[
        Summarised, Shown("consume us", "time to read the result; null in a chain")
    ] = None
    total_us: Annotated[
        Summarised,
        Shown("total us", "time of the collective and of reading its result", "collective_total"),
    ] = None
    arrival_skew_us: Annotated[
        Summarised, Shown("skew us", "time from the first arrival of a rank to the last")
    ] = None
    chain_only_us: Annotated[
        Summarised,
        Shown(
            "chain only us",
            "time to make the next send buffer in a chain, alone: its link; of a chain from a "
            "graph, that of all cases of its size",
        ),
    ] = None
    with_link_us: Annotated[
        Summarised,
        Shown("with link us", "time of a chain from a graph as it was stamped, with its link"),
    ] = None
    compute_us: Annotated[
        Summarised, Shown("compute us", "time of the compute alone, in common rounds")
    ] = None
    exposed_us: Annotated[
        Summarised, Shown("exposed us", "additional time of communication beside compute")
    ] = None
    beside_ratio: Annotated[
        Summarised,
        Shown("beside / alone", "time beside the other work over the time alone, in common rounds"),
    ] = None
    n_steps: Annotated[
        Count | None,
        Shown("steps", "timed iterations of all blocks: calls, or chains with their links"),
    ] = None
    step_p50_us: Annotated[
        Estimated, Shown("step P50 us", "time that half of the steps do not exceed")
    ] = None
    step_p90_us: Annotated[Estimated, Shown("step P90 us", "the same of 90 % of the steps")] = None
    step_p99_us: Annotated[
        Estimated, Shown("step P99 us", "time that 99 % of the steps do not exceed", "step_p99")
    ] = None
    step_p999_us: Annotated[
        Estimated, Shown("step P99.9 us", "the same of 99.9 % of the steps")
    ] = None
    step_worst_us: Annotated[Measured, Shown("worst us", "the longest step")] = None
    slow_share: Annotated[
        Estimated,
        Shown("slow steps %", "share of the steps that take over twice their P50", "slow_steps"),
    ] = None
    theirs: Theirs | msgspec.UnsetType = msgspec.UNSET  # in imports only
    link_rtt_ns: Annotated[
        Summarised, Shown("rtt ns", "round trip of a flag before and after the blocks")
    ] = None
    alg_bw_gb_s: Annotated[
        Measured, Shown("algbw GB/s", "`size_bytes` / `time_us`, as nccl-tests defines it")
    ] = None
    bus_bw_gb_s: Annotated[
        Measured,
        Shown(
            "busbw GB/s",
            "bus bandwidth as nccl-tests defines it: algbw x 2(n-1)/n for an all-reduce",
            "bus_bandwidth",
        ),
    ] = None
    bound_us: Annotated[
        Measured, Shown("bound us", "roofline time: the least by the machine's measured parts")
    ] = None
    share_of_bound: Annotated[
        Measured,
        Shown("% of roofline", "roofline time over the time of the collective", "share_of_bound"),
    ] = None
    suspect: bool = False
    n_wrong: Annotated[
        Count | None,
        Shown("#wrong", "wrong elements, null if unchecked", "wrong_elements", is_folded=True),
    ] = None
    n_checked: Count | None = None


# How each figure of a case is shown, by the name of its field, in the order of the columns.
FIGURES: dict[str, Shown] = {
    name: note
    for name, hint in get_type_hints(Case, include_extras=True).items()
    for note in getattr(hint, "__metadata__", ())
    if isinstance(note, Shown)
}


class Winner(Line, kw_only=True):
    """What `auto` takes for calls of a size by bench.tune, and its cost. `candidate` is what seems
    faster than the untuned choice: the same once a second launch has confirmed it. `gain` is the
    untuned choice's cost over the candidate's, with the interval. `is_settled`: the rounds sufficed
    to compare both."""

    variant: str
    size_bytes: Count
    mode: str
    name: str
    cost_us: NotNegative
    candidate: str | None = None
    gain: tuple[Bounded, Measured, Measured] | None = None
    is_settled: bool = True

    @property
    def is_confirmed(self) -> bool:
        return self.candidate in (None, self.name)


class GpuState(msgspec.Struct, kw_only=True):
    """Clocks of the cores and of the memory, `1980/2619`, and power; None if unknown."""

    clocks_mhz: str | None = None
    power_w: NotNegative | None = None


class WatchedGpu(msgspec.Struct, kw_only=True):
    """A rank's GPU during a run: before its first block and after its last one; its least, median
    and greatest power after a round; and why the driver slowed it down: for how long by the
    driver's counters, and in how many of the `looks` after the rounds and the last block."""

    rank: Count
    bus_id: str
    start: GpuState
    end: GpuState
    power_w: tuple[NotNegative, NotNegative, NotNegative] | None = None
    looks: Count = 0
    throttled_s: dict[str, NotNegative] = {}
    throttled_looks: dict[str, Count] = {}


class End(Line, kw_only=True):
    status: str
    reason: str | None = None
    n_wrong: Count | None = None
    elapsed_s: Measured = None
    compile_s: NotNegative = 0.0  # of it, which a rank waited for compilers
    rtt_ns: Measured = None  # a flag's round trip in the run's state of the link
    left_out_blocks: Count = 0  # of other states
    steal_share: Measured = None
    note: str | None = None  # what went on meanwhile
    gpus: list[WatchedGpu] = []  # one for each rank with a GPU

    def cards(self, run: Run) -> list[WatchedGpu]:
        """The GPUs of this run, each once: ranks can share one."""
        host_of = {rank.get("rank"): rank.get("host") for rank in run.ranks}
        first_of = dict[Any, WatchedGpu]()
        for gpu in self.gpus:
            first_of.setdefault((host_of.get(gpu.rank), gpu.bus_id), gpu)
        return [*first_of.values()]

    @property
    def was_throttled(self) -> bool:
        """Whether the driver slowed down one of the GPUs."""
        return any(gpu.throttled_s or gpu.throttled_looks for gpu in self.gpus)

    def power_w(self, run: Run) -> tuple[float, float, float] | None:
        """The least, median and greatest power of a GPU after a round, added up over the GPUs; None
        if that of one is unknown."""
        powers_w = [gpu.power_w for gpu in self.cards(run)]
        if not powers_w or None in powers_w:
            return None
        low, middle, high = map(sum, zip(*filter(None, powers_w), strict=True))
        return low, middle, high


class Counted(msgspec.Struct, frozen=True, dict=True):
    """The blocks that count by case, in the order of the run, as they were stamped; the link of the
    cases of a leading chain; the cases of which no block counts, because their link hides what a
    call took; the round trip of a flag in the run's state in ns, 0 without probes;
    and how many blocks are left out. `is_settled`: false if so few blocks share a state that all
    count.

    `times_us` and `costs_us` are the table of case x round from which every report takes its times
    and ratios: of a leading chain less its link."""

    by_case: dict[int, list[Block]]
    chain_links: dict[int, Summary]
    hidden: frozenset[int]
    rtt_ns: float
    left_out: int
    is_settled: bool

    @cached_property
    def times_us(self) -> RoundCosts:
        """The time of the collective alone in each block that counts, by case and round."""
        return {
            case: {block.round: self.less_link(case, block.time_us) for block in blocks}
            for case, blocks in self.by_case.items()
        }

    @cached_property
    def costs_us(self) -> RoundCosts:
        """The time until the result is consumed, where that was measured, by case and round."""
        return {
            case: {block.round: self.less_link(case, block.cost_us) for block in blocks}
            for case, blocks in self.by_case.items()
        }

    def less_link(self, case: int, us: float) -> float:
        """What a call of this case took of a stamped time."""
        link = self.chain_links.get(case)
        return max(us - link.median, LEAST_US) if link else us


class Result(msgspec.Struct):
    path: Path
    run: Run
    cases: list[Case]
    counted: Counted
    blocks: list[Block]  # all, counted or not
    link_blocks: list[LinkBlock] = []
    end: End | None = None  # None if the run was cut off
    winners: list[Winner] = []  # of bench.tune
    traced: "list[TracedSteps]" = []  # of whole steps of a model

    @property
    def complete(self) -> bool:
        return self.end is not None and self.end.status == "complete"
