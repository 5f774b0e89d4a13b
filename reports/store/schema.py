"""The records of a run file, one a line, in the order of the file.

The file starts with a `run` line: the world, the machine and every planned case. A `block` or
`link_block` line follows after each measurement, then one line for each `case`, then the `end`. A
killed run has no `end`; its cases come from its blocks. Times are in microseconds, flag round trips
in nanoseconds, sizes in bytes, bandwidths in GB/s with GB = 1e9 bytes.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

SCHEMA = 1
NotNegative = Annotated[float, msgspec.Meta(ge=0, lt=1e15)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=10**15)]
Calls = Annotated[int, msgspec.Meta(ge=1, lt=10**9)]


class CaseFields(msgspec.Struct, kw_only=True):
    """The fields that a planned case and its results share.

    `snr_db` of a lossy algorithm is its signal-to-noise ratio against fp64 by kind of data:
    {"normal", "heavy-tailed", "outlier channels"}.
    `calls` is 1, or the number of dependent calls of a chain. `routing` is the load of a routed
    all-to-all: {"leaving_bytes": [for each rank], "expert_max_over_mean", "expert_cv",
    "rank_max_over_mean", "rank_cv"}.
    """

    collective: str
    algorithm: str
    library: str | None = None
    variant: str = "copied"
    memory: str = "mapped"
    size_bytes: Count
    count: int
    datatype: str
    redop: str
    in_place: bool = False
    mode: str = "isolated"
    shape: Any = None
    status: str = "ok"
    reason: str | None = None
    chosen: str | None = None
    calls: Calls = 1
    snr_db: dict[str, float] | None = None
    routing: dict[str, Any] | None = None


class CaseHeader(CaseFields, kw_only=True):
    """A planned case. Its index in `Run.cases` is its number.

    `bound_parts` counts the work that the algorithm cannot avoid, {"hops", "stages",
    "memory_bytes"}, where a stage is [bytes copied into peer memory, bytes read from it] in one
    pass. With "pushes", the bytes are stored across the link and the local reads do not count.
    `blocks` is the number of thread blocks of our launch; 1 on a CPU.
    """

    bound_parts: dict[str, Any] | None = None
    blocks: int | None = None


class Run(msgspec.Struct, kw_only=True, tag="run", tag_field="kind"):
    """The head of a run. `after` names the latest runs in the folder when this one started.
    `world` has at least {"size", "ranks": [{"rank", "device", "cpus", ...}]}."""

    schema: int = SCHEMA
    run_id: str
    after: list[str] = msgspec.field(default_factory=list)
    benchmark: str
    version: str
    argv: list[str]
    seed: int
    machine_id: str
    software_id: str
    environment: dict[str, Any]
    world: dict[str, Any]
    cases: list[CaseHeader]
    memory: dict[str, Any] = msgspec.field(default_factory=dict)
    notes: list[str] = msgspec.field(default_factory=list)
    link: dict[str, Any] = msgspec.field(default_factory=dict)
    clock_shared: bool = True


class FirstWrong(msgspec.Struct, kw_only=True):
    """The first wrong element of a check: its rank, the iteration of the run, and the position in
    the receive buffer. `expected` and `got` show the value and its bits: `13.0 (0x41500000)`."""

    rank: int
    iteration: int
    offset_bytes: int
    element: int
    expected: str
    got: str


class Block(msgspec.Struct, kw_only=True, tag="block", tag_field="kind"):
    """One block of one case: medians over its `n` iterations; for a chain over its chains, per
    call. `gpus` is the driver's report after the block, by rank: clocks, link generation and width,
    throttle reasons. `chosen` is the algorithm that `auto` ran in this block, if the choice depends
    on the link. `matmul_gflop_s` is the speed of the matmul beside the case, as the mean over
    ranks; `matmul_alone_gflop_s` is its speed beside an idle wait of the same length."""

    case: int
    block: int
    round: int
    n: int
    time_us: NotNegative
    mean_us: float | None = None
    consume_us: float | None = None
    total_us: NotNegative | None = None
    arrival_skew_us: float | None = None
    chain_only_us: float | None = None
    link_rtt_ns: tuple[float, float] | None = None
    n_wrong: int | None = None
    first_wrong: FirstWrong | None = None
    measure_s: float | None = None
    chosen: str | None = None
    gpus: list[dict[str, Any]] | None = None
    matmul_gflop_s: float | None = None
    matmul_alone_gflop_s: float | None = None

    @property
    def cost_us(self) -> float:
        """The time until the result is consumed, if that was measured."""
        return self.time_us if self.total_us is None else self.total_us


class LinkBlock(msgspec.Struct, kw_only=True, tag="link_block", tag_field="kind"):
    """The machine's parts at one size, all ranks at once: times to copy `size_bytes` into a slab,
    on GPUs also into the next rank's slab, to read bytes that a peer has just written, and to copy
    through the memory system."""

    size_bytes: Count
    round: int
    copy_in_us: float | None = None
    push_us: float | None = None
    peer_read_us: float | None = None
    memory_us: float | None = None
    link_rtt_ns: tuple[float, float] | None = None


class Summary(msgspec.Struct, kw_only=True):
    """A quantity of a case, in the unit of its field's name. `median` is the median of the block
    medians, with its interval within this launch. Percentiles, `min`, `max` and `mean` are over
    iterations, None if unknown."""

    median: float
    mean: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p25: float | None = None
    p75: float | None = None
    p95: float | None = None
    p99: float | None = None
    min: float | None = None
    max: float | None = None
    n: int | None = None
    n_blocks: int | None = None


class Range(msgspec.Struct, kw_only=True):
    """Median and extremes over blocks."""

    median: float
    min: float | None = None
    max: float | None = None


class State(msgspec.Struct, kw_only=True):
    """A case in another state of the link than its figures. `share` is the share of its blocks."""

    share: float
    n_blocks: int
    link_rtt_ns: Range | None
    time_us: Summary
    total_us: Summary


class Case(CaseFields, kw_only=True, tag="case", tag_field="kind"):
    """The results of a case. `state` tells which blocks the figures are from: `run` (the state with
    most blocks of the run), `own` (the case has no block in that state: its own longest) or `mixed`
    (the link settled in none of its blocks, or never in the run: all blocks). `bound_parts_us` are
    the terms of `bound_us` by name. If a case computes and communicates, `compute_us` is the
    compute alone, and `exposed_us` the rest of `total_us`, round by round."""

    case: int
    time_us: Summary | None = None
    consume_us: Summary | None = None
    total_us: Summary | None = None
    arrival_skew_us: Summary | None = None
    chain_only_us: Summary | None = None
    compute_us: Summary | None = None
    exposed_us: Summary | None = None
    matmul_gflop_s: Summary | None = None
    matmul_alone_gflop_s: Summary | None = None
    link_rtt_ns: Range | None = None
    blocks_mixed: int = 0
    state: str = "run"
    states: list[State] = msgspec.field(default_factory=list)
    across_ranks: str = "slowest"
    alg_bw_gb_s: float | None = None
    bus_bw_gb_s: float | None = None
    bound_us: float | None = None
    bound_parts_us: dict[str, float] | None = None
    share_of_bound: float | None = None
    suspect: bool = False
    n_wrong: int | None = None
    samples: str | None = None


class End(msgspec.Struct, kw_only=True, tag="end", tag_field="kind"):
    """The last line; a run without it was cut off. `status` is `complete` or `incomplete`.
    `steal_share` is the share of the ranks' CPU time that the hypervisor withheld while they
    measured, from 0 to 1; None if unknown."""

    status: str
    reason: str | None = None
    n_wrong: int | None = None
    elapsed_s: float | None = None
    measuring_s: float | None = None
    steal_share: float | None = None


@dataclass
class Flight:
    """The last record of each rank of a run that was cut off, and the first rank that ended."""

    ranks: dict[int, dict[str, Any]]
    ended: dict[str, Any] | None


@dataclass
class Result:
    """A run in memory; `end` is None if the run was cut off."""

    path: Path
    run: Run
    cases: list[Case]
    blocks: list[Block] = field(default_factory=list)
    link_blocks: list[LinkBlock] = field(default_factory=list)
    end: End | None = None
    flight: Flight | None = None

    @property
    def complete(self) -> bool:
        """Whether the run reached its planned end."""
        return self.end is not None and self.end.status == "complete"


KINDS: dict[str, type[msgspec.Struct]] = {
    "run": Run, "block": Block, "link_block": LinkBlock, "case": Case, "end": End}
