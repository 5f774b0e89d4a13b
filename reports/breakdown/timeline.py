"""What the device of one rank did while a profiler looked on: kernels, copies and annotated steps.
Readers of formats make timelines; everything else in this room reads nothing but these."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from reports.breakdown.kernel_names import Known, Names

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass
class Annotation:
    """A named span of the rank, such as `ProfilerStep#3` or vLLM's `execute_...`, in us. It is of
    the host that launches the work, or `on_device` of the work itself."""

    name: str
    start_us: float
    end_us: float
    on_device: bool = False


@dataclass
class Timeline:
    """The work of one rank's device, in order of its start. All arrays have the shape (n,).

    `starts_us` and `ends_us` are by the rank's own clock, which another rank's may not share;
    `name` is an index into `texts`, and `group` one into `groups`, of which the first is `""`, an
    unknown group. `size_bytes` is the message of a call as the trace tells it, 0 if it does not.
    `rank` and `ranks` are as the trace has them, None if it does not say. `launches_us`, if there,
    is when the host launched each, NaN where the trace does not say: the device works later.
    `members` has the ranks of a group by its name, where the trace tells them, and `clocks` the
    means of counters of clocks, power and the like."""

    source: str
    names: Names
    texts: list[str]
    name: Integers
    starts_us: Floats
    ends_us: Floats
    stream: Integers
    size_bytes: Integers
    group: Integers
    groups: list[str] = field(default_factory=lambda: [""])
    rank: int | None = None
    ranks: int | None = None
    device: str = ""
    annotations: list[Annotation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    launches_us: Floats | None = None
    members: dict[str, list[int]] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)

    @cached_property
    def known(self) -> list[Known | None]:
        """For each of `texts` which collective it is; None for all other work."""
        return [self.names.known(text) for text in self.texts]

    @cached_property
    def is_call(self) -> Booleans:
        """Which events are calls of a collective."""
        return np.array([each is not None for each in self.known], bool)[self.name]
