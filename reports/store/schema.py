"""The schema of a run: the records that are the lines of its file, and how they become lines and come back.

The file opens with a `run` line (the world, the machine, every case that is planned), grows by a `block` or
`link_block` line at a time, each on disk before the next is measured, and closes with a line per `case` and the `end`.
A run that was killed has no `end`: its cases are built from the blocks that it left. Times are in microseconds, flag
round trips in nanoseconds, sizes in bytes, bandwidths in GB/s with GB = 1e9 bytes.

Every record keeps the fields that this program does not know, in `extra`, and writes them back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

SCHEMA = 1
NotNegative = Annotated[float, msgspec.Meta(ge=0, lt=1e15)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=10**15)]


class Record(msgspec.Struct, kw_only=True):
    """What all records share: `extra` holds the fields that this program does not know."""

    extra: dict[str, Any] = {}


class CaseHeader(Record, kw_only=True):
    """A case as the run plans it. Its position in `Run.cases` is its number.

    `bound_parts` counts what the algorithm cannot avoid: {"hops", "stages", "memory_bytes"}, a stage being [bytes
    copied into peer memory, bytes read from it], in one pass. With "pushes" they are stored across the wire, and read
    at home, which does not count.
    `blocks` are those of a launch of ours; on a CPU, where a rank is one, 1.
    `snr_db`, of a lossy algorithm, is its signal-to-noise ratio against fp64 by kind of data: {"normal",
    "heavy-tailed", "outlier channels"}.
    `calls` is 1, or the number of dependent calls of a chain. `routing`, of a routed all-to-all, has what it loads:
    {"leaving_bytes": [of each rank], "expert_max_over_mean", "expert_cv", "rank_max_over_mean", "rank_cv"}.
    """

    collective: str
    size_bytes: Count
    count: int
    datatype: str
    redop: str
    algorithm: str
    mode: str = "isolated"
    variant: str = "copied"
    memory: str = "mapped"
    in_place: bool = False
    shape: Any = None
    library: str | None = None
    chosen: str | None = None
    calls: Annotated[int, msgspec.Meta(ge=1, lt=10**9)] = 1
    snr_db: dict[str, float] | None = None
    status: str = "ok"
    reason: str | None = None
    bound_parts: dict[str, Any] | None = None
    routing: dict[str, Any] | None = None
    blocks: int | None = None


class Run(Record, kw_only=True, tag="run", tag_field="kind"):
    """The head of a run. `after` names runs that were there when it began. `world` has at least {"size", "ranks":
    [{"rank", "device", "cpus", ...}]}."""

    schema: int = SCHEMA
    run_id: str
    after: list[str] = []
    benchmark: str
    version: str
    argv: list[str]
    seed: int
    machine_id: str
    software_id: str
    environment: dict[str, Any]
    world: dict[str, Any]
    cases: list[CaseHeader]
    memory: dict[str, Any] = {}
    notes: list[str] = []
    link: dict[str, Any] = {}
    clock_shared: bool = True


class Rank(msgspec.Struct):
    """What is relied on of a rank in `Run.world`; more may stand there."""

    rank: int = 0
    device: str = ""
    arch: str = ""
    cpus: list[int] | None = None
    gpu: str | None = None
    pci_bus_id: str | None = None


class World(msgspec.Struct):
    """What is relied on of `Run.world`; more may stand there."""

    size: Annotated[int, msgspec.Meta(ge=1)]
    ranks: list[Rank] = []


class Shape(msgspec.Struct):
    """What is relied on of the `shape` of a case, if it has one and as far as it is there; more may stand there."""

    src: int = 0
    dst: int = 0
    pairs: list[tuple[int, int]] = []
    model: str = ""
    layer: str = ""
    layers: Annotated[int, msgspec.Meta(ge=1)] = 1
    tokens: Annotated[int, msgspec.Meta(ge=1)] = 1
    slots: Annotated[int, msgspec.Meta(ge=1)] = 1
    hidden: int = 0
    inner: int | list[int] = 0
    weights: str = ""
    scale: str = "1"
    skew: str = ""
    beside: str = ""
    arrival_skew_us: float = 0.0


class Parts(msgspec.Struct):
    """What is relied on of the `bound_parts` of a case."""

    hops: NotNegative = 0
    stages: list[tuple[NotNegative, NotNegative]] = []
    memory_bytes: NotNegative = 0


class Routing(msgspec.Struct):
    """What is relied on of the `routing` of a case."""

    leaving_bytes: Annotated[list[NotNegative], msgspec.Meta(min_length=1)]
    rank_max_over_mean: NotNegative


class FirstWrong(Record, kw_only=True):
    """The first element that a check found wrong: on which rank, in which iteration of the run, and where in its
    receive buffer; what was expected and got, as `13.0 (0x41500000)`, the value and its bits."""

    rank: int
    iteration: int
    offset_bytes: int
    element: int
    expected: str
    got: str


class Block(Record, kw_only=True, tag="block", tag_field="kind"):
    """One block of one case: medians over its `n` iterations (of a chain: over its chains, per call). `gpus` has, by
    rank, what the driver said of each GPU after it: clocks, link generation and width, what throttled it. `chosen`
    names what `auto` ran in this block, where that hangs on the link. `matmul_gflop_s` is what the matmul beside it
    reached, in the mean of the ranks, and `matmul_alone_gflop_s` what it does beside one that waits as long."""

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


class LinkBlock(Record, kw_only=True, tag="link_block", tag_field="kind"):
    """The machine's own parts at one size, all ranks at once: times to copy `size_bytes` into a slab, on GPUs also
    into the next rank's, to read what a peer has just written, and to copy through the memory system."""

    size_bytes: Count
    round: int
    copy_in_us: float | None = None
    push_us: float | None = None
    peer_read_us: float | None = None
    memory_us: float | None = None
    link_rtt_ns: tuple[float, float] | None = None


class Summary(Record, kw_only=True):
    """A quantity of a case, in the unit of its field's name. `median` is that of the block medians, with the interval
    of this launch; percentiles, `min`, `max` and `mean` are over iterations, None where those are not known."""

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


class Range(Record, kw_only=True):
    """Median and extremes over blocks."""

    median: float
    min: float | None = None
    max: float | None = None


class State(Record, kw_only=True):
    """A case in a state of the link other than the one its figures are over; `share` is of the case's own blocks."""

    share: float
    n_blocks: int
    link_rtt_ns: Range | None
    time_us: Summary
    total_us: Summary


class Case(Record, kw_only=True, tag="case", tag_field="kind"):
    """What was found for a case. `state` says which blocks the figures are over: `run` (the state of the link that the
    run held longest), `own` (the case was never seen in that one: its own longest) or `mixed` (the link settled in none
    of its blocks, or never over the run: all of them). `bound_parts_us` are the terms of `bound_us` by name. Of compute
    and communication together `compute_us` is the compute alone, and `exposed_us` what is left of `total_us` without
    it, round by round."""

    case: int
    collective: str
    algorithm: str
    library: str | None
    variant: str
    memory: str
    size_bytes: Count
    count: int
    datatype: str
    redop: str
    in_place: bool
    mode: str
    shape: Any
    status: str
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
    states: list[State] = []
    across_ranks: str = "slowest"
    alg_bw_gb_s: float | None = None
    bus_bw_gb_s: float | None = None
    bound_us: float | None = None
    bound_parts_us: dict[str, float] | None = None
    share_of_bound: float | None = None
    suspect: bool = False
    chosen: str | None = None
    calls: Annotated[int, msgspec.Meta(ge=1, lt=10**9)] = 1
    snr_db: dict[str, float] | None = None
    n_wrong: int | None = None
    reason: str | None = None
    samples: str | None = None
    routing: dict[str, Any] | None = None


class End(Record, kw_only=True, tag="end", tag_field="kind"):
    """The last line. Without one, the run was cut off. `steal_share` is what the hypervisor withheld of the ranks' CPUs
    while they measured, from 0 to 1; None where that is not known."""

    status: str
    reason: str | None = None
    n_wrong: int | None = None
    elapsed_s: float | None = None
    measuring_s: float | None = None
    steal_share: float | None = None


@dataclass
class Flight:
    """What the ranks left of a run that was cut off: each rank's last record, and who ended first."""

    ranks: dict[int, dict[str, Any]]
    ended: dict[str, Any] | None


@dataclass
class Result:
    """A run as it is read back; `end` is None when it was cut off."""

    path: Path
    run: Run
    cases: list[Case]
    blocks: list[Block] = field(default_factory=list)
    link_blocks: list[LinkBlock] = field(default_factory=list)
    end: End | None = None
    flight: Flight | None = None

    @property
    def complete(self) -> bool:
        """Whether the run came to its planned end."""
        return self.end is not None and self.end.status == "complete"


KINDS: dict[str, type[Record]] = {"run": Run, "block": Block, "link_block": LinkBlock, "case": Case, "end": End}
AnyRecord = TypeVar("AnyRecord", bound=Record)


def to_dict(record: Record) -> dict[str, Any]:
    """The record as JSON holds it: `kind` first where it has one, unknown fields last."""
    tag = record.__struct_config__.tag
    known = {name: _plain(getattr(record, name)) for name in record.__struct_fields__ if name != "extra"}
    return ({"kind": tag} if tag else {}) | known | record.extra


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return to_dict(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def from_dict(raw: dict[str, Any], kind: type[AnyRecord]) -> AnyRecord:
    """The record that `raw` holds. Raises msgspec.ValidationError when a field is missing or of another type."""
    record = msgspec.convert({name: value for name, value in raw.items() if name != "extra"}, kind)
    _keep_unknown(record, raw)
    return record


def _keep_unknown(record: Record, raw: dict[str, Any]) -> None:
    known = set(record.__struct_fields__) - {"extra"} | {"kind"}
    record.extra = {name: value for name, value in raw.items() if name not in known}
    for name in known & raw.keys():
        value = getattr(record, name, None)
        pairs = zip(value, raw[name], strict=True) if isinstance(value, list) else [(value, raw[name])]
        for child, child_raw in pairs:
            if isinstance(child, Record):
                _keep_unknown(child, child_raw)


def to_line(record: Record) -> bytes:
    """One line of the file. Raises ValueError for a figure that is not finite: JSON has no word for it."""
    text = json.dumps(to_dict(record), allow_nan=False, separators=(",", ":"), default=lambda number: number.item())
    return text.encode() + b"\n"
