"""Cases of the fused kernels and of routed tokens whose results are known bit by bit, for stress
and for the sanitizers.

A bed holds the ranks of this process: `worlds`, and for each of them the address of a buffer that
all ranks map (`buffers`), and private memory (`memory`). `add` takes a case for each, and the
function that gives a rank's input and its result."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.harness.iteration import Segments
from bench.layers import fused_cases
from bench.layers.experts import source_and_target
from collectives.collective import COLLECTIVES, Datatype
from collectives.experts.alltoall_routed import RoutedCase, make_tables
from collectives.experts.routing import Routes
from collectives.layers.fused import WEIGHTS, Gemv, GemvCase, Norm, NormCase
from collectives.layers.fused_forms import FUSED
from collectives.operation import Algorithm, World
from kernels.devices.device import Memory

INT8 = WEIGHTS["int8"]


@dataclass
class LocalRanks:
    worlds: list[World]
    seed: int
    keep: list[Any] = field(default_factory=list, kw_only=True)

    @property
    def ranks(self) -> int:
        return self.worlds[0].communicator.size

    def buffers(
        self,
        size_bytes: int,
        element_bytes: int = 0,
    ) -> list[int]:
        raise NotImplementedError

    def memory(self, size_bytes: int) -> Memory:
        raise NotImplementedError

    def add(
        self,
        name: str,
        cases: list[Any],
        bind: Any,
        contents: Any,
    ) -> None:
        raise NotImplementedError


def routed_item(
    bed: LocalRanks,
    name: str,
    algorithm: Algorithm,
    way: str,
    datatype: Datatype,
    hidden: int,
    routes: Routes,
    **options: Any,
) -> None:
    """Tokens to experts that leave them unchanged, or back, or both."""
    row_bytes = hidden * datatype.size_bytes
    most_home = int(np.bincount(routes.home, minlength=bed.ranks).max())
    sends, receives = (bed.buffers(most_home * row_bytes, datatype.size_bytes) for _ in range(2))
    cases = []
    for world, send, receive in zip(bed.worlds, sends, receives, strict=True):
        rows = bed.memory(len(routes.rows_of(world.communicator.rank)[0]) * row_bytes)
        case = RoutedCase(
            COLLECTIVES["alltoall"],
            hidden,
            datatype,
            "none",
            rows.address if way == "combine" else send,
            rows.address if way == "dispatch" else receive,
            shape={"way": way},
            routes=routes,
            routing=make_tables(world, routes, rows, row_bytes),
            **options,
        )
        cases.append(case)

    def contents(case: RoutedCase, rank: int) -> Any:
        tables = source_and_target(routes, datatype, way, 1, bed.seed, rank)
        return (
            Segments(address, row_bytes, datatype.encode(table))
            for address, table in zip((case.send, case.receive), tables, strict=True)
        )

    bed.add(name, cases, algorithm.bind, contents)


def norm_item(
    bed: LocalRanks,
    name: str,
    datatype: Datatype,
    tokens: int,
    hidden: int,
    form: str = "fused",
    **options: Any,
) -> None:
    """All-reduce, residual and RMSNorm in a fused form, of rows with one mean of squares. The
    residual lies behind the rank's part, and the sum behind the normed rows."""
    weight = bed.worlds[0].device.store(datatype.encode(np.full(hidden, fused_cases.NORM_WEIGHT)))
    bed.keep.append(weight)
    size = tokens * weight.size_bytes
    sends, receives = (bed.buffers(2 * size, datatype.size_bytes) for _ in range(2))
    cases = []
    for send, receive in zip(sends, receives, strict=True):
        norm = Norm(
            hidden=hidden,
            residual=send + size,
            residual_out=receive + size,
        )
        norm.weight = weight.address
        count = tokens * hidden
        cases.append(NormCase(count, datatype, send, receive, norm=norm, summed=0, **options))

    def contents(case: NormCase, rank: int) -> Any:
        parts, residual, total = fused_cases.tables_of_norm(datatype, bed.ranks, bed.seed)
        tables = np.stack([parts[rank], residual]), np.stack([fused_cases.normed(total), total])
        return (
            Segments(address, case.segment_bytes, datatype.encode(table))
            for address, table in zip((case.send, case.receive), tables, strict=True)
        )

    bed.add(name, cases, FUSED["allreduce_rmsnorm"][form].bind, contents)


def gemv_item(
    bed: LocalRanks,
    name: str,
    datatype: Datatype,
    tokens: int,
    hidden: int,
    inner: int,
    form: str = "fused",
) -> None:
    """A matrix of +1 and -1 times a few tokens, and the all-reduce."""
    size, count = datatype.size_bytes, tokens * hidden
    inputs, outputs = (bed.buffers(tokens * width * size) for width in (inner, hidden))
    cases = []
    for world, activations, receive in zip(bed.worlds, inputs, outputs, strict=True):
        matrix = fused_cases.matrix(hidden, inner, world.communicator.rank, bed.seed)
        factors, row_scales = fused_cases.scaled_rows(INT8, hidden, bed.seed)
        weights = world.device.store(INT8.encode(matrix * factors))
        scales = world.device.store(row_scales)
        bed.keep += [weights, scales]
        layer = Gemv(
            hidden=hidden,
            inner=inner,
            stride=inner,
            copies=1,
            activations=activations,
        )
        layer.weights, layer.row_scales = weights.address, scales.address
        cases.append(GemvCase(count, datatype, 0, receive, layer=layer, weight_type=INT8))

    def contents(case: GemvCase, rank: int) -> Any:
        activations = fused_cases.drawn_activations(bed.ranks, tokens, bed.seed)
        results = fused_cases.summed_products(inner, activations, bed.seed) * fused_cases.ROW_SCALE
        return (
            Segments(case.layer.activations, inner * size, datatype.encode(activations[rank])),
            Segments(case.receive, hidden * size, datatype.encode(results)),
        )

    bed.add(name, cases, FUSED["gemv_allreduce"][form].bind, contents)
