"""Data that a wrong, doubled, missing or stale contribution cannot match, and the exact result that it must give.

Element i of rank r's send buffer in iteration t is element (i + t) mod 31 of that rank's table, so that what is right
in one iteration is wrong everywhere in the thirty before and after it. Values are small integers (for products, powers
of two or small integers) that no type rounds, in any order of summation, for up to eight ranks: results are compared
bit by bit.
"""

import numpy as np

from collectives.collective import Array, Datatype, all_reduce_reference

PERIOD = 31  # a prime that no chunk, segment or pack is a multiple of: data at a wrong offset does not match either
REPEATS = 64


def rank_table(datatype: Datatype, redop: str, rank: int, seed: int) -> Array:
    """One period of a rank's values, decoded, shape (31,). No two neighbours agree, and none is neutral to the
    operation."""
    if redop == "prod":
        choices = [2.0, -2.0, 0.5, -0.5] if datatype.is_float else [2, -2, 3, -3]
        order = np.random.default_rng([seed, rank])
        table = [choices[0], choices[1]]
        while len(table) < PERIOD:
            banned = {table[-1], table[-2]} | ({table[0], table[1]} if len(table) >= PERIOD - 2 else set())
            allowed = [c for c in choices if c not in banned] or [c for c in choices if c != table[-1]]
            table.append(allowed[int(order.integers(len(allowed)))])
    else:
        table = [1 + ((rank + 1) * i + 7 * rank + seed) % PERIOD for i in range(PERIOD)]
    return np.array(table, np.float64 if datatype.is_float else np.int64)


def expected_table(datatype: Datatype, redop: str, ranks: int, seed: int) -> Array:
    """One period of the result, stored as the type stores it. A mean is taken in fp32 (fp64) as the kernels do."""
    inputs = [rank_table(datatype, redop, rank, seed) for rank in range(ranks)]
    if redop != "avg":
        return datatype.encode(all_reduce_reference(inputs, redop))
    total: Array = all_reduce_reference(inputs, "sum")
    if datatype.name == "float64":
        return datatype.encode(total * (1.0 / ranks))
    return datatype.encode(total.astype(np.float32) * (np.float32(1) / np.float32(ranks)))


def repeated(table: Array) -> Array:
    """The table often enough to be copied from in pieces of REPEATS periods, starting anywhere in the first."""
    return np.ascontiguousarray(np.tile(table, REPEATS + 1))


def chain_table(datatype: Datatype, redop: str, rank: int, ranks: int, seed: int) -> Array:
    """One period of what a rank sends first in a chain: `rank_table`, but that the ranks divide every sum of theirs.

    Then the mean that each link of the chain makes is an integer too, and nothing rounds in any number of calls.
    """
    table = rank_table(datatype, redop, rank, seed)
    if rank == ranks - 1:
        total = all_reduce_reference([rank_table(datatype, redop, other, seed) for other in range(ranks)], "sum")
        table = table + -total % ranks
    return table


def chain_expected(datatype: Datatype, redop: str, rank: int, ranks: int, seed: int, in_place: bool) -> Array:
    """One period of what a chain leaves in the receive buffer, stored: in every call the first one's result. In place,
    the last link has made the next send buffer of it, as `chain_link` in link_probe.cu does."""
    result = all_reduce_reference([chain_table(datatype, redop, r, ranks, seed) for r in range(ranks)], redop)
    if redop == "sum" and in_place:
        result = result / ranks + chain_offset(rank, ranks)
    return datatype.encode(result)


def chain_offset(rank: int, ranks: int) -> int:
    """What a rank's link adds to the mean, so that ranks go on sending different data; over the ranks it is nothing."""
    return 0 if ranks == 1 else (rank == 0) - (rank == ranks - 1)
