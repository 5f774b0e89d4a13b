"""A matmul that overlaps with a collective, as in prefill: one chunk of the tokens is communicated
while the next one is multiplied. `bench.layers.overlap_cases` measures it.

| | gemm_reduce_scatter | allgather_gemm |
|---|---|---|
| a rank begins with | its activations [tokens, inner] | its activations [tokens / ranks, inner] |
| matmul | times its weights: its part of each sum | all activations times its weights |
| collective | reduce-scatter over the tokens, after the matmul | all-gather, before the matmul |
| a rank ends with | sums [tokens / ranks, columns] | [tokens, columns], rank 0's tokens first |
| chunk c | the c-th of `chunks` equal parts of the tokens | the c-th part of each rank's tokens |
| also overlaps | | the matmul of a rank's own tokens |

gemm_reduce_scatter leaves rank r the r-th of `ranks` equal parts of each chunk.

The matmul is the vendor's, through numpy or CuPy. The overlapped collective runs in a second stream
of a GPU, and reads peers' memory, as `direct_pull` does; where no read is routed it is
`direct_push`."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from collectives.algorithms import general
from collectives.binding import first_failure, python_operation, run_sequence
from collectives.collective import COLLECTIVES, Datatype
from collectives.communicator import Refusal
from collectives.layers.fused_forms import forms
from collectives.operation import (
    Algorithm,
    Bound,
    CollectiveCase,
    KernelAlgorithm,
    Operation,
    Unsupported,
    World,
)
from kernels.devices.device import Step

CHUNKS = (1, 2, 4, 8)
NO_STABLE_MATMUL = (
    "the vendor's matmul adds in an order of its own, which nobody can fix from outside, so it "
    "has no form with the same bits at any number of ranks"
)
ENTRIES = 4  # of a matmul in a GPU's stream


@dataclass(frozen=True, kw_only=True)
class MatmulCase(CollectiveCase):
    """[tokens, inner] times [inner, columns]; a rank sends or gets `count` elements of the
    collective's.

    | address | gemm_reduce_scatter | allgather_gemm |
    |---|---|---|
    | `send` | the activations | this rank's activations |
    | `between` | the parts of the sums [tokens, columns] | all activations [tokens, inner] |
    | `receive` | this rank's sums | the result |"""

    tokens: int
    inner: int
    columns: int
    weights: int
    between: int


class Overlapping(KernelAlgorithm):
    """Has a variant for each number of chunks, VARIANTS, where it can run."""

    def variants_in(self, world: World) -> tuple[str, ...]:
        return self.variants[: 1 if world.device.is_cpu or world.node else None]


ALONE = {
    "gemm_reduce_scatter": COLLECTIVES["reduce_scatter"],
    "allgather_gemm": COLLECTIVES["all_gather"],
}
COLLECTIVE = {name: replace(collective, name=name) for name, collective in ALONE.items()}
# What the collective works over, and the number of chunks.
VARIANTS = {
    f"{variant} in {chunks} chunks" if chunks > 1 else variant: (variant, chunks)
    for variant in ("copied", "registered")
    for chunks in CHUNKS
}


def require_matmul(world: World, datatype: Datatype) -> None:
    """Raises Refusal if the vendor's matmul cannot run as requested."""
    if world.device.is_cpu and datatype.name != "float32":
        raise Refusal(f"a CPU multiplies float32 only, not {datatype.name}")
    if world.graph and world.device.name == "cuda":
        raise Refusal("-G: CuPy cannot capture cuBLAS in a graph")
    if not hasattr(world.device.xp, "matmul"):
        raise Refusal(
            "this step needs CuPy's matmul, and AMD's bindings drive this GPU, for lack of a CuPy "
            "that can be imported (docs/gpu.md names the libraries that it loads)"
        )
    if datatype.name == "bfloat16":
        raise Refusal("CuPy's matmul has no bfloat16")


def array_of(world: World, datatype: Datatype, address: int, *shape: int) -> Any:
    return world.device.array(address, shape, np.dtype(datatype.storage))


def matmul(world: World, left: Any, right: Any, out: Any) -> Operation:
    """The vendor's, of arrays of the device, into `out`."""
    function = partial(world.device.xp.matmul, left, right, out=out)
    return python_operation(
        world, "matmul", function, lambda error: f"the matmul fails: {error}", ENTRIES
    )


def _rows(
    world: World, case: MatmulCase, rows: int, source: int, start: int = 0, to: int = 0
) -> Operation:
    """`rows` rows of `source` from row `start` on times the weights: rows of the products from row
    `to` on."""
    size, array = case.datatype.size_bytes, partial(array_of, world, case.datatype)
    products = case.between if case.collective.reduces else case.receive
    return matmul(
        world,
        array(source + start * case.inner * size, rows, case.inner),
        array(case.weights, case.inner, case.columns),
        array(products + to * case.columns * size, rows, case.columns),
    )


def _collectives(
    world: World, case: MatmulCase, algorithm: Algorithm, variant: str, chunks: int = 1
) -> list[Bound]:
    reduces, part_bytes = case.collective.reduces, case.segment_bytes // chunks
    bounds: list[Bound] = []
    for chunk in range(chunks):
        between = case.between + chunk * part_bytes * world.ranks
        own = (case.receive if reduces else case.send) + chunk * part_bytes
        part = CollectiveCase(
            ALONE[case.collective.name],
            case.count // chunks,
            case.datatype,
            case.redop,
            between if reduces else own,
            own if reduces else between,
            variant=variant,
        )
        bounds.append(algorithm.bind(world, part))
    return bounds


def compute(world: World, case: MatmulCase) -> Operation:
    """The whole matmul, without a collective."""
    source = case.send if case.collective.reduces else case.between
    return _rows(world, case, case.tokens, source)


def _bind_then(algorithm: Algorithm, world: World, case: MatmulCase) -> Bound:
    bounds = [compute(world, case), *_collectives(world, case, algorithm, case.variant)]
    return run_sequence(world, bounds if case.collective.reduces else bounds[::-1])


def _bind_fused(world: World, case: MatmulCase) -> Bound:
    if world.device.is_cpu:
        return Unsupported("a CPU has no second stream, which would move a chunk; GPUs have one")
    variant, chunks = VARIANTS[case.variant]
    pushes = bool(world.mapped.shown.no_reads)
    algorithm = general(ALONE[case.collective.name].name, pushes, variant)
    if isinstance(algorithm, Unsupported):
        return algorithm
    beside = list[tuple[Step, Step]]()
    for bound in _collectives(world, case, algorithm, variant, chunks):
        if isinstance(bound, Unsupported):
            return bound
        beside.append(world.device.beside([bound.step]))
    rank, rows, operations = world.rank, case.tokens // len(beside), list[Operation]()
    if case.collective.reduces:
        for chunk, (begun, _) in enumerate(beside):
            row = chunk * rows
            operations += [_rows(world, case, rows, case.send, row, row), Operation(begun)]
        operations.append(Operation(beside[-1][1]))  # they run in order
    else:
        own_rows, rows = case.tokens // world.ranks, rows // world.ranks
        operations += [Operation(begun) for begun, _ in beside]
        operations.append(_rows(world, case, own_rows, case.send, to=rank * own_rows))
        for chunk, (_, ended) in enumerate(beside):
            operations.append(Operation(ended))
            for peer in range(world.ranks):
                if peer != rank:
                    start, to = (chunk * world.ranks + peer) * rows, peer * own_rows + chunk * rows
                    operations.append(_rows(world, case, rows, case.between, start, to))
    # As one part: no graph may end between a collective's begin and its end.
    step = world.device.sequence([each.step for each in operations])
    return Operation(step, failure=partial(first_failure, operations))


OVERLAPPED = {
    name: forms(
        collective.name,
        compute,
        _bind_then,
        _bind_fused,
        tuple(VARIANTS),
        Overlapping,
    )
    for name, collective in ALONE.items()
}
