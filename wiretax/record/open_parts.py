"""Types of the parts that the records of a run leave open, as reports rely on them; a file may
contain more."""

from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

import msgspec

from wiretax.record.schema import Case, Count, NotNegative, Positive, Run

LinkRank = Annotated[int, msgspec.Meta(ge=0, lt=256)]  # a matrix of more takes too long to show


class Shape(TypedDict, total=False):
    model: str
    layer: str
    scale: str
    skew: str
    way: Literal["one_way", "ping_pong", "dispatch", "combine", "round_trip"]
    weights: Literal["int8", "float16", "bfloat16", "float32", "float64", "int32", "int64"]
    src: LinkRank
    dst: LinkRank
    pairs: list[tuple[LinkRank, LinkRank]]
    arrival_skew_us: float
    hidden: Positive
    inner: Positive | list[Positive]
    layers: Positive
    tokens: Positive
    slots: Positive


class BoundParts(TypedDict, total=False):
    hops: NotNegative
    memory_bytes: NotNegative
    stages: list[tuple[NotNegative, NotNegative]]


class RoutingFacts(TypedDict):
    leaving_bytes: Annotated[list[NotNegative], msgspec.Meta(min_length=1)]
    expert_max_over_mean: NotNegative
    rank_max_over_mean: NotNegative


class Rank(TypedDict, total=False):
    rank: int
    host: int | str | None
    device: str
    arch: str
    cpus: list[int] | None
    gpu: str | None
    node: Annotated[str, msgspec.Meta(max_length=64)] | None
    pci_bus_id: str | None


# The parts of a shape that reports need, by benchmark, and of a case with routing.
NEEDED = {
    "decode": ("layers", "hidden", "inner", "weights", "slots"),
    "prefill": ("layers", "tokens"),
    "routing": ("way", "skew"),
}


class WorldFacts(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
    ranks: list[Rank] = []
    hosts: Positive | None = None


class OpenParts(msgspec.Struct):
    shape: Shape | None
    routing: RoutingFacts | None
    bound_parts: BoundParts | None = None


def check_open_parts(run: Run, results: Sequence[Case]) -> None:
    """Raises msgspec.ValidationError for a value of the run, or of its cases, that reports cannot
    work with."""
    cases = (*run.cases, *results)
    if not run.imported_from and not (run.cases and run.world.get("size")):
        raise msgspec.ValidationError("it has no case, or no rank")
    overhead_us = run.link.get("overhead_us", 0)
    checks = run.method.get("checks", 0)
    msgspec.convert((run.world, overhead_us, checks), tuple[WorldFacts, NotNegative, Count])
    msgspec.convert(cases, list[OpenParts], from_attributes=True)

    for case in () if run.imported_from else cases:
        needed = NEEDED.get("routing" if case.routing else run.benchmark, ())
        for name in sorted(set(needed).difference(case.shape or ())):
            raise msgspec.ValidationError(f"a `shape` lacks `{name}`")
