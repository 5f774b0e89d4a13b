"""All-reduce and RMSNorm, in one launch and one after the other: a message is some tokens, whose
rows must not change with the other tokens of the batch."""

from dataclasses import dataclass

import numpy as np

from bench.harness.iteration import Buffers
from bench.stability.inputs import draw
from bench.stability.subject import How, Subject
from collectives.collective import Datatype
from collectives.layers.fused import COLLECTIVE, EPSILON, FUSED, Norm, NormCase
from collectives.operation import Bound, Case, Unsupported, World
from kernels.devices.device import Memory

NAME = "allreduce_rmsnorm"
COLLECTIVE_OF_NORM = COLLECTIVE[NAME]
FORMS = {name: form for name, form in FUSED[NAME].items() if name != "compute"}
HIDDEN = 4096  # elements of a token's row
RESIDUAL, WEIGHT = 1000, 1001  # whose data these are, where ranks have theirs
NO_PLACE = Unsupported("the norm overlaps no other buffer", depends_on_size=True)


@dataclass
class NormBuffers(Buffers):
    """Also the residual of each token, which is the same row, their sums, the sums without it, and
    the weight."""

    residual: Memory
    residual_out: Memory
    summed: Memory
    weight: Memory


def beside(buffers: Buffers, world: World, datatype: Datatype) -> Buffers:
    """These buffers and what a norm needs beside them. All ranks call it. Raises DeviceError and
    Refusal."""
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


@dataclass
class NormSubject(Subject):
    """Its buffers are NormBuffers."""

    row_elements = HIDDEN

    def count(self, size_bytes: int) -> int:
        return max(1, super().count(size_bytes) // HIDDEN) * HIDDEN

    def case(self, count: int, how: How) -> Case:
        buffers = self.buffers
        assert isinstance(buffers, NormBuffers)
        norm = Norm(
            hidden=HIDDEN,
            residual=buffers.residual.address,
            residual_out=buffers.residual_out.address,
            weight=buffers.weight.address,
            epsilon=EPSILON,
        )
        return NormCase(**vars(super().case(count, how)), norm=norm, summed=buffers.summed.address)

    def _bound(self, case: Case, how: How) -> Bound:
        return NO_PLACE if how.in_place else super()._bound(case, how)
