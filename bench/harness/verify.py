"""Data that a wrong, doubled, missing or stale contribution cannot match, and the exact result that it must give.

Element i of a segment of rank r's send buffer in iteration t is element (i + t) mod 31 of that segment's table, so that
what is right in one iteration is wrong everywhere in the thirty before and after it. Values are small integers (for
products, powers of two or small integers) that no type rounds, in any order of summation, for up to eight ranks:
results are compared bit by bit.
"""

from collections.abc import Callable, Sequence

import numpy as np

from collectives.collective import Array, Collective, Datatype, Shape, combined
from collectives.communicator import Disagreement
from collectives.experts.routing import Routes
from collectives.operation import Wrong
from reports.result import FirstWrong

PERIOD = 31  # a prime that no chunk, segment or pack is a multiple of: data at a wrong offset does not match either
REPEATS = 64
Summed = Callable[[Array], Array]  # as an Operation has it


class WrongResult(Disagreement):
    """What was to be timed gives a wrong result; all ranks raise this together."""


def first_wrong(found: Sequence[Wrong], datatype: Datatype) -> FirstWrong | None:
    """What the lowest of all ranks that found anything wrong found first; None where none did."""
    rank = next((rank for rank, its in enumerate(found) if its.elements), None)
    if rank is None:
        return None
    its, size = found[rank], datatype.size_bytes

    def said(bits: int) -> str:
        stored: Array = np.frombuffer(bits.to_bytes(8, "little")[:size], datatype.storage)
        return f"{datatype.decode(stored)[0]} (0x{bits:0{2 * size}x})"

    return FirstWrong(rank=rank, iteration=its.iteration, offset_bytes=its.offset, element=its.offset // size,
                      expected=said(its.expected), got=said(its.got))


def segment_table(datatype: Datatype, redop: str, rank: int, segment: int, seed: int) -> Array:
    """One period of what a rank sends in a segment, decoded, shape (31,). No two neighbours agree, and none is neutral
    to the operation."""
    if redop == "prod":
        choices = [2.0, -2.0, 0.5, -0.5] if datatype.is_float else [2, -2, 3, -3]
        order = np.random.default_rng([seed, rank, segment])
        table = [choices[0], choices[1]]
        while len(table) < PERIOD:
            banned = {table[-1], table[-2]} | ({table[0], table[1]} if len(table) >= PERIOD - 2 else set())
            allowed = [c for c in choices if c not in banned] or [c for c in choices if c != table[-1]]
            table.append(allowed[int(order.integers(len(allowed)))])
    else:
        table = [1 + ((rank + 1) * i + 7 * rank + 5 * segment + seed) % PERIOD for i in range(PERIOD)]
    return np.array(table, np.float64 if datatype.is_float else np.int64)


def sent(collective: Collective, datatype: Datatype, redop: str, ranks: int, seed: int) -> Array:
    """One period of what all ranks send, decoded, (ranks, segments, 31)."""
    return np.array([[segment_table(datatype, redop, rank, segment, seed)
                      for segment in range(collective.segments(ranks)[0])] for rank in range(ranks)])


def received(collective: Collective, shape: Shape, datatype: Datatype, redop: str, ranks: int, seed: int,
             summed: Summed | None = None) -> Array:
    """One period of what all ranks get, as the type stores it, (ranks, segments, 31). `summed`: of an algorithm that
    loses more than a rounding, whose blocks have to be longer than a period: each then has all its values, and loses
    alike."""
    inputs = sent(collective, datatype, redop, ranks, seed)
    return datatype.encode(_result(collective, shape, datatype, redop, inputs, summed))


def _result(collective: Collective, shape: Shape, datatype: Datatype, redop: str, inputs: Array,
            summed: Summed | None = None) -> Array:
    def combine(values: Array) -> Array:
        """A mean is taken in fp32 (fp64) as the kernels do."""
        if redop != "avg":
            return combined(list(values), redop)
        total = combined(list(values), "sum")
        if datatype.name == "float64":
            return total * (1.0 / len(values))
        return total.astype(np.float32) * (np.float32(1) / np.float32(len(values)))

    return collective.result(inputs, shape, summed or combine)


def repeated(table: Array, repeats: int = REPEATS) -> Array:
    """Each table often enough to be copied from in pieces of so many periods, starting anywhere in the first."""
    return np.ascontiguousarray(np.tile(table, repeats + 1))


def chain_sent(collective: Collective, datatype: Datatype, redop: str, ranks: int, seed: int) -> Array:
    """What all ranks send first in a chain: `sent`, but that the ranks divide every sum of theirs, and that all get the
    same ones.

    Then the mean that each link of the chain makes is an integer too, and nothing rounds in any number of calls.
    """
    tables = sent(collective, datatype, redop, ranks, seed)
    if collective.reduces:
        tables[:, 1:] = tables[:, :1]
        tables[-1] += -tables.sum(axis=0) % ranks
    return tables


def chain_received(collective: Collective, shape: Shape, datatype: Datatype, redop: str, ranks: int, seed: int,
                   in_place: bool, calls: int, summed: Summed | None = None) -> Array:
    """What a chain of so many calls leaves in all receive buffers, stored. In place, the last link has made the next
    send buffer of it, as `chain_link` in link_probe.cu does."""
    tables = chain_sent(collective, datatype, redop, ranks, seed)
    for _ in range(calls):
        result = datatype.decode(datatype.encode(_result(collective, shape, datatype, redop, tables, summed)))
        if summed:  # then the links round too, in fp32 and to the type
            result = result.astype(np.float32)
        linked_up = np.array([linked(collective, redop, got, rank, ranks) for rank, got in enumerate(result)])
        tables = datatype.decode(datatype.encode(linked_up))
    if in_place and collective.sends_all == collective.receives_all:
        result = tables
    elif in_place:  # the segment that both buffers have
        for rank in range(ranks):
            result[rank, rank if collective.receives_all else 0] = tables[rank, rank if collective.sends_all else 0]
    return datatype.encode(result)


def row_tables(datatype: Datatype, rows: int, seed: list[int]) -> Array:
    """One period of what each row holds, decoded, (rows, 31): of many rows hardly two are alike."""
    drawn = np.random.default_rng(seed).integers(1, PERIOD + 1, (rows, PERIOD))
    return drawn.astype(np.float64)


def combined_rows(routes: Routes, datatype: Datatype, rows: Sequence[Array]) -> Array:
    """What every token's rows add up to, as stored, (tokens, 31), from those of each rank's experts: a rank's part of
    a token is rounded to the type before it leaves."""
    tokens = len(routes.chosen)
    total = np.zeros((tokens, PERIOD))
    for rank, given in enumerate(rows):
        token, choice = routes.rows_of(rank)
        part = np.zeros((tokens, PERIOD))
        np.add.at(part, token, routes.weights[token, choice, None].astype(np.float64) * given)
        total += np.where(routes.home[:, None] == rank, part, datatype.decode(datatype.encode(part)))
    return datatype.encode(total)


def linked(collective: Collective, redop: str, result: Array, rank: int, ranks: int) -> Array:
    """The next send buffer that a rank makes of its result: segment s of segment s + rank + 1; of a sum the mean, plus
    an offset, so that ranks go on sending different data; over the ranks it is nothing."""
    sends, receives = collective.segments(ranks)
    table = result[[(segment + rank + 1) % receives for segment in range(sends)]]
    if redop == "sum" and collective.reduces:
        table = table / ranks + (0 if ranks == 1 else (rank == 0) - (rank == ranks - 1))
    return table
