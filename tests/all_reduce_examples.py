"""All-reduces drawn by hypothesis and compared with numpy in float64, wherever they are performed.

`check` draws them; a bed performs each, on ranks that are processes or on ranks of one launch, and says for every rank
that it has what is wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from collectives.algorithm import ALGORITHMS
from collectives.collective import DATATYPES, REDOPS, Datatype, all_reduce_reference, reason_against
from collectives.operation import Case, Memory

MOST_BYTES = 3 << 20  # several chunks of every algorithm
ROOM_BYTES = MOST_BYTES + 4096
UNTOUCHED = 0xA5
SPECIAL = [0.0, -0.0, 1e-40, 6e-8, 1e-5, 65504.0, 3.0e4]


@dataclass(frozen=True)
class Example:
    """One all-reduce. Out of place it is launched several times with nothing in between: no launch may disturb the one
    before."""

    algorithm: str
    datatype: Datatype
    redop: str
    count: int
    in_place: bool
    shift: int
    data_seed: int
    special: bool
    launches: int

    @property
    def size_bytes(self) -> int:
        return self.count * self.datatype.size_bytes

    def __str__(self) -> str:
        place = " in place" if self.in_place else f" x {self.launches}"
        return f"{self.algorithm} {self.datatype.name} {self.redop} count {self.count}{place}"


EXAMPLES = st.builds(
    Example,
    st.sampled_from(list(ALGORITHMS)),
    st.sampled_from(list(DATATYPES.values())),
    st.sampled_from(REDOPS),
    st.one_of(st.integers(0, 40), st.integers(0, 5000), st.integers(0, MOST_BYTES // 8)),
    st.booleans(),
    st.integers(0, 6),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.integers(1, 3),
)


def check(
    examples: int, seed_value: int, problem: Callable[[Example, list[np.ndarray]], str | None], ranks: int
) -> None:
    """Draws so many examples and fails with the first sentence that `problem(example, all inputs)` gives; what fails by
    chance cannot be shrunk."""
    checks = list(HealthCheck)

    @seed(seed_value)
    @settings(
        max_examples=examples, database=None, deadline=None, suppress_health_check=checks, phases=[Phase.generate]
    )
    @given(EXAMPLES)
    def try_one(example: Example) -> None:
        if reason_against(example.datatype, example.redop):
            return
        said = problem(example, inputs(example, ranks))
        assert not said, f"{example}: {said}"

    try_one()


def all_reduce_error_bound(inputs: list[np.ndarray], redop: str, datatype: Datatype, wire_roundings: int) -> np.ndarray:
    """The largest error, element by element, that an all-reduce may have against float64.

    `wire_roundings` roundings to the type on the wire (1 for the one- and two-shot forms, one a hop for the ring) and
    one fp32 rounding (fp64 for float64) for each combination and each mean; Higham, Accuracy and Stability, section
    4.2: the error of a recursive sum is at most the roundings times the sum of magnitudes. Subnormal results may be off
    by one smallest step a rounding.
    """
    if not datatype.is_float or redop in ("min", "max"):
        return np.zeros_like(inputs[0], dtype=np.float64)
    n = len(inputs)
    accumulate = 2.0**-53 if datatype.name == "float64" else 2.0**-24
    if redop == "prod":
        magnitude = np.abs(all_reduce_reference(inputs, "prod"))
    else:
        magnitude = all_reduce_reference([np.abs(x) for x in inputs], "sum") / (n if redop == "avg" else 1)
    relative = (wire_roundings + 1) * datatype.rounding + (n + 2) * accumulate
    step = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 2.0**-1074}[datatype.name]
    return magnitude * relative * 1.01 + wire_roundings * step * max(1, n)


def wire_roundings(algorithm: str, ranks: int) -> int:
    """How often a sum is rounded to the type on the wire: once a hop in the ring, and in a library whose way nobody
    knows; once in the other forms."""
    return max(1, ranks - 1) if algorithm in ("ring", "library") else 1


def inputs(example: Example, ranks: int) -> list[np.ndarray]:
    """Every rank's stored input, drawn alike on all ranks."""
    draw, datatype, count = np.random.default_rng(example.data_seed), example.datatype, example.count
    found: list[np.ndarray] = []
    for _ in range(ranks):
        if datatype.is_float:
            values: np.ndarray = draw.normal(size=count) * (1.0 if example.redop == "prod" else 10.0)
            if example.special and count and example.redop != "prod":
                at = draw.integers(0, count, 1 + count // 7)
                values[at] = draw.choice(SPECIAL, len(at)) / (ranks if example.redop in ("sum", "avg") else 1)
        else:
            values = draw.integers(-1000, 1000, count)
        found.append(datatype.encode(values))
    return found


@dataclass
class Buffers:
    """A rank's memory for any example. A launch may start anywhere an element may, on each rank elsewhere, and what
    lies around its buffers is not its."""

    rank: int
    send: Memory
    receive: Memory

    def _starts(self, example: Example) -> tuple[int, int]:
        receive = (example.shift + self.rank) % 7
        send = receive if example.in_place else (example.shift + 3 * self.rank) % 5
        return send * example.datatype.size_bytes, receive * example.datatype.size_bytes

    def case(self, example: Example, mine: np.ndarray) -> Case:
        """Fills them and says where an example's lie."""
        source = self.receive if example.in_place else self.send
        send, receive = self._starts(example)
        for memory in {id(m): m for m in (self.receive, source)}.values():
            memory.write(np.full(ROOM_BYTES, UNTOUCHED, np.uint8))
        source.write(mine.view(np.uint8), send)
        return Case(
            example.size_bytes, example.datatype, example.redop, source.address + send, self.receive.address + receive
        )

    def result(self, example: Example) -> np.ndarray:
        start = self._starts(example)[1]
        return self.receive.read()[start : start + example.size_bytes].view(example.datatype.storage)

    def problem(self, example: Example, every: list[np.ndarray]) -> str | None:
        """What is wrong with this rank's result, or with what lies around it."""
        datatype, got = example.datatype, self.result(example)
        decoded = [datatype.decode(x) for x in every]
        with np.errstate(all="ignore"):
            want = all_reduce_reference(decoded, example.redop)
            if datatype.is_float:
                roundings = wire_roundings(example.algorithm, len(every))
                bound = all_reduce_error_bound(decoded, example.redop, datatype, roundings)
                found = datatype.decode(got)
                largest = datatype.decode(datatype.encode(np.array([np.inf])))
                beyond = ~np.isfinite(datatype.decode(datatype.encode(want))) & (found == np.sign(want) * largest)
                wrong = np.flatnonzero(~((np.abs(found - want) <= bound) | beyond))
            else:
                wrong = np.flatnonzero(got != want.astype(datatype.storage))
        if wrong.size:
            return f"element {wrong[0]} is {datatype.decode(got)[wrong[0]]!r}, not {want[wrong[0]]!r}"
        send, receive = self._starts(example)
        around = np.delete(self.receive.read(), slice(receive, receive + example.size_bytes))
        if np.any(around[: ROOM_BYTES - example.size_bytes] != UNTOUCHED):
            return "wrote around the buffer"
        if not example.in_place:
            sent = np.full(ROOM_BYTES, UNTOUCHED, np.uint8)
            sent[send : send + example.size_bytes] = every[self.rank].view(np.uint8)
            if np.any(self.send.read()[:ROOM_BYTES] != sent):
                return "changed the send buffer"
        return None
