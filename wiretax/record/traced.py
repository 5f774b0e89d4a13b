"""The record of the parts of whole steps, of bench.decode and bench.prefill."""

from collections.abc import Sequence

from wiretax.record.schema import Count, Line, NotNegative

Rows = Sequence[Sequence[NotNegative]]  # by rank and step


class TracedSteps(Line, kw_only=True, tag="traced_steps"):
    """The parts of traced steps of one case, by [rank][step], but transport, which all ranks have
    alike, by [step]. `form` is what ran; `calls` are those of a step; `slowdown` is the time of a
    traced step over that of one without timestamps; `hideable_us` the sum over calls of the
    lesser of a call and the next product; `last_share` how often each rank came last. `reason`: why
    no parts are told; then there are none."""

    case: int
    form: str
    reason: str | None = None
    calls: Count = 0
    slowdown: NotNegative = 0.0
    compute_us: Rows = ()
    transport_us: Sequence[NotNegative] = ()
    waiting_us: Rows = ()
    hideable_us: Rows = ()
    last_share: Sequence[NotNegative] = ()

    def __post_init__(self) -> None:
        ranks, steps = len(self.last_share), len(self.transport_us)
        tables = self.compute_us, self.waiting_us, self.hideable_us
        are_alike = all([len(row) for row in table] == [steps] * ranks for table in tables)
        if not are_alike or not (self.reason or (ranks and steps and self.calls)):
            raise ValueError("its parts are not of all ranks and steps")
