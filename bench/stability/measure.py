"""What changes the bits of an algorithm: it is performed in many ways, size by size."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby
from math import inf
from operator import itemgetter

import numpy as np

from bench.stability.subject import PLAIN, Subject, Way
from bench.stability.sums import MOST, POSITIVE, SIGNED, Explainer, changes, difference, error_of
from collectives.collective import Array
from collectives.communicator import Refusal
from collectives.operation import Unsupported
from wiretax.record.bits_record import Difference, Part, RowBits, SizeBits, Threshold

LONG_BYTES = 256 << 10  # from here on one rank a size comes late, in turn
CHAIN_CALLS = 8
EVERY_SIZE = 4  # of which one is measured again after other communicators
ERROR_BYTES, ERROR_ELEMENTS = 64 << 10, 8192  # of the message whose errors count
BLOCK, LONG_BLOCK = 16, 256  # elements that repeat in a message,
LONG_BLOCKS = 4096  # and in a message of so many
NO_SUM = "no sum"
Orders = list[tuple[int, str]]  # from which element on which order


def ways_of(subject: Subject) -> list[tuple[str, Way]]:
    """The ways to perform it on the same data, with the names of INVARIANCES."""
    ways = [
        ("align", Way((1, 0))),
        ("align", Way((2 + subject.rank % 3, subject.rank % 2))),
        ("in-place", Way(in_place=True)),
        ("chain", Way(calls=CHAIN_CALLS)),
    ]
    # A contender says itself how a graph captures it.
    if not subject.algorithm.contender and not subject.world.device.reason_against_graphs():
        ways.append(("graph", Way(replayed=True)))
    return ways


def comparisons_of(
    subject: Subject,
    other: Subject,
    fewer: Subject | None,
    plain: Array,
    longest: Array,
    number: int,
) -> Iterator[tuple[str, Array | None, Array]]:
    """Performs a message of as many elements as `plain` in every way that must not change its bits.
    Yields of each its name, one of INVARIANCES; this rank's result, None if the algorithm cannot;
    and the result that it must equal. `plain` and `longest` are the results in the plain way, of
    this message and of the longest one. `number` counts the sizes, from the longest down; `other`
    and `fewer` are those of `measure_row`. All ranks call it."""
    communicator, count, alone = subject.world.communicator, plain.size, None
    inputs, following = subject.inputs(count), (subject.rank + 1) % subject.ranks
    late: list[int | None] = [None, *range(subject.ranks)]
    if subject.size_bytes(count) > LONG_BYTES:
        late = [number % subject.ranks]
    for rank in late:
        yield "run", subject.result(inputs, late=rank), plain
    if not subject.collective.cut:
        yield "ranks", plain, communicator.broadcast(plain)
    # A block that repeats in all segments: all its sums must be alike.
    block = LONG_BLOCK if count >= LONG_BLOCKS else BLOCK
    block = min(subject.row_elements or block, count)
    if inputs.size >= 2 * block:
        repeated = np.resize(inputs[0, :block], count)
        got = subject.plain(np.resize(repeated, inputs.shape))
        blocks = got[: count // block * block].reshape(-1, block)
        first = communicator.broadcast(blocks[0]) if subject.collective.cut else blocks[0]
        yield "place", blocks, np.broadcast_to(first, blocks.shape)
    for name, way in ways_of(subject):
        yield name, subject.result(inputs, way), plain
    yield "order", subject.result(subject.inputs(count, rank=following)), plain
    if count < longest.size:
        yield "size", longest[:count], plain
    if any(communicator.all_gather(subject.failure())):
        return  # anew it could not be bound
    if not number % EVERY_SIZE:
        for each in (other, replace(subject)):
            yield "history", each.result(inputs), plain
    # The last rank adds zeros; all ranks but the last, as `fewer`, must have the same result
    # without that rank. A contender's file is started on all ranks.
    if subject.ranks > 2 and not subject.algorithm.contender:
        is_last = subject.rank == subject.ranks - 1
        padded = subject.plain(np.zeros_like(inputs) if is_last else inputs)
        with communicator.all_or_none(Refusal):
            if fewer:
                alone = fewer.result(fewer.inputs(count))
        yield "fewer", alone, padded


def own_orders(subject: Subject, explainer: Explainer, got: Array) -> Orders:
    """The order of each window of this rank's result, or NO_SUM. Where all ranks have the same
    result, the first explains it. What is no plain sum has none."""
    count, datatype = got.size, subject.datatype
    if subject.rank and not (subject.collective.cut or subject.row_elements):
        return []
    exact, magnitude = subject.exact(count)
    rounding = subject.rounding * magnitude
    if difference(got, datatype.encode(exact), datatype, rounding).wrong:
        return [(0, NO_SUM)]
    if subject.row_elements:
        return []
    found = explainer.explain(subject.parts(count), got)
    before = subject.rank * count if subject.collective.cut else 0
    return [(before + first, order) for first, order in found]


def parts_of(every: Sequence[Orders]) -> list[Part]:
    """The parts of a message from the windows that the ranks explain."""
    return [
        Part(first=next(own)[0], order=order)
        for order, own in groupby(chain(*every), itemgetter(1))
    ]


def measure_row(
    subject: Subject, other: Subject, fewer: Subject | None, sizes: Sequence[int]
) -> RowBits:
    """Examines an algorithm at each of these sizes, in bytes, but those that it cannot perform: the
    digest of its result, the order of its sums, and which ways changed how many bits. Then the
    sizes from which on its sums have another order, and its errors. `other` is the same algorithm
    between the same ranks, with other buffers and another communicator; `fewer` is it between all
    ranks but the last, None where this rank is not one of them. All ranks call it. Raises
    Refusal."""
    row, explainer, flight = subject.row(), Explainer(subject.datatype), subject.session.flight
    results, ways = list[Array](), [PLAIN, *(way for _, way in ways_of(subject))]
    # The magnitudes of a row's sums are not known here.
    rounding = inf if subject.row_elements else subject.rounding * subject.ranks * MOST
    counts = sorted({*map(subject.count, sizes)}, reverse=True)
    for number, count in enumerate(counts):
        size_bytes = subject.size_bytes(count)
        text = f"{row.name} {row.datatype} {size_bytes} B"
        flight.note("bits", text=text)
        flight.progress.show("compare", text)
        operation = subject.bind(count, ways)
        if isinstance(operation, Unsupported):
            row.reason = row.reason or operation.reason
            continue
        plain = subject.plain(subject.inputs(count))
        results.append(plain)
        compared = [
            (name, difference(got, expected, subject.datatype, rounding))
            for name, got, expected in comparisons_of(
                subject, other, fewer, plain, results[0], number
            )
            if got is not None
        ]
        digest = hashlib.sha256(plain.tobytes()).digest()
        orders = own_orders(subject, explainer, plain)
        every = subject.world.communicator.all_gather((digest, compared, orders, subject.failure()))
        digests, all_compared, all_orders, failures = zip(*every, strict=True)
        differences = dict[str, Difference]()
        for name, of_rank in chain(*all_compared):
            differences[name] = differences.get(name, Difference()) + of_rank
        found = SizeBits(
            size_bytes=size_bytes,
            digest=hashlib.sha256(b"".join(digests)).hexdigest()[:16],
            parts=parts_of(all_orders),
            compared=differences,
            chosen=operation.choice,
        )
        row.sizes.insert(0, found)
        if any(failures):  # of a library; a contender's failure stops loops
            row.reason, subject.world.watch.stop = next(filter(None, failures)), 0
            return row
    if not results:
        return row
    row.thresholds = thresholds(subject, explainer, row)
    row.reason = wrong_in(row)
    if subject.row_elements or row.reason:  # no sums
        return row
    # The errors of a message on rank 0.
    counts = [result.size for result in results]
    below = (count for count in counts if subject.size_bytes(count) <= ERROR_BYTES)
    count = next(below, counts[-1])
    for signs in (POSITIVE, SIGNED):
        got = subject.plain(subject.inputs(count, signs))[:ERROR_ELEMENTS]
        parts = subject.datatype.decode(subject.parts(count, signs)[:, : got.size])
        error = error_of(parts, got, subject.datatype)
        row.errors[signs] = subject.world.communicator.broadcast(error)
    return row


def wrong_in(row: RowBits) -> str | None:
    """Which results are none of sums of the data, in any order."""
    orders = {*row.orders, *(order for each in row.thresholds for order in each.after)}
    if NO_SUM in orders:
        return "its results are no sums"
    for name, sizes in row.differences.items():
        if wrong := sum(each.wrong for each in sizes):
            elements = sum(each.elements for each in sizes)
            return f"its results are no sums ({name}: {wrong:,} of {elements:,} elements)"
    return None


def thresholds(subject: Subject, explainer: Explainer, row: RowBits) -> list[Threshold]:
    """The sizes from which on other orders sum."""
    known = {subject.count(size.size_bytes): size.parts for size in row.sizes if size.parts}

    def orders(count: int) -> list[str] | None:
        if count not in known:
            subject.session.flight.note("bits", text=f"{row.name} {subject.size_bytes(count)} B")
            if isinstance(subject.bind(count, [PLAIN]), Unsupported):
                return None
            own = own_orders(subject, explainer, subject.plain(subject.inputs(count)))
            known[count] = parts_of(subject.world.communicator.all_gather(own))
        return sorted({part.order for part in known[count]})

    return [
        Threshold(size_bytes=subject.size_bytes(count), before=before, after=after)
        for count, before, after in changes(list(known), orders)
    ]
