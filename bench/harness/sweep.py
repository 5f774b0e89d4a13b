"""The options of a sweep: a collective over sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

from collectives.collective import Collective
from collectives.operation import Algorithm


@dataclass(frozen=True)
class SweepOptions:
    """Which cases of a collective a run has. `algorithms` None: all that `auto` chooses among."""

    collective: Collective
    datatypes: Sequence[str]
    redops: Sequence[str]
    sizes: tuple[int, ...]
    algorithms: Sequence[Algorithm] | None = None
    in_place: Sequence[bool] = (False,)
    mode: str | None = None
