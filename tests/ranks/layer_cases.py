"""Cases of the fused kernels and of routed tokens whose results are known bit by bit, for stress
and for the sanitizers."""

from typing import Any

import numpy as np

from bench.harness.iteration import Segments
from bench.layers import fused
from collectives.collective import Datatype
from collectives.layers.fused import COLLECTIVE, Gemv, GemvCase, Norm, NormCase
from kernels.devices.device import Device, Memory


def norm_case(
    datatype: Datatype, tokens: int, weight: Memory, send: int, receive: int, **options: Any
) -> NormCase:
    """The residual lies behind the rank's part, and the sum behind the normed rows."""
    hidden = weight.size_bytes // datatype.size_bytes
    size = tokens * hidden * datatype.size_bytes
    norm = Norm(
        hidden=hidden, residual=send + size, residual_out=receive + size, weight=weight.address
    )
    kernel, count = COLLECTIVE["allreduce_rmsnorm"], tokens * hidden
    return NormCase(kernel, count, datatype, "sum", send, receive, norm=norm, summed=0, **options)


def norm_weight(device: Device, datatype: Datatype, hidden: int) -> Memory:
    return device.store(datatype.encode(np.full(hidden, fused.NORM_WEIGHT)))


def norm_contents(case: NormCase, ranks: int, rank: int, seed: int) -> tuple[Segments, Segments]:
    """A rank's input and its result."""
    parts, residual, total = fused.tables_of_norm(case.datatype, ranks, seed)
    encode, size = case.datatype.encode, case.segment_bytes
    return (
        Segments(case.send, size, encode(np.stack([parts[rank], residual]))),
        Segments(case.receive, size, encode(np.stack([fused.normed(total), total]))),
    )


def gemv_case(datatype: Datatype, tokens: int, layer: Gemv, receive: int) -> GemvCase:
    kernel, count = COLLECTIVE["gemv_allreduce"], tokens * layer.hidden
    own: dict[str, Any] = {"layer": layer, "tokens": tokens, "weight_type": "int8"}
    return GemvCase(kernel, count, datatype, "sum", 0, receive, **own)


def gemv_layer(
    device: Device, hidden: int, inner: int, rank: int, seed: int
) -> tuple[Gemv, list[Memory]]:
    """A matrix of +1 and -1, and the memories to keep. It still lacks the address of
    activations."""
    weights = device.store(fused.matrix(hidden, inner, rank, seed).astype(np.int8))
    scales = device.store(np.full(hidden, fused.ROW_SCALE, np.float32))
    layer = Gemv(hidden=hidden, inner=inner, stride=inner, copies=1)
    layer.weights, layer.row_scales = weights.address, scales.address
    return layer, [weights, scales]


def gemv_contents(case: GemvCase, ranks: int, rank: int, seed: int) -> tuple[Segments, Segments]:
    """A rank's activations and its result."""
    layer, size, encode = case.layer, case.datatype.size_bytes, case.datatype.encode
    inputs = fused.drawn_activations(ranks, case.tokens, seed)
    outputs = fused.summed_products(layer.inner, inputs, seed) * fused.ROW_SCALE
    return (
        Segments(layer.activations, layer.inner * size, encode(inputs[rank])),
        Segments(case.receive, layer.hidden * size, encode(outputs)),
    )
