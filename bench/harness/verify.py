"""Test data that a wrong, doubled, missing or stale contribution cannot match, and exact results.

Element i of a segment of rank r's send buffer in iteration t is element (i + t) mod 31 of that
segment's table, so a right result of one iteration is wrong everywhere in the thirty before and
after it. Values are small integers (for products, powers of two or small integers) that no datatype
rounds, in any order of summation: results are compared bit by bit. Sums of fp8, and of bf16 beyond
eight ranks, have too few exact values: a result of another iteration is wrong in many places only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from collectives.collective import COMPARE, Array, Collective, Datatype, Shape, combined, quotient
from collectives.communicator import Refusal
from kernels.devices.device import Wrong
from wiretax.record.schema import FirstWrong

PERIOD = 31  # a prime: no chunk, segment or pack is a multiple, so data at a wrong offset mismatch
REPEATS, FEW_REPEATS = 64, 8  # of a period in a table; few if there are many tables
# Whole numbers up to these are exact; in e5m2 up to 8, in float32 up to 2^24.
EXACT_SUMS = {"bfloat16": 256, "float16": 2048}
FP8_CODES = 0x30  # of fp8: those that follow are finite and not tiny
# What a rank did, by the place of the pattern that is wrong.
PLACES = (
    "got",
    "changed its send buffer: got",
    "wrote in the 4 KiB in front of its send buffer: got",
    "wrote behind its send buffer: got",
    "wrote in the 4 KiB in front of its receive buffer: got",
    "wrote behind its receive buffer: got",
    "found stores behind the chunks in half of its slab: got",
)
SEND, MARGINS, SLAB_MARGIN = 1, (2, 4), 6  # the margins in front of both buffers, and in the slab


class WrongResult(Refusal):
    """An operation gives a wrong result; all ranks raise this together."""


def first_wrong(counts: Sequence[Wrong], datatype: Datatype) -> FirstWrong | None:
    """The first wrong element of the lowest rank that has one; None if all are right."""
    size = datatype.size_bytes

    def text(bits: int) -> str:
        stored: Array = np.frombuffer(bits.to_bytes(8, "little")[:size], datatype.storage)
        return f"{datatype.decode(stored)[0]} (0x{bits:0{2 * size}x})"

    for rank, wrong in enumerate(counts):
        if wrong.elements:
            return FirstWrong(
                rank=rank,
                iteration=wrong.iteration,
                offset_bytes=wrong.offset,
                element=wrong.offset // size,
                expected=text(wrong.expected),
                got=text(wrong.got),
                did=PLACES[wrong.place],
            )
    return None


@dataclass(frozen=True)
class Data:
    """The contents of all ranks' buffers: one period of each segment, (ranks, segments, 31). The
    blocks that a lossy operation scales must be longer than a period: then each holds all values of
    the period, and rounds them as every other block does."""

    collective: Collective
    datatype: Datatype
    redop: str
    ranks: int
    seed: int
    expected_sum: Callable[[Array], Array] | None = None  # of a lossy operation
    ignores_nan: bool = False  # in max and min; then each rank has one, at a place of its own

    def sent(self) -> Array:
        """The data that all ranks send, decoded."""
        segments = self.collective.segments(self.ranks)[0]
        return np.array(
            [
                [self.table(rank, segment) for segment in range(segments)]
                for rank in range(self.ranks)
            ]
        )

    def table(self, rank: int, segment: int) -> Array:
        """A period of a rank's data for a segment, decoded, (31,): neighbours differ, none neutral
        (in sums of fp8, none neutral)."""
        datatype, adds = self.datatype, self.redop in ("sum", "avg")
        number_type = np.float64 if datatype.is_float else np.int64
        draw = np.random.default_rng([self.seed, rank, segment])
        if self.redop == "prod":
            # No factor equals one of the two before it, around the period. Eight even ones are 0 in
            # 8 bits.
            choices: list[float] = [2.0, -2.0, 0.5, -0.5] if datatype.is_float else [2, -2, 3, -3]
            if not datatype.is_float and datatype.size_bytes == 1:
                choices = [3, -3, 5, -5]
            factors = choices[:2]
            while len(factors) < PERIOD:
                banned = {*factors[-2:]}
                if len(factors) >= PERIOD - 2:
                    banned |= {*factors[:2]}
                allowed = [factor for factor in choices if factor not in banned]
                allowed = allowed or [factor for factor in choices if factor != factors[-1]]
                factors.append(allowed[int(draw.integers(len(allowed)))])
            return np.array(factors, number_type)
        first = 7 * rank + 5 * segment + self.seed
        numbers = 1 + ((rank + 1) * np.arange(PERIOD) + first) % PERIOD
        exact = 8 if datatype.float8 else EXACT_SUMS.get(datatype.name, 1 << 24)
        if adds and datatype.is_float and (datatype.float8 or PERIOD * self.ranks > exact):
            most = max(1, exact // self.ranks)
            return draw.choice([-1.0, 1.0], PERIOD) * draw.integers(1, most + 1, PERIOD)
        compares = self.redop in COMPARE
        if datatype.float8:
            codes = numbers + FP8_CODES
            if compares:
                codes += 128 * (numbers % 2)  # the upper half of the codes is negative
            numbers = datatype.decode(codes)
        elif not datatype.is_float and self.redop == "avg":
            # One remainder in all: a lost one would hide a wrong contribution.
            numbers = numbers * self.ranks
            if rank == 0:
                numbers += 1
            if not datatype.is_unsigned:
                numbers = -numbers  # where rounding down is not towards 0
        elif compares:
            # On both sides of 0, or of an unsigned type's middle, where a comparison of the other
            # sign errs.
            middle = 1 << 8 * datatype.size_bytes - 1 if datatype.is_unsigned else 0
            numbers += middle - PERIOD // 2
        table = numbers.astype(number_type)
        if self.ignores_nan and compares and datatype.is_float:
            table[rank % PERIOD] = np.nan
        return table

    def received(self, shape: Shape) -> Array:
        """The results of all ranks, stored."""
        return self.datatype.encode(self._result(shape, self.sent()))

    def _result(self, shape: Shape, inputs: Array) -> Array:
        return self.collective.result(inputs, shape, self.expected_sum or self._combine)

    def _combine(self, values: Array) -> Array:
        if self.redop != "avg" or not self.datatype.is_float:
            return combined(list(values), self.redop, self.datatype)
        # The kernels take a mean in fp32, or in fp64 for fp64.
        fp: Any = np.float64 if self.datatype.name == "float64" else np.float32
        mean: Array = combined(list(values), "sum").astype(fp) * (fp(1) / fp(len(values)))
        return mean

    def chain_sent(self) -> Array:
        """The data that all ranks send first in a chain: `sent`, changed so that the rank count
        divides every sum, and alike in all segments. Then the mean that each link of the chain
        takes is an integer, and nothing rounds in any number of calls."""
        tables = self.sent()
        if self.collective.reduces:
            tables[:, 1:] = tables[:, :1]
            # A NaN of one rank is none of the last: nothing promises the sign of a NaN of all.
            tables[-1] += -np.nansum(tables, axis=0).astype(tables.dtype) % self.ranks
        return tables

    def chain_received(self, shape: Shape, in_place: bool, calls: int) -> Array:
        """The receive buffers after a chain of `calls`, stored. In place, the last link has already
        overwritten them with the next send buffer, as chain_link in link_probe.cu does."""
        collective, datatype, tables = self.collective, self.datatype, self.chain_sent()
        for _ in range(calls):
            result = datatype.rounded(self._result(shape, tables))
            if self.expected_sum:  # then the links round too, in fp32 and to the datatype
                result = result.astype(np.float32)
            links = np.array([self._linked(table, rank) for rank, table in enumerate(result)])
            last, tables = tables, datatype.rounded(links)
            if np.array_equal(last, tables):  # the remaining calls change nothing
                break
        if in_place and collective.sends_all == collective.receives_all:
            result = tables
        elif in_place:  # only one segment belongs to both buffers
            for rank in range(self.ranks):
                received = rank if collective.receives_all else 0
                result[rank, received] = tables[rank, rank if collective.sends_all else 0]
        return datatype.encode(result)

    def _linked(self, result: Array, rank: int) -> Array:
        """The next send buffer of a rank: segment s comes from segment s + rank + 1 of its result.
        A sum becomes the mean plus an offset that differs between ranks and adds up to nothing."""
        sends, receives = self.collective.segments(self.ranks)
        table = result[[(segment + rank + 1) % receives for segment in range(sends)]]
        if self.redop == "sum" and self.collective.reduces:
            table = quotient(table, self.ranks)
            if rank == 0:
                table = table + 1
            if rank == self.ranks - 1:
                table = table - 1
        return table
