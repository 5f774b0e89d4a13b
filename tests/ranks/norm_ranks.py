"""Run by mpirun: prints a digest of the rows that the fused norm makes of some tokens, for each
type and row length. Launches with two, three and four ranks print the same.

`norm_ranks.py [DEVICE]`. The parts of the rows are zeros on all ranks but one; on every rank a row
is the same in each form, batch and place.
"""

import hashlib
import sys
from itertools import product

import numpy as np

from collectives.build import Build
from collectives.collective import DATATYPES, Array
from tests.ranks.fused_ranks import Bed, NormExample, norm_case, open_bed
from tests.ranks.world import connect, same_on_all_ranks

TYPES, HIDDEN = ("float32", "bfloat16"), (1000, 4144)
ROWS = 9  # a norm rounds one factor a row, so few rows would show another sum
BUILDS = Build(), Build(chunk_bytes=64 << 10)
FORMS = (
    ("fused", "copied"),
    ("fused", "registered"),
    ("fused_push", "copied"),
    ("then_two_shot", "copied"),
    ("compute", "copied"),
)


def digest(bed: Bed, name: str, hidden: int) -> tuple[str, str | None]:
    """Of all rows; and the first form and batch with other ones, while the ranks go on together."""
    datatype, ranks = DATATYPES[name], bed.world.ranks
    draw = np.random.default_rng(2)
    residual, weight, rows = (
        datatype.encode(draw.normal(size=(tokens, hidden))) for tokens in (ROWS, 1, ROWS)
    )
    normed: Array = np.zeros((ROWS, hidden), datatype.storage)
    error = None
    for (form, variant), tokens, shift in product(FORMS, (ROWS, 1), (0, 1)):
        order = slice(None, None, -1 if shift else 1)
        values: Array = np.zeros((ranks + 1, tokens, hidden), datatype.storage)
        values[: ranks if form == "compute" else 1] = rows[order][:tokens]
        values[-1] = residual[order][:tokens]
        case = norm_case(tokens, hidden, datatype, variant, BUILDS[shift])
        example = NormExample(case, values, weight[0], [shift * datatype.size_bytes] * 5, False)
        found = example.results(bed, form)[0]
        if not normed.any():
            normed[:] = found
        if not np.array_equal(found, normed[order][:tokens]):
            error = error or f"{form} {variant}, {tokens} tokens: {name} x {hidden} differs"
    return hashlib.sha256(normed.tobytes()).hexdigest()[:16], error


def main(device: str = "cpu") -> None:
    world, watch = connect(30.0, device)
    bed = open_bed(world)
    for name, hidden in product(TYPES, HIDDEN):
        found, error = digest(bed, name, hidden)
        error = same_on_all_ranks(world, watch, error, np.array(found))
        assert not error, error
        if world.rank == 0:
            print(f"{name} x {hidden}: {found}")


if __name__ == "__main__":
    main(*sys.argv[1:])
