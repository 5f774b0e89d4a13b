"""`tuner --format vllm`, `sglang` and `flashinfer`: the size up to which an engine's own all-reduce
beats the library, as a row of the table that the engine reads. Both are timed in each run."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.tables.sentences import shares_places, size_text, some
from reports.verdicts import verdict
from reports.verdicts.judge import Incomparable, with_ratios
from reports.verdicts.sides import COMPARABLE, copies_told, faults_of_runs
from wiretax.common.program import complain
from wiretax.record.frame import read_rows
from wiretax.record.result import ResultError, read
from wiretax.record.schema import Result, Run

# The architecture of NVIDIA's GPUs: sm_90; sm_90a and sm_100f name the same one with its features.
COMPUTE_CAPABILITY = re.compile(r"sm_([1-9]\d?)(\d)[af]?", re.ASCII)
CASE = ["size_bytes", "datatype", "redop", "mode", "in_place"]


@dataclass(frozen=True)
class Engine:
    """An inference engine: the `algorithm` of its own all-reduce, as --contender names it; the
    file with its table, and how it reads it; and a `row` of the table."""

    algorithm: str
    source: str
    row: str


ENGINES = {
    "vllm": Engine(
        algorithm="vllm",
        source="vllm/distributed/device_communicators/all_reduce_utils.py of vLLM at 00d618aa, "
        "read 2026-11:\n# messages below this size, at most 8 MiB, if symmetric memory is on",
        row='CUSTOM_ALL_REDUCE_MAX_SIZES.setdefault("{major}.{minor}", {{}})[{ranks}] = {below}',
    ),
    "sglang": Engine(
        algorithm="torch_symmetric",
        source="srt/distributed/device_communicators/all_reduce_utils.py of SGLang at 25b38cc2, "
        "read 2026-11:\n# messages below this size, with --enable-torch-symm-mem",
        row="TORCH_SYMM_MEM_ALL_REDUCE_MAX_SIZES.setdefault({major}, {{}})[{ranks}] = {below}",
    ),
    "flashinfer": Engine(
        algorithm="flashinfer",
        source="vllm/compilation/passes/fusion/allreduce_rms_fusion.py of vLLM, read 2026-11:\n"
        "# messages up to this size through FlashInfer",
        row="FI_ALLREDUCE_FUSION_MAX_SIZE_MB.setdefault({major}{minor}, {{}})[{ranks}] = {mib}\n"
        "# or: vllm serve --compilation-config "
        """'{{"pass_config": {{"fi_allreduce_fusion_max_size_mb": {mib}}}}}'""",
    ),
}


# What all runs have alike; their types may differ, which are cases of their own.
ALIKE: dict[str, Callable[[Result], Any]] = {
    "machine": COMPARABLE["machine"],
    "ranks": lambda result: result.run.world_size,
    **{name: read_fact for name, read_fact in COMPARABLE.items() if name != "type"},
}


def engine_table(paths: Sequence[str], name: str) -> str:
    """The row of these runs, behind lines on what was measured; without a row if the kernel does
    not win at the smallest size. Raises ResultError for runs that cannot be read or that no gate
    would judge, whose ranks share a card or are on several hosts, of GPUs of another maker than
    NVIDIA, or without the library and the kernel, Incomparable for unequal runs."""
    engine = ENGINES[name]
    frame, results = read_all_reduces(paths)
    check_alike(results, engine.algorithm)
    cells = against_library(frame, engine.algorithm)
    run = results[0].run
    major, minor = capability_of(run, name)

    runs = frame.run_id.unique()
    lines = [f"# {engine.source}", f"# {len(runs)} runs, {runs[0]} to {runs[-1]}"]
    groups = cells.groupby("size_bytes", as_index=False)
    sizes: Any = groups.agg({"ratio": "max", "high": "max", "wins": "all"})
    lines += [
        f"# {size_text(size.size_bytes)}: {size.ratio:.3f} of the library's time, interval up to "
        f"{size.high:.3f}"
        for size in sizes.itertuples()
    ]
    won = sizes.size_bytes[sizes.wins.cummin()].tolist()  # and at all sizes below
    if won:
        # Sizes are multiples of 16, so that this is the first above the last that won.
        limits = {"mib": won[-1] / (1 << 20), "below": won[-1] + 16}
        lines.append(engine.row.format(major=major, minor=minor, ranks=run.world_size, **limits))
    else:
        complain(
            f"no row: {engine.algorithm} is not proven faster at the smallest size; so many cells "
            f"take {verdict.pairs_needed(len(cells))} runs"
        )
    return "\n".join(lines) + "\n"


def read_all_reduces(paths: Sequence[str]) -> tuple[pd.DataFrame, list[Result]]:
    """The cases of the all-reduces in these runs that count, as `wiretax.load` has them, and their
    runs. Raises ResultError for runs that cannot be read or that no gate would judge."""
    unreadable = list[str]()
    frame = pd.DataFrame(read_rows([*map(Path, paths)], unreadable))
    if bad := [*unreadable, *(frame.path[frame.status == "wrong"] + " has wrong results")]:
        raise ResultError(bad[0])
    results = [read(file) for file in frame.path.unique()]
    if faults := [*faults_of_runs(results, " ".join(paths)), *copies_told(results)]:
        raise ResultError(f"no row, because {faults[0]}")
    frame = frame[frame.left_out.isna() & (frame.collective == "all_reduce")]
    counting = {*frame.path}
    return frame, [result for result in results if str(result.path) in counting]


def capability_of(run: Run, engine_name: str) -> tuple[str, str]:
    """The compute capability of the GPUs, major and minor. Raises ResultError for a world that the
    engine's table has no row for."""
    if shares_places(run.ranks):
        raise ResultError("no row, because ranks share a card, and an engine has one for each rank")
    if run.hosts != 1:
        raise ResultError(f"no row, because the ranks are on {run.hosts} hosts: it is for one")
    arch = " and ".join(sorted({str(rank.get("arch")) for rank in run.ranks})) or "unknown"
    capability = COMPUTE_CAPABILITY.fullmatch(arch)
    if not capability:
        raise ResultError(
            f"{engine_name} reads its table on GPUs of NVIDIA alone, and this is {arch}"
        )
    major, minor = capability.groups()
    return major, minor


def check_alike(results: Sequence[Result], algorithm: str) -> None:
    """Raises Incomparable if the runs differ in a fact, in the library or in the kernel."""

    def versions_of(name: str) -> Callable[[Result], str]:
        return lambda result: some(
            sorted({case.library or "unknown" for case in result.cases if case.algorithm == name})
        )

    software = {"library": versions_of("library"), algorithm: versions_of(algorithm)}
    for name, read_fact in (ALIKE | software).items():
        values = [*dict.fromkeys(map(read_fact, results))]
        if len(values) > 1:
            shown = " and ".join(map(str, values[:2]))
            raise Incomparable(f"not comparable: the runs differ in {name}: {shown}")


def against_library(frame: pd.DataFrame, algorithm: str) -> pd.DataFrame:
    """A row for each case that both perform: `size_bytes`, `ratio` of the kernel's cost to the
    library's with its interval, and whether it `wins`: the chance that any of the table does
    without being faster is at most 5 %. In each run the library's fastest variant counts, and the
    kernel's slowest. Raises ResultError if no run has both."""
    frame = frame.assign(cost_us=frame.total_us_median.fillna(frame.time_us_median))
    costs_us = frame.groupby([*CASE, "run_id", "algorithm"]).cost_us
    least, most = (
        each.unstack().reindex(columns=["library", algorithm])
        for each in (costs_us.min(), costs_us.max())
    )
    ratios = (most[algorithm] / least.library).unstack().dropna(how="all")
    if ratios.empty:
        raise ResultError(f"no run has an all-reduce of the library and of {algorithm}")
    cells = with_ratios(verdict.once(np.log(ratios.to_numpy())))
    sizes = ratios.index.get_level_values("size_bytes")
    return cells.assign(size_bytes=sizes, wins=cells.verdict == verdict.FASTER)
