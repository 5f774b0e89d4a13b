"""Types for the parts of a run that its schema leaves open. Reports rely on these fields; a file
may contain more."""

from collections.abc import Sequence
from typing import Annotated, TypedDict

import msgspec

from reports.store.schema import Case, NotNegative, Run

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Shape(TypedDict, total=False):
    src: int
    dst: int
    pairs: list[tuple[int, int]]
    model: str
    layer: str
    layers: Positive
    tokens: Positive
    slots: Positive
    hidden: int
    inner: int | list[int]
    weights: str
    scale: str
    skew: str
    beside: str
    arrival_skew_us: float


class BoundParts(TypedDict, total=False):
    hops: NotNegative
    stages: list[tuple[NotNegative, NotNegative]]
    memory_bytes: NotNegative


class Routing(TypedDict):
    leaving_bytes: Annotated[list[NotNegative], msgspec.Meta(min_length=1)]
    rank_max_over_mean: NotNegative


class OpenParts(msgspec.Struct):
    """Of a planned or a finished case, which has no `bound_parts`."""

    shape: Shape | None
    routing: Routing | None
    bound_parts: BoundParts | None = None


class Rank(TypedDict, total=False):
    rank: int
    device: str
    arch: str
    cpus: list[int] | None
    gpu: str | None
    pci_bus_id: str | None


class World(msgspec.Struct):
    size: Positive
    ranks: list[Rank] = []


def check_open_parts(run: Run, cases: Sequence[Case]) -> None:
    """Raises msgspec.ValidationError for a value that reports cannot work with."""
    msgspec.convert((run.world, run.link.get("overhead_us", 0)), tuple[World, NotNegative])
    msgspec.convert((*run.cases, *cases), list[OpenParts], from_attributes=True)
