"""`python -m tests.calibration.decode_steps DECODE_RUN ALLREDUCE_RUN LINK_RUN` compares the
measured steps of `bench.decode` with the sum that `advise` computes: the bytes of a rank's weights
over the memory bandwidth (or the compute that `bench.decode` measured) plus the chained
all-reduces.
docs/experiments/advise.md has the figures."""

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from reports.store.case import COMPUTE
from reports.store.result import read
from reports.store.schema import Case, Result
from reports.tables import exposed
from reports.tables.rows import cost_us

BYTES = {"int8": 1, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "int32": 4, "int64": 8}


def main(decode_run: str, allreduce_run: str, link_run: str) -> None:
    """Prints each split of each shape: ms as measured, and by both sums with their errors."""
    decode, reduces, link = map(read, (decode_run, allreduce_run, link_run))
    memory_gb_s = memory_bandwidth(link)
    for cases in exposed.shapes(decode):
        print(exposed.title(cases[0]))
        print(f"{'ms a step':<17}measured  from the link  from compute")
        for name, step_us, *sums_us in predictions(cases, reduces, memory_gb_s):
            cells = [f"{us / 1e3:6.3g} {us / step_us - 1:+7.1%}" if us else "-" for us in sums_us]
            print(f"{name:<17}{step_us / 1e3:8.3g}{cells[0]:>15}{cells[1]:>15}")


def memory_bandwidth(link: Result) -> tuple[float, float]:
    """GB/s of a rank, reads and writes together, while all ranks copy and while one does: medians
    over the copies of the largest size."""
    blocks = [(block.size_bytes, block.memory_us) for block in link.link_blocks if block.memory_us]
    copies = [
        (case.size_bytes, case.alg_bw_gb_s)
        for case in link.cases
        if case.algorithm == "local_copy" and case.alg_bw_gb_s
    ]
    together = [2 * size / us / 1e3 for size, us in blocks if size == max(blocks)[0]]
    single = [2 * gb_s for size, gb_s in copies if size == max(copies)[0]]
    return float(np.median(together)), float(np.median(single or together))


def predictions(
    cases: Sequence[Case], reduces: Result, memory_gb_s: tuple[float, float]
) -> Iterator[tuple[str, float, float, float | None]]:
    """The compute and each split of one shape: the name, and microseconds as measured, from the
    memory, and from the measured compute."""
    first, ranks = cases[0], reduces.run.world["size"]
    shape, calls = first.shape, exposed.calls(first)
    size = int(np.sum(shape["inner"])) * shape["hidden"] * BYTES[shape["weights"]] * shape["layers"]
    together_us, single_us = (size / gb_s / 1e3 for gb_s in memory_gb_s)
    stage_us = single_us if shape["slots"] == 1 else together_us  # one stage works at a time
    # The name of a row, its stages, the reads of a stage, and its all-reduces.
    plans = {
        COMPUTE: ("compute", 1, together_us, 0, ""),
        exposed.TENSOR: ("tensor", 1, together_us, calls, "auto"),
        exposed.TENSOR_LIBRARY: ("tensor, library", 1, together_us, calls, "library"),
        exposed.PIPELINE: ("pipeline", ranks, stage_us, ranks, "auto"),
        "one_rank": ("one rank", ranks, single_us, 0, ""),
    }
    measured = {case.algorithm: (case, cost_us(case)) for case in cases}
    _, compute_us = measured.get(COMPUTE, (None, None))
    for algorithm, (name, stages, read_us, count, reduce) in plans.items():
        case, step_us = measured.get(algorithm, (None, None))
        each_us = chained_us(reduces, reduce, case) if case and reduce else 0.0
        if step_us and each_us is not None:
            by_compute_us = stages * compute_us + count * each_us if compute_us and reduce else None
            yield name, step_us, stages * read_us + count * each_us, by_compute_us


def chained_us(reduces: Result, algorithm: str, step: Case) -> float | None:
    """A chained all-reduce of the step's size and type: of the fastest variant; None if the run has
    none."""
    key = algorithm, "chained", step.size_bytes, step.datatype
    return min(
        (
            us
            for case in reduces.cases
            if (us := cost_us(case))
            and not case.in_place
            and (case.algorithm, case.mode, case.size_bytes, case.datatype) == key
        ),
        default=None,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
