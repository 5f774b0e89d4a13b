"""What identifies a case, and what its kind means: its key, its work, its bus bandwidth."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from wiretax.record.schema import Case, CaseFields

CASE_KEY = (
    "collective",
    "shape",
    "size_bytes",
    "datatype",
    "redop",
    "mode",
    "variant",
    "memory",
    "in_place",
    "algorithm",
    "library",
)
# These also compute, and have no bandwidth.
COMPUTE_BENCHMARKS = (
    "allreduce_rmsnorm",
    "gemv_allreduce",
    "gemm_reduce_scatter",
    "allgather_gemm",
    "decode",
    "prefill",
)
COMPUTE, FUSED, LIBRARY = "compute", "fused", "then_library"
# A collective alone, beside a matmul, and the matmul beside it (`--footprint`).
COLLECTIVE_ALONE, BESIDE, COMPUTE_BESIDE = "collective_", "beside_", "compute_beside_"
# A step split by tensor, with our all-reduce, the library's, and layers with stable bits.
TENSOR, TENSOR_LIBRARY = "tensor_parallel", "tensor_parallel_library"
TENSOR_STABLE, FUSED_STABLE = "tensor_parallel_stable", "fused_stable"
COMMUNICATES = (FUSED, "then_", TENSOR, "sequence_parallel")
# busbw / algbw of n ranks, as in nccl-tests' PERFORMANCE.md.
BUS_FACTORS: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    **dict.fromkeys(
        ("all_gather", "reduce_scatter", "alltoall", "gather", "scatter"), lambda n: (n - 1) / n
    ),
    **dict.fromkeys(("sendrecv", "link", "broadcast", "reduce", "hypercube"), lambda n: 1.0),
}
UNKNOWN = "unknown"  # a collective or a type that a log does not name
DEVICE_KERNEL = "device kernel"  # what `chosen` begins with if nccl-tests ran a kernel of its own
Key = tuple[Any, ...]  # the values of CASE_KEY


def key_of(case: CaseFields, without: Sequence[str] = ()) -> Key:
    """The values that identify a case, except for the fields in `without`."""
    values = (getattr(case, name) for name in CASE_KEY if name not in without)
    return tuple(
        msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value
        for value in values
    )


def work_of(case: Case) -> Key:
    """The work of a case without its algorithm: cases with equal work are comparable."""
    return key_of(case, ("variant", "memory", "in_place", "algorithm", "library"))


def is_contender(case: CaseFields) -> bool:
    """Whether another project than the run's library performed the case: `--contender`."""
    return case.library is not None and not case.algorithm.endswith("library")


def is_device_kernel(case: CaseFields) -> bool:
    """Whether nccl-tests ran a kernel of its own over the library's device API (its option -D)."""
    return (case.chosen or "").startswith(DEVICE_KERNEL)


def alone_of(algorithm: str) -> str | None:
    """The algorithm that is timed alone of one beside another; None of any other."""
    if algorithm.startswith(COMPUTE_BESIDE):
        return COMPUTE
    if algorithm.startswith(BESIDE):
        return COLLECTIVE_ALONE + algorithm.removeprefix(BESIDE)
    return None


def late_us(shape: Any) -> float:
    """The deliberate delay of one rank (`--arrival-skew`), in microseconds."""
    return float((shape or {}).get("arrival_skew_us", 0))


def size_of(text: str) -> int:
    """The bytes of `16K`, `32M`, `1G` or `100`; powers of two, as in nccl-tests."""
    return int(text.rstrip("KMG")) << 10 * " KMG".index(text.lstrip("0123456789") or " ")


def typed_size(size_bytes: int) -> str:
    """`16K`, `32M` or `100`: as options take a size, exactly."""
    power = next(power for power in (3, 2, 1, 0) if not size_bytes % (1 << 10 * power))
    return f"{size_bytes >> 10 * power}{' KMG'[power]}".rstrip()


def bus_factor(collective: str, world_size: int) -> float:
    """busbw / algbw; 0 for one rank, an unknown number of them, and other work than moving data."""
    known = world_size > 1 and collective in BUS_FACTORS
    return BUS_FACTORS[collective](world_size) if known else 0.0


def is_own_benchmark(case: CaseFields) -> bool:
    """Whether it is a program's own work, under a name that neither Wiretax nor a library uses."""
    return case.collective not in (*BUS_FACTORS, *COMPUTE_BENCHMARKS, UNKNOWN)


def is_own_work(case: CaseFields) -> bool:
    """Whether it is a program's own work without a message, or a serving bench."""
    return not case.size_bytes and case.collective not in (*BUS_FACTORS, UNKNOWN)
