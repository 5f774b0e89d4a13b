"""An all-reduce with compute, in one launch and in several: a message is some tokens, whose rows
must not change with the other tokens of the batch. All ranks have the same weights, so that
exchanged data are the same sums in another order."""

from dataclasses import dataclass

import numpy as np

from bench.harness.iteration import Buffers
from bench.stability.subject import Subject, Way
from bench.stability.sums import draw
from collectives.collective import DATATYPES, Array, Datatype
from collectives.layers.fused import EPSILON, FUSED, Gemv, GemvCase, Norm, NormCase
from collectives.operation import Bound, CollectiveCase, Unsupported, World
from kernels.devices.device import Memory

FORMS = {
    name: {base: form for base, form in forms.items() if base != "compute"}
    for name, forms in FUSED.items()
}
HIDDEN = 4096  # elements of a token's row in a norm
RESIDUAL, WEIGHT = 1000, 1001  # whose data these are, where ranks have theirs
INNER = 1024  # rows and columns of a matrix: calls take a CPU well below 1 ms
WEIGHTS = DATATYPES["float16"]
ALIGNED = Unsupported("a GEMV reads aligned activations from their own buffer")


def drawn(subject: Subject, whose: int, count: int, datatype: Datatype) -> Array:
    """Data that all ranks have, as they are stored, decoded."""
    return datatype.rounded(draw((subject.buffers.seed, whose), count))


@dataclass
class NormBuffers(Buffers):
    """Also the residual of each token, which is the same row, their sums, the sums without it, and
    the weight."""

    residual: Memory
    residual_out: Memory
    summed: Memory
    weight: Memory


@dataclass
class NormSubject(Subject):
    """Its buffers are NormBuffers."""

    row_elements = HIDDEN

    @staticmethod
    def beside(buffers: Buffers, world: World, datatype: Datatype) -> Buffers:
        send, seed, device = buffers.send, buffers.seed, world.device
        row, weight = (datatype.encode(draw((seed, whose), HIDDEN)) for whose in (RESIDUAL, WEIGHT))
        return NormBuffers(
            send,
            buffers.receive,
            seed,
            residual=device.store(np.resize(row, send.size_bytes // datatype.size_bytes)),
            residual_out=device.private(send.size_bytes),
            summed=world.library.allocate(world, send.size_bytes),
            weight=device.store(weight),
        )

    def exact(self, count: int) -> tuple[Array, Array]:
        row, weight = (drawn(self, whose, HIDDEN, self.datatype) for whose in (RESIDUAL, WEIGHT))
        parts, magnitudes = (each.reshape(-1, HIDDEN) for each in super().exact(count))
        total, magnitude = parts + row, magnitudes + np.abs(row)
        factor = weight / np.sqrt(np.mean(total**2, axis=1, keepdims=True) + EPSILON)
        return (total * factor).ravel(), (magnitude * np.abs(factor)).ravel()

    def case(self, count: int, way: Way) -> CollectiveCase:
        buffers = self.buffers
        assert isinstance(buffers, NormBuffers)
        norm = Norm(
            hidden=HIDDEN,
            residual=buffers.residual.address,
            residual_out=buffers.residual_out.address,
            weight=buffers.weight.address,
            epsilon=EPSILON,
        )
        return NormCase(**vars(super().case(count, way)), norm=norm, summed=buffers.summed.address)


@dataclass
class GemvBuffers(Buffers):
    """Also the weights, and this rank's products; the send buffer has its activations."""

    weights: Memory
    products: Memory


@dataclass
class GemvSubject(Subject):
    """Its buffers are GemvBuffers."""

    row_elements = INNER
    most_rows = 8

    @staticmethod
    def beside(buffers: Buffers, world: World, datatype: Datatype) -> Buffers:
        send, seed = buffers.send, buffers.seed
        return GemvBuffers(
            send,
            buffers.receive,
            seed,
            weights=world.device.store(WEIGHTS.encode(draw((seed, WEIGHT), INNER * INNER))),
            products=world.library.allocate(world, send.size_bytes),
        )

    def exact(self, count: int) -> tuple[Array, Array]:
        weights = drawn(self, WEIGHT, INNER * INNER, WEIGHTS).reshape(INNER, INNER)
        total, magnitude = (each.reshape(-1, INNER) for each in super().exact(count))
        return (total @ weights.T).ravel(), (magnitude @ np.abs(weights).T).ravel()

    def bind_way(self, case: CollectiveCase, way: Way) -> Bound:
        buffers = self.buffers
        assert isinstance(buffers, GemvBuffers)
        if any(way.shift):
            return ALIGNED
        layer = Gemv(
            weights=buffers.weights.address,
            activations=case.send,
            hidden=INNER,
            inner=INNER,
            stride=INNER,
            copies=1,
        )
        fields = vars(case) | {"send": buffers.products.address}
        gemv = GemvCase(**fields, layer=layer, weight_type=WEIGHTS)
        return super().bind_way(gemv, way)


KINDS: dict[str, type[Subject]] = {
    "allreduce_rmsnorm": NormSubject,
    "gemv_allreduce": GemvSubject,
}
