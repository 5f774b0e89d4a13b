"""Run by mpirun: hypothesis draws all-reduces, the same on every rank, and compares each with numpy in float64.

`collective_ranks.py EXAMPLES SEED`. A rank that fails would draw other examples than its peers from then on, so all
ranks fail together or not at all.
"""

import sys

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from collectives.algorithm import ALGORITHMS
from collectives.collective import (
    DATATYPES,
    REDOPS,
    Datatype,
    all_reduce_reference,
    reason_against,
)
from collectives.operation import Case, Operation, Unsupported
from tests.ranks import buffer_at, connect

MOST_BYTES = 3 << 20  # several chunks of every algorithm
SPECIAL = [0.0, -0.0, 1e-40, 6e-8, 1e-5, 65504.0, 3.0e4]


def all_reduce_error_bound(
    inputs: list[np.ndarray], redop: str, datatype: Datatype, wire_roundings: int
) -> np.ndarray:
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


def inputs(datatype: Datatype, redop: str, count: int, ranks: int, data_seed: int, special: bool) -> list[np.ndarray]:
    """Every rank's stored input, drawn alike on all ranks."""
    draw = np.random.default_rng(data_seed)
    found: list[np.ndarray] = []
    for _ in range(ranks):
        if datatype.is_float:
            values: np.ndarray = draw.normal(size=count) * (1.0 if redop == "prod" else 10.0)
            if special and count and redop != "prod":
                at = draw.integers(0, count, 1 + count // 7)
                values[at] = draw.choice(SPECIAL, len(at)) / (ranks if redop in ("sum", "avg") else 1)
        else:
            values = draw.integers(-1000, 1000, count)
        found.append(datatype.encode(values))
    return found


def problem(world, algorithm, datatype, redop, count, in_place, shift, data_seed, special) -> str | None:
    """What is wrong with one all-reduce on this rank; None when nothing is."""
    rank, ranks = world.communicator.rank, world.communicator.size
    size, guard = count * datatype.size_bytes, 64
    every = inputs(datatype, redop, count, ranks, data_seed, special)
    # A launch may start anywhere an element may, on each rank elsewhere; what lies behind the buffer is not ours.
    receive_bytes = buffer_at(size + guard, (shift + rank) % 7 * datatype.size_bytes)
    send_bytes = receive_bytes if in_place else buffer_at(size + guard, (shift + 3 * rank) % 5 * datatype.size_bytes)
    receive_bytes[:], send_bytes[:] = 0xA5, 0xA5
    send_bytes[:size] = every[rank].view(np.uint8)
    case = Case(size, datatype, redop, send_bytes.ctypes.data, receive_bytes.ctypes.data)
    operation = algorithm.bind(world, case)
    if isinstance(operation, Unsupported):
        return None
    assert isinstance(operation, Operation)
    world.device.caller(operation.step)()
    got = receive_bytes[:size].view(datatype.storage)
    bits = set(world.communicator.all_gather(got.tobytes()))  # first: whoever has found an error does not come this far
    if failure := operation.failure():
        return failure

    decoded = [datatype.decode(x) for x in every]
    with np.errstate(all="ignore"):
        want = all_reduce_reference(decoded, redop)
        if datatype.is_float:
            bound = all_reduce_error_bound(decoded, redop, datatype, wire_roundings(algorithm.name, ranks))
            found = datatype.decode(got)
            largest = datatype.decode(datatype.encode(np.array([np.inf])))
            beyond = ~np.isfinite(datatype.decode(datatype.encode(want))) & (found == np.sign(want) * largest)
            wrong = np.flatnonzero(~((np.abs(found - want) <= bound) | beyond))
        else:
            wrong = np.flatnonzero(got != want.astype(datatype.storage))
    what = f"{algorithm.name} {datatype.name} {redop} count {count}{' in place' if in_place else ''}"
    if wrong.size:
        return f"{what}: element {wrong[0]} is {datatype.decode(got)[wrong[0]]!r}, not {want[wrong[0]]!r}"
    if np.any(receive_bytes[size:] != 0xA5) or np.any(send_bytes[size:] != 0xA5):
        return f"{what}: wrote behind the buffer"
    if not in_place and np.any(send_bytes[:size] != every[rank].view(np.uint8)):
        return f"{what}: changed the send buffer"
    if algorithm.name != "library" and len(bits) > 1:
        return f"{what}: ranks got different bits"
    return None


def main(examples: int, seed_value: int) -> None:
    world, watch = connect(STREAM_SLAB=seed_value % 2)
    names = list(ALGORITHMS)

    @seed(seed_value)
    @settings(max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(names),
        st.sampled_from(list(DATATYPES.values())),
        st.sampled_from(REDOPS),
        st.one_of(st.integers(0, 40), st.integers(0, 5000), st.integers(0, MOST_BYTES // 8)),
        st.booleans(),
        st.integers(0, 6),
        st.integers(0, 2**32 - 1),
        st.booleans(),
    )
    def check(name, datatype, redop, count, in_place, shift, data_seed, special):
        if reason_against(datatype, redop):
            return
        found = problem(world, ALGORITHMS[name], datatype, redop, count, in_place, shift, data_seed, special)
        if watch.timed_out:
            found = f"{name} {datatype.name} {redop} count {count}: rank {watch.peer} never came"
        said = [p for p in world.communicator.all_gather(found) if p]
        assert not said, said[0]

    check()
    if world.communicator.rank == 0:
        print(f"{examples} examples right on {world.communicator.size} ranks")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
