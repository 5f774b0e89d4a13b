"""Types for the parts of a run that its schema leaves open. Reports rely on these fields; a file
may contain more."""

from typing import Annotated, Any

import msgspec

NotNegative = Annotated[float, msgspec.Meta(ge=0, lt=1e15)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class Rank(msgspec.Struct):
    """An item of `ranks` in `Run.world`."""

    rank: int = 0
    device: str = ""
    arch: str = ""
    cpus: list[int] | None = None
    gpu: str | None = None
    pci_bus_id: str | None = None


class World(msgspec.Struct):
    """`Run.world`."""

    size: Positive
    ranks: list[Rank] = []


class Shape(msgspec.Struct):
    """The `shape` of a case."""

    src: int = 0
    dst: int = 0
    pairs: list[tuple[int, int]] = []
    model: str = ""
    layer: str = ""
    layers: Positive = 1
    tokens: Positive = 1
    slots: Positive = 1
    hidden: int = 0
    inner: int | list[int] = 0
    weights: str = ""
    scale: str = "1"
    skew: str = ""
    beside: str = ""
    arrival_skew_us: float = 0.0


class BoundParts(msgspec.Struct):
    """The `bound_parts` of a case."""

    hops: NotNegative = 0
    stages: list[tuple[NotNegative, NotNegative]] = []
    memory_bytes: NotNegative = 0


class Routing(msgspec.Struct):
    """The `routing` of a case."""

    leaving_bytes: Annotated[list[NotNegative], msgspec.Meta(min_length=1)]
    rank_max_over_mean: NotNegative


def check_case(shape: Any, routing: Any, bound_parts: Any = None) -> None:
    """Raises msgspec.ValidationError for a part of a case that reports cannot work with."""
    msgspec.convert(shape, Shape | None)
    msgspec.convert(routing, Routing | None)
    msgspec.convert(bound_parts, BoundParts | None)


def check_run(world: Any, link: dict[str, Any]) -> None:
    """Raises msgspec.ValidationError for a world or a link that reports cannot work with."""
    msgspec.convert(world, World)
    msgspec.convert(link.get("overhead_us", 0), NotNegative)
