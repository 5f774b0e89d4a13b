"""Claims on `breakdown`: how often its verdict on a kind of call is the one that a person gives who
knows the truth, and how often its intervals hold the truth. Its own functions read trace files of
`synthetic_traces`."""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from reports.breakdown import from_traces
from reports.breakdown.bill import Alone
from reports.breakdown.breakdown import add_arguments
from reports.breakdown.text import bill_fields
from tests.calibration.synthetic import Figure, Simulation
from tests.calibration.synthetic_traces import Engine, Floats, Rng, contents, play, write

LONG = 5000  # steps whose means are the truth: their error is a tenth of a trace's or less
STEPS = 25, 50, 100  # of a trace
PARTS = "step", "compute", "transport", "waiting", "idle"
SEEN_US = 0.1  # what is shorter on average has no interval to speak of: a trace counts in 0.001 us

# A person's verdict is clear if a part takes more than the first share of what the calls cost, if
# none takes more than the second, and if a call takes less than, or more than, so many times what
# it takes alone. Between them any verdict is right that does not name a part below SMALL.
CLEAR, NO_MAIN, SMALL = 0.62, 0.42, 0.25
AS_ALONE, SLOWER = 1.1, 1.5


@dataclass(frozen=True)
class Truth:
    """Of one kind of call: its figures in us, what the rank that idles least does for each call of
    a step (what another idles longer, the others wait), and the call alone; `late` is the rank that
    the others wait for."""

    transport_us: float
    waiting_us: Floats
    idle_us: float
    alone_us: float
    late: int

    def shares(self) -> dict[str, float]:
        costs_us = {
            "transfer": self.transport_us,
            # With the late rank on time, calls end as much earlier as the others wait for it.
            "waiting": float(self.waiting_us.sum() / (len(self.waiting_us) - 1)),
            "launch": self.idle_us,
        }
        return {name: us / sum(costs_us.values()) for name, us in costs_us.items()}

    def clear(self) -> str | None:
        """A person's verdict; None where two may be defended."""
        shares, ratio = self.shares(), self.transport_us / self.alone_us
        main = max(shares, key=lambda name: shares[name])
        if shares[main] < NO_MAIN:
            return "mixed"
        if shares[main] < CLEAR or (main == "transfer" and AS_ALONE < ratio < SLOWER):
            return None
        return "slower than alone" if main == "transfer" and ratio >= SLOWER else main

    def is_one_late(self) -> bool:
        """Whether the others clearly wait for one rank, not by turns."""
        others_us = np.delete(self.waiting_us, self.late)
        return bool(self.waiting_us[self.late] < SMALL * others_us.min())

    def defensible(self, verdict: str, late: Sequence[int]) -> bool:
        """Whether a person could give this verdict, and name these ranks as late."""
        if late and late != [self.late]:
            return False
        if verdict in ("mixed", "inconclusive"):
            return True
        is_slow = self.transport_us > AS_ALONE * self.alone_us
        if verdict == "slower than alone" and not is_slow:
            return False
        part = "transfer" if verdict == "slower than alone" else verdict
        return self.shares()[part] >= SMALL


def draw(rng: Rng, noise: Mapping[str, float]) -> Engine:
    """An engine in whose calls transport, waiting, idle or none of these is the largest part, and
    sometimes only just."""
    weights = np.ones(3)
    weights[rng.integers(3)] = rng.choice([1, 2, 6, 12], p=[0.2, 0.1, 0.4, 0.3])
    transport_us, waiting_us, gap_us = rng.uniform(20, 200) * weights / weights.sum()
    ranks = int(rng.integers(2, 5))
    late = "host_late_us" if rng.random() < 0.3 else "late_us"
    durations = {late: waiting_us * ranks / (ranks - 1)}  # the late rank itself does not wait
    return Engine(
        ranks=ranks,
        late_rank=int(rng.integers(ranks)),
        calls=int(rng.integers(2, 6)),
        gap_us=gap_us,
        compute_us=rng.uniform(20, 120),
        transport_us=transport_us,
        beside_us=rng.choice([0.0, 5.0]),
        gathers=bool(rng.random() < 0.3),
        launches=bool(rng.random() < 0.5),
        **{"noise": rng.choice([0.02, 0.05, 0.1]), **durations, **noise},
    )


def truths_of(engine: Engine, rng: Rng) -> tuple[dict[str, float], dict[str, Truth]]:
    """The means of a step's parts, and of each kind of call."""
    played = play(engine, LONG, rng)
    parts_us = {part: float(us.mean()) for part, us in played.parts_us().items()}
    idle_us = float(played.gap_us.mean(axis=(1, 2)).min())
    slower = rng.choice([1.0, 2.0])
    return parts_us, {
        collective: Truth(
            transport_us=transport_us,
            waiting_us=played.call_us[:, :, calls].mean(axis=(1, 2)) - transport_us,
            idle_us=idle_us,
            alone_us=transport_us / slower,
            late=engine.late_rank,
        )
        for collective, calls in played.kinds().items()
        for transport_us in [float(played.transport_us[:, calls].mean())]
    }


def bill_of(
    engine: Engine,
    steps: int,
    truths: Mapping[str, Truth],
    rng: Rng,
) -> dict[str, Any]:
    """The fields that `breakdown --json` prints for a new trace of this engine. What a call takes
    alone is given to it: traces do not tell."""

    def alone(call: Any, *_: object) -> Alone:
        return Alone((truths[call.collective].alone_us, None, None), "the truth")

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(from_traces, "alone_of", alone):
        paths = write(contents(play(engine, steps, rng)), Path(folder))
        return fields_of(paths)


def fields_of(paths: Sequence[Path]) -> dict[str, Any]:
    """What `breakdown --json` prints of these traces, without options."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return bill_fields(from_traces.read_traces(paths, parser.parse_args([])))


def intervals(
    bill: Mapping[str, Any], parts_us: Mapping[str, float], truths: Mapping[str, Truth]
) -> Iterator[tuple[str, float, Sequence[float]]]:
    """The name of each figure with an interval, its truth, and the interval."""
    for part in PARTS:
        yield part, parts_us[part], bill["intervals"][f"{part}_us"]
    for call in bill["calls"]:
        truth = truths[call["collective"]]
        yield "a call's transport", truth.transport_us, call["intervals"]["transport_us"]
        for us, interval in zip(truth.waiting_us, call["waiting_intervals"], strict=True):
            yield "a call's waiting", float(us), interval


def breakdowns(
    name: str,
    noise: Mapping[str, float],
    least_clear: float,
    of_intervals: tuple[float, float],
    rng: Rng,
    n: int,
) -> list[Figure]:
    """Bills of engines that are drawn anew for each trace, with the limits of clear verdicts and of
    the intervals. Runs a quarter of the replications."""
    held, verdicts = list[dict[str, float]](), list[tuple[Truth, Any]]()
    for _ in range(n // 4):
        engine = draw(rng, noise)
        parts_us, truths = truths_of(engine, rng)
        bill = bill_of(engine, int(rng.choice(STEPS)), truths, rng)
        verdicts += [(truths[call["collective"]], call) for call in bill["calls"]]
        of_trace: dict[str, list[bool]] = {}
        for figure, us, (low, high) in intervals(bill, parts_us, truths):
            if us >= SEEN_US:
                of_trace.setdefault(figure, []).append(low <= us <= high)
        held.append({figure: float(np.mean(each)) for figure, each in of_trace.items()})
    clear = [call["verdict"] == truth.clear() for truth, call in verdicts if truth.clear()]
    late = [
        call["late_ranks"] == [truth.late]
        for truth, call in verdicts
        if call["verdict"] == "waiting" and truth.is_one_late()
    ]
    return [
        Figure(f"{name}: clear verdicts", clear, least_clear),
        Figure(
            f"{name}: no wrong one",
            [t.defensible(c["verdict"], c["late_ranks"]) for t, c in verdicts],
            0.95,
        ),
        Figure(f"{name}: the late rank", late or [True], 0.95),
        Figure(
            f"{name}: intervals",
            [float(np.mean([*each.values()])) for each in held],
            *of_intervals,
        ),
        *(
            Figure(f"  {figure}", [each[figure] for each in held if figure in each])
            for figure in held[0]
        ),
    ]


def too_few(rng: Rng, n: int) -> list[Figure]:
    """Traces of two steps, of which nobody should judge. Runs a tenth of the replications."""
    verdicts = list[str]()
    for _ in range(n // 10):
        engine = draw(rng, {})
        _, truths = truths_of(engine, rng)
        verdicts += [each["verdict"] for each in bill_of(engine, 2, truths, rng)["calls"]]
    return [Figure("two steps: inconclusive", np.equal(verdicts, "inconclusive"), 0.95)]


# Of rare and long durations a trace of a few calls may have none: no interval can know of them.
WITH_LIMITS, WITHOUT = (0.93, 0.97), (0.0, 1.0)
NOISES: list[tuple[str, dict[str, float], float, tuple[float, float]]] = [
    ("noise of 2 to 10 %", {}, 0.95, WITH_LIMITS),
    ("noise of 40 %", {"noise": 0.4}, 0.90, WITH_LIMITS),
    ("2 % last thrice as long", {"tails": 0.02}, 0.95, WITHOUT),
    ("steps alike, rho 0.4", {"step_noise": 0.05, "rho": 0.4}, 0.95, WITH_LIMITS),
]
CLAIMS: dict[str, list[Simulation]] = {
    "A step's bill from its ranks' traces": [
        *(partial(breakdowns, *noise) for noise in NOISES),
        too_few,
    ],
}
