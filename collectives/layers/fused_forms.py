"""The forms of compute fused with a collective that `bench.layers` compares: compute alone, in
separate launches, and in one launch."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from collectives.binding import run_sequence
from collectives.layers import stable
from collectives.layers.fused import NORM_PUSH, GemvCase, NormCase, all_reduce, gemv, norm
from collectives.operation import Algorithm, Bound, KernelAlgorithm, World
from collectives.registry import ALGORITHMS

Bind = Callable[[World, Any], Bound]  # its cases are of one subclass of CollectiveCase
Then = Callable[[Algorithm, World, Any], Bound]


def _reduce_then_norm(collective: Algorithm, world: World, case: NormCase) -> Bound:
    reduce = collective.bind(world, all_reduce(case, case.send, case.summed))
    return run_sequence(world, [reduce, norm(world, case, case.summed)])


def _gemv_then_reduce(collective: Algorithm, world: World, case: GemvCase) -> Bound:
    reduce = collective.bind(world, all_reduce(case, case.send, case.receive))
    return run_sequence(world, [gemv(world, case), reduce])


def then_form(algorithm: Algorithm, then: Then) -> Algorithm:
    return replace(
        algorithm,
        base=f"then_{algorithm.base}",
        perform=partial(then, algorithm),
        moves=Algorithm.moves,
        refuses=Algorithm.refuses,  # what it binds has a case of its own
    )


def contender_forms(collective: str, contenders: Iterable[Algorithm]) -> list[Algorithm]:
    """The forms of these contenders: their all-reduce after or before the compute, and those that
    perform the fused collective themselves."""
    listed = list[Algorithm]()
    for contender in contenders:
        if "all_reduce" in contender.contender_collectives:
            listed.append(then_form(contender, THEN[collective]))
        if collective in contender.contender_collectives:
            fused = replace(contender, base=f"fused_{contender.base}", moves=Algorithm.moves)
            listed.append(fused)
    return listed


def forms(
    collective: str,
    alone: Bind,
    then: Then,
    fused: Bind,
    variants: tuple[str, ...] = ("copied", "registered"),
    kind: type[KernelAlgorithm] = KernelAlgorithm,
) -> dict[str, Algorithm]:
    """Compute alone, then each algorithm of a collective, or fused, in these variants. Fused, no
    form reads a peer's memory where such reads are not routed."""
    listed = [
        Algorithm("compute", "compute alone", alone),
        *(
            then_form(algorithm, then)
            for algorithm in ALGORITHMS[collective].values()
            if not algorithm.is_lossy
        ),
        kind(
            "fused",
            "both at once",
            fused,
            variants=variants,
            sums_in_rank_order=True,
            pushes=True,
        ),
    ]
    return {form.base: form for form in listed}


def _pushes_by_default(world: World) -> bool:
    """Cores of a CPU gain nothing by it (docs/layers.md), and where no read is routed `fused` is
    this form."""
    return not world.device.is_cpu and not world.mapped.shown.no_reads


THEN: dict[str, Then] = {
    "allreduce_rmsnorm": _reduce_then_norm,
    "gemv_allreduce": _gemv_then_reduce,
}
FUSED = {
    "allreduce_rmsnorm": forms(
        "all_reduce",
        lambda world, case: norm(world, case, case.send),
        _reduce_then_norm,
        norm,
    ),
    "gemv_allreduce": forms(
        "all_reduce",
        gemv,
        _gemv_then_reduce,
        partial(gemv, fused=True),
        ("copied",),
    ),
}
FUSED["allreduce_rmsnorm"][NORM_PUSH] = KernelAlgorithm(
    NORM_PUSH,
    "both at once; each rank stores its rows into every peer's slab",
    partial(norm, pushes=True),
    sums_in_rank_order=True,
    pushes=True,
    by_default=_pushes_by_default,
)
for name, form in stable.FORMS.items():
    FUSED[name][form.base] = form
