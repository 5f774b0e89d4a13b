"""`advise --validate`: compares measured decode steps with their chained all-reduces plus the bytes
of a rank's weights over the memory bandwidth, or plus the compute that `bench.decode` measured."""

from collections.abc import Iterator, Sequence

import numpy as np

from reports.advice.reduce_times import check_run, is_plain
from reports.store.case import COMPUTE
from reports.store.result import ResultError
from reports.store.schema import Case, Result, State
from reports.tables import steps
from reports.tables.exposed_table import shapes
from reports.tables.rows import cost_us
from reports.tables.sentences import lay_out, machine, number, plain_table

BYTES = {"int8": 1, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "int32": 4, "int64": 8}


def render(decode: Result, results: Sequence[Result]) -> tuple[str, list[dict[str, object]]]:
    """Prediction, measurement and error of each split, as text of at most 80 columns and as records
    for `--json`. Raises ResultError for runs of other benchmarks or of several machines."""
    if decode.run.benchmark != "decode":
        raise ResultError(f"{decode.path} is a run of {decode.run.benchmark}, not of decode")
    links = [result for result in results if result.run.benchmark == "link"]
    reduces = [result for result in results if result.run.benchmark != "link"]
    for result in reduces:
        check_run(result, decode.run.world["size"])
    for result in results:
        if result.run.machine_id != decode.run.machine_id:
            raise ResultError(f"{result.path} is of another machine than {decode.path}")
        hosts, others = (run.world.get("hosts", 1) for run in (decode.run, result.run))
        if hosts != others:
            raise ResultError(
                f"{result.path} has its ranks on {others} hosts, and {decode.path} on {hosts}"
            )
    if not reduces or not links:
        raise ResultError("--validate needs a --run of bench.allreduce and one of bench.link")
    memory_gb_s = _memory_bandwidth(links)
    tables, errors, records = [], [], list[dict[str, object]]()
    for cases in shapes(decode):
        table = plain_table(
            {
                "": 25,
                "measured": 9,
                "from\nthe link": 9,
                "error": 7,
                "from\ncompute": 9,
                "\nerror": 7,
            }
        )
        for name, step_us, by_memory_us, by_compute_us in _steps(cases, reduces, memory_gb_s):
            cells = [number(step_us / 1e3)]
            for us in (by_memory_us, by_compute_us):
                cells += [number(us / 1e3), f"{us / step_us - 1:+.1%}"] if us else "--"
            table.add_row(name, *cells)
            errors.append(abs(by_memory_us / step_us - 1))
            records.append(
                {
                    "step": steps.title(cases[0]),
                    "split": name,
                    "measured_us": step_us,
                    "from_link_us": by_memory_us,
                    "from_compute_us": by_compute_us,
                }
            )
        tables.append((steps.title(cases[0]), table))
    if not errors:
        raise ResultError(f"{decode.path} has no measured step")
    verdict = "meets" if max(errors) <= 0.05 else "misses"
    return lay_out(
        decode,
        [
            machine(decode),
            f"memory: {number(memory_gb_s[0])} GB/s a rank read and written while all "
            f"copy, {number(memory_gb_s[1])} while one does",
        ],
        tables,
        [f"ms a step. The worst error from the link is {max(errors):.1%}: {verdict} the aim, 5%."],
    ), records


def _memory_bandwidth(links: Sequence[Result]) -> tuple[float, float]:
    """GB/s of a rank, reads and writes together, while all ranks copy and while one does: medians
    over the copies of the largest size. Raises ResultError without copies."""
    blocks = [
        (block.size_bytes, block.memory_us)
        for result in links
        for block in result.link_blocks
        if block.memory_us
    ]
    if not blocks or not all(map(min, blocks)):
        raise ResultError(f"{links[0].path} has not measured its memory")
    copies = [
        (case.size_bytes, case.alg_bw_gb_s)
        for result in links
        for case in result.cases
        if case.algorithm == "local_copy" and case.alg_bw_gb_s
    ]
    together = [2 * size / us / 1e3 for size, us in blocks if size == max(blocks)[0]]
    single = [2 * gb_s for size, gb_s in copies if size == max(copies)[0]]
    return float(np.median(together)), float(np.median(single or together))


def _steps(
    cases: Sequence[Case],
    reduces: Sequence[Result],
    memory_gb_s: tuple[float, float],
) -> Iterator[tuple[str, float, float, float | None]]:
    """The compute and each split of one shape: the name, and microseconds as measured, from the
    memory, and from the measured compute. Raises ResultError without chained all-reduces."""
    first, ranks = cases[0], reduces[0].run.world["size"]
    shape, calls = first.shape, steps.calls(first)
    size = int(np.sum(shape["inner"])) * shape["hidden"] * BYTES[shape["weights"]] * shape["layers"]
    together_us, single_us = (size / gb_s / 1e3 for gb_s in memory_gb_s)
    stage_us = single_us if shape["slots"] == 1 else together_us  # one stage works at a time
    # The name of a row, its stages, the reads of a stage, and its all-reduces.
    plans = {
        COMPUTE: ("compute", 1, together_us, 0, ""),
        steps.TENSOR: ("tensor", 1, together_us, calls, "auto"),
        steps.LIBRARY: ("tensor, library", 1, together_us, calls, "library"),
        steps.PIPELINE: ("pipeline", ranks, stage_us, ranks, "auto"),
        "one_rank": ("one rank", ranks, single_us, 0, ""),
    }
    if not any(_chained_us(reduces, algorithm, first) for algorithm in ("auto", "library")):
        raise ResultError(
            f"{reduces[0].path} has no chained all-reduce of {first.size_bytes} B in "
            f"{first.datatype}"
        )
    measured = {case.algorithm: (case, cost_us(case)) for case in cases}
    _, compute_us = measured.get(COMPUTE, (None, None))
    for algorithm, (name, stages, read_us, count, reduce) in plans.items():
        case, step_us = measured.get(algorithm, (None, None))
        each_us = _chained_us(reduces, reduce, case) if case and reduce else 0.0
        if step_us and each_us is not None:
            by_compute_us = stages * compute_us + count * each_us if compute_us and reduce else None
            yield name, step_us, stages * read_us + count * each_us, by_compute_us


def _chained_us(reduces: Sequence[Result], algorithm: str, step: Case) -> float | None:
    """A chained all-reduce of the step's size and type, in the state of the link with the round
    trip nearest to the step's: the fastest variant, the median over runs; None if no run has it."""
    key = algorithm, "chained", step.size_bytes, step.datatype
    step_ns = step.link_rtt_ns.median if step.link_rtt_ns else 0.0

    def nearest_us(case: Case) -> float:
        choices, states = [], list[Case | State]([case, *case.states])
        for state in states:
            trip_ns = state.link_rtt_ns.median if state.link_rtt_ns else 0.0
            ratio = trip_ns / step_ns if trip_ns and step_ns else 1.0
            choices += [(abs(np.log(ratio)), state.time_us.median)] if state.time_us else []
        return min(choices)[1]

    by_run = [
        [
            nearest_us(case)
            for case in result.cases
            if is_plain(case) and (case.algorithm, case.mode, case.size_bytes, case.datatype) == key
        ]
        for result in reduces
    ]
    fastest_us = [min(times_us) for times_us in by_run if times_us]
    return float(np.median(fastest_us)) if fastest_us else None
