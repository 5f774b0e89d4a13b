"""Run by mpirun: prints a digest of the row that the fused norm makes of one token, for each type
and row length. Launches with two, three and four ranks print the same.

`norm_ranks.py [DEVICE]`. The parts of the row are zeros on all ranks but one; on every rank the row
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
BUILDS = Build(), Build(chunk_bytes=64 << 10)
FORMS = (
    ("fused", "copied"),
    ("fused", "registered"),
    ("then_two_shot", "copied"),
    ("compute", "copied"),
)


def digests(bed: Bed, name: str, hidden: int) -> set[str]:
    """Of the row in all forms, batches and places."""
    datatype, ranks, found = DATATYPES[name], bed.world.ranks, set[str]()
    draw = np.random.default_rng(2)
    row, residual, weight = (datatype.encode(draw.normal(size=hidden)) for _ in range(3))
    for (form, variant), tokens, shift in product(FORMS, (1, 9), (0, 1)):
        values: Array = np.zeros((ranks + 1, tokens, hidden), datatype.storage)
        values[: ranks if form == "compute" else 1], values[-1] = row, residual
        case = norm_case(tokens, hidden, datatype, variant, BUILDS[shift])
        example = NormExample(case, values, weight, [shift * datatype.size_bytes] * 5, False)
        rows = example.results(bed, form)[0]
        found |= {hashlib.sha256(each).hexdigest()[:16] for each in rows}
    return found


def main(device: str = "cpu") -> None:
    world, watch = connect(30.0, device)
    bed = open_bed(world)
    for name, hidden in product(TYPES, HIDDEN):
        found = digests(bed, name, hidden)
        error = None if len(found) == 1 else f"{name} x {hidden} has {len(found)} rows"
        error = same_on_all_ranks(world, watch, error, np.array(sorted(found)))
        assert not error, error
        if world.rank == 0:
            print(f"{name} x {hidden}: {found.pop()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
