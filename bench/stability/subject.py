"""What `bench.bits` examines: one algorithm, which runs once, on given inputs, in a given way.

It may be an all-reduce with compute before or after it, in one launch or in several. Its message is
then a batch of tokens, a row each, and a token's row must not depend on the other tokens. All ranks
have the same weights there: if ranks exchange their inputs, the exact result stays the same, and
only the order of the additions changes."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

from bench.harness.iteration import Buffers
from bench.harness.session import Session
from bench.machine.environment import settings_of
from bench.stability.sums import MANTISSA_BITS, SIGNED, draw
from collectives.binding import first_failure
from collectives.collective import DATATYPES, Array, Collective, Datatype
from collectives.layers.fused import EPSILON, Gemv, GemvCase, Norm, NormCase
from collectives.layers.fused_forms import FUSED
from collectives.operation import Algorithm, Bound, CollectiveCase, Operation, Unsupported, World
from wiretax.record.bits_record import RowBits

MARGIN_BYTES = 4 << 10  # of a buffer, for other addresses
LATE_S = 0.002  # longer than a short collective
NOT_FUSED = Unsupported("a fused form computes in fp32, without float64, and out of place")
FUSED_FORMS = {
    name: {base: form for base, form in forms.items() if base != "compute"}
    for name, forms in FUSED.items()
}
HIDDEN = 4096  # elements of a token's row in a norm
LEAST_BYTES = HIDDEN * 8  # of a buffer: a row of any type
RESIDUAL, WEIGHT = 1000, 1001  # whose data these are, where ranks have theirs
INNER = 1024  # rows and columns of a matrix: calls take a CPU well below 1 ms
WEIGHTS = DATATYPES["float16"]


@dataclass(frozen=True)
class Way:
    """`shift`: the elements by which the send and the receive buffer of this rank begin later;
    `calls`: so many at once, of which the last one counts."""

    shift: tuple[int, int] = (0, 0)
    in_place: bool = False
    calls: int = 1
    replayed: bool = False


PLAIN = Way()


@dataclass(frozen=True)
class Compute:
    """What follows the exchange of rows of `row_elements`, at most `most_rows` of them; by default
    plain sums of elements. `fused(case)` is the case with it, `exact(sums, magnitudes)` makes the
    results from the sums, (rows, row_elements), and those of all magnitudes. `is_aligned`: it reads
    aligned rows."""

    row_elements: int = 0
    fused: Callable[[CollectiveCase], CollectiveCase] = lambda case: case
    exact: Callable[[Array, Array], tuple[Array, ...]] = lambda *both: both
    most_rows: int = sys.maxsize
    is_aligned: bool = False


@dataclass
class Subject:
    """An algorithm in a variant and a datatype. All ranks call each method together. A copy binds
    its cases anew."""

    session: Session
    world: World
    buffers: Buffers
    compute: Compute
    collective: Collective
    algorithm: Algorithm
    variant: str
    datatype: Datatype
    bound: dict[tuple[int, Way], Bound] = field(default_factory=dict, init=False)

    @property
    def rank(self) -> int:
        return self.world.rank

    @property
    def ranks(self) -> int:
        return self.world.ranks

    @property
    def row_elements(self) -> int:
        """The elements that belong together if they are no plain sums, otherwise 0."""
        return self.compute.row_elements

    @property
    def rounding(self) -> float:
        """The most that the order of its sums may change a result, as a share of the same of all
        magnitudes. In each of two orders, an addition rounds by half an ULP of at most this sum. A
        row also rounds some more values to the datatype, and adds in fp32."""
        if self.algorithm.is_lossy:
            return math.inf
        rounded = self.ranks + 4 if self.row_elements else self.ranks
        unit = 2.0 ** -MANTISSA_BITS[self.datatype.name]
        return rounded * unit + self.row_elements * 2.0**-23

    def exact(self, count: int) -> tuple[Array, Array]:
        """What this rank gets of plain inputs, (count,), computed in float64; and the same of all
        magnitudes."""
        parts = self.datatype.decode(self.parts(count))
        sums = (
            each.sum(axis=0).reshape(-1, self.row_elements or count)
            for each in (parts, np.abs(parts))
        )
        result, magnitude = self.compute.exact(*sums)
        return result.ravel(), magnitude.ravel()

    def count(self, size_bytes: int) -> int:
        """The elements of a segment, of whole rows, at least one."""
        count = self.collective.count(size_bytes, self.ranks, self.datatype)
        unit = self.row_elements or 1
        return min(self.compute.most_rows, max(1, count // unit)) * unit

    def size_bytes(self, count: int) -> int:
        """The size of a message of `count` elements in a segment, as nccl-tests counts it."""
        return count * self.datatype.size_bytes * (self.ranks if self.collective.cut else 1)

    def sent(self, rank: int, segment: int, count: int, signs: str) -> Array:
        """What a rank sends in a segment, stored; shorter messages are prefixes of longer ones."""
        longest = self.count(self.buffers.send.size_bytes)
        drawn = draw((self.buffers.seed, rank, segment), longest)[:count]
        return self.datatype.encode(drawn if signs == SIGNED else np.abs(drawn))

    def inputs(self, count: int, signs: str = SIGNED, rank: int | None = None) -> Array:
        """What this rank sends, or what another `rank` would, (segments, count)."""
        segments = self.collective.segments(self.ranks)[0]
        rank = self.rank if rank is None else rank
        return np.stack([self.sent(rank, each, count, signs) for each in range(segments)])

    def parts(self, count: int, signs: str = SIGNED) -> Array:
        """What all ranks send for the result of this rank, (ranks, count)."""
        segment = self.rank if self.collective.sends_all else 0
        return np.stack([self.sent(rank, segment, count, signs) for rank in range(self.ranks)])

    def bind(self, count: int, ways: Sequence[Way]) -> Bound:
        """Binds the case of so many elements in each of these ways, together: ranks that outnumber
        their cores agree slowly. Returns the first one. Raises Refusal."""
        communicator = self.world.communicator
        if new := [way for way in ways if (count, way) not in self.bound]:
            # A library's ranks talk to each other here, so a failed one cannot be waited for.
            with communicator.all_or_none() if self.algorithm.needs_peers else nullcontext():
                bounds = [self.bind_way(self.case(count, way), way) for way in new]
            refusals = [bound if isinstance(bound, Unsupported) else None for bound in bounds]
            every = communicator.all_gather(refusals)  # an address may suit some ranks alone
            for way, bound, refused in zip(new, bounds, zip(*every, strict=True), strict=True):
                self.bound[count, way] = next(filter(None, refused), bound)
        return self.bound[count, ways[0]]

    def bind_way(self, case: CollectiveCase, way: Way) -> Bound:
        device = self.world.device
        if self.row_elements and (way.in_place or self.datatype.size_bytes > 4):
            return NOT_FUSED
        if self.compute.is_aligned and any(way.shift):
            return NOT_FUSED
        bound = self.algorithm.bind(self.world, self.compute.fused(case))
        if isinstance(bound, Unsupported):
            return bound
        step = bound.step if way.calls == 1 else device.sequence([bound.step] * way.calls)
        step = device.replayed(step) if way.replayed else step
        return replace(bound, step=step)

    def case(self, count: int, way: Way) -> CollectiveCase:
        case = CollectiveCase(
            self.collective,
            count,
            self.datatype,
            "sum",
            0,
            0,
            way.in_place,
            self.variant,
        )
        case = self.buffers.place(self.world, case)
        send, receive = (elements * self.datatype.size_bytes for elements in way.shift)
        return replace(case, send=case.send + send, receive=case.receive + receive)

    def result(self, inputs: Array, way: Way = PLAIN, late: int | None = None) -> Array | None:
        """This rank's result of stored inputs, (segments, count), while rank `late` comes late;
        None where the algorithm cannot. Raises Refusal."""
        count = inputs.shape[1]
        if isinstance(self.bind(count, [way]), Unsupported):  # a contender's first call is in here
            return None
        source = self.buffers.receive if way.in_place else self.buffers.send
        source.write(inputs, self.case(count, way).send - source.address)
        return self.performed(count, way, late)

    def performed(self, count: int, way: Way = PLAIN, late: int | None = None) -> Array:
        """As `result`, of the inputs that are there already, of a case that it can."""
        case, operation = self.case(count, way), self.bind(count, [way])
        assert isinstance(operation, Operation)
        receive = self.buffers.receive
        offset = case.receive - receive.address
        if not way.in_place:  # nobody takes an earlier result for this one
            receive.write(np.full(case.segment_bytes, 0xFF, np.uint8), offset)
        if late == self.rank:
            time.sleep(LATE_S)
        self.world.device.caller(operation.step)()
        if self.world.watch.timed_out:
            self.session.watchdog.wait_for_end(f"{self.algorithm.name} {case.size_bytes} B")
        return receive.read(offset, case.segment_bytes).view(self.datatype.storage)

    def plain(self, inputs: Array) -> Array:
        """This rank's result in the plain way, which it can. Raises Refusal."""
        result = self.result(inputs)
        assert result is not None
        return result

    def failure(self) -> str | None:
        """A library's sentence on an earlier call of this rank."""
        return first_failure([each for each in self.bound.values() if isinstance(each, Operation)])

    def row(self) -> RowBits:
        """The row of this algorithm, without sizes."""
        algorithm, variant = self.algorithm, self.variant
        uses_library = algorithm.is_baseline or self.world.node  # which joins hosts
        if self.world is not self.session.world:  # a further kind of memory
            variant += f" over {self.world.memory}"
        return RowBits(
            algorithm=algorithm.name,
            variant=variant,
            datatype=self.datatype.name,
            library=algorithm.performer(self.world),
            setting=settings_of() if uses_library else None,
            sizes=[],
        )


def norm(world: World, buffers: Buffers, datatype: Datatype) -> Compute:
    """The residual, which is the same row for each token, and the norm of the sums with it."""
    device, size_bytes = world.device, buffers.send.size_bytes
    row, weight = (
        datatype.rounded(draw((buffers.seed, whose), HIDDEN)) for whose in (RESIDUAL, WEIGHT)
    )
    rows = np.resize(row, size_bytes // datatype.size_bytes)
    residual, stored = (device.store(datatype.encode(each)) for each in (rows, weight))
    residual_out, summed = device.private(size_bytes), world.allocate(size_bytes)

    def with_norm(case: CollectiveCase) -> CollectiveCase:
        norm = Norm(
            hidden=HIDDEN,
            residual=residual.address,
            residual_out=residual_out.address,
            weight=stored.address,
        )
        return NormCase(**vars(case), norm=norm, summed=summed.address)

    def exact(sums: Array, magnitudes: Array) -> tuple[Array, Array]:
        total, magnitude = sums + row, magnitudes + np.abs(row)
        factor = weight / np.sqrt(np.mean(total**2, axis=1, keepdims=True) + EPSILON)
        return total * factor, magnitude * np.abs(factor)

    return Compute(HIDDEN, with_norm, exact)


def gemv(world: World, buffers: Buffers, datatype: Datatype) -> Compute:
    """The products of a matrix with the send buffer's rows, which are activations."""
    stored = WEIGHTS.encode(draw((buffers.seed, WEIGHT), INNER * INNER))
    matrix = WEIGHTS.decode(stored).reshape(INNER, INNER).T
    weights, products = world.device.store(stored), world.allocate(buffers.send.size_bytes)

    def with_gemv(case: CollectiveCase) -> CollectiveCase:
        layer = Gemv(
            weights=weights.address,
            activations=case.send,
            hidden=INNER,
            inner=INNER,
            stride=INNER,
            copies=1,
        )
        fields = vars(case) | {"send": products.address}
        return GemvCase(**fields, layer=layer, weight_type=WEIGHTS)

    def exact(sums: Array, magnitudes: Array) -> tuple[Array, Array]:
        return sums @ matrix, magnitudes @ np.abs(matrix)

    return Compute(INNER, with_gemv, exact, most_rows=8, is_aligned=True)


COMPUTES = {"allreduce_rmsnorm": norm, "gemv_allreduce": gemv}
